// Draws an explorable figure: looks numbers up in its table and shows them. It computes nothing
// that a reader could want checked; every number was computed in Python.
// Runs as an anywidget (Jupyter, Colab) and, through explore_host.js, on a page without a kernel.

// matplotlib's viridis, 256 × (red, green, blue); a test compares it.
const VIRIDIS = bytes("RAFURAJWRQRXRQVZRgdaRghcRgpdRgteRw1gRw5hRxBjRxFkRxNlSBRnSBZoSBdpSBhqSBpsSBttSBxuSB1vSB9wSCBxSCFzSCN0SCR1SCV2SCZ3SCh4SCl5Ryp6Ryx6Ry17Ry58Ry99RjB+RjJ+RjN/RjSARTWBRTeBRTiCRDmDRDqDRDuEQz2EQz6FQj+FQkCGQkGGQUKHQUSHQEWIQEaIP0eIP0iJPkmJPkqJPkyKPU2KPU6KPE+KPFCLO1GLO1KLOlOLOlSMOVWMOVaMOFiMOFmMN1qMN1uNNlyNNl2NNV6NNV+NNGCNNGGNM2KNM2ONMmSOMmWOMWaOMWeOMWiOMGmOMGqOL2uOL2yOLm2OLm6OLm+OLXCOLXGOLHGOLHKOLHOOK3SOK3WOKnaOKneOKniOKXmOKXqOKXuOKHyOKH2OJ36OJ3+OJ4COJoGOJoKOJoKOJYOOJYSOJYWOJIaOJIeOI4iOI4mOI4qNIouNIoyNIo2NIY6NIY+NIZCNIZGMIJKMIJKMIJOMH5SMH5WLH5aLH5eLH5iLH5mKH5qKHpuKHpyJHp2JH56JH5+IH6CIH6GIH6GHH6KHIKOGIKSGIaWFIaaFIqeFIqiEI6mDJKqDJauCJayCJq2BJ62BKK6AKa9/KrB/LLF+LbJ9LrN8L7R8MbV7MrZ6NLZ5Nbd5N7h4OLl3Orp2O7t1Pbx0P7xzQL1yQr5xRL9wRsBvSMFuSsFtTMJsTsNrUMRqUsVpVMVoVsZnWMdlWshkXMhjXsliYMpgY8tfZcteZ8xcac1bbM1abs5YcM9Xc9BWddBUd9FTetFRfNJQf9NOgdNNhNRLhtVJidVIi9ZGjtZFkNdDk9dBldhAmNg+m9k8ndk7oNo5oto3pds2qNs0qtwyrdwwsN0vst0ttd4ruN4put4ovd8mwN8lwt8jxeAhyOAgyuEfzeEd0OEc0uIb1eIa2OIZ2uMZ3eMY3+MY4uQY5eQZ5+QZ6uUa7OUb7+Uc8eUd9OYe9uYg+OYh++cj/ecl");
const POSITIVE = [214, 69, 65];
const NEGATIVE = [58, 126, 201];
const SVG = "http://www.w3.org/2000/svg";
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };
const WRITTEN = 49; // a map of up to this many cells carries its numbers

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function make(tag, className, parent, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

function draw(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

// ---- numbers -------------------------------------------------------------------------------

// Gives the numbers of one view in one state, and prints them.
function reader(view, buffer) {
  const { type, offset, strides, base, mantissa, decimals } = view.table;
  const codes = new TYPES[type](buffer, offset);
  const cells = view.shape.reduce((a, b) => a * b, 1);
  const exact = type !== "float32";
  const scale = 10 ** decimals;
  return {
    at(state) {
      const start = strides.reduce((sum, stride, k) => sum + stride * state[k], 0);
      const part = codes.subarray(start, start + cells);
      return Float64Array.from(part, exact ? (q) => ((base + q) * mantissa) / scale : (q) => q);
    },
    print(number) {
      const fixed = exact && decimals <= 8; // smaller numbers are read with an exponent
      const text = fixed ? number.toFixed(Math.max(decimals, 0)) : String(Number(number.toPrecision(4)));
      return text.replace("-", "−");
    },
    // As `print`, but at the ends of a clipped scale says that the number lies there or beyond.
    read(number) {
      const half = mantissa / scale / 2;
      const beyond = view.clip && (number >= view.clip[1] - half ? "≥ " : number <= view.clip[0] + half ? "≤ " : "");
      return (beyond || "") + this.print(number);
    },
  };
}

const tick = (number) => String(Number(number.toPrecision(3))).replace("-", "−");

// ---- controls ------------------------------------------------------------------------------

function slider(axis, parent, change) {
  const label = make("label", "cm-control", parent);
  const name = make("span", "cm-name", label);
  make("span", "", name, axis.label);
  const shown = make("output", "", name);
  const input = make("input", "", label);
  Object.assign(input, { type: "range", min: 0, max: axis.options.length - 1, step: 1 });
  input.setAttribute("aria-label", axis.label);
  input.setAttribute("data-lm-suppress-shortcuts", "true"); // Lab would swallow the arrow keys
  input.addEventListener("input", () => change(input.valueAsNumber));
  return (index) => {
    input.value = index;
    shown.textContent = axis.options[index].replace("-", "−");
    input.setAttribute("aria-valuetext", axis.options[index]);
  };
}

function choice(axis, parent, change) {
  const group = make("fieldset", "cm-control cm-choice", parent);
  make("legend", "", group, axis.label);
  const box = make("div", "cm-options", group);
  const name = `cm-${Math.random().toString(36).slice(2)}`;
  const inputs = axis.options.map((option, index) => {
    const label = make("label", "", box);
    const input = make("input", "", label);
    Object.assign(input, { type: "radio", name, value: index });
    input.setAttribute("data-lm-suppress-shortcuts", "true");
    input.addEventListener("change", () => change(index));
    make("span", "", label, option);
    return input;
  });
  return (index) => { inputs[index].checked = true; };
}

// ---- pictures ------------------------------------------------------------------------------

// Outlines a box, in cells, so that it is seen on any colour: a white line under a coloured one.
function outline(svg, className) {
  const under = draw("rect", { class: className === "cm-cursor" ? "cm-cursor-under" : "cm-under" }, svg);
  const over = draw("rect", { class: className }, svg);
  return (box) => {
    for (const rect of [under, over]) {
      rect.style.display = box ? "" : "none";
      if (box) ["x", "y", "width", "height"].forEach((key, k) => rect.setAttribute(key, box[k]));
    }
  };
}

function colour(limits, kind) {
  const [low, high] = limits;
  if (kind === "heat" && low === -high) {
    return (v) => [...(v < 0 ? NEGATIVE : POSITIVE), Math.round((255 * Math.abs(v)) / high)];
  }
  const level = (v) => Math.round((255 * (v - low)) / (high - low));
  if (kind === "image") return (v) => [level(v), level(v), level(v), 255];
  return (v) => [...VIRIDIS.subarray(3 * level(v), 3 * level(v) + 3), 255];
}

function paint(canvas, count, rgba) {
  const context = canvas.getContext("2d", { willReadFrequently: true }); // small: keep it off the GPU
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let k = 0; k < count; k++) pixels.data.set(rgba(k), 4 * k);
  context.putImageData(pixels, 0, 0);
}

function scaleBar(view, parent) {
  const bar = make("div", "cm-scale", parent);
  const [low, high] = view.limits;
  const colourOf = colour(view.limits, view.kind);
  make("span", "", bar, tick(low));
  const canvas = make("canvas", "", bar);
  Object.assign(canvas, { width: 129, height: 1 });
  canvas.setAttribute("aria-hidden", "true");
  paint(canvas, 129, (k) => colourOf(low + ((high - low) * k) / 128));
  make("span", "", bar, tick(high));
}

// A heat map or an image: one canvas pixel a cell, enlarged by the browser.
function grid(view, figure, numbers) {
  const [rows, columns, channels = 1] = view.shape;
  const stage = make("div", "cm-stage", figure);
  stage.style.aspectRatio = `${columns} / ${rows}`;
  const canvas = make("canvas", "", stage);
  Object.assign(canvas, { width: columns, height: rows });
  const svg = draw("svg", { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none" }, stage);
  const written = view.kind === "heat" && rows * columns <= WRITTEN ? make("div", "cm-cells", stage) : null;
  if (written) {
    written.style.gridTemplate = `repeat(${rows}, minmax(0, 1fr)) / repeat(${columns}, minmax(0, 1fr))`;
    written.classList.toggle("cm-many", columns > 5);
    for (let k = 0; k < rows * columns; k++) make("span", "", written);
  }
  if (view.labels) labels(view.labels, figure);
  if (view.kind === "heat") scaleBar(view, figure);
  const colourOf = colour(channels === 3 ? [0, view.limits[1] > 1 ? 255 : 1] : view.limits, view.kind);
  return {
    stage, svg, rows, columns,
    show(values) {
      if (channels === 3) {
        paint(canvas, rows * columns, (k) => [0, 1, 2].map((c) => colourOf(values[3 * k + c])[0]).concat(255));
      } else {
        paint(canvas, rows * columns, (k) => colourOf(values[k]));
      }
      if (written) values.forEach((v, k) => { written.children[k].textContent = numbers.print(v); });
    },
    box: (cell, what) => ({
      cell: [cell % columns, Math.floor(cell / columns), 1, 1],
      row: [0, cell, columns, 1],
      column: [cell, 0, 1, rows],
    })[what],
    index: (row, column, what) => ({ cell: row * columns + column, row, column })[what],
    read(values, row, column) {
      const k = row * columns + column;
      const value = Array.from(values.subarray(k * channels, (k + 1) * channels), (v) => numbers.read(v)).join(", ");
      return `row ${row}, column ${view.labels ? view.labels[column] : column}: ${value}`;
    },
  };
}

function labels(names, parent) {
  const row = make("div", "cm-axis cm-labels", parent);
  for (const name of names) make("span", "", row, name);
}

// The frame that bars and curves share: limits at the left, positions below.
function plot(view, figure, width) {
  const [low, high] = view.limits;
  const box = make("div", "cm-plotbox", figure);
  const side = make("div", "cm-y", box);
  make("span", "", side, tick(high));
  make("span", "", side, tick(low));
  const stage = make("div", "cm-stage", box);
  stage.style.aspectRatio = "5 / 2";
  const svg = draw("svg", { viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none" }, stage);
  const y = (v) => 100 * (1 - (v - low) / (high - low));
  if (low <= 0 && high >= 0) draw("line", { class: "cm-zero", x1: 0, x2: width, y1: y(0), y2: y(0) }, svg);
  const columns = view.shape.at(-1);
  if (view.labels) {
    labels(view.labels, box);
  } else {
    const row = make("div", "cm-axis", box);
    const ends = view.x ? [tick(view.x[0]), tick(view.x.at(-1))] : ["0", String(columns - 1)];
    for (const end of ends) make("span", "", row, end);
  }
  return {
    stage, svg, y, rows: 1, columns,
    box: (cell) => [(width * cell) / columns, 0, width / columns, 100],
    index: (row, column) => column,
    read: (values, row, column) => `${view.labels ? view.labels[column] : column}: `,
  };
}

function barChart(view, figure, numbers) {
  const columns = view.shape[0];
  const frame = plot(view, figure, 10 * columns);
  const rects = Array.from({ length: columns }, (_, k) =>
    draw("rect", { class: "cm-bar", x: 10 * k + 1, width: 8 }, frame.svg));
  return {
    ...frame,
    show(values) {
      const zero = frame.y(0);
      values.forEach((v, k) => {
        rects[k].setAttribute("y", Math.min(zero, frame.y(v)));
        rects[k].setAttribute("height", Math.abs(zero - frame.y(v)));
      });
    },
    read: (values, row, column) => frame.read(values, row, column) + numbers.print(values[column]),
  };
}

function curves(view, figure, numbers) {
  const [count, columns] = view.shape;
  const x = view.x ?? Array.from({ length: columns }, (_, k) => k);
  const across = (k) => (1000 * (x[k] - x[0])) / (x.at(-1) - x[0] || 1);
  const names = view.series ?? [view.name];
  const frame = plot(view, figure, 1000);
  const paths = names.map((_, s) => draw("polyline", { class: `cm-curve cm-s${s % 4}` }, frame.svg));
  if (view.series) {
    const legend = make("div", "cm-legend", figure);
    names.forEach((name, s) => {
      const item = make("span", "", legend);
      const key = draw("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, item);
      draw("polyline", { class: `cm-curve cm-s${s % 4}`, points: "0,4 26,4" }, key);
      item.append(name);
    });
  }
  return {
    ...frame,
    show(values) {
      paths.forEach((path, s) => {
        const points = Array.from({ length: columns }, (_, k) => `${across(k)},${frame.y(values[s * columns + k])}`);
        path.setAttribute("points", points.join(" "));
      });
    },
    box: (cell) => [across(cell), 0, 0.01, 100],
    place: (fraction) => x.reduce((best, _, k) =>
      Math.abs(across(k) - 1000 * fraction) < Math.abs(across(best) - 1000 * fraction) ? k : best, 0),
    read: (values, row, column) => `at ${tick(x[column])}: ` +
      names.map((name, s) => `${count > 1 ? `${name} ` : ""}${numbers.print(values[s * columns + column])}`).join(", "),
  };
}

// ---- a view: a picture that can be read by pointer and keys, and clicked where it is marked -----

function figureOf(view, figure, numbers, change, speak) {
  make("figcaption", "", figure, view.name);
  if (view.kind === "scalar") {
    const value = make("output", "", figure);
    value.setAttribute("aria-label", view.name);
    value.setAttribute("aria-live", "off");
    return (state) => { value.textContent = numbers.print(numbers.at(state)[0]); };
  }
  const draws = { heat: grid, image: grid, bars: barChart, line: curves };
  const picture = draws[view.kind](view, figure, numbers);
  const { stage, svg, rows, columns } = picture;
  const { mark } = view;
  const showMark = outline(svg, "cm-mark");
  const showCursor = outline(svg, "cm-cursor");
  const note = make("span", "cm-read", figure);
  let values, marked = null, cursor = null;

  stage.tabIndex = 0;
  stage.setAttribute("role", "img");
  if (mark) stage.classList.add("cm-clickable");

  function read() {
    showCursor(cursor && picture.box(picture.index(...cursor, "cell"), "cell"));
    const at = cursor ?? (mark?.what === "cell" && [Math.floor(marked / columns), marked % columns]);
    note.textContent = at ? picture.read(values, ...at) : "";
  }
  function pick() {
    const wanted = picture.index(...cursor, mark.what);
    const wide = mark.what === "cell" ? columns : 1;
    const gap = (cell) => Math.hypot(Math.floor(cell / wide) - Math.floor(wanted / wide), (cell % wide) - (wanted % wide));
    const best = mark.cells.reduce((b, cell, k) => (gap(cell) < gap(mark.cells[b]) ? k : b), 0);
    change(mark.axis, best);
  }
  function follow(event) {
    const area = stage.getBoundingClientRect();
    const across = (event.clientX - area.left) / area.width;
    const down = (event.clientY - area.top) / area.height;
    const clamp = (v, n) => Math.max(0, Math.min(n - 1, Math.floor(v * n)));
    cursor = [clamp(down, rows), picture.place ? picture.place(across) : clamp(across, columns)];
    read();
  }
  const leave = () => { cursor = null; read(); };
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  stage.addEventListener("click", (event) => { follow(event); if (mark) pick(); });
  stage.addEventListener("blur", leave);
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const chosen = mark && (event.key === "Enter" || event.key === " ");
    if (!step && !chosen) return;
    event.preventDefault();
    event.stopPropagation();
    const start = mark?.what === "cell" ? [Math.floor(marked / columns), marked % columns] : [0, 0];
    const [row, column] = cursor ?? start;
    const [down, across] = step ?? [0, 0];
    cursor = [Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + across))];
    if (chosen) pick();
    read();
    speak(note.textContent);
  });
  stage.setAttribute("data-lm-suppress-shortcuts", "true");

  return (state, words) => {
    values = numbers.at(state);
    marked = mark ? mark.cells[state[mark.axis]] : null;
    picture.show(values);
    showMark(mark && picture.box(marked, mark.what));
    read();
    const range = values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
    stage.setAttribute("aria-label",
      `${view.name}, ${view.shape.join(" by ")}, ${numbers.print(range[0])} to ${numbers.print(range[1])}; ${words}`);
  };
}

// A frame for each view: maps first, then charts, then a row of numbers.
function arrange(list, parent) {
  const roles = list.map(({ kind }) => ({ heat: "map", image: "map", scalar: "number" })[kind] ?? "chart");
  const maps = roles.filter((role) => role === "map").length;
  parent.dataset.maps = maps;
  parent.style.setProperty("--cm-columns", maps === 4 ? 2 : Math.min(Math.max(maps, 2), 3));
  const frames = [];
  for (const role of ["map", "chart", "number"]) {
    const apart = roles.includes(role) && (role === "number" || (role === "chart" && maps !== 1));
    const row = apart ? make("div", `cm-${role}s`, parent) : parent;
    roles.forEach((r, k) => { if (r === role) frames[k] = make("figure", `cm-view cm-${role}`, row); });
  }
  return frames;
}

async function render({ model, el }) {
  const spec = JSON.parse(model.get("spec"));
  const buffer = await inflate(spec.data);
  const root = make("section", "cm-explorable");
  root.setAttribute("aria-label", spec.title);
  const head = make("div", "cm-head", root);
  make("p", "cm-title", head, spec.title);
  const reset = make("button", "cm-reset", head, "Reset");
  reset.type = "button";
  const controls = make("div", "cm-controls", root);
  const views = make("div", "cm-views", root);
  const frames = arrange(spec.views, views);
  const live = make("div", "cm-live", root);
  live.setAttribute("aria-live", "polite");

  const change = (axis, index) => {
    const state = [...model.get("state")];
    state[axis] = index;
    go(state);
  };
  const go = (state) => { model.set("state", state); model.save_changes(); };
  const controlSetters = spec.axes.map((axis, k) =>
    (axis.slider ? slider : choice)(axis, controls, (index) => change(k, index)));
  const drawers = spec.views.map((view, k) =>
    figureOf(view, frames[k], reader(view, buffer), change, (text) => { live.textContent = text; }));
  const update = () => {
    const state = model.get("state");
    const words = spec.axes.map((axis, k) => `${axis.label} = ${axis.options[state[k]]}`).join(", ");
    controlSetters.forEach((set, k) => set(state[k]));
    drawers.forEach((drawer) => drawer(state, words));
  };
  reset.addEventListener("click", () => go(spec.axes.map((axis) => axis.start)));
  model.on("change:state", update);
  update();
  el.replaceChildren(root);
  root.dataset.ready = "true";
  return () => model.off("change:state", update);
}

export default { render };
