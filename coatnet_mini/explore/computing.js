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

function computing(spec, model, buffer) {
  const { name, keys, numbers, given, edits, shown } = spec.twin;
  const constants = Object.fromEntries(Object.entries(given).map(([key, value]) => [key, unpack(value, buffer)]));
  let made, from;

  // What the twin makes of the state and the edits, once for all views of a frame.
  function results(state) {
    const edited = model.get("edits") ?? {};
    if (made && from[0] === edited && from[1].join() === state.join()) return made;
    const options = { ...constants, ...edited };
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
    at(view, index) {
      return (state) => {
        const values = results(state)[keys[index]]();
        const [low, high] = view.clip ?? [-Infinity, Infinity];
        return Float64Array.from(typeof values === "number" ? [values] : values, (v) => Math.min(Math.max(v, low), high));
      };
    },
    // The tool of the view that shows an edit, or nothing.
    tool(view) {
      const what = Object.keys(shown).find((key) => shown[key] === view.name);
      if (!what) return null;
      const tools = { paint: brush, drag: handle };
      return tools[edits[what].kind](edits[what], view, (change) => set(what, change));
    },
  };
}

// A pen for pixels: two colours, chosen below the picture; strokes join up.
function brush({ pen, low, high, pens, label }, { shape: [, columns] }, set) {
  const values = [low, high];
  let chosen = 1, last = null;
  const paint = (row, column, ink) => {
    const [fromRow, fromColumn] = last ?? [row, column];
    last = [row, column];
    set((array) => array.forEach((v, k) => {
      const [y, x] = [Math.floor(k / columns) + 0.5, (k % columns) + 0.5];
      if (fromSegment(y, x, fromRow, fromColumn, row, column) <= pen) array[k] = ink;
    }));
  };
  return {
    hint: `space paints with the pen ${pens.join(" or ")}`,
    start: () => { last = null; },
    move: ({ down, across, rows }) => paint(down * rows, across * columns, values[chosen]),
    key(event, [row, column]) {
      if (event.key !== " " && event.key !== "Enter") return false;
      last = null;
      paint(row + 0.5, column + 0.5, values[chosen]);
      return true;
    },
    controls(parent) {
      const box = document.createElement("fieldset");
      box.className = "cm-pens";
      const name = `cm-pen-${Math.random().toString(36).slice(2)}`;
      box.innerHTML = "<legend></legend>";
      box.firstChild.textContent = "pen";
      box.setAttribute("aria-label", `pen for ${label}`);
      pens.forEach((text, k) => {
        const input = Object.assign(document.createElement("input"), { type: "radio", name, checked: k === chosen });
        input.setAttribute("data-lm-suppress-shortcuts", "true");
        input.addEventListener("change", () => { chosen = k; });
        const tag = document.createElement("label");
        tag.append(input, text);
        box.append(tag);
      });
      parent.append(box);
    },
  };
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
    controls() {},
  };
}

export default computing;
