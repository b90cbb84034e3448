"""Explorable figures on pages that Sphinx builds: their own, from another cell, from a file."""

import json

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from coatnet_mini.explore import explore, heat
from coatnet_mini.explore.live import network_script
from coatnet_mini.explore.scripts import constant
from coatnet_mini.explore.sphinx_ext import classic_script
from tests.small_book import CONF, notebook_of

INDEX = """# Figures

```{explorable} chapter.ipynb
:cell: second
```

```{explorable} stored.json
```

```{toctree}
chapter
plain
wrong
```
"""
WRONG = "# Wrong\n\n```{explorable} chapter.ipynb\n:cell: third\n```\n"


def figure(title: str):
    return explore(lambda t: {"</b>": heat(t * np.eye(2))}, title, t=[1, 2])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the folder of pages, the app, what it warned of)"""
    folder = tmp_path_factory.mktemp("book")
    source, out = folder / "source", folder / "html"
    source.mkdir()
    (source / "conf.py").write_text(CONF)
    notebook = notebook_of(["# Chapter", figure("One"), figure('"Two"')])
    for cell, name in zip(notebook.cells, ("words", "first", "second"), strict=True):
        cell["id"] = name
    nbformat.write(notebook, source / "chapter.ipynb")
    stored = notebook_of([figure("Three")]).cells[0].outputs[0].data
    (source / "stored.json").write_text(json.dumps(stored))
    for name, text in {"index": INDEX, "plain": "# Plain\n", "wrong": WRONG}.items():
        (source / f"{name}.md").write_text(text)
    with (folder / "warnings.txt").open("w+") as warnings:
        app = Sphinx(
            source, source, out, folder / "doctrees", "html", status=None, warning=warnings
        )
        app.build()
    return out, app, (folder / "warnings.txt").read_text()


def hosts(built, page: str) -> dict[str, tuple[dict, str]]:
    """{id: (the figure's JSON, the words of its picture)} in the order of the page."""
    soup = BeautifulSoup((built[0] / f"{page}.html").read_text("utf-8"), "html.parser")
    found = {}
    for host in soup.select(".cm-explorable-host"):
        (picture,) = host.find("noscript").find_all("img")
        data = host.find("script", type="application/json").string
        assert "</" not in data  # or it would end the script
        found[host["id"]] = json.loads(data), picture["alt"]
        assert [child.name for child in host.children if child.name] == ["noscript", "script"]
    assert len(soup.find_all("img")) == len(found), "a still that stands beside its figure"
    return found


def test_each_figure_is_there_once_with_its_still_behind_it(built):
    for page, titles in (("chapter", ["One", '"Two"']), ("index", ['"Two"', "Three"])):
        found = hosts(built, page)
        assert list(found) == [f"figure-{title.strip(chr(34)).lower()}" for title in titles]
        for (spec, words), title in zip(found.values(), titles, strict=True):
            assert spec == json.loads(figure(title).spec) and words == repr(figure(title))


def test_only_pages_with_a_figure_load_the_script_and_the_style(built):
    for page, wanted in (("chapter", True), ("index", True), ("plain", False)):
        text = (built[0] / f"{page}.html").read_text("utf-8")
        assert ("explore.css" in text) == ("explore.js" in text) == wanted
        script = BeautifulSoup(text, "html.parser").find(
            "script", src=lambda s: s and "explore" in s
        )
        assert not wanted or script.has_attr("async")


def test_script_style_and_network_lie_beside_the_pages(built):
    static = built[0] / "_static"
    assert (static / "explore.js").read_text("utf-8") == classic_script()
    assert (static / "digits.js").read_text("utf-8") == network_script()
    assert ".cm-explorable" in (static / "explore.css").read_text("utf-8")


def test_a_cell_without_a_figure_is_named(built):
    _, app, warnings = built
    assert "chapter.ipynb has no explorable figure in cell 'third'" in warnings
    assert app.extensions["coatnet_mini.explore.sphinx_ext"].parallel_read_safe is True
    assert app.extensions["coatnet_mini.explore.sphinx_ext"].parallel_write_safe is True


def test_a_page_is_built_again_when_the_notebook_it_quotes_changes(built):
    assert "chapter.ipynb" in {str(name) for name in built[1].env.dependencies["index"]}


def test_a_module_is_a_constant_of_its_default_export():
    text = "const one = 1;\nexport default one;\n"
    assert constant("two", text) == "const two = (() => {\nconst one = 1;\nreturn one;\n})();\n"
    for bad in ("const one = 1;\n", "\nexport const a = 1;\nexport default a;\n"):
        with pytest.raises(ValueError, match=r"bad\.js must have one export, the default"):
            constant("bad", bad)
