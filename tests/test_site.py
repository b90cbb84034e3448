"""The built site in a real browser, with every host but localhost out of reach."""

import itertools
import json
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from types import SimpleNamespace
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
    assert_controls_stay,
    assert_look,
    assert_shows,
    has_effect,
    look,
    options_of,
    try_keys,
    try_pointer,
    wait_for_figures,
    wait_for_network,
)
from tests.site_server import serve

SITE = ROOT / "_build" / "html"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 800}
NAMES = [path.stem for path in CHAPTERS]
REPORTS = ROOT / "_build" / "site_reports"

# When the last figure of a page came alive, in milliseconds after the navigation began.
NOTE_LIVE = """new MutationObserver(() => {
  const live = document.querySelectorAll('.cm-explorable[data-ready]').length;
  if (live <= (window.figuresLive ?? 0)) return;
  [window.figuresLive, window.liveAfter] = [live, performance.now()];
}).observe(document, { subtree: true, childList: true, attributes: true })"""

STEP_TIME = """(input) => {
  const times = [];
  for (let k = 0; k < 20; k++) {
    const from = performance.now();
    input.value = (input.valueAsNumber + 1) % (Number(input.max) + 1);
    input.dispatchEvent(new Event('input', { bubbles: true }));
    input.closest('.cm-explorable').getBoundingClientRect();
    times.push(performance.now() - from);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def host():
    assert (SITE / "index.html").is_file(), "the site is not built: run `make book` first"
    with serve(SITE) as served:
        yield served


@contextmanager
def opening(browser, host):
    """Yields a function that opens a page, and what all pages complained of or asked of others."""
    contexts, complaints = [], []

    def open_page(path, viewport=DESKTOP, address=None, context=None, **options):
        context = context or browser.new_context(**options)
        contexts.append(context)
        allowed = (address or host[0], "data:", "blob:", "file://")
        page = context.new_page()
        page.set_default_timeout(120_000)  # a shared machine can be slow
        page.set_viewport_size(viewport)
        page.add_init_script(NOTE_LIVE)
        page.on("pageerror", lambda error: complaints.append(f"{path}: {error}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(allowed)
                or complaints.append(f"{path} asks for {request.url}")
            ),
        )
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

    yield open_page, complaints
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def visit(browser, host):
    """visit(path, ...) opens a page of the test's own."""
    with opening(browser, host) as (open_page, _):
        yield open_page


