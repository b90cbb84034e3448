"""A twin computes in the page what its figure's Python function computes, edits included."""

import base64
import json
import zlib

import numpy as np
import pytest
import torch

from coatnet_mini.explore import axis, bars, drag, explore, heat, image, paint, point, scalar
from coatnet_mini.explore.scripts import module
from coatnet_mini.explore.sphinx_ext import classic_script
from coatnet_mini.explore.still import still_png
from coatnet_mini.mending import noisy_roof
from tests import twin_figures
from tests.browser_scripts import page_with, run
from tests.site_server import serve
from tests.small_book import build

STATES = 20
KERNELS = {
    "blur": torch.ones(3, 3) / 9,
    "edge": torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "shift": torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]),
}


def cut(height=None, width=None):
    """(clean, noisy), the whole roof or a part that is not square."""
    return tuple(p[:height, :width].contiguous() for p in noisy_roof())


def cases():
    """{twin: (function, constants, what is edited, axes)}, the pictures as chapters have them."""
    clean, noisy = cut()
    part, noisy_part = cut(24, 28)
    mending, mending_constants = twin_figures.mending(clean)
    products, kernels = twin_figures.products(KERNELS)
    qkv, none = twin_figures.qkv()
    values = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])
    shares, shares_constants = twin_figures.shares(values)
    prepost, prepost_constants = twin_figures.prepost(part)
    bend, bend_constants = twin_figures.bend(noisy_part, part, [2, 9, 40])
    windows, windows_constants = twin_figures.windows(part)
    return {
        "mend": (
            mending,
            mending_constants,
            {"noisy": noisy},
            {
                "mode": twin_figures.MODES,
                "temperature": [0.3, 0.6, 1.5],
                "shuffled": ["in place", "shuffled"],
                "i": range(noisy.numel()),
            },
        ),
        "products": (
            products,
            kernels,
            {"picture": part},
            {"kernel": list(KERNELS), "flip": ["as it is", "turned over"], "i": range(24 * 28)},
        ),
        "qkv": (
            qkv,
            none,
            {"noisy": noisy_part},
            {"size": [1, 3, 5], "temperature": [0.2, 0.6, 2.0], "i": range(noisy_part.numel())},
        ),
        "shares": (
            shares,
            shares_constants,
            {"scores": torch.tensor([-1.0, 0, 0.5, 1, 2])},
            {"temperature": [0.1, 0.5, 1.0, 4.0]},
        ),
        "prepost": (
            prepost,
            prepost_constants,
            {"noisy": noisy_part},
            {"content": [0, 0.5, 2], "strength": [0, 0.5, 1, 4], "i": range(noisy_part.numel())},
        ),
        "bend": (
            bend,
            bend_constants,
            {},
            {"n": [2, 9, 40], "bend": ["none", "GELU"], "i": range(noisy_part.numel())},
        ),
        "windows": (
            windows,
            windows_constants,
            {"noisy": noisy_part},
            {
                "window": [2, 5, 8, 28],
                "layers": twin_figures.LAYERS,
                "i": range(noisy_part.numel()),
            },
        ),
    }


def given(value):
    """A constant as the twin gets it."""
    if hasattr(value, "shape"):
        return {"numbers": value.float(), "shape": list(value.shape)}
    return value


CALL = """(name, given) => {
  const shaped = (v) => (v?.numbers ? Object.assign(v.numbers, { shape: v.shape }) : v);
  const all = Object.fromEntries(Object.entries(given).map(([key, v]) => [key, shaped(v)]));
  const made = twins[name](all, operators);
  return Object.fromEntries(Object.entries(made).map(([key, f]) => [key, f()]));
}"""


def edited(picture, rng):
    """The picture with a stroke of a pen or two; a vector with other entries."""
    picture = picture.clone()
    if picture.ndim == 1:
        return picture + torch.from_numpy(rng.normal(size=picture.shape)).float()
    for _ in range(rng.integers(0, 3)):
        row, column = (rng.integers(n - 3) for n in picture.shape)
        picture[row : row + 3, column : column + rng.integers(1, 9)] = float(rng.integers(2))
    return picture


