"""The book's own Sphinx extension: links of the maps, times of the routes, mended pages."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from coatnet_mini.book_map import CHAPTERS, you_are_here
from coatnet_mini.explore import MIME, explore, guess
from tests import ROOT
from tools import clock

SPEC = importlib.util.spec_from_file_location("book_ext", ROOT / "book" / "sphinx" / "book_ext.py")
book_ext = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(book_ext)

FRONT = """\
# Front

```{book-map}
```

```{book-routes}
```

```{book-chapters}
```

```{book-exercises}
```

*Both < ends* is shown, and *another*.

```{book-lessons}
```
"""


GLOSSARY = """\
# Glossary

```{glossary}
head
  One of several attentions. They run side by side.

self-attention
  A sum whose weights $A_{ij}$ come from the input.

window
  A small part of the grid.
```
"""
TERMS = """
A <span class="cm-set" data-set="head=2">self-attention</span> has heads;
each head looks through a window of `head` and $head$.

Of 100 % it is 86.0 % *or 3 %*, said `50 %` of the code, and ± 4 % more.

As chapters 3, 4 and 5 say, and chapter 5 again; `chapter 5`, chapter 55 and chapter 2.
Chapter 3 is first here.

## Exercises

### Exercise 3.1 · Both < ends ★

Difficulty 2 of 5 · 10 min

### Exercise without a time

## The head

