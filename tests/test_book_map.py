"""The map is the network, the table is the book, and the links lead to the chapters."""

import json
import re
import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from nbval.plugin import get_sanitize_patterns

from coatnet_mini import book_map, create_model
from coatnet_mini.book_map import (
    CHAPTERS,
    PARTS,
    PARTS_OF_THE_BOOK,
    chapter,
    explained_in,
    part_words,
    you_are_here,
)
from tests import CHAPTERS as NOTEBOOKS
from tests import ROOT
from tests.sanitised import sanitised


def soup(number=None, clean=str):
    return BeautifulSoup(clean(you_are_here(number)._repr_html_()), "html.parser")


# ---- The table is the book -----------------------------------------------------------------------


def test_written_chapters_are_the_notebooks_with_their_titles():
    written = {found.slug: found.title for found in CHAPTERS if found.written}
    titles = {}
    for path in NOTEBOOKS:
        first = nbformat.read(path, as_version=4).cells[0].source
        titles[path.stem] = first.partition("\n")[0].removeprefix("# ")
    assert written == titles


def test_chapters_are_numbered_and_every_one_has_its_part():
    assert [found.number for found in CHAPTERS] == list(range(1, len(CHAPTERS) + 1))
    spans = [range(first, last + 1) for first, last in PARTS_OF_THE_BOOK.values()]
    assert [n for span in spans for n in span] == [found.number for found in CHAPTERS]


def test_table_of_contents_has_the_same_parts_and_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = {part["caption"]: [c["file"] for c in part["chapters"]] for part in toc["parts"]}
    for caption, (first, last) in PARTS_OF_THE_BOOK.items():
        written = [c for c in CHAPTERS if first <= c.number <= last and c.written]
        assert found.get(caption, []) == [f"chapters/{c.slug}" for c in written]


@pytest.mark.parametrize("found", CHAPTERS, ids=lambda found: found.slug)
def test_chapter_lights_parts_that_exist_and_those_it_explains(found):
    lights = found.lights.split()
    assert lights and set(lights) <= set(PARTS) and len(set(lights)) == len(lights)
    assert {part for part in PARTS if explained_in(part) is found} <= set(lights)


def test_a_chapter_that_is_not_there():
    with pytest.raises(ValueError, match="there is no chapter 19; the book has 1 to 18"):
        you_are_here(19)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_its_own_place(path):
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    calls = [line for source in cells for line in source.splitlines() if "you_are_here(" in line]
    assert calls in ([], [f"you_are_here({int(path.stem[:2])})"])


# ---- The map is the network ----------------------------------------------------------------------


def test_words_are_those_of_the_network_that_the_package_builds():
    network = create_model("coatnet_0")
    words = part_words(you_are_here().config)
    for (name, stage), width in zip(network.stages.items(), (64, 96, 192, 384, 768), strict=True):
        assert f"{width} channels" in words[name]
        blocks = 2 if name == "S0" else len(stage)
        assert words[name].startswith(f"{blocks} × ")
    heads = [network.stages[name][0].attention.heads for name in ("S3", "S4")]
    assert f"{heads[0]} or {heads[1]} heads" in words["scores"]
    for name, side in zip(network.stages, (112, 56, 28, 14, 7), strict=True):
        assert f"{side}×{side} positions" in words[name]