def compare(page, twin, states=STATES, atol=3e-5):
    function, constants, edits, axes = cases()[twin]
    rng = np.random.default_rng(0)
    for n in range(states):
        pictures = {name: edited(p, rng) if n else p for name, p in edits.items()}
        options = {name: values[rng.integers(len(values))] for name, values in axes.items()}
        places = {
            name: list(axes[name]).index(v) if isinstance(v, str) else v
            for name, v in options.items()
        }
        packed = {name: given(v) for name, v in {**constants, **pictures, **places}.items()}
        found = run(page, CALL, twin, packed)
        expected = function(**pictures, **options)
        assert set(found) == set(expected)
        for name, value in expected.items():
            exact = np.asarray(value, dtype=np.float64).ravel()
            told = np.asarray(found[name], dtype=np.float64).ravel()
            scale = max(0.01, np.abs(exact).max())
            assert told.shape == exact.shape
            assert np.abs(told - exact).max() <= atol * scale, f"{twin}: {name} at {options}"


@pytest.mark.parametrize("twin", cases())
def test_a_twin_is_its_function(browser, twin):
    page = page_with(browser, "operators", "twins")
    compare(page, twin)
    page.close()


def test_every_twin_is_compared(browser):
    page = page_with(browser, "operators", "twins")
    others = {"network", "heads", "silence"}  # see test_live.py
    assert set(run(page, "() => Object.keys(twins)")) == set(cases()) | others


MUTANTS = {
    "mend": ("* width ** 2);", "* width);"),
    "products": ("chosen.reverse()", "chosen"),
    "qkv": ("noisy.map((_, j) =>\n    -row(", "noisy.map((_, j) =>\n    row("),
    "shares": (
        "const weights = softmax(scores.map((s) => s / temperature)",
        "const weights = softmax(scores.map((s) => s * temperature)",
    ),
    "prepost": ("strength * v", "v"),
    "windows": ("(i % W) + shift", "(i % W) - shift"),
}


@pytest.mark.parametrize("twin", MUTANTS)
def test_a_slip_is_noticed(browser, twin):
    right, wrong = MUTANTS[twin]
    text = module("twins")
    assert text.count(right) == 1, f"twins.js no longer reads {right}: update this test"
    page = page_with(browser, "operators", "twins", twins=text.replace(right, wrong))
    with pytest.raises(AssertionError):
        compare(page, twin)
    page.close()


def test_shuffling_the_order_is_noticed(browser):
    text = module("twins")
    page = page_with(browser, "operators", "twins", twins=text.replace("x[order[i]]", "x[i]"))
    with pytest.raises(AssertionError):
        compare(page, "mend")
    page.close()


# ---- in a figure, on a page ---------------------------------------------------------------------


def mend_figure():
    clean, noisy = cut()
    function, constants = twin_figures.mending(clean)

    def views(**options):
        made = function(**options)
        return {
            "noisy": image(made["noisy"], edit="noisy", mark="i", clip=(0, 1)),
            "weights": heat(made["weights"], mark="i", scale="state"),
            "mended": image(made["mended"], mark="i", clip=(0, 1)),
            "before": scalar(made["before"]),
            "after": scalar(made["after"]),
        }

    titles = {"noisy": "noisy picture", "weights": "weights of pixel i", "after": "PSNR mended"}
    return explore(
        views,
        "Mend the roof",
        caption="Point at an edge of the roof, then paint over it.",
        twin="mend",
        titles=titles | {"before": "PSNR noisy"},
        constants=constants,
        noisy=paint(noisy, "the noisy picture"),
        mode=twin_figures.MODES,
        temperature=axis([0.2, 0.4, 0.6, 0.8, 1.5], start=0.6),
        shuffled=["in place", "shuffled"],
        i=point(32, 32, start=(20, 8)),
    )


def share_figure():
    function, constants = twin_figures.shares(torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7]))

    def views(**options):
        made = function(**options)
        return {
            "scores": bars(made["scores"], edit="scores"),
            "weights": bars(made["weights"], scale="state"),
            "fetched": scalar(made["fetched"]),
        }

    scores = drag(torch.tensor([-1.0, 0, 0.5, 1, 2]), -3, 3)
    temperature = axis([0.1, 0.5, 1, 4], start=1)
    return explore(
        views,
        "Drag a score",
        twin="shares",
        constants=constants,
        scores=scores,
        temperature=temperature,
    )


@pytest.fixture(scope="module")
def figures():
    return {"mend": mend_figure(), "shares": share_figure()}


@pytest.fixture(scope="module", params=["file", "http"])
def opened(request, browser, figures, tmp_path_factory):
    """The page with both figures, from a folder on disk and from a server."""
    path = build(tmp_path_factory.mktemp("figures"), [*figures.values()])
    folder = path.parent
    with serve(folder) as (address, _):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri() if request.param == "file" else f"{address}/{path.name}")
        page.wait_for_function("document.querySelectorAll('[data-ready]').length === 2")
        yield page
        assert not complaints, complaints
        page.close()


