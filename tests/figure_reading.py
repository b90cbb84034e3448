"""Reads back what a figure shows in the browser, and says whether Python computed just that."""

import base64
from functools import lru_cache

import numpy as np

from coatnet_mini import plots
from coatnet_mini.explore import View
from coatnet_mini.explore.twin import Computed

FRAMES = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"""

# The colours travel as base64: as a list of numbers they would take longer than all else.
# Reads back what is drawn: colours of every cell, bars and curves in units of their frame, texts.
READ = """(root) => [...root.querySelectorAll('.cm-view')].map((view) => {
  const name = view.querySelector('figcaption').textContent;
  const said = view.querySelector('.cm-said')?.textContent ?? '';
  const canvas = view.querySelector('.cm-stage canvas');
  if (canvas) {
    const { width, height } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
    let bytes = '';
    for (let k = 0; k < data.length; k += 32768)
      bytes += String.fromCharCode(...data.subarray(k, k + 32768));
    const texts = [...view.querySelectorAll('.cm-cells span')].map((span) => span.textContent);
    const path = view.querySelector('.cm-hatched')?.getAttribute('d') ?? '';
    const cells = [...path.matchAll(/M(\\d+) (\\d+)/g)];
    const hatched = cells.map((cell) => cell[2] * width + Number(cell[1]));
    return { name, kind: 'map', width, height, data: btoa(bytes), texts, hatched, said };
  }
  const dots = [...view.querySelectorAll('.cm-dot')];
  if (dots.length) {
    const text = (row) => [...row.children].map((cell) => cell.textContent);
    const rows = [...view.querySelectorAll('.cm-table tbody tr')].map(text);
    const place = ({ hidden, style }) => (hidden ? null : [style.left, style.top].map(parseFloat));
    return { name, kind: 'scatter', rows, data: dots.map(place), said };
  }
  const bars = [...view.querySelectorAll('.cm-bar')];
  if (bars.length) {
    const zero = Number(view.querySelector('.cm-zero').getAttribute('y1'));
    const get = (bar, key) => Number(bar.getAttribute(key));
    const data = bars.map((bar) => [get(bar, 'y'), get(bar, 'height'), zero]);
    return { name, kind: 'bars', data, said };
  }
  const curves = [...view.querySelectorAll('.cm-stage .cm-curve')];
  if (curves.length) {
    const height = (point) => Number(point.split(',')[1]);
    const points = (curve) => curve.getAttribute('points').split(' ').map(height);
    return { name, kind: 'line', data: curves.map(points), said };
  }
  return { name, kind: 'scalar', text: view.querySelector('output').textContent };
})"""


def wait_for_figures(page) -> list:
    """The page's figures, once all are drawn."""
    page.wait_for_function(
        "document.querySelectorAll('.cm-explorable-host').length === "
        "document.querySelectorAll('.cm-explorable[data-ready]').length"
    )
    return page.query_selector_all(".cm-explorable")


def wait_for_network(root, figure):
    """A figure that runs a stored network shows its start until it is near and that is there."""
    root.scroll_into_view_if_needed()
    if getattr(figure, "stored", None):
        root.evaluate("""(root) => new Promise((done) => {
          const ask = () => (root.dataset.network ? done() : requestAnimationFrame(ask));
          ask(); })""")


def slack(figure) -> float:
    """By how much of its scale a number may be off: a twin computes it in float32."""
    return 1e-4 if isinstance(figure, Computed) else 1e-6


def colours(figure, name: str, numbers: np.ndarray, limits, theme: str, off=0) -> np.ndarray:
    """(H, W, 3) bytes, by the figure's colour rules written down a second time.

    off: by how many of the 255 levels.
    """
    (low, high), view = limits, figure.views[name]
    if numbers.ndim == 3:
        return 255 * numbers / (255 if high > 1 else 1)
    level = (np.abs(numbers) / high) if figure.signed[name] else (numbers - low) / (high - low)
    level = (np.floor(255 * level + 0.5).astype(int) + off).clip(0, 255)
    if view.kind == "image":
        grey = 255 - level if view.ink else level
        return np.repeat(grey[..., None], 3, axis=2)
    positive, negative = plots.ramp("+", theme), plots.ramp("-", theme)
    below = (numbers < 0)[..., None] & figure.signed[name]
    return 255 * np.where(below, negative[level], positive[level])


def printed(text: str) -> float:
    return float(text.replace("−", "-"))


def assert_shows(root, figure, **options):
    """Every view of the figure shows exactly the numbers that Python computed for `options`."""
    assert_views_show(look(root)["views"], root, figure, options)


