"""Figures in a real browser that no chapter has yet: every kind of view, every kind of axis, links,
sizes, themes, and titles that try to run."""

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from coatnet_mini.explore import axis, bars, explore, heat, image, line, point, scalar, scatter
from tests.figure_reading import (
    assert_controls_stay,
    assert_shows,
    options_of,
    state_of,
    try_keys,
    try_pointer,
    wait_for_figures,
)
from tests.small_book import build, notebook_of

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 800}
EVIL = "<script>window.ran=1</script><img src=x onerror='window.ran=1'>\"&amp;'</script>"
LINKS = """Words that set a figure:
<span class="cm-set" data-figure="kinds-of-view"
data-set="strength=−1; query i=2,0">other ends</span>,
<span class="cm-set" data-set="shift=4">hatch four columns</span>,
<span class="cm-set" data-set="reset">as it was</span>.
"""


def kinds(strength, form, i):
    """A position on pictures, signed maps and rows; a scale for each state."""
    x = np.linspace(0, 1, 12).reshape(3, 4)
    W = strength * np.cos(np.arange(144.0)).reshape(12, 12) + (form == "post")
    return {
        "digit": image(x, ink=True, mark="i"),
        "W": heat(W, row="i", x="j", y="i"),
        "row i": heat(W[i].reshape(3, 4), mark="i", scale="state", x="column"),
        "photo": image(np.stack([x, x * 0.5, 1 - x], axis=2), mark="i"),
        "y_i": scalar(W[i].sum()),
    }


def charts(shift, place):
    error = np.where(np.arange(18) < shift, np.nan, np.arange(216.0).reshape(12, 18))
    wave = np.sin(np.arange(9.0) + shift)
    return {
        "error": heat(error, hatched=np.isnan(error), scale="state", x="column", y="row"),
        "weights": bars(wave, x=("offset", range(-4, 5)), y="weight", mark="place"),
        "decay": line({"a": wave, "b": -wave / 2}, x=("distance", np.arange(9.0)), mark="place"),
        "off by": scalar([-3e-9, 5e-5, 0.25, 5716.4, 123456.0][shift]),
    }


def marks(price, least):
    """Five points, some without one of the prices, none above 90."""
    x, y = np.array([1.0, 3, 30, 200, 5]), np.array([70.0, 75, 74, 85, 60])
    if price == "cost":
        x = np.where(y > 73, x, np.nan)
    there = (y > least) & ~np.isnan(x)
    best = there & [not np.any(there & (x <= a) & (y > b)) for a, b in zip(x, y, strict=True)]
    names = ["one", "two", "three", "four", EVIL]
    return {
        "right, %": scatter(
            x,
            y,
            names=names,
            groups=["A", "B", "A", "B", "C"],
            shown=y > least,
            front=best,
            notes=[f"from {n}" for n in names],
            flags=[False, True, False, False, True],
            xname="price",
            yname="right, %",
        )
    }


def of_shape(kind, count):
    def views(k, **_):
        given = {
            "square": lambda: heat(np.eye(24) * k, x="j", y="i", scale="state"),
            "tall": lambda: heat(np.ones((30, 10)) * k, x="column", y="row", scale="state"),
            "chart": lambda: bars(np.arange(9.0) * k, x="offset", y="weight", scale="state"),
        }
        mixed = ["chart" if n % 2 else "square" for n in range(count)]
        shapes = mixed if kind == "mixed" else [kind] * count
        views = {f"{shape} {n}": given[shape]() for n, shape in enumerate(shapes)}
        return views | {f"number {n}": scalar(k) for n in range(3)}

    return views


def sized():
    """1 to 4 panels of every shape, each with as much around them as a figure may have."""
    forms = axis(["pre", "post", "none at all", "the last of them"], start="the last of them")
    around = {"form": forms, "τ": [1, 2, 3]}
    caption = "Do this, then that, and watch how the two panels at the right differ from the left."
    return [
        explore(of_shape(kind, n), f"{n} of {kind}", caption=caption, k=[1, 2, 3], **around)
        for kind in ("square", "tall", "chart", "mixed")
        for n in (1, 2, 3, 4)
    ]


@pytest.fixture(scope="module")
def figures():
    first = explore(
        kinds,
        "Kinds of view",
        caption="Point at the digit.",
        strength=axis([-1, 0.5, 2], start=0.5),
        form=["pre", "post"],
        i=point(3, 4, start=(1, 2), label="query i"),
    )
    second = explore(charts, "Charts", shift=range(5), place=point(9, start=3))
    return first, second


