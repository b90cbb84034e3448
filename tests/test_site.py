"""The built site in a real browser, with every host but localhost out of reach."""

import itertools
import json
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from coatnet_mini.explore import MIME
from coatnet_mini.explore.spec import slug
from coatnet_mini.explore.twin import Computed
from conftest import difference
from tests import CHAPTERS, ROOT
from tests.chapter_cells import figures_of, stored_specs
from tests.figure_reading import (
    READ,
    assert_controls_stay,
    assert_shows,
    has_effect,
    options_of,
    state_of,
    try_keys,
    try_pointer,
    wait_for_figures,
)
from tests.site_server import serve

SITE = ROOT / "_build" / "html"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 800}
NAMES = [path.stem for path in CHAPTERS]
REPORT = ROOT / "_build" / "site_report.json"

# When the last figure of a page came alive, in milliseconds after the navigation began.
NOTE_LIVE = """new MutationObserver(() => {
  const live = document.querySelectorAll('.cm-explorable[data-ready]').length;
  if (live <= (window.figuresLive ?? 0)) return;
  [window.figuresLive, window.liveAfter] = [live, performance.now()];
}).observe(document, { subtree: true, childList: true, attributes: true })"""

STEP_TIME = """(input) => {
  const times = [];
  for (let k = 0; k < 40; k++) {
    const from = performance.now();
    input.value = (input.valueAsNumber + 1) % (Number(input.max) + 1);
    input.dispatchEvent(new Event('input', { bubbles: true }));
    input.closest('.cm-explorable').getBoundingClientRect();
    times.push(performance.now() - from);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def report():
    """Measurements that are told, not gated: read them in _build/site_report.json."""
    measured = {}
    yield measured
    REPORT.write_text(json.dumps(measured, indent=1))
    print("\n" + json.dumps(measured, indent=1))


@pytest.fixture(scope="module")
def host():
    assert (SITE / "index.html").is_file(), "the site is not built: run `make book` first"
    with serve(SITE) as served:
        yield served


@contextmanager
def opening(browser, host):
    """Yields a function that opens a page; no page may complain or ask for what is elsewhere."""
    contexts, complaints = [], []

    def open_page(path, viewport=DESKTOP, address=None, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        context.set_default_timeout(120_000)  # a shared machine can be slow
        allowed = (address or host[0], "data:", "blob:", "file://")

        def guard(route):
            if route.request.url.startswith(allowed):
                route.continue_()
            else:
                complaints.append(f"{path} asks for {route.request.url}")
                route.abort()

        context.add_init_script(NOTE_LIVE)
        context.route("**/*", guard)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"{path}: {error}"))
        page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and complaints.append(f"{path}: {message.text}")
            ),
        )
        page.goto(f"{address or host[0]}/{path}")
        page.wait_for_load_state("load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def visit(browser, host):
    """visit(path, ...) opens a page of the test's own."""
    with opening(browser, host) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def page(request, browser, host):
    """A page opened on a phone, which the tests of `each` share: they look and change nothing."""
    with opening(browser, host) as open_page:
        opened = open_page(request.param, viewport=PHONE)
        wait_for_figures(opened)
        yield opened


def each(paths: list[str]):
    """Run a test on every page of `paths`; all such tests of one page follow each other."""
    return pytest.mark.parametrize("page", paths, indirect=True, scope="module")


def pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [f"{file}.html" for file in files]


PAGES = pages()
OF_CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]