SHOWN = """async ([id]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame(); await frame();
  const host = document.getElementById(`figure-${id}`);
  const { model, spec } = host.figure;
  const edits = Object.entries(model.get('edits') ?? {}).map(([name, v]) => [name, [...v]]);
  const views = [...host.querySelectorAll('.cm-view')].map((view) => [
    view.querySelector('figcaption').textContent,
    view.querySelector('.cm-stage')?.getAttribute('aria-label') ?? view.querySelector('output').textContent,
  ]);
  const options = spec.axes.map((axis, k) => [axis.name, model.get('state')[k]]);
  return { edits: Object.fromEntries(edits), views: Object.fromEntries(views), options };
}"""  # noqa: E501


def assert_shows(page, name, figure):
    """Every view tells the range (or the number) that Python computes; returns the edits."""
    shown = page.evaluate(SHOWN, [name])
    options = {
        axis.name: axis.values[index]
        for axis, (_, index) in zip(figure.axes, shown["options"], strict=True)
    }
    for what, array in shown["edits"].items():
        start = figure.edited[what].array
        options[what] = torch.tensor(array).view(start.shape)
    assert list(shown["views"]) == list(figure.views)
    for title, view in figure.views.items():
        numbers = figure.numbers(title, **options) if options else view.values
        text = shown["views"][title].replace("−", "-")
        if view.kind == "scalar":
            told = [float(text)]
        else:
            span = text.partition(" by ")[2] if view.values.ndim > 1 else text
            span = span.partition(", ")[2].partition(";")[0].partition(", ")
            span = span[2] if view.values.ndim == 1 else span[0]
            told = [float(end) for end in span.split(" to ")]
        expected = [numbers.min(), numbers.max()] if view.kind != "scalar" else [numbers.item()]
        assert np.allclose(told, expected, rtol=2e-3, atol=1e-7), (title, told, expected)
    return shown["edits"]


def host(page, name):
    return page.query_selector(f"#figure-{name}")


def test_the_start_and_other_states_are_as_python_says(opened, figures):
    for name, figure in (("mend-the-roof", figures["mend"]), ("drag-a-score", figures["shares"])):
        assert assert_shows(opened, name, figure) == {}
        root = host(opened, name)
        root.query_selector("input[type=range]").press("End")
        assert_shows(opened, name, figure)
    root = host(opened, "mend-the-roof")
    for option in ("near and alike", "shuffled"):
        root.query_selector(f"label:has-text('{option}') >> nth=-1").click()
    weights = root.query_selector_all(".cm-stage")[1]
    box = weights.bounding_box()
    weights.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.2})
    assert_shows(opened, "mend-the-roof", figures["mend"])
    for root in opened.query_selector_all(".cm-explorable-host"):
        root.query_selector(".cm-reset").click()


def test_painting_by_pointer_and_keys_changes_all_views(opened, figures):
    root = host(opened, "mend-the-roof")
    stage = root.query_selector(".cm-stage")
    stage.evaluate("(node) => node.scrollIntoView({ block: 'center' })")
    start = figures["mend"].edited["noisy"].array.numpy()
    box = stage.bounding_box()

    def at(row, column):
        return box["x"] + box["width"] * column / 32, box["y"] + box["height"] * row / 32

    opened.mouse.move(*at(4.5, 4.5))
    opened.mouse.down()
    opened.mouse.move(*at(4.5, 20.5))
    opened.mouse.up()
    edited = np.array(assert_shows(opened, "mend-the-roof", figures["mend"])["noisy"])
    changed = np.argwhere(edited.reshape(32, 32) != start)
    assert len(changed) >= 17 * 3 - 2
    assert np.abs(changed[:, 0] - 4).max() == 1, "a stroke as wide as the pen"
    assert set(changed[:, 1]) == set(range(3, 22)), "and whole, however fast it was drawn"
    assert edited.reshape(32, 32)[4, 10] == 1
    assert "edited" in stage.get_attribute("aria-label")
    root.query_selector("label:has-text('black')").click()
    stage.focus()
    for key in ("ArrowDown", "ArrowRight", " "):
        opened.keyboard.press(key)
    keyed = np.array(assert_shows(opened, "mend-the-roof", figures["mend"])["noisy"])
    assert keyed.reshape(32, 32)[21, 9] == 0 and edited.reshape(32, 32)[21, 9] != 0
    root.query_selector(".cm-reset").click()
    assert assert_shows(opened, "mend-the-roof", figures["mend"]) == {}