@pytest.mark.parametrize("number", [None, *(found.number for found in CHAPTERS)])
@pytest.mark.parametrize("clean", [str, sanitised], ids=["as made", "sanitised"])
def test_lit_parts_say_so_in_words(number, clean):
    items = soup(number, clean).find_all("li")
    assert len(items) == len(PARTS)
    marked = [item for item in items if "▶" in item.text]
    lights = chapter(number).lights.split() if number else []
    assert len(marked) == len(lights)
    assert repr(you_are_here(number)).count("▶") == len(lights)
    shown = soup(number, clean).text
    assert not number or f"You are here: {chapter(number).name}." in shown
    if clean is str:
        assert [item for item in items if item.get("class") == ["book-map-here"]] == marked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_map_is_the_one_that_is_drawn(path):
    """Word for word, with its drawing and its style."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "you_are_here(" in cell.source.splitlines()[-1:][0]:
            (shown,) = (output.data for output in cell.outputs)
            made = you_are_here(int(path.stem[:2]))
            assert shown["text/html"] == made._repr_html_()
            assert shown["text/plain"] == repr(made)


def test_the_map_of_no_chapter_lights_nothing():
    words = repr(you_are_here()).splitlines()
    assert words[0] == "CoAtNet-0, for 224×224 pixels; [n] is the chapter."
    assert [line[:2] for line in words[1:]] == ["  "] * len(PARTS)
    nav = soup().nav
    assert "data-chapter" not in nav.attrs and not nav.select(".book-map-here")


def test_drawn_slabs_shrink_in_positions_and_grow_in_channels():
    fronts = [float(rect["width"]) for rect in soup().select("svg rect")]
    assert fronts == sorted(fronts, reverse=True) and len(set(fronts)) == 5
    depths = []
    for polygon in soup().select("svg polygon"):
        (x0, _), (x1, _) = [map(float, p.split(",")) for p in polygon["points"].split()[:2]]
        depths.append(x1 - x0)
    assert depths == sorted(depths) and depths[0] < depths[-1]
    assert all(svg["aria-hidden"] == "true" for svg in soup().find_all("svg"))


# ---- The links -----------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    return [a["href"] for a in BeautifulSoup(text, "html.parser").find_all("a")]


def test_a_notebook_links_to_the_files_beside_it(monkeypatch):
    monkeypatch.setattr(book_map, "WRITTEN", {found.number for found in CHAPTERS})
    assert len(links(you_are_here()._repr_html_())) == len(PARTS)
    own = [part for part in PARTS if explained_in(part).number == 8]
    found = links(you_are_here(8)._repr_html_())
    assert len(found) == len(PARTS) - len(own) > 0 and not any("08_" in file for file in found)
    monkeypatch.undo()
    found = links(you_are_here()._repr_html_())
    assert set(found) <= {path.name for path in NOTEBOOKS} and len(found) >= 4


def test_nbval_sees_no_difference_when_a_chapter_is_written(monkeypatch):
    rules = get_sanitize_patterns((ROOT / "tests" / "nbval_sanitize.cfg").read_text("utf-8"))

    def compared():
        text = you_are_here(5)._repr_html_()
        for regex, replace in rules:
            text = re.sub(regex, replace, text)
        return text

    before = compared()
    monkeypatch.setattr(book_map, "WRITTEN", {found.number for found in CHAPTERS})
    assert compared() == before and "<a " not in before
    assert "add the bias of their offset" in before


def installed(monkeypatch, record):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    found = SimpleNamespace(read_text=lambda name: record)
    monkeypatch.setattr(book_map, "distribution", lambda name: found)


@pytest.mark.parametrize("suffix", ["", ".git"])
def test_in_colab_the_links_lead_to_the_home_it_was_installed_from(monkeypatch, suffix):
    url = f"https://github.com/ada/engine{suffix}"
    installed(monkeypatch, json.dumps({"url": url, "vcs_info": {}}))
    home = "https://colab.research.google.com/github/ada/engine/blob/main/chapters"
    assert f"{home}/06_relative_bias.ipynb" in links(you_are_here(5)._repr_html_())


@pytest.mark.parametrize("record", [None, '{"url": "file:///content/book"}'])
def test_in_colab_without_a_home_there_is_no_link(monkeypatch, record):
    installed(monkeypatch, record)
    assert links(you_are_here(5)._repr_html_()) == []


def test_in_colab_without_an_installation_there_is_no_link(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    installed(monkeypatch, None)
    monkeypatch.setattr(book_map, "distribution", missing)
    assert links(you_are_here(5)._repr_html_()) == []


# ---- In Chromium ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ground, ink", [("white", "black"), ("black", "white")])
def test_axe_and_a_phone_have_nothing_against_it(ground, ink, browser):
    page = browser.new_page(viewport={"width": 375, "height": 700})
    page.set_content(
        f'<html lang="en"><title>Map</title><body style="background: {ground}; color: {ink}">'
        f"<main><h1>Map</h1>{you_are_here(8)._repr_html_()}</main></body></html>"
    )
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    sizes = page.evaluate(
        "[...document.querySelectorAll('.book-map li, .book-map small')]"
        ".map((n) => parseFloat(getComputedStyle(n).fontSize))"
    )
    assert min(sizes) >= 12
    page.close()