@pytest.fixture(scope="module")
def points():
    return explore(marks, "Marks", price=["size", "cost"], least=axis([0, 65, 72, 90], start=0))


@pytest.fixture(scope="module")
def book(figures, points, tmp_path_factory):
    evil = explore(
        lambda name, i: {EVIL: heat(np.eye(2), mark="i", x=EVIL, y=EVIL, labels=[EVIL, "b"])},
        EVIL,
        caption=EVIL,
        name=axis([EVIL, "plain"], label=EVIL),
        i=point(2, 2, label=EVIL),
    )
    folder = tmp_path_factory.mktemp("book")
    return build(folder, [*figures, LINKS, evil, points])


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sizes"), sized())


@pytest.fixture
def visit(browser):
    contexts, complaints = [], []

    def open_page(path, viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        context.set_default_timeout(120_000)  # a shared machine can be slow
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.goto(path.as_uri())
        return page, wait_for_figures(page)

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_shows_the_numbers_computed_in_every_state_and_theme(
    visit, book, figures, scheme
):
    page, roots = visit(book, color_scheme=scheme)
    for root, figure in zip(roots, figures, strict=False):
        assert root.get_attribute("data-theme") == scheme
        assert_shows(root, figure)
        try_keys(root, figure) if scheme == "dark" else try_pointer(page, root, figure)


def test_points_are_drawn_read_and_listed(visit, book, points):
    page, roots = visit(book)
    root = roots[-1]
    assert_shows(root, points)
    try_pointer(page, root, points)
    try_keys(root, points)
    root.query_selector("input[type=range]").press("End")
    assert "none of these is published" in root.query_selector(".cm-stage").inner_text()
    root.query_selector(".cm-reset").click()
    assert_shows(root, points)
    assert root.query_selector(".cm-x").text_content() == "0.73size, log scale270"
    tens = root.query_selector_all(".cm-ten")
    assert [ten.inner_text() for ten in tens if ten.is_visible()] == ["1", "10", "100"]


def test_the_keys_go_from_point_to_point_by_either_axis(visit, book):
    page, roots = visit(book)
    root = roots[-1]
    root.query_selector(".cm-stage").focus()
    read = []
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        read.append(root.query_selector(".cm-read").text_content().split(":")[0])
        assert read[-1] in root.query_selector(".cm-live").text_content()
    assert read == ["one", "two", "four", "four", "two", "one"]
    tall = root.query_selector(".cm-stage").bounding_box()["height"]
    root.query_selector("summary").click()
    page.set_viewport_size({"width": 1180, "height": 800})  # the figure is fitted anew
    page.wait_for_timeout(300)
    assert root.query_selector(".cm-stage").bounding_box()["height"] > 0.8 * tall
    assert root.query_selector(".cm-table tr.cm-here th") is None  # the focus has left
    assert root.query_selector_all(".cm-table tbody tr")[0].inner_text().startswith("four")


def test_the_theme_can_change_under_a_figure(visit, book, figures):
    page, roots = visit(book)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function("document.querySelector('.cm-explorable').dataset.theme === 'dark'")
    assert_shows(roots[0], figures[0])


def test_arrow_keys_move_the_position_and_say_so(visit, book, figures):
    page, roots = visit(book)
    root, figure = roots[0], figures[0]
    stages = root.query_selector_all(".cm-stage")
    live = root.query_selector(".cm-live")
    stages[0].focus()
    for key, cell in (("ArrowUp", 2), ("ArrowRight", 3), ("ArrowRight", 3), ("ArrowDown", 7)):
        page.keyboard.press(key)
        assert state_of(root)[2] == cell
        assert f"query i: row {cell // 4}, column {cell % 4}" in live.text_content()
        assert_shows(root, figure, **options_of(figure, root))
    assert root.query_selector(".cm-point output").text_content() == "row 1, column 3"
    stages[1].focus()  # of W, 12×12, it is the row that is the position
    page.keyboard.press("ArrowDown")
    assert state_of(root)[2] == 8
    page.keyboard.press("ArrowRight")
    assert state_of(root)[2] == 8
    assert "i 8, j 1: " in live.text_content()
    assert "the arrow keys move query i" in stages[1].get_attribute("aria-label")
    assert not root.query_selector_all("input[aria-label='query i']")


def test_the_position_follows_a_drag(visit, book):
    page, roots = visit(book)
    box = roots[0].query_selector(".cm-stage").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4, steps=4)
    page.mouse.up()
    assert state_of(roots[0])[2] == 11


