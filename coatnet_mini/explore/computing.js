// Stands in for a figure's table: its twin's numbers, and the pens and bars by which a reader edits
// them. One script with operators.js and twins.js, which are constants here (see scripts.py).

// Calls f once in the next frame, however often it is asked to.
function perFrame(f) {
  let due = null;
  return () => { due ??= requestAnimationFrame(() => { due = null; f(); }); };
}

// An array of the spec, with its shape; a number as it is.
function unpack(given, buffer) {
  if (typeof given === "number") return given;
  const size = given.shape.reduce((a, b) => a * b, 1);
  return Object.assign(new Float32Array(buffer, given.table.offset, size), { shape: given.shape });
}

const HERE = globalThis.document?.currentScript?.src; // networks lie beside the page's script

function fromBase64(text) {
  return Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// The file `name`.js of a stored network. A script is all that a page on disk may load.
function fileOf(name) {
  return new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { src: new URL(`${name}.js`, HERE) });
    script.addEventListener("load", () => done(globalThis.coatnetNetworks[name]));
    script.addEventListener("error", () => failed(new Error(`no ${name}.js`)));
    document.head.append(script);
  });
}

// A stored network, { config, weights }, once for all figures: out of its file or, in a notebook,
// out of the widget.
const networks = {};
function networkOf(name, given) {
  const bytes = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength);
  return networks[name] ??= (async () => {
    const { config, safetensors } = given?.safetensors ? given : await fileOf(name);
    const file = typeof safetensors === "string" ? fromBase64(safetensors) : bytes(safetensors);
    return { config, weights: operators.readSafetensors(file) };
  })();
}

// Calls f once: when the element nears the view, or is touched or focused.
function whenNear(element, f) {
  const events = ["pointerdown", "focusin"];
  const now = () => {
    observer.disconnect();
    events.forEach((event) => element.removeEventListener(event, now));
    f();
  };
  const near = (entries) => { if (entries.some((entry) => entry.isIntersecting)) now(); };
  const observer = new IntersectionObserver(near, { rootMargin: "200px" });
  observer.observe(element);
  events.forEach((event) => element.addEventListener(event, now));
}

function computing(spec, model, buffer) {
  const { name, keys, numbers, given, edits, shown } = spec.twin;
  const constants = Object.fromEntries(Object.entries(given).map(([key, value]) => [key, unpack(value, buffer)]));
  const waits = Boolean(spec.twin.network); // until then the figure shows its start
  let made, from, network = null;

  // What the twin makes of the state and the edits, once for all views of a frame.
  function results(state) {
    const edited = model.get("edits") ?? {};
    if (made && from[0] === edited && from[1].join() === state.join()) return made;
    const options = { ...constants, ...edited, network };
    spec.axes.forEach((axis, k) => {
      options[axis.name] = numbers[k] ? numbers[k][state[k]] : state[k];
    });
    from = [edited, [...state]];
    made = twins[name](options, operators);
    return made;
  }

  // Puts an edited copy of an array in its place; a new object, which is how twins see a change.
  function set(what, change) {
    const edited = model.get("edits") ?? {};
    const array = Object.assign((edited[what] ?? constants[what]).slice(), { shape: constants[what].shape });
    change(array);
    model.set("edits", { ...edited, [what]: array });
  }

  return {
    perFrame,
    edited: () => Object.keys(model.get("edits") ?? {}).map((what) => edits[what].label),
    reset: () => model.set("edits", {}),
    // Loads the network when it is wanted; then, or if there is none, calls back.
    start(element, done) {
      if (!waits) return;
      whenNear(element, () => networkOf(spec.twin.network, model.get("network")).then(
        (stored) => { network = stored; done(); },
        () => done("The file of the network is not there, so this figure only shows its start."),
      ));
    },
    at(view, index, atStart) {
      return (state) => {
        if (waits && !network) return atStart(state);
        const values = results(state)[keys[index]]();
        const [low, high] = view.clip ?? [-Infinity, Infinity];
        return Float64Array.from(typeof values === "number" ? [values] : values, (v) => Math.min(Math.max(v, low), high));
      };
    },
    // The tool of the view that shows an edit, or nothing.
    tool(view, parent) {
      const what = Object.keys(shown).find((key) => shown[key] === view.name);
      if (!what) return null;
      const { choices, ...edit } = edits[what];
      if (choices) edit.choices = Object.fromEntries(Object.entries(choices).map(([key, v]) => [key, unpack(v, buffer)]));
      const tools = { paint: brush, drag: handle };
      return tools[edit.kind](edit, view, (change) => set(what, change), parent);
    },
  };
}