def assert_look(seen: dict, root, figure) -> None:
    """What was looked at are the numbers that Python computes for the state it says it is in."""
    assert_views_show(seen["views"], root, figure, options_in(figure, seen["state"]))


def assert_views_show(drawn: list[dict], root, figure, options):
    """`drawn` are the numbers for `options`; what a twin computes in the page, within float32."""
    if isinstance(figure, Computed) and not hasattr(figure.function, "cache_info"):
        figure.function = lru_cache(maxsize=2)(figure.function)  # its views are read one by one
    theme = root.get_attribute("data-theme")
    shown = {view["name"]: view for view in drawn}
    assert list(sorted(shown)) == sorted(figure.views)
    for name, view in figure.views.items():
        numbers = figure.numbers(name, **options)
        limits, hatched = figure.limits_at(name, **options), figure.hatched(name, **options)
        assert_view_shows(shown[name], figure, name, view, numbers, limits, hatched, theme)


def close(figure, shown: float, number: float) -> bool:
    """A printed number: as stored, or to the four digits of a twin's."""
    if not isinstance(figure, Computed):
        return shown == number
    return bool(np.isclose(shown, number, rtol=2e-3, atol=1e-5))


def assert_view_shows(drawn, figure, name, view: View, numbers, limits, hatched, theme):
    low, high = limits
    if view.scale == "state":
        said = drawn["said"].removeprefix("scale: this state, ").split(" to ")
        assert np.allclose([printed(end) for end in said], limits, rtol=5e-3), (name, said, limits)
    if view.kind == "scalar":
        step = figure.tables[name]
        digits = 1e-9 if step.exact else 5e-4 * abs(numbers.item()) + 1e-6
        assert abs(printed(drawn["text"]) - numbers.item()) <= digits
        assert isinstance(figure, Computed) or drawn["text"] == step.text(numbers.item())
    elif view.kind == "bars":
        y, height, zero = np.array(drawn["data"]).T
        value = np.where(y < zero - 1e-9, height, -height) * (high - low) / 100
        assert np.allclose(value, numbers, atol=slack(figure) * (high - low))
    elif view.kind == "scatter":
        x, y, role, _, flag = numbers.T
        shown = np.flatnonzero(role)
        assert [k for k, dot in enumerate(drawn["data"]) if dot] == list(shown)
        down = np.array([drawn["data"][k][1] for k in shown])
        assert np.allclose(high - down * (high - low) / 100, y[shown], atol=1e-5 * (high - low))
        table = {row[0]: row for row in drawn["rows"]}
        assert len(table) == len(shown)
        for k in shown:
            _, group, across, up, front, note = table[view.labels[k] + " !" * bool(flag[k])]
            assert np.allclose([printed(across), printed(up)], [x[k], y[k]], rtol=1e-3)
            assert front == ("yes" if role[k] == 2 else "") and note == view.notes[k]
            assert group in view.series
    elif view.kind == "line":
        value = high - np.array(drawn["data"]) * (high - low) / 100
        assert np.allclose(value, numbers, atol=slack(figure) * (high - low))
    else:
        data = np.frombuffer(base64.b64decode(drawn["data"]), np.uint8)
        pixels = data.astype(int).reshape(drawn["height"], drawn["width"], 4)
        assert np.all(pixels[..., 3] == 255)
        levels = (-1, 0, 1) if isinstance(figure, Computed) else (0,)
        given = (numbers, limits, theme)
        mask = np.zeros(pixels.shape[:2], bool) if hatched is None else hatched
        gaps = [np.abs(pixels[..., :3] - colours(figure, name, *given, off)) for off in levels]
        assert np.min([gap.max(-1) for gap in gaps], axis=0)[~mask].max(initial=0) <= 1.01
        page = 255 * plots.ramp("+", theme)[0]  # under the stripes
        assert np.abs(pixels[mask, :3] - page).max(initial=0) <= 1.01
        texts = dict(zip(range(numbers.size), drawn["texts"], strict=False))
        masked = set(np.flatnonzero(mask))
        assert set(drawn["hatched"]) == masked
        for k, text in texts.items():
            assert text == "" if k in masked else close(figure, printed(text), numbers.flat[k])