@pytest.fixture(scope="module")
def path(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(path, browser, host):
    """A page of the book, loaded once on a desktop for all that is asked of it there."""
    host[1].clear()
    with opening(browser, host) as (open_page, complaints):
        page = open_page(path)
        wait_for_figures(page)
        page.wait_for_load_state("networkidle")
        sent = dict(host[1])
        yield SimpleNamespace(open=open_page, page=page, sent=sent, complaints=complaints)


@pytest.fixture(scope="module")
def loaded_on_a_phone(loaded, path):
    page = loaded.open(path, PHONE, context=loaded.page.context)
    wait_for_figures(page)
    return page


RESET = """() => {
  document.querySelectorAll('.cm-reset').forEach((button) => button.click());
  document.activeElement.blur();
  scrollTo({ top: 0, behavior: 'instant' });
}"""


def lent(page, complaints):
    """Yields the page; afterwards it is as it was loaded, and it may not have complained."""
    page.bring_to_front()  # a page behind another one draws once a second
    yield page
    page.evaluate(RESET)
    said = complaints[:]
    complaints.clear()
    assert not said, "\n".join(said)


@pytest.fixture
def page(loaded):
    """The page on a desktop."""
    yield from lent(loaded.page, loaded.complaints)


@pytest.fixture
def phone(loaded, loaded_on_a_phone):
    """The page on a phone."""
    yield from lent(loaded_on_a_phone, loaded.complaints)


@pytest.fixture
def chapter(path):
    """The notebook of a page."""
    return ROOT / Path(path).with_suffix(".ipynb")


def each(paths: list[str]):
    """Run a test on every page of `paths`; all such tests of one page follow each other."""
    return pytest.mark.parametrize("path", paths, indirect=True, scope="module")


def pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [f"{file}.html" for file in files]


PAGES = pages()
OF_CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
each_page, each_chapter = each(PAGES), each(OF_CHAPTERS)


# ---- explorables -----------------------------------------------------------------------------


@each_chapter
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


@each_chapter
def test_keys_and_pointer_change_every_view_to_the_numbers_computed(chapter, page):
    roots = wait_for_figures(page)
    figures = [figure for figure, _ in figures_of(chapter)]
    assert len(roots) == len(figures), "each explorable is rendered exactly once"
    for root, figure in zip(roots, figures, strict=True):
        wait_for_network(root, figure)
        start = look(root)
        assert start["state"] == [a.start for a in figure.axes]
        assert_look(start, root, figure)
        try_keys(root, figure)
        try_pointer(page, root, figure)
        root.query_selector(".cm-reset").click()
        again = look(root)
        assert again["state"] == start["state"]
        if isinstance(figure, Computed):  # until its network is there it shows what is stored
            assert_look(again, root, figure)
        else:
            assert again["views"] == start["views"]


@each_chapter
def test_pictures_are_read_by_keyboard(chapter, page):
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


@each_chapter
def test_a_figure_is_whole_on_a_desktop(page):
    for root in wait_for_figures(page):
        title = root.query_selector(".cm-title").text_content()
        assert root.bounding_box()["height"] <= 640, title


@each_chapter
def test_a_figure_keeps_its_controls_on_a_phone(phone):
    for root in wait_for_figures(phone):
        assert_controls_stay(root)


@each_chapter
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


@each_chapter
def test_words_that_set_a_figure_name_what_it_has_and_change_it(chapter, page):
    links = links_of(chapter)
    if not links:
        return
    figures = {slug(figure.title): figure for figure, _ in figures_of(chapter)}
    spans = page.query_selector_all(".cm-set")
    for span, (words, name, settings) in zip(spans, links, strict=True):
        assert name in figures, f'"{words}" sets "{name}"; the figures are {list(figures)}'
        figure, root = figures[name], page.query_selector(f"#figure-{name} .cm-explorable")
        wait_for_network(root, figure)
        root.evaluate("(root) => root.querySelector('.cm-reset').click()")
        before = look(root)["views"]
        span.focus()
        page.keyboard.press("Enter")
        assert span.get_attribute("role") == "button"
        seen = look(root)
        assert seen["state"] == figure.state_of(settings), words
        assert_look(seen, root, figure)
        if seen["views"] == before:
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


class Reader(HTMLParser):
    """The ids, the links and, within the article, the pictures of a page; no tree is built."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.pictures, self.in_article = set(), [], [], False

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.update([found["id"]] if "id" in found else [])
        link = found.get({"a": "href", "link": "href", "script": "src", "img": "src"}.get(tag))
        self.links.extend([link] if link else [])
        self.in_article |= tag == "article"
        self.pictures.extend([found] if tag == "img" and self.in_article else [])

    def handle_endtag(self, tag):
        self.in_article &= tag != "article"


@cache
def read(file: Path) -> Reader:
    reader = Reader()
    reader.feed(file.read_text(encoding="utf-8"))
    return reader


@each_page
def test_internal_links_lead_somewhere(path):
    links = read(SITE / path).links
    assert len(links) > 10, "a page of the book has links to others"
    for target in links:
        if target.startswith(("http://", "https://", "mailto:", "data:", "javascript:")):
            continue
        to, anchor = urldefrag(unquote(target.split("?")[0]))
        file = ((SITE / path).parent / to).resolve() if to else SITE / path
        assert file.exists(), f"{path} links to {target}"
        if anchor and file.suffix == ".html":
            assert anchor in read(file).ids, f"{path} links to {target}, which has no such place"


@each_page
def test_every_picture_has_words(path):
    for picture in read(SITE / path).pictures:
        alt = picture.get("alt", "")
        assert len(alt) > 15 and not alt.startswith(".."), (
            f"{path}: {picture.get('src')[:60]}: {alt!r}"
        )


@each_page
def test_nothing_is_wider_than_a_phone(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = phone.evaluate("""() => {
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


@each_chapter
def test_no_line_of_code_is_cut_on_a_desktop(page):
    cut = page.evaluate(
        "() => [...document.querySelectorAll('article pre')]"
        ".filter((pre) => pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.textContent)"
    )
    assert not cut


def settle(page):
    """Wait until all that moves or fades has arrived."""
    page.wait_for_function(  # some of the theme's are listed for ever after they have ended
        "document.getAnimations().every(({ playState }) => playState === 'finished')"
    )


def show_in(page, scheme: str):
    """Put the page into "light" or "dark"."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
    settle(page)


# What is folded is opened. Nine tenths of a page's elements are tokens of code and parts of
# formulas: one of each kind is kept (its classes and those around it; axe judges no single
# letters), in copies that stand in for the blocks until `AS_IT_WAS`.
ONE_OF_A_KIND = """() => {
  const folded = [...document.querySelectorAll('article details:not([open])')];
  for (const details of folded) details.open = true;
  const seen = new Set();
  const isNew = (kind) => seen.size < seen.add(kind).size;
  const around = (node) => node.tagName === 'ARTICLE' ? '' :
    `${around(node.parentNode)}/${node.tagName}.${node.className}`;
  const blocks = document.querySelectorAll('article .highlight, article mjx-container');
  const replaced = [...blocks].map((block) => {
    const copy = block.cloneNode(true), kind = around(block);
    if (block.tagName === 'MJX-CONTAINER' && !isNew(kind)) copy.replaceChildren();
    for (const token of copy.querySelectorAll('pre span'))
      if (token.textContent.length < 2 || !isNew(`${kind} ${token.className}`))
        token.remove();
    block.replaceWith(copy);
    return [copy, block];
  });
  window.undo = () => {
    for (const [copy, block] of replaced) copy.replaceWith(block);
    for (const details of folded) details.open = false;
  };
}"""
AS_IT_WAS = "() => window.undo()"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_page
def test_axe_finds_no_serious_violation(page, scheme):
    """Every rule in the light; in the dark those of colour, all else being the same."""
    show_in(page, scheme)
    options = {"preload": False, "resultTypes": ["violations"]}  # others: one node each
    if scheme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    page.evaluate(ONE_OF_A_KIND)
    settle(page)
    found = Axe().run(page, context="article", options=options)
    page.evaluate(AS_IT_WAS)
    show_in(page, "light")
    assert found.response["passes"], "no rule was applied"
    grave = [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}"
        for v in found.response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert not grave, "\n".join(grave)


@each_chapter
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


@each_chapter
def test_a_chapter_is_light_and_soon_live(path, page, loaded):
    """Bytes are gated; times are told (the machine is shared), in _build/site_reports.

    The theme and MathJax are 1.2 MB, cached after the first page; a chapter itself is 0.07 to 0.43.
    """
    steps = [
        median(root.query_selector("input[type=range]").evaluate(STEP_TIME))
        for root in wait_for_figures(page)
        if root.query_selector("input[type=range]")
    ]
    whole = sum(loaded.sent.values())
    files = ("/chapters/", "/_images/", "/_static/explore", "/_static/digits")
    own = sum(sent for file, sent in loaded.sent.items() if file.startswith(files))
    told = {
        "transferred_kB": round(whole / 1e3),
        "of_the_chapter_kB": round(own / 1e3),
        "live_after_ms": round(page.evaluate("window.liveAfter")),
        "slider_step_ms_median": [round(s, 2) for s in steps],
    }
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{Path(path).stem}.json").write_text(json.dumps(told, indent=1))
    assert own <= 0.6e6 and whole <= 2e6


def test_an_unstamped_book_shows_no_colab_button():
    config = (ROOT / "_config.yml").read_text()
    if "colab_url" in config:
        pytest.skip("the book is stamped with its home")
    for page in PAGES:
        assert "colab.research.google.com" not in (SITE / page).read_text(encoding="utf-8"), page
    assert not Path(SITE / "README.html").exists()