// A pen for pixels: two colours, chosen below the picture; strokes join up.
function brush({ pen, low, high, pens, label, choices }, { shape: [, columns] }, set, parent) {
  const values = [low, high];
  let chosen = 1, last = null;
  const stroke = (row, column) => {
    const [fromRow, fromColumn] = last ?? [row, column];
    last = [row, column];
    set((array) => array.forEach((v, k) => {
      const [y, x] = [Math.floor(k / columns) + 0.5, (k % columns) + 0.5];
      if (fromSegment(y, x, fromRow, fromColumn, row, column) <= pen) array[k] = values[chosen];
    }));
  };
  choosePen(parent, pens, label, chosen, (k) => { chosen = k; });
  if (choices) starts(parent, { choices, low, label, columns }, set);
  return {
    hint: `space paints with the pen, ${pens.join(" or ")}`,
    start: () => { last = null; },
    move: ({ down, across, rows }) => stroke(down * rows, across * columns),
    key(event, [row, column]) {
      if (event.key !== " " && event.key !== "Enter") return false;
      last = null;
      stroke(row + 0.5, column + 0.5);
      return true;
    },
  };
}

function choosePen(parent, pens, label, chosen, choose) {
  const box = group(parent, "pen", `pen for ${label}`);
  const name = `cm-pen-${Math.random().toString(36).slice(2)}`;
  pens.forEach((text, k) => {
    const input = Object.assign(document.createElement("input"), { type: "radio", name, checked: k === chosen });
    input.setAttribute("data-lm-suppress-shortcuts", "true");
    input.addEventListener("change", () => choose(k));
    const tag = document.createElement("label");
    tag.append(input, text);
    box.append(tag);
  });
}

function group(parent, text, label) {
  const box = Object.assign(document.createElement("fieldset"), { className: "cm-pens" });
  box.append(Object.assign(document.createElement("legend"), { textContent: text }));
  box.setAttribute("aria-label", label);
  parent.append(box);
  return box;
}

function button(parent, text, label, f) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", f);
  parent.append(made);
}

// Buttons that start from another picture, and clear, turn or move the one that is there.
function starts(parent, { choices, low, label, columns }, set) {
  let whole = null, moved = [0, 0, 0], made = null; // the picture before it was turned and moved
  const place = (angle, down, across) => set((array) => {
    if (!made || array.some((v, k) => v !== made[k])) [whole, moved] = [array.slice(), [0, 0, 0]];
    moved = [moved[0] + angle, moved[1] + down, moved[2] + across];
    turned(whole, columns, low, ...moved).forEach((v, k) => { array[k] = v; });
    made = array.slice();
  });
  const from = group(parent, "start from", `start ${label} from`);
  for (const [name, picture] of Object.entries(choices)) {
    button(from, name, `start from ${name}`, () => set((array) => array.set(picture)));
  }
  button(from, "clear", `clear ${label}`, () => set((array) => array.fill(low)));
  const move = group(parent, "move", `move ${label}`);
  button(move, "↺", "turn to the left", () => place(-10, 0, 0));
  button(move, "↻", "turn to the right", () => place(10, 0, 0));
  [["←", "left", 0, -1], ["→", "right", 0, 1], ["↑", "up", -1, 0], ["↓", "down", 1, 0]].forEach(
    ([text, where, down, across]) => button(move, text, `move ${where}`, () => place(0, down, across)));
}

// A picture turned by degrees about its middle and then moved; the nearest pixel of the old one.
function turned(picture, columns, low, angle, down, across) {
  const rows = picture.length / columns;
  const [sin, cos] = [Math.sin((angle * Math.PI) / 180), Math.cos((angle * Math.PI) / 180)];
  return picture.map((_, k) => {
    const y = Math.floor(k / columns) - down - (rows - 1) / 2, x = (k % columns) - across - (columns - 1) / 2;
    const row = Math.round(cos * y - sin * x + (rows - 1) / 2), column = Math.round(sin * y + cos * x + (columns - 1) / 2);
    return row >= 0 && row < rows && column >= 0 && column < columns ? picture[row * columns + column] : low;
  });
}

// The distance of (y, x) from a stroke, in pixels.
function fromSegment(y, x, y0, x0, y1, x1) {
  const [dy, dx] = [y1 - y0, x1 - x0];
  const along = ((y - y0) * dy + (x - x0) * dx) / (dy * dy + dx * dx || 1);
  const t = Math.min(Math.max(along, 0), 1);
  return Math.hypot(y - y0 - t * dy, x - x0 - t * dx);
}

// Bars that are dragged, or moved by a twentieth of their range with the arrow keys.
function handle({ low, high }, view, set) {
  const clamp = (v) => Math.min(Math.max(v, low), high);
  return {
    hint: "up and down change the bar",
    start() {},
    move({ down, column }) {
      const [bottom, top] = view.limits;
      set((array) => { array[column] = clamp(top - down * (top - bottom)); });
    },
    key(event, [, column]) {
      const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (step) set((array) => { array[column] = clamp(array[column] + (step * (high - low)) / 20); });
      return Boolean(step);
    },
  };
}

export default computing;
