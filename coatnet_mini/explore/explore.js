// Draws an explorable figure: looks numbers up in its table and shows them. It computes nothing
// that a reader could want checked; every number was computed in Python.
// Runs as an anywidget (Jupyter, Colab) and, through explore_host.js, on a page without a kernel.

// plots.py's RAMPS: nine colours from zero to full scale, one each for (k / 8)² of it.
const RAMPS = {
  "light +": "#ffffff #aaceea #7fb0da #5c98d0 #3f83c7 #256fc1 #175cb7 #184ca5 #183c93",
  "light -": "#ffffff #e4c4a5 #d1a278 #c48552 #b76d36 #ac5718 #9c4507 #8b3502 #782804",
  "dark +": "#121212 #283a59 #2e507f #2e64a0 #3177b8 #318bd0 #3c9fe1 #5ab3ea #78c6f3",
  "dark -": "#121212 #523225 #71442b #8d542d #a5642f #bb752f #cf8836 #dd9d4b #ecb360",
};
const SVG = "http://www.w3.org/2000/svg";
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };
const WRITTEN = 49; // a map of up to this many cells carries its numbers
const HIGHEST = 640; // pixels that a figure may take of a desktop's screen
const WIDE = 560; // pixels from which the panels stand side by side, as in explore.css
const TALL = 340, LEAST = 110; // the height of a row of maps, and how far it shrinks to fit

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

// A table's numbers in one state.
function lookUp({ type, offset, strides, base, mantissa, decimals }, cells, buffer) {
  const codes = new TYPES[type](buffer, offset);
  const number = type === "float32" ? (q) => q : (q) => ((base + q) * mantissa) / 10 ** decimals;
  return (state) => {
    const start = strides.reduce((sum, stride, k) => sum + stride * state[k], 0);
    return Float64Array.from(codes.subarray(start, start + cells), number);
  };
}

// Gives the numbers of one view in one state, the cells not compared, and prints numbers.
// Whoever computes numbers in the page takes the place of `at` and `hatched`, nothing else.
function reader(view, buffer) {
  const { type, mantissa, decimals } = view.table;
  const cells = view.shape.reduce((a, b) => a * b, 1);
  const exact = type !== "float32";
  const scale = 10 ** decimals;
  const mask = view.hatched && lookUp(view.hatched, view.shape[0] * view.shape[1], buffer);
  return {
    at: lookUp(view.table, cells, buffer),
    hatched: (state) => (mask ? mask(state) : null),
    print(number) {
      const fixed = exact && decimals <= 8; // smaller numbers are read with an exponent
      const text = fixed ? number.toFixed(Math.max(decimals, 0)) : String(Number(number.toPrecision(4)));
      return text.replace("-", "−");
    },
    // As `print`, but at the ends of a clipped scale says that the number lies there or beyond.
    read(number) {
      const half = exact ? mantissa / scale / 2 : 0;
      const beyond = view.clip && view.kind === "heat" && (number >= view.clip[1] - half ? "≥ " : number <= view.clip[0] + half ? "≤ " : "");
      return (beyond || "") + this.print(number);
    },
  };
}

// The limits of one state, for a view on the scale "state"; scales.py has the same rule.
function ownLimits(view, values, mask) {
  let low = Infinity, high = -Infinity;
  const all = mask?.every((m) => m);
  values.forEach((v, k) => { if (!mask?.[k] || all) { low = Math.min(low, v); high = Math.max(high, v); } });
  if (view.clip) [low, high] = view.clip;
  if (view.kind === "scatter") {
    const y = pointsOf(view, values).filter((p) => p.role).map((p) => p.y);
    if (!y.length) return [0, 1];
    [low, high] = [Math.min(...y), Math.max(...y)];
    const room = 0.08 * (high - low) || 1;
    return [low - room, high + room];
  }
  if (view.kind === "bars" || (view.kind === "heat" && !view.clip)) { low = Math.min(low, 0); high = Math.max(high, 0); }
  if (view.signed) { high = Math.max(Math.abs(low), Math.abs(high)); low = -high; }
  return [low, high > low ? high : low + 1];
}

const tick = (number) => String(Number(number.toPrecision(3))).replace("-", "−");