[Another head](https://example.org), forehead, self-attentions.
"""


def notebook(slug):
    output = {"text/html": you_are_here(5)._repr_html_(), "text/plain": "CoAtNet"}
    asked = guess("Is it 3 < 4?", ["yes", "no"], answer="no", because="so.")
    live, _ = explore(lambda n: {"n": n}, "Both < ends", n=[1, 2])._repr_mimebundle_()
    live = {MIME: live[MIME], "text/plain": live["text/plain"]}
    cells = [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": f"# {slug}\n\n{LINE}\n{TERMS}",
        },
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {"tags": ["remove-input"]},
            "source": "you_are_here(5)",
            "execution_count": 1,
            "outputs": [
                {
                    "output_type": "execute_result",
                    "execution_count": 1,
                    "metadata": {},
                    "data": data,
                }
                for data in (
                    output,
                    live,
                    {"text/html": asked._repr_html_(), "text/plain": "Guess"},
                )
            ],
        },
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


LINE = "core 1 · deeper 2 · exercises 3 minutes"
TEXT = f"# {{}}\n\n{LINE}\n{TERMS}"
BUILT = ("03_self_attention", "05_pre_and_post_normalization")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A small book: a front page, and two of the written chapters, with a map in each."""
    source = tmp_path_factory.mktemp("book")
    (source / "chapters").mkdir()
    (source / "book").mkdir()
    (source / "book" / "index.md").write_text(FRONT)
    (source / "book" / "glossary.md").write_text(GLOSSARY)
    for slug in BUILT:
        (source / "chapters" / f"{slug}.ipynb").write_text(json.dumps(notebook(slug)))
    config = {
        "extensions": ["myst_nb", "coatnet_mini.explore.sphinx_ext", "book_ext"],
        "nb_execution_mode": "off",
        "root_doc": "book/index",
        "suppress_warnings": ["toc.not_included"],
    }
    sys.modules["book_ext"] = book_ext
    Sphinx(source, None, source / "out", source / "trees", "html", config, status=None).build()
    return source / "out"


def page(site, name):
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def test_maps_link_to_the_pages_that_are_built_and_to_no_notebook(site):
    for name, folder in (("book/index", "../chapters/"), (f"chapters/{BUILT[0]}", "")):
        links = page(site, name).select("nav.book-map a")
        expected = {f"{folder}{slug}.html" for slug in BUILT}
        if name.endswith(BUILT[0]):  # whose map is chapter 5's, which does not link to itself
            expected -= {f"{BUILT[1]}.html"}
        assert {link["href"] or f"{BUILT[0]}.html" for link in links} == expected


def test_map_of_a_chapter_keeps_its_place(site):
    lit = page(site, f"chapters/{BUILT[1]}").select("nav.book-map li.book-map-here")
    assert len(lit) == len(CHAPTERS[4].lights.split())
    assert page(site, "book/index").select("nav.book-map li.book-map-here") == []


def test_clock_line_has_its_class(site):
    (line,) = page(site, f"chapters/{BUILT[0]}").select("p.book-clock")
    assert line.text == LINE


def test_no_line_ends_between_a_number_and_its_sign(site):
    kept = "Of 100\xa0% it is 86.0\xa0% or 3\xa0%, said 50 % of the code, and ± 4\xa0% more."
    assert kept in page(site, f"chapters/{BUILT[0]}").text


def test_a_term_leads_to_the_glossary_where_it_is_first_used(site):
    links = page(site, f"chapters/{BUILT[0]}").select("a.book-term")
    entry = "../book/glossary.html#term-"
    assert [(link.text, link["href"]) for link in links] == [
        ("heads", f"{entry}head"),  # a plural, and not again; `window` is an everyday word
        ("self-attentions", f"{entry}self-attention"),  # before, it sets a figure
    ]
    assert links[0]["title"] == "One of several attentions."
    assert not links[1].has_attr("title")  # it would show a formula's source
    assert {link["href"].split("#")[1] for link in links} <= {
        term["id"] for term in page(site, "book/glossary").select("dt[id]")
    }


def test_a_chapter_that_is_named_first_is_a_link(site):
    names = {chapter.name for chapter in CHAPTERS}

    def links(slug):
        found = page(site, f"chapters/{slug}").select("section p a[title]")
        return {link.text: link["href"] for link in found if link["title"] in names}

    three, five = BUILT
    assert links(three) == {"5": f"{five}.html"}  # not itself, not what is not built
    assert links(five) == {"3": f"{three}.html"}


def test_exercises_and_lessons_are_listed_where_they_stand(site):
    front = page(site, "book/index")
    rows = [row for row in front.select(".book-exercises tr") if row.a]
    assert [[cell.text for cell in row.select("td")] for row in rows] == [
        ["3.1 · Both < ends ★", "2 of 5", "10 min"]
    ] * len(BUILT)
    lessons = front.select(".book-lessons li")
    assert [item.text for item in lessons] == ["Both < ends", "Guess: Is it 3 < 4?"] * len(BUILT)
    for slug, *listed in zip(BUILT, rows, lessons[::2], lessons[1::2], strict=True):
        for link in (item.a["href"] for item in listed):
            address, _, anchor = link.partition("#")
            assert address == f"../chapters/{slug}.html"
            assert page(site, f"chapters/{slug}").find(id=anchor)


def test_a_title_in_italics_leads_to_its_figure(site):
    titles = page(site, "book/index").select("p em")
    assert [title.text for title in titles] == ["Both < ends", "another"]
    link, other = (title.find_parent("a") for title in titles)
    assert link["href"] == f"../chapters/{BUILT[-1]}.html#figure-both-ends" and other is None


def test_routes_add_up_the_clocks_of_the_book(site):
    books = [json.loads(path.read_text()) for path in sorted((ROOT / "chapters").glob("*.ipynb"))]
    core, whole = 0, 0
    for found in map(clock.clock, books):
        core += found.core
        whole += found.core + found.deeper + found.exercises
    shown = [b.text for b in page(site, "book/index").select(".book-routes b")]
    assert shown[1:] == [book_ext.hours(core), book_ext.hours(whole)]
    assert shown[0] == book_ext.hours(sum(clock.clock(book).tour for book in books))


def test_chapters_are_listed_with_their_minutes_or_as_being_written(site):
    rows = page(site, "book/index").select(".book-chapters li")
    assert [row.text.split(" · ")[0] for row in rows] == [str(c.number) for c in CHAPTERS]
    for chapter, row in zip(CHAPTERS, rows, strict=True):
        if chapter.slug in BUILT:
            path = ROOT / "chapters" / f"{chapter.slug}.ipynb"
            read = clock.clock(json.loads(path.read_text()))
            assert row.text == f"{chapter.name} {read.core} min"
            assert row.a["href"] == f"../chapters/{chapter.slug}.html"
        else:
            assert row.text == f"{chapter.name} being written" and row.a is None


@pytest.mark.parametrize(
    "minutes, words",
    [
        (1, "5 minutes"),
        (55, "55 minutes"),
        (89, "90 minutes"),
        (90, "1½ hours"),
        (91, "2 hours"),
        (240, "4 hours"),
        (241, "4½ hours"),
    ],
)
def test_hours_are_rounded_up(minutes, words):
    assert book_ext.hours(minutes) == words


def test_pages_ask_no_other_host_and_the_bibliography_has_its_role():
    foreign = SimpleNamespace(filename="https://unpkg.com/thebe@0.9/lib/index.js", attributes={})
    inline = SimpleNamespace(filename=None, attributes={"body": "var THEBE = 'thebe'"})
    own = SimpleNamespace(filename="_static/explore.js", attributes={"async": "async"})
    body = '<div role="list" class="citation-list"><div class="citation">'
    context = {"script_files": [foreign, own, inline, "plain.js"], "body": body}
    book_ext.mend_page(None, "p", "t", context, None)
    assert context["script_files"] == [own, "plain.js"]
    assert context["body"] == '<div class="citation-list"><div class="citation">'
