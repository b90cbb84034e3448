// Gives the explorable figures of a static page what a kernel would: a model that holds its state.
// sphinx_ext.py appends this to explore.js as one classic script, which also runs from file://.
function host(box) {
  const spec = box.querySelector("script").textContent;
  const values = { spec, state: JSON.parse(spec).axes.map((axis) => axis.start) };
  const listeners = new Set();
  const model = {
    get: (key) => values[key],
    set(key, value) { values[key] = value; listeners.forEach((listener) => listener()); },
    save_changes() {},
    on: (event, listener) => listeners.add(listener),
    off: (event, listener) => listeners.delete(listener),
  };
  box.figure = { spec: JSON.parse(spec), model };
  explorable.render({ model, el: box }).catch((error) => {
    console.error(error);
    const still = box.querySelector("noscript"); // an old browser shows the picture instead
    box.insertAdjacentHTML("beforeend", still.textContent);
  });
}

// ---- links in the prose that set a figure --------------------------------------------------

// The index of an option by its text; of a position by "27" or "3,5" (row, column).
function optionOf(axis, text) {
  if (!axis.point) return axis.options.indexOf(text.replace("−", "-"));
  const [row, column] = text.split(",").map(Number);
  return column === undefined ? row : row * axis.point[1] + column;
}

// The state after "content=8; strength=2", or "reset", from a state.
function stateOf({ axes }, settings, from) {
  const state = [...from];
  for (const part of settings.split(";").map((text) => text.trim())) {
    if (part === "reset") { axes.forEach((axis, k) => { state[k] = axis.start; }); continue; }
    const [name, text] = part.split("=").map((word) => word.trim());
    const k = axes.findIndex((axis) => axis.name === name || axis.label === name);
    const index = k < 0 ? -1 : optionOf(axes[k], text);
    if (!(index >= 0)) throw new Error(`a figure has no "${part}"`);
    state[k] = index;
  }
  return state;
}

// Makes plain words a button that sets a figure: the one named, or the last one before the words.
function link(span) {
  const boxes = [...document.querySelectorAll(".cm-explorable-host")];
  const before = boxes.filter((box) => box.compareDocumentPosition(span) & Node.DOCUMENT_POSITION_FOLLOWING);
  const named = span.dataset.figure;
  const box = named ? boxes.find((b) => b.figure.spec.id === named) : before.at(-1) ?? boxes[0];
  if (!box) throw new Error(`no figure "${named ?? ""}" for "${span.textContent}"`);
  const { spec, model } = box.figure;
  stateOf(spec, span.dataset.set, model.get("state")); // now, that a wrong link is noticed at once
  span.setAttribute("role", "button");
  span.tabIndex = 0;
  const go = () => {
    const state = stateOf(spec, span.dataset.set, model.get("state"));
    const already = state.join() === model.get("state").join();
    if (span.dataset.set.includes("reset")) model.set("edits", {}); // what a reader painted
    model.set("state", state);
    const area = box.getBoundingClientRect();
    const seen = area.top >= 0 && area.bottom <= innerHeight;
    if (!seen) box.scrollIntoView({ block: area.height < innerHeight ? "nearest" : "start" });
    const said = box.querySelector(".cm-live");
    if (said) said.textContent = `${spec.title} ${already ? "is already there" : `is set: ${span.textContent}`}`;
  };
  span.addEventListener("click", go);
  span.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    go();
  });
}

// As soon as the page is parsed, and before the theme's and MathJax's deferred scripts run.
function start() {
  if (document.readyState === "loading") return;
  document.removeEventListener("readystatechange", start);
  document.querySelectorAll(".cm-explorable-host").forEach(host);
  document.querySelectorAll(".cm-set[data-set]").forEach(link);
}
document.addEventListener("readystatechange", start);
start();