// What an option is called: a position has no list of names.
function optionText({ point, options }, index) {
  if (!point) return options[index];
  return point.length === 2 ? `row ${Math.floor(index / point[1])}, column ${index % point[1]}` : String(index);
}

const axisWords = (axis, index) => `${axis.label} = ${optionText(axis, index)}`;

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

// No control: says where the position is, and how it is moved.
function pointed(axis, parent) {
  const line = make("p", "cm-point", parent);
  make("span", "", line, axis.label);
  const shown = make("output", "", line);
  make("span", "cm-hint", line, "click in a picture that frames it, or focus that and use the arrow keys");
  shown.setAttribute("aria-live", "off");
  return (index) => { shown.textContent = optionText(axis, index); };
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

// 256 colours in even steps of the value, three bytes each.
const ramps = {};
function ramp(name) {
  if (ramps[name]) return ramps[name];
  const anchors = RAMPS[name].split(" ").map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
  const last = anchors.length - 1;
  return ramps[name] = Array.from({ length: 256 }, (_, k) => {
    const place = Math.sqrt(k / 255) * last;
    const from = Math.min(Math.floor(place), last - 1);
    return anchors[from].map((c, channel) => Math.round(c + (anchors[from + 1][channel] - c) * (place - from)));
  });
}

// The colour of a number: pictures grey, weights in one ramp, signed values in two.
function colour(view, [low, high], theme) {
  const byte = (share) => Math.max(0, Math.min(255, Math.round(255 * share)));
  const level = (v) => byte((v - low) / (high - low));
  if (view.kind === "image") return (v) => Array(3).fill(view.ink ? 255 - level(v) : level(v));
  if (!view.signed) return (v) => ramp(`${theme} +`)[level(v)];
  return (v) => ramp(`${theme} ${v < 0 ? "-" : "+"}`)[byte(Math.abs(v) / high)];
}

// Black or white, whichever is read on the colour with a contrast of at least 4.5.
function legible(rgb) {
  const linear = (c) => (c > 10 ? ((c / 255 + 0.055) / 1.055) ** 2.4 : c / 3294);
  return 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]) > 0.179 ? "#000" : "#fff";
}

function paint(canvas, count, rgb) {
  const context = canvas.getContext("2d", { willReadFrequently: true }); // small: keep it off the GPU
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let k = 0; k < count; k++) pixels.data.set([...rgb(k), 255], 4 * k);
  context.putImageData(pixels, 0, 0);
}

const SCALES = { shared: () => "scale: shared", state: (limits) => `scale: this state, ${limits.map(tick).join(" to ")}` };

// The line that says on which scale a view is drawn, and for maps the colours of it.
function scaleOf(view, parent) {
  const bar = view.kind === "heat" ? make("div", "cm-scale", parent) : null;
  const low = bar && make("span", "", bar);
  const canvas = bar && make("canvas", "", bar);
  const high = bar && make("span", "", bar);
  const said = view.scale ? make("div", "cm-said", parent) : null;
  if (bar) {
    Object.assign(canvas, { width: 129, height: 1 });
    canvas.setAttribute("aria-hidden", "true");
  }
  return (limits, theme) => {
    if (said) said.textContent = SCALES[view.scale](limits);
    if (!bar) return;
    [low.textContent, high.textContent] = limits.map(tick);
    const colourOf = colour(view, limits, theme);
    paint(canvas, 129, (k) => colourOf(limits[0] + ((limits[1] - limits[0]) * k) / 128));
  };
}

// What maps and plots share: a stage, with names and numbers of both axes around it.
function frameOf(view, figure) {
  const box = make("div", "cm-plotbox", figure);
  const side = make("div", "cm-y", box);
  const stage = make("div", "cm-stage", box);
  const row = make("div", view.labels ? "cm-x cm-labels" : "cm-x", box);
  const ends = (numbers, count) => (numbers ? [numbers[0], numbers.at(-1)].map(tick) : ["0", String(count - 1)]);
  return {
    box, stage,
    across(columns) {
      if (view.labels) for (const name of view.labels) make("span", "", row, name);
      else [ends(view.x, columns)[0], view.xname ?? "", ends(view.x, columns)[1]].forEach((text) => make("span", "", row, text));
    },
    down(rows) {
      const [top, bottom] = ends(view.y, rows);
      return this.side(top, bottom);
    },
    side(top, bottom) {
      side.replaceChildren();
      make("span", "", side, top);
      make("span", view.yname?.length > 2 ? "cm-long" : "", side, view.yname ?? ""); // reads upwards
      make("span", "", side, bottom);
    },
  };
}