# All that a figure shows and says, once its controls agree with its state. A figure that computes
# does so in the next frame; one that looks numbers up has drawn them before its event ends.
LOOK = f"""async (root) => {{
  const frames = {FRAMES}, read = {READ};
  const controls = () => [...root.querySelectorAll('.cm-controls > *')].map((control) => {{
    const range = control.querySelector('input[type=range]');
    const radios = [...control.querySelectorAll('input[type=radio]')];
    if (control.matches('.cm-point')) return -1;
    return range ? range.valueAsNumber : radios.findIndex((radio) => radio.checked); }});
  const state = () => root.dataset.state.split(' ').map(Number);
  const agree = () => {{
    const [said, is] = [controls(), state()];
    return said.length === is.length && said.every((k, n) => k < 0 || k === is[n]);
  }};
  if ('twin' in root.dataset) await frames();
  for (let k = 0; k < 60 && !agree(); k++) await frames();
  const sliders = [...root.querySelectorAll('.cm-control input[type=range]')];
  const notes = [...root.querySelectorAll('.cm-view:has(.cm-read)')];
  return {{
    controls: controls(), state: state(), agree: agree(), views: read(root),
    spoken: Object.fromEntries(sliders.map((s) => [s.ariaLabel, s.getAttribute('aria-valuetext')])),
    notes: Object.fromEntries(notes.map((view) => [
      view.querySelector('figcaption').textContent, view.querySelector('.cm-read').textContent])),
  }};
}}"""


def look(root) -> dict:
    """state, views, what is spoken of each slider, and what is read under the pointer by view."""
    seen = root.evaluate(LOOK)
    assert seen["agree"], f"the controls say {seen['controls']}, the state is {seen['state']}"
    return seen


def state_of(root) -> list[int]:
    """What the controls say; a position pointed at has none, and is read from the figure."""
    return look(root)["state"]


def options_in(figure, state: list[int]) -> dict:
    return {a.name: a.values[k] for a, k in zip(figure.axes, state, strict=True)}


def options_of(figure, root) -> dict:
    return options_in(figure, state_of(root))


def try_keys(root, figure):
    controls = [k for k, axis in enumerate(figure.axes) if not axis.grid]
    found = root.query_selector_all(".cm-control")
    for k, control in zip(controls, found, strict=True):
        axis = figure.axes[k]
        last = len(axis.values) - 1
        if axis.numeric:
            slider = control.query_selector("input")
            for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
                slider.press(key)
                seen = look(root)
                expected = {"End": last, "ArrowLeft": max(last - 1, 0), "Home": 0}
                assert seen["state"][k] == expected.get(key, min(1, last))
                assert seen["spoken"][axis.label] == axis.options[seen["state"][k]]
                assert_look(seen, root, figure)
        else:
            for _ in range(last + 1):
                control.query_selector("input:checked").press("ArrowRight")
                assert_look(look(root), root, figure)