def test_bars_are_dragged_by_pointer_and_keys(opened, figures):
    root = host(opened, "drag-a-score")
    stage = root.query_selector(".cm-stage")
    stage.evaluate("(node) => node.scrollIntoView({ block: 'center' })")
    box = stage.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.9)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.25)
    opened.mouse.up()
    scores = assert_shows(opened, "drag-a-score", figures["shares"])["scores"]
    assert scores[0] == pytest.approx(1.5, abs=0.1) and scores[1:] == [0, 0.5, 1, 2]
    opened.mouse.move(0, 0)
    stage.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        opened.keyboard.press(key)
    keyed = assert_shows(opened, "drag-a-score", figures["shares"])["scores"]
    assert keyed[2] == pytest.approx(0.8) and keyed[3:] == [1, 2]
    root.query_selector(".cm-reset").click()
    assert assert_shows(opened, "drag-a-score", figures["shares"]) == {}


def test_many_changes_are_one_pass_a_frame(opened):
    seen = opened.evaluate("""async () => {
      const host = document.getElementById('figure-mend-the-roof');
      const root = host.querySelector('.cm-explorable');
      const seen = [];
      new MutationObserver(() => seen.push(root.dataset.state))
        .observe(root, { attributes: true, attributeFilter: ['data-state'] });
      for (let i = 0; i < 10; i++) host.figure.model.set('state', [0, 2, 0, 100 + i]);
      const frame = () => new Promise((done) => requestAnimationFrame(done));
      await frame(); await frame();
      return seen;
    }""")
    assert seen == ["0 2 0 109"]
    host(opened, "mend-the-roof").query_selector(".cm-reset").click()


# ---- the Python half ------------------------------------------------------------------------


def test_no_table_is_shipped_but_the_start(figures):
    spec = json.loads(figures["mend"].spec)
    raw = zlib.decompress(base64.b64decode(spec["data"]))
    _, noisy = cut()
    arrays = 3 * noisy.numel() + 2 + 3 * noisy.numel()  # views and numbers; noisy, clean, order
    assert len(raw) == 4 * arrays
    found = spec["twin"]["given"]["noisy"]
    numbers = np.frombuffer(raw, "<f4", noisy.numel(), found["table"]["offset"])
    assert np.array_equal(numbers, noisy.numpy().ravel())
    assert found["shape"] == [32, 32]


def test_the_figure_has_its_still_and_its_words(figures):
    assert repr(figures["mend"]).startswith("Mend the roof: mode = near (of near, alike,")
    assert "PSNR noisy 16.2; PSNR mended 24.7" in repr(figures["mend"])
    assert still_png(figures["mend"]).startswith(b"\x89PNG")


def test_the_widget_is_one_module_that_holds_the_twins(figures):
    script = figures["mend"]._esm
    assert script.count("\nexport ") == 1
    assert classic_script().count("\nexport ") == 0
    for text in (script, classic_script()):
        assert "const twins = (() => {" in text and "const operators = (() => {" in text


PICTURE = torch.zeros(3, 4)


def wrong(twin="mend", edit=None, constants=None, views=None, **axes):
    function = views or (lambda x, **_: {"x": image(x, edit=edit)})
    return lambda: explore(function, "F", twin=twin, constants=constants or {}, **axes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (wrong(twin="mends", x=paint(PICTURE)), 'no twin "mends" in twins.js; choose from mend,'),
        (wrong(x=paint(PICTURE)), 'lets "x" be edited: show it in one view, edit="x"'),
        (wrong(x=paint(PICTURE), edit="y"), r"view \"x\" edits \"y\"; there is \['x'\]"),
        (wrong(x=paint(PICTURE), edit="x", constants={"x": 1}), "x as an axis and as a constant"),
        (
            wrong(x=paint(PICTURE), edit="x", constants={"c": float("inf")}),
            "a constant is not finite",
        ),
        (lambda: paint(torch.zeros(3)), r"a picture to paint on is \(H, W\), got shape \(3,\)"),
        (lambda: paint(PICTURE, pen=0), "pen is 0; a radius is above 0"),
        (lambda: drag(PICTURE, 0, 1), r"bars to drag are \(N,\), got shape \(3, 4\)"),
        (lambda: drag(torch.zeros(3), 1, 0), "give the lower limit first"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