// Names a position in words: the names of the axes, where the view has them.
function place(view, row, column) {
  const across = view.labels ? view.labels[column] : view.x ? tick(view.x[column]) : column;
  if (!view.xname && !view.yname) return `row ${view.y ? tick(view.y[row]) : row}, column ${across}`;
  return `${view.yname ?? "row"} ${view.y ? tick(view.y[row]) : row}, ${view.xname ?? "column"} ${across}`;
}

// A heat map or an image: one canvas pixel a cell, enlarged by the browser.
function grid(view, figure, numbers) {
  const [rows, columns, channels = 1] = view.shape;
  const frame = frameOf(view, figure);
  const { stage } = frame;
  frame.box.style.setProperty("--cm-ratio", columns / rows);
  if (view.xname || view.labels || view.x) frame.across(columns);
  if (view.yname || view.y) frame.down(rows);
  const canvas = make("canvas", "", stage);
  Object.assign(canvas, { width: columns, height: rows });
  const svg = draw("svg", { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none" }, stage);
  const hatch = view.hatched && hatching(svg, rows, columns);
  const written = view.kind === "heat" && !view.over && rows * columns <= WRITTEN ? make("div", "cm-cells", stage) : null;
  if (written) {
    written.style.gridTemplate = `repeat(${rows}, minmax(0, 1fr)) / repeat(${columns}, minmax(0, 1fr))`;
    written.classList.toggle("cm-many", columns > 5);
    for (let k = 0; k < rows * columns; k++) make("span", "", written);
  }
  const over = view.over && make("canvas", "cm-over", stage);
  const scale = scaleOf(view, frame.box);
  let hidden = null;
  return {
    stage, svg, rows, columns,
    show(values, mask, limits, theme) {
      hidden = mask;
      const colourOf = colour(view, channels === 3 ? [0, view.limits[1] > 1 ? 255 : 1] : limits, theme);
      const cell = channels === 3
        ? (k) => [0, 1, 2].map((c) => colourOf(values[3 * k + c])[0])
        : (k) => colourOf(values[k]);
      const [page] = ramp(`${theme} +`); // stripes end on whole pixels, cells need not
      paint(canvas, rows * columns, (k) => (mask?.[k] ? page : cell(k)));
      hatch?.(mask);
      scale(limits, theme);
      if (written) values.forEach((v, k) => {
        written.children[k].textContent = mask?.[k] ? "" : numbers.print(v);
        written.children[k].style.color = legible(cell(k));
      });
    },
    box: (cell, what) => ({
      cell: [cell % columns, Math.floor(cell / columns), 1, 1],
      row: [0, cell, columns, 1],
      column: [cell, 0, 1, rows],
    })[what],
    index: (row, column, what) => ({ cell: row * columns + column, row, column })[what],
    read(values, row, column) {
      const k = row * columns + column;
      if (hidden?.[k]) return `${place(view, row, column)}: not compared`;
      const value = Array.from(values.subarray(k * channels, (k + 1) * channels), (v) => numbers.read(v)).join(", ");
      return `${place(view, row, column)}: ${value}`;
    },
  };
}

// Stripes over the cells that are not compared.
let hatchings = 0;
function hatching(svg, rows, columns) {
  const id = `cm-hatch-${hatchings++}`;
  const size = Math.max(rows, columns) / 28;
  const pattern = draw("pattern", {
    id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  }, svg);
  draw("rect", { class: "cm-blank", width: size, height: size }, pattern);
  draw("rect", { class: "cm-stripe", width: size * 0.35, height: size }, pattern);
  const path = draw("path", { class: "cm-hatched", fill: `url(#${id})` }, svg);
  return (mask) => {
    const cells = [...mask.keys()].filter((k) => mask[k]);
    path.setAttribute("d", cells.map((k) => `M${k % columns} ${Math.floor(k / columns)}h1v1h-1z`).join(""));
  };
}

// The frame that bars and curves share: limits at the left, positions below.
function plot(view, figure, width) {
  const columns = view.shape.at(-1);
  const frame = frameOf(view, figure);
  const { stage } = frame;
  frame.across(columns);
  const svg = draw("svg", { viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none" }, stage);
  const zero = draw("line", { class: "cm-zero", x1: 0, x2: width }, svg);
  const scale = scaleOf(view, frame.box);
  let low, high;
  const y = (v) => 100 * (1 - (v - low) / (high - low));
  return {
    stage, svg, y, rows: 1, columns,
    limit(limits, theme) {
      [low, high] = limits;
      frame.side(tick(high), tick(low));
      zero.style.display = low <= 0 && high >= 0 ? "" : "none";
      for (const end of ["y1", "y2"]) zero.setAttribute(end, y(0));
      scale(limits, theme);
    },
    box: (cell) => [(width * cell) / columns, 0, width / columns, 100],
    index: (row, column) => column,
    name: (column) => `${view.xname ? `${view.xname} ` : ""}${view.labels ? view.labels[column] : view.x ? tick(view.x[column]) : column}`,
  };
}

function barChart(view, figure, numbers) {
  const columns = view.shape[0];
  const frame = plot(view, figure, 10 * columns);
  const rects = Array.from({ length: columns }, (_, k) =>
    draw("rect", { class: "cm-bar", x: 10 * k + 1, width: 8 }, frame.svg));
  return {
    ...frame,
    show(values, mask, limits, theme) {
      frame.limit(limits, theme);
      const zero = frame.y(0);
      values.forEach((v, k) => {
        rects[k].setAttribute("y", Math.min(zero, frame.y(v)));
        rects[k].setAttribute("height", Math.abs(zero - frame.y(v)));
        rects[k].classList.toggle("cm-below", v < 0);
      });
    },
    read: (values, row, column) => `${frame.name(column)}: ${numbers.print(values[column])}`,
  };
}

function curves(view, figure, numbers) {
  const [count, columns] = view.shape;
  const x = view.x ?? Array.from({ length: columns }, (_, k) => k);
  const across = (k) => (1000 * (x[k] - x[0])) / (x.at(-1) - x[0] || 1);
  const names = view.series ?? [view.name];
  const frame = plot(view, figure, 1000);
  const paths = names.map((_, s) => draw("polyline", { class: `cm-curve cm-s${s % 6}` }, frame.svg));
  if (view.series) {
    const legend = make("div", "cm-legend", figure);
    names.forEach((name, s) => {
      const item = make("span", "", legend);
      const key = draw("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, item);
      draw("polyline", { class: `cm-curve cm-s${s % 6}`, points: "0,4 26,4" }, key);
      item.append(name);
    });
  }
  return {
    ...frame,
    show(values, mask, limits, theme) {
      frame.limit(limits, theme);
      paths.forEach((path, s) => {
        const points = Array.from({ length: columns }, (_, k) => `${across(k)},${frame.y(values[s * columns + k])}`);
        path.setAttribute("points", points.join(" "));
      });
    },
    box: (cell) => [across(cell), 0, 0.01, 100],
    place: (fraction) => x.reduce((best, _, k) =>
      Math.abs(across(k) - 1000 * fraction) < Math.abs(across(best) - 1000 * fraction) ? k : best, 0),
    read: (values, row, column) => `${view.xname ?? "at"} ${tick(x[column])}: ` +
      names.map((name, s) => `${count > 1 ? `${name} ` : ""}${numbers.print(values[s * columns + column])}`).join(", "),
  };
}

// The points of a scatter in one state; role 0 is left out, 2 is on the staircase.
function pointsOf(view, values) {
  const [count, columns] = view.shape;
  return Array.from({ length: count }, (_, k) => {
    const [x, y, role, group, flag] = values.subarray(k * columns, (k + 1) * columns);
    return { k, x, y, role, group, flag, name: view.labels[k], note: view.notes[k] };
  });
}

const MARKS = ["●", "■", "◆", "▲", "▼", "✚"];
// Where a name may stand: pixels from its point to its upper left corner, and the share of its
// width by which it is drawn to the left. The stairs run to the right of a point and below it.
const BESIDE = [[-10, -7, 1], [-7, -20, 1], [0, -22, 0.5], [8, -20, 0], [10, -7, 0], [8, 6, 0], [-7, 6, 1], [0, 8, 0.5]];

// Named points, the staircase along the best of them, and all of them as a table.
function scatter(view, figure, numbers, axes) {
  const frame = frameOf({ ...view, labels: null, yname: view.yname }, figure);
  const { stage } = frame;
  const svg = draw("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none" }, stage);
  const decades = draw("path", { class: "cm-decades" }, svg);
  const stairs = draw("polyline", { class: "cm-stairs" }, svg);
  const dots = view.labels.map(() => make("span", "cm-dot", stage));
  const tags = view.labels.map((name) => make("span", "cm-tag", stage, name));
  const tens = [0, 1, 2, 3, 4].map(() => make("span", "cm-ten", stage)); // 10, 100 … on their lines
  const nothing = make("span", "cm-nothing", stage, "none of these is published");
  const legend = make("div", "cm-legend", figure);
  const keys = view.series.map((name, g) => {
    const key = make("span", "", legend);
    make("span", `cm-key cm-s${g % 6}`, key, MARKS[g % 6]);
    key.append(name);
    return key;
  });
  make("span", "", legend, "! the sources disagree");
  const scale = scaleOf(view, frame.box);
  const details = make("details", "cm-table", figure);
  const summary = make("summary", "", details);
  const box = make("div", "", details);
  Object.assign(box, { tabIndex: 0, role: "region" });
  box.setAttribute("aria-label", `${view.name}, as a table`);
  const table = make("table", "", box);
  let points = [], rows = {}, low, high, left, right;
  const across = (x) => (Math.log10(x) - left) / (right - left);
  const down = (y) => (high - y) / (high - low);
  const seen = () => points.filter((p) => p.role);

  function fill(xname) {
    summary.textContent = `All ${seen().length} points shown, as a table`;
    table.replaceChildren();
    const head = make("tr", "", make("thead", "", table));
    for (const text of ["network", "group", xname, view.yname, "front", "where from"]) {
      make("th", "", head, text).scope = "col";
    }
    const body = make("tbody", "", table);
    rows = {};
    for (const p of seen().sort((a, b) => b.y - a.y || a.x - b.x)) {
      const row = rows[p.k] = make("tr", "", body);
      make("th", "", row, p.name + (p.flag ? " !" : "")).scope = "row";
      for (const text of [view.series[p.group], numbers.print(p.x), numbers.print(p.y), p.role === 2 ? "yes" : "", p.note]) {
        make("td", "", row, text);
      }
    }
  }

  // Names stand where no other name and no point is; those of the staircase choose first.
  function name() {
    const { width, height } = stage.getBoundingClientRect();
    const taken = seen().map((p) => {
      const [x, y] = [across(p.x) * width, down(p.y) * height];
      return [x - 6, y - 6, x + 6, y + 6];
    });
    for (const { hidden, offsetLeft: x, offsetWidth: wide } of tens) if (!hidden) taken.push([x, height - 14, x + wide, height]);
    const free = ([a, b, c, d]) => a >= 0 && b >= 0 && c <= width && d <= height &&
      !taken.some(([e, f, g, h]) => a < g && c > e && b < h && d > f);
    for (const tag of tags) tag.hidden = true;
    const named = seen().filter((p) => p.role === 2 || width > 450); // a phone has room for the best
    for (const p of named.sort((a, b) => b.role - a.role || b.y - a.y)) {
      const tag = tags[p.k];
      tag.hidden = false;
      const wide = tag.offsetWidth, tall = 12;
      const [x, y] = [across(p.x) * width, down(p.y) * height];
      const places = p.role === 2 ? BESIDE : [BESIDE[4], ...BESIDE];
      const at = places.map(([dx, dy, share]) => [x + dx - share * wide, y + dy])
        .find(([a, b]) => free([a, b, a + wide, b + tall]));
      tag.hidden = !at;
      if (!at) continue;
      taken.push([at[0], at[1], at[0] + wide, at[1] + tall]);
      Object.assign(tag.style, { left: `${at[0]}px`, top: `${at[1]}px` });
    }
  }

  return {
    stage, svg, rows: 1, columns: view.shape[0],
    show(values, mask, limits, theme, state) {
      points = pointsOf(view, values);
      [low, high] = limits;
      const x = seen().length ? seen().map((p) => Math.log10(p.x)) : [0, 1];
      nothing.hidden = seen().length > 0;
      const room = 0.06 * (Math.max(...x) - Math.min(...x)) || 0.3;
      [left, right] = [Math.min(...x) - room, Math.max(...x) + room];
      const chosen = axes.findIndex((axis) => axis.name === view.xname);
      const xname = chosen < 0 ? view.xname : axes[chosen].options[state[chosen]];
      const ends = [10 ** left, 10 ** right].map((v) => tick(Number(v.toPrecision(2))));
      frame.box.querySelector(".cm-x").replaceChildren();
      [ends[0], `${xname}, log scale`, ends[1]].forEach((text) => make("span", "", frame.box.querySelector(".cm-x"), text));
      frame.side(tick(high), tick(low));
      scale(limits, theme);
      const lines = [];
      for (let d = Math.ceil(left); d <= right; d++) lines.push(`M${1000 * across(10 ** d)} 0V100`);
      decades.setAttribute("d", lines.join(""));
      tens.forEach((ten, n) => {
        const v = 10 ** (Math.ceil(left) + n);
        ten.hidden = n >= lines.length || !seen().length;
        ten.textContent = tick(v);
        ten.style.left = `${100 * across(v)}%`;
      });
      const best = points.filter((p) => p.role === 2).sort((a, b) => a.x - b.x || a.y - b.y);
      const corners = best.flatMap((p, n) => [
        ...(n ? [[1000 * across(p.x), 100 * down(best[n - 1].y)]] : []), [1000 * across(p.x), 100 * down(p.y)]]);
      stairs.setAttribute("points", corners.map((c) => c.join(",")).join(" "));
      points.forEach((p, k) => {
        dots[k].hidden = !p.role;
        dots[k].className = `cm-dot cm-s${p.group % 6}${p.role === 2 ? " cm-front" : ""}${p.flag ? " cm-flag" : ""}`;
        dots[k].textContent = MARKS[p.group % 6];
        if (p.role) Object.assign(dots[k].style, { left: `${100 * across(p.x)}%`, top: `${100 * down(p.y)}%` });
      });
      keys.forEach((key, g) => { key.hidden = !seen().some((p) => p.group === g); });
      name();
      fill(xname);
    },
    box: (k) => (points[k]?.role ? [1000 * across(points[k].x) - 14, 100 * down(points[k].y) - 4, 28, 8] : null),
    index: (row, column) => column,
    place(x, y) {
      const { width, height } = stage.getBoundingClientRect();
      const gap = (p) => Math.hypot((across(p.x) - x) * width, (down(p.y) - y) * height);
      return seen().reduce((best, p) => (best && gap(best) <= gap(p) ? best : p), null)?.k ?? 0;
    },
    next(k, [up, aside]) { // the next point to the right, or the next one higher
      const order = seen().sort((a, b) => (aside ? a.x - b.x || a.y - b.y : b.y - a.y || a.x - b.x));
      const at = order.findIndex((p) => p.k === k);
      return order[at < 0 ? 0 : Math.max(0, Math.min(order.length - 1, at + (aside || up)))]?.k ?? 0;
    },
    point(k) { for (const p of seen()) rows[p.k].classList.toggle("cm-here", p.k === k); },
    words: () => `${seen().length} points, on the front ${points.filter((p) => p.role === 2).map((p) => p.name).join(", ")}`,
    read(values, row, column) {
      const p = points[column];
      return p.role ? `${p.name}: ${numbers.print(p.x)}, ${numbers.print(p.y)} (${p.note})` : "";
    },
  };
}

// ---- a view: a picture that can be read by pointer and keys, and clicked where it is marked -----

function figureOf(view, axes, figure, numbers, change, speak, tool) {
  make("figcaption", "", figure, view.name);
  if (view.kind === "scalar") {
    const value = make("output", "", figure);
    value.setAttribute("aria-label", view.name);
    value.setAttribute("aria-live", "off");
    return (state) => { value.textContent = numbers.print(numbers.at(state)[0]); };
  }
  const draws = { heat: grid, image: grid, bars: barChart, line: curves, scatter };
  const picture = draws[view.kind](view, figure, numbers, axes);
  const { stage, svg, rows, columns } = picture;
  const { mark } = view;
  const axis = mark && axes[mark.axis];
  const cells = mark && (mark.cells ?? [...Array(axis.point.reduce((a, b) => a * b)).keys()]);
  const showMark = outline(svg, "cm-mark");
  const showCursor = outline(svg, "cm-cursor");
  const note = make("span", "cm-read", figure);
  let values, marked = null, cursor = null;

  stage.tabIndex = 0;
  stage.setAttribute("role", "img");
  if (mark || tool) stage.classList.add("cm-clickable");

  const markAt = () => ({
    cell: [Math.floor(marked / columns), marked % columns], row: [marked, 0], column: [0, marked],
  })[mark.what];
  function read() {
    showCursor(cursor && picture.box(picture.index(...cursor, "cell"), "cell"));
    const at = cursor ?? (mark?.what === "cell" && markAt());
    note.textContent = at ? picture.read(values, ...at) : "";
    picture.point?.(at ? at[1] : null);
  }
  function pick() {
    const wanted = picture.index(...cursor, mark.what);
    const wide = mark.what === "cell" ? columns : 1;
    const gap = (cell) => Math.hypot(Math.floor(cell / wide) - Math.floor(wanted / wide), (cell % wide) - (wanted % wide));
    const best = cells.reduce((b, cell, k) => (gap(cell) < gap(cells[b]) ? k : b), 0);
    if (cells[best] !== marked) change(mark.axis, best);
  }
  function follow(event) {
    const area = stage.getBoundingClientRect();
    const across = (event.clientX - area.left) / area.width;
    const down = (event.clientY - area.top) / area.height;
    const clamp = (v, n) => Math.max(0, Math.min(n - 1, Math.floor(v * n)));
    cursor = [clamp(down, rows), picture.place ? picture.place(across, down) : clamp(across, columns)];
    read();
  }
  function step(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const chosen = (mark || tool) && (event.key === "Enter" || event.key === " ");
    if (!move && !chosen) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = cursor ?? (mark ? markAt() : [0, 0]);
    if (tool?.key(event, [row, column])) return;
    const [down, across] = move ?? [0, 0];
    cursor = picture.next ? [0, picture.next(cursor?.[1], [down, across])]
      : [Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + across))];
    if (!tool && (chosen || axis?.point)) pick();
    if (!tool && axis?.point && mark.what === "cell") cursor = null; // the outline itself has moved
    read();
    speak(`${axis?.point ? `${axis.label}: ` : ""}${note.textContent}`);
  }
  const leave = () => { cursor = null; read(); };
  function edit(event) {
    const area = stage.getBoundingClientRect();
    const across = (event.clientX - area.left) / area.width;
    const down = (event.clientY - area.top) / area.height;
    tool.move({ down, across, rows, column: cursor[1] });
  }
  if (tool) {
    stage.classList.add("cm-edited"); // a finger that moves here draws, and does not scroll
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      tool.start();
      follow(event);
      edit(event);
    });
  }
  stage.addEventListener("pointermove", (event) => {
    follow(event);
    if (tool && event.buttons & 1) edit(event);
    else if (!tool && axis?.point && event.buttons & 1 && event.pointerType !== "touch") pick();
  });
  stage.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  stage.addEventListener("click", (event) => { follow(event); if (mark && !tool) pick(); });
  stage.addEventListener("blur", leave);
  stage.addEventListener("keydown", step);
  stage.setAttribute("data-lm-suppress-shortcuts", "true");

  return (state, words, theme) => {
    values = numbers.at(state);
    marked = mark ? cells[state[mark.axis]] : null;
    const mask = numbers.hatched(state);
    const limits = view.scale === "state" ? ownLimits(view, values, mask) : view.limits;
    picture.show(values, mask, limits, theme, state);
    showMark(mark && picture.box(marked, mark.what));
    read();
    const range = values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
    const keys = tool ? `; ${tool.hint}` : axis?.point ? `; the arrow keys move ${axis.label}` : "";
    const shown = picture.words?.() ?? `${view.shape.join(" by ")}, ${numbers.print(range[0])} to ${numbers.print(range[1])}`;
    stage.setAttribute("aria-label", `${view.name}, ${shown}; ${words}${keys}`);
  };
}

