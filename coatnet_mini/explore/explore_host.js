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
  explorable.render({ model, el: box }).catch((error) => {
    console.error(error);
    const still = box.querySelector("noscript"); // an old browser shows the picture instead
    box.insertAdjacentHTML("beforeend", still.textContent);
  });
}

// As soon as the page is parsed, and before the theme's and MathJax's deferred scripts run.
function start() {
  if (document.readyState === "loading") return;
  document.removeEventListener("readystatechange", start);
  document.querySelectorAll(".cm-explorable-host").forEach(host);
}
document.addEventListener("readystatechange", start);
start();