def try_pointer(page, root, figure):
    """Hover reads the number under the pointer; a click moves the mark there."""
    stages = [v for v in root.query_selector_all(".cm-view") if v.query_selector(".cm-stage")]
    views = {v.query_selector("figcaption").text_content(): v for v in stages}
    for name, element in views.items():
        view, stage = figure.views[name], element.query_selector(".cm-stage")
        if view.kind == "scatter":
            try_points(element, stage, figure.numbers(name, **options_of(figure, root)), view)
            continue
        rows = 1 if view.kind in ("bars", "line") else view.values.shape[0]
        columns = view.values.shape[1] if view.kind != "bars" else view.values.shape[0]
        stage.evaluate("(s) => s.scrollIntoView({ block: 'center', behavior: 'instant' })")
        for row, column in {(0, 0), (rows - 1, columns // 2), (rows // 2, columns - 1)}:
            place = at_cell(stage, view, row, column, rows, columns)
            page.mouse.move(*place)
            seen = look(root)
            assert_read(seen, figure, name, row, column)
            if view.mark and not view.edit:  # what is painted or dragged is not clicked
                page.mouse.click(*place)
                seen = look(root)
                marked = [a.name for a in figure.axes].index(view.mark[0])
                wanted = {"cell": row * columns + column, "row": row, "column": column}[
                    view.mark[1]
                ]
                if wanted in figure.axes[marked].values:
                    found = figure.axes[marked].values[seen["state"][marked]]
                    assert found == wanted, f"{name}: {found} for row {row}, column {column}"
                assert_look(seen, root, figure)
    page.mouse.move(0, 0)


def try_points(element, stage, numbers, view):
    """Under the pointer stands a point's name with its numbers, and its row is the one marked."""
    hidden = "(dot) => dot.hidden"
    for dot in [d for d in element.query_selector_all(".cm-dot") if not d.evaluate(hidden)][:3]:
        seen, box = dot.bounding_box(), stage.bounding_box()  # the page may have scrolled
        x, y = seen["x"] + seen["width"] / 2 - box["x"], seen["y"] + seen["height"] / 2 - box["y"]
        stage.hover(position={"x": x, "y": y})
        name, _, rest = element.query_selector(".cm-read").text_content().partition(": ")
        row = numbers[view.labels.index(name)]
        assert np.allclose(
            [printed(n) for n in rest.split(" (")[0].split(", ")], row[:2], rtol=1e-3
        )
        (marked,) = element.query_selector_all("tr.cm-here")
        assert marked.evaluate("(row) => row.firstChild.textContent").removesuffix(" !") == name


def at_cell(stage, view, row, column, rows, columns) -> tuple[float, float]:
    """Where on the screen a cell's middle is."""
    box = stage.bounding_box()
    across = (column + 0.5) / columns
    if view.kind == "line":
        x = np.array(view.x or range(columns))
        across = min(max((x[column] - x[0]) / (x[-1] - x[0]), 0.002), 0.998)
    border = 1  # positions are counted from inside it; the figure counts from its outer edge
    down = box["height"] * (row + 0.5) / rows - border
    right = max(box["width"] * across - border, 0)
    return box["x"] + border + right, box["y"] + border + down


def assert_read(seen, figure, name, row, column):
    text, options = seen["notes"][name], options_in(figure, seen["state"])
    hatched = figure.hatched(name, **options)
    if hatched is not None and hatched[row, column]:
        assert text.endswith(": not compared")
        return
    numbers = figure.numbers(name, **options)
    kind = figure.views[name].kind
    expected = {
        "bars": lambda: numbers[[column]],
        "line": lambda: numbers[:, column],
        "heat": lambda: numbers[row, [column]],
        "image": lambda: np.atleast_1d(numbers[row, column]),
    }[kind]()
    read = [printed(part.split()[-1]) for part in text.split(": ", 1)[1].split(", ")]
    exact = figure.tables[name].exact
    assert np.allclose(read, expected, rtol=1e-9 if exact else 5e-3, atol=0 if exact else 1e-5)


# A figure's edge, the options that are chosen, and where the controls are while the end of each
# panel is looked at: boxes on the screen, all measured in one call.
STAY = """(root) => {
  const box = (node) => node.getBoundingClientRect().toJSON();
  const chosen = [...root.querySelectorAll('.cm-options label:has(input:checked)')].map(box);
  const stages = [...root.querySelectorAll('.cm-stage')].map((stage) => {
    stage.scrollIntoView({ block: 'end', behavior: 'instant' });
    return { seen: box(stage), controls: [...root.querySelectorAll('.cm-controls > *')].map(box) };
  });
  return { title: root.querySelector('.cm-title').textContent, root: box(root), chosen, stages };
}"""


def assert_controls_stay(root):
    """Whatever panel is looked at, the controls are on the screen and do not cover it."""
    found = root.evaluate(STAY)
    for box in found["chosen"]:
        assert box["left"] >= 0 and box["right"] <= found["root"]["right"], found["title"]
    for stage in found["stages"]:
        for box in stage["controls"]:
            assert box["width"] * box["height"] > 0, f"{found['title']}: a control is hidden"
            assert box["top"] >= 0 and box["bottom"] <= stage["seen"]["top"], found["title"]


def has_effect(figure, k: int) -> bool:
    """Whether axis k is seen to do something, at its start and at both ends: a step there changes
    some panel by a fiftieth of its scale, or the scale itself by as much. A point that marks a
    place on curves is seen to move along them."""
    axis, views = figure.axes[k], figure.views.values()
    if axis.grid and any(v.kind == "line" and v.mark and v.mark[0] == axis.name for v in views):
        return True
    last, start = len(figure.axes[k].values) - 1, figure.axes[k].start
    steps = {(0, min(1, last)), (max(last - 1, 0), last), (start, min(start + 1, last))}
    return all(differs(figure, k, *step) for step in steps if step[0] != step[1])


def differs(figure, k: int, one: int, other: int) -> bool:
    axis = figure.axes[k]
    for name in (n for n, v in figure.views.items() if v.kind != "scalar"):
        looks = []
        for value in (axis.values[one], axis.values[other]):
            options = {axis.name: value}
            low, high = figure.limits_at(name, **options)
            share = (figure.numbers(name, **options) - low) / (high - low)
            mask = figure.hatched(name, **options)
            looks.append((share if mask is None else np.where(mask, -1.0, share), high - low))
        (a, width), (b, other_width) = looks
        if np.abs(a - b).max() >= 0.02 or abs(width / other_width - 1) >= 0.02:
            return True
    return False