// Lays one view's picture, which is drawn, over another view's map.
function layOver(map, picture) {
  const from = picture.querySelector("canvas"), to = map.querySelector(".cm-over");
  Object.assign(to, { width: from.width, height: from.height });
  to.getContext("2d").drawImage(from, 0, 0);
}

// A frame for each view: maps in one row, charts beside or below them, then a row of numbers.
function arrange(list, parent) {
  const roles = list.map(({ kind }) => ({ heat: "map", image: "map", scalar: "number" })[kind] ?? "chart");
  const frames = [];
  for (const role of ["map", "chart", "number"]) {
    const count = roles.filter((r) => r === role).length;
    if (!count) continue;
    const row = make("div", `cm-${role}s`, parent);
    row.style.setProperty("--cm-count", role === "chart" && count === 4 ? 2 : count > 4 ? 3 : count);
    roles.forEach((r, k) => { if (r === role) frames[k] = make("figure", `cm-view cm-${role}`, row); });
    parent.dataset[`${role}s`] = count;
  }
  return frames;
}

// Shrinks the pictures until the whole figure is on one screen with its controls; on a phone it
// is the controls that stay in view.
function fit(root) {
  root.style.setProperty("--cm-tall", `${TALL}px`);
  if (root.offsetWidth < WIDE) return;
  for (let tall = TALL; ; tall = Math.max(LEAST, tall - 10)) {
    root.style.setProperty("--cm-tall", `${tall}px`);
    const opened = root.querySelector(".cm-table[open] > div")?.offsetHeight ?? 0; // scrolls with the page
    if (tall === LEAST || root.getBoundingClientRect().height - opened <= HIGHEST) return;
  }
}