# ---- explorables -----------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_stored_tables_are_what_the_package_computes(chapter):
    fresh, stored = figures_of(chapter), stored_specs(chapter)
    assert len(fresh) == len(stored) > 0
    for (figure, function), spec in zip(fresh, stored, strict=True):
        assert json.loads(figure.spec)["views"] == json.loads(spec)["views"]
        assert not difference(spec, figure.spec)
        states = list(itertools.product(*(a.values for a in figure.axes)))
        if isinstance(figure, Computed):  # stores its start; test_twins.py has the others
            function, states = figure.function, [tuple(a.values[a.start] for a in figure.axes)]
        for state in states[:: max(1, len(states) // 50)]:
            options = {a.name: v for a, v in zip(figure.axes, state, strict=True)}
            for name, value in function(**options).items():
                exact = np.asarray(getattr(value, "values", value), dtype=float)
                table = figure.tables[name]
                half = table.mantissa / 10**table.decimals / 2 if table.exact else 0
                gap = np.abs(figure.numbers(name, **options) - exact)
                assert np.all(gap <= half * 1.002 + 1e-7 * np.abs(exact))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_keys_and_pointer_change_every_view_to_the_numbers_computed(chapter, visit):
    page = visit(f"chapters/{chapter.stem}.html")
    roots = wait_for_figures(page)
    figures = [figure for figure, _ in figures_of(chapter)]
    assert len(roots) == len(figures), "each explorable is rendered exactly once"
    for root, figure in zip(roots, figures, strict=True):
        root.scroll_into_view_if_needed()
        assert state_of(root) == [a.start for a in figure.axes]
        assert_shows(root, figure)
        try_keys(root, figure)
        try_pointer(page, root, figure)
        root.query_selector(".cm-reset").click()
        assert state_of(root) == [a.start for a in figure.axes]
        assert_shows(root, figure)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_pictures_are_read_by_keyboard(chapter, visit):
    page = visit(f"chapters/{chapter.stem}.html")
    root = wait_for_figures(page)[0]
    stage = root.query_selector(".cm-stage")
    stage.focus()
    page.keyboard.press("ArrowRight")
    assert root.query_selector(".cm-live").text_content()
    label = stage.get_attribute("aria-label")
    figure = figures_of(chapter)[0][0]
    for axis in figure.axes:
        if not axis.grid:  # a position has moved
            assert f"{axis.label} = {axis.options[axis.start]}" in label


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_a_figure_is_whole_on_a_desktop_and_keeps_its_controls_on_a_phone(chapter, visit):
    for root in wait_for_figures(visit(f"chapters/{chapter.stem}.html")):
        title = root.query_selector(".cm-title").text_content()
        assert root.bounding_box()["height"] <= 640, title
    page = visit(f"chapters/{chapter.stem}.html", viewport=PHONE)
    for root in wait_for_figures(page):
        assert_controls_stay(page, root)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_every_control_is_seen_to_act(chapter):
    for figure, _ in figures_of(chapter):
        idle = [a.label for k, a in enumerate(figure.axes) if not has_effect(figure, k)]
        assert not idle, f"{figure.title}: no panel shows what {idle} does"


def links_of(chapter) -> list[tuple[str, str, str]]:
    """(words, id of the figure, what is set) of each link in the chapter's text."""
    found, before = [], None
    for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if MIME in output.get("data", {}):
                before = json.loads("".join(output["data"][MIME]))["id"]
        if cell["cell_type"] == "markdown" and "cm-set" in "".join(cell["source"]):
            for span in BeautifulSoup("".join(cell["source"]), "html.parser").select(".cm-set"):
                found.append((span.text, span.get("data-figure", before), span["data-set"]))
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_words_that_set_a_figure_name_what_it_has_and_change_it(chapter, visit):
    links = links_of(chapter)
    if not links:
        return
    page = visit(f"chapters/{chapter.stem}.html")
    wait_for_figures(page)
    figures = {slug(figure.title): figure for figure, _ in figures_of(chapter)}
    spans = page.query_selector_all(".cm-set")
    for span, (words, name, settings) in zip(spans, links, strict=True):
        assert name in figures, f'"{words}" sets "{name}"; the figures are {list(figures)}'
        figure, root = figures[name], page.query_selector(f"#figure-{name} .cm-explorable")
        root.query_selector(".cm-reset").click()
        before = root.evaluate(READ)
        span.focus()
        page.keyboard.press("Enter")
        assert span.get_attribute("role") == "button"
        assert state_of(root) == figure.state_of(settings), words
        assert_shows(root, figure, **options_of(figure, root))
        if root.evaluate(READ) == before:
            said = root.query_selector(".cm-live").text_content()
            assert "already there" in said, f'"{words}" changes nothing'
    starts = {name: [a.start for a in figure.axes] for name, figure in figures.items()}
    moves = [figures[name].state_of(settings) != starts[name] for _, name, settings in links]
    assert any(moves), "no link changes a figure"


def test_figures_live_from_a_folder_on_disk(visit):
    page = visit(f"chapters/{NAMES[0]}.html", address=f"file://{SITE}")
    root = wait_for_figures(page)[0]
    figure = figures_of(CHAPTERS[0])[0][0]
    root.query_selector("input:checked").press("ArrowRight")
    assert_shows(root, figure, **options_of(figure, root))


def test_without_javascript_there_is_a_still_with_words(browser, host):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{host[0]}/chapters/{NAMES[0]}.html")
    still = page.query_selector(".cm-explorable-host img")
    assert still.is_visible()
    assert still.get_attribute("alt") == repr(figures_of(CHAPTERS[0])[0][0])
    context.close()


# ---- pages -----------------------------------------------------------------------------------


def test_every_page_is_there():
    built = {str(p.relative_to(SITE)) for p in SITE.rglob("*.html") if "_static" not in p.parts}
    assert set(PAGES) <= built
    extra = built - set(PAGES) - {"index.html", "search.html", "genindex.html"}
    assert not extra, f"pages outside the table of contents: {sorted(extra)}"
    assert len(CHAPTERS) == len(OF_CHAPTERS)


@cache
def soup_of(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


@cache
def places_in(file: Path) -> set[str]:
    return {node["id"] for node in soup_of(file).select("[id]")}


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_lead_somewhere(name):
    for link in soup_of(SITE / name).select("a[href], link[href], script[src], img[src]"):
        target = link.get("href") or link.get("src")
        if target.startswith(("http://", "https://", "mailto:", "data:", "javascript:")):
            continue
        path, anchor = urldefrag(unquote(target.split("?")[0]))
        file = ((SITE / name).parent / path).resolve() if path else SITE / name
        assert file.exists(), f"{name} links to {target}"
        if anchor and file.suffix == ".html":
            assert anchor in places_in(file), f"{name} links to {target}, which has no such place"


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_has_words(name):
    for picture in soup_of(SITE / name).select("article img"):
        alt = picture.get("alt", "")
        assert len(alt) > 15 and not alt.startswith(".."), (
            f"{name}: {picture.get('src')[:60]}: {alt!r}"
        )


@each(PAGES)
def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.evaluate("""() => {
      const scrolls = (node) => {
        for (let n = node; n && n.tagName !== 'ARTICLE'; n = n.parentElement)
          if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(n).overflowX)) return true;
        return false;
      };
      return [...document.querySelectorAll('article *')]
        .filter((n) => n.getBoundingClientRect().right > 376 && !scrolls(n) && n.offsetParent)
        .map((n) => `${n.tagName}.${n.className}`);
    }""")
    assert not wide


@each(OF_CHAPTERS)
def test_no_line_of_code_is_cut_on_a_desktop(page):
    page.set_viewport_size(DESKTOP)
    cut = page.evaluate(
        "() => [...document.querySelectorAll('article pre')]"
        ".filter((pre) => pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.textContent)"
    )
    assert not cut


@pytest.mark.parametrize("scheme", ["light", "dark"])
@each(PAGES)
def test_axe_finds_no_serious_violation(page, scheme):
    """Every rule in the light; in the dark those of colour, all else being the same."""
    page.set_viewport_size(DESKTOP)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
    page.wait_for_function("document.getAnimations().length === 0")  # colours have arrived
    options = {"preload": False}
    if scheme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = Axe().run(page, context="article", options=options)
    assert found.response["passes"], "no rule was applied"
    grave = [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}"
        for v in found.response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert not grave, "\n".join(grave)


@each(OF_CHAPTERS)
def test_every_formula_is_set(page):
    page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
    page.evaluate("MathJax.startup.promise")
    assert page.query_selector("mjx-container"), "MathJax set nothing"
    wrong = page.query_selector_all("mjx-merror, [data-mml-node=merror]")
    assert not [error.text_content() for error in wrong]


def test_search_finds_a_word_of_the_glossary(visit):
    page = visit("search.html?q=Toeplitz")
    page.wait_for_selector("#search-results li a")
    found = [a.get_attribute("href") for a in page.query_selector_all("#search-results li a")]
    assert any("glossary" in href for href in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_is_light_and_soon_live(name, visit, host, report):
    """Bytes are gated; times are told (the machine is shared)."""
    host[1].clear()
    page = visit(f"chapters/{name}.html")
    roots = wait_for_figures(page)
    live = page.evaluate("window.liveAfter")
    page.wait_for_load_state("networkidle")
    total = sum(host[1].values())
    steps = [
        median(root.query_selector("input[type=range]").evaluate(STEP_TIME))
        for root in roots
        if root.query_selector("input[type=range]")
    ]
    report[name] = {
        "transferred_kB": round(total / 1e3),
        "live_after_ms": round(live),
        "slider_step_ms_median": [round(s, 2) for s in steps],
    }
    assert total <= 2.5e6


def test_an_unstamped_book_shows_no_colab_button():
    config = (ROOT / "_config.yml").read_text()
    if "colab_url" in config:
        pytest.skip("the book is stamped with its home")
    for page in PAGES:
        assert "colab.research.google.com" not in (SITE / page).read_text(encoding="utf-8"), page
    assert not Path(SITE / "README.html").exists()