def test_what_is_not_compared_is_read_as_such(visit, book):
    _, roots = visit(book)
    roots[1].query_selector("input").press("End")
    view = roots[1].query_selector(".cm-view")
    view.query_selector(".cm-stage").hover(position={"x": 4, "y": 4})
    assert view.query_selector(".cm-read").text_content() == "row 0, column 0: not compared"


def test_axes_are_named(visit, book):
    _, roots = visit(book)
    named = [view.text_content() for view in roots[1].query_selector_all(".cm-plotbox")]
    assert all(word in named[0] for word in ("column", "row", "17", "11"))
    assert all(word in named[1] for word in ("offset", "weight", "−4", "4"))
    assert "distance" in named[2]


def test_words_set_a_figure_by_pointer_and_keys(visit, book, figures):
    page, roots = visit(book)
    links = page.query_selector_all(".cm-set")
    assert {link.get_attribute("role") for link in links} == {"button"}
    for link, root, figure, key in zip(links[:2], roots, figures, ("Enter", "click"), strict=False):
        before = root.query_selector(".cm-views").screenshot()
        link.click() if key == "click" else link.press(key)
        settings = link.get_attribute("data-set")
        assert state_of(root) == figure.state_of(settings) != [a.start for a in figure.axes]
        assert_shows(root, figure, **options_of(figure, root))
        assert root.query_selector(".cm-views").screenshot() != before
        assert link.text_content() in root.query_selector(".cm-live").text_content()
        seen = root.bounding_box()
        assert seen["y"] >= 0 and seen["y"] + seen["height"] <= DESKTOP["height"]
    links[2].press(" ")  # the nearest figure before it
    assert state_of(roots[1]) == [a.start for a in figures[1].axes]
    links[2].press(" ")
    assert "already there" in roots[1].query_selector(".cm-live").text_content()


def test_without_a_script_they_are_words(browser, book):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(book.as_uri())
    link = page.query_selector(".cm-set")
    assert link.get_attribute("role") is None and link.text_content() == "other ends"
    context.close()


def test_names_are_text_whatever_they_hold(visit, book):
    page, roots = visit(book)
    root = roots[2]
    stage = root.query_selector(".cm-stage")
    stage.click(position={"x": 5, "y": 5})
    root.query_selector("input[type=radio]").press("ArrowRight")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.query_selector("img[src=x]") is None
    assert root.query_selector(".cm-title").text_content() == EVIL
    assert root.query_selector("figcaption").text_content() == EVIL
    assert EVIL in stage.get_attribute("aria-label")


def test_names_are_text_in_the_notebook_and_without_a_script(browser, book):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(book.as_uri())
    still = page.query_selector_all(".cm-explorable-host img")[2]
    assert EVIL in still.get_attribute("alt")
    context.close()
    figure = explore(lambda k: {EVIL: 1.0}, EVIL, k=[EVIL, "b"])
    output = notebook_of([figure]).cells[0].outputs[0]
    assert not {"text/html", "application/javascript", "image/svg+xml"} & set(output.data)
    assert output.data["text/plain"].startswith(EVIL)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(visit, book, scheme):
    page, _ = visit(book, color_scheme=scheme)
    found = Axe().run(page, context="article", options={"preload": False})
    grave = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not [(v["id"], v["nodes"][0]["html"][:200]) for v in grave]


def test_a_figure_is_whole_on_a_desktop(visit, sizes):
    _, roots = visit(sizes)
    assert len(roots) == 16
    for root in roots:
        title = root.query_selector(".cm-title").text_content()
        assert root.bounding_box()["height"] <= 640, title
        for stage in root.query_selector_all(".cm-stage"):
            box = stage.bounding_box()
            assert box["height"] >= 70 and box["width"] >= 55, (title, box)
        if "square" in title:  # a cell of 24 across can be pointed at
            assert root.query_selector(".cm-stage").bounding_box()["width"] >= 120, title


def test_on_a_phone_the_controls_stay_in_view(visit, sizes):
    page, roots = visit(sizes, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for root in roots:
        assert_controls_stay(root)