// A page is dark where its text is light: so it is in every host, whatever it calls its theme.
function themeOf(root) {
  const [red, green, blue] = getComputedStyle(root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  return 0.3 * red + 0.6 * green + 0.1 * blue > 128 ? "dark" : "light";
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
  if (spec.caption) make("p", "cm-caption", root, spec.caption);
  if (spec.twin) root.dataset.twin = spec.twin.name;
  const tools = spec.twin && make("div", "cm-tools", root); // scroll away before the controls stick
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
  const setters = spec.axes.map((axis, k) =>
    (axis.point ? pointed : axis.slider ? slider : choice)(axis, controls, (index) => change(k, index)));
  const computed = spec.twin && computing(spec, model, buffer); // computing.js
  const numbersOf = (view, k) =>
    (computed ? { ...reader(view, buffer), at: computed.at(view, k, reader(view, buffer).at) } : reader(view, buffer));
  const drawers = spec.views.map((view, k) => figureOf(view, spec.axes, frames[k], numbersOf(view, k), change,
    (text) => { live.textContent = text; }, computed?.tool(view, tools)));
  let theme;
  const update = () => {
    const state = model.get("state");
    const edited = computed ? computed.edited().map((what) => `${what} edited`) : [];
    const words = [...spec.axes.map((axis, k) => axisWords(axis, state[k])), ...edited].join(", ");
    root.dataset.state = state.join(" ");
    setters.forEach((set, k) => set(state[k]));
    drawers.forEach((drawer) => drawer(state, words, theme));
    spec.views.forEach((view, k) => view.over && layOver(frames[k], frames[spec.views.findIndex((v) => v.name === view.over)]));
  };
  const look = () => {
    if (themeOf(root) === theme) return;
    theme = root.dataset.theme = themeOf(root);
    update();
  };
  let width;
  const size = new ResizeObserver(() => { // also when a hidden figure is shown
    look();
    if (root.offsetWidth === width) return;
    width = root.offsetWidth;
    fit(root);
    update(); // names of points find other places
  });
  root.addEventListener("transitionend", (event) => { // of its colour, which takes a millisecond
    if (event.target === root && event.propertyName === "color") look();
  });
  reset.addEventListener("click", () => { computed?.reset(); go(spec.axes.map((axis) => axis.start)); });
  const changed = computed ? computed.perFrame(update) : update;
  model.on("change:state", changed);
  if (computed) model.on("change:edits", changed);
  el.replaceChildren(root);
  look();
  size.observe(root);
  computed?.start(root, (missing) => {
    if (missing) make("p", "cm-missing", root, missing);
    else update();
    root.dataset.network = missing ? "missing" : "ready";
  });
  root.dataset.ready = "true";
  return () => { model.off("change:state", changed); model.off("change:edits", changed); size.disconnect(); };
}

export default { render };
