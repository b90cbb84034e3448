"""A book of one page, built by Sphinx as the site is, to try figures that no chapter has."""

import re
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
CONF = f"""
extensions = ["myst_nb", "coatnet_mini.explore.sphinx_ext"]
html_theme = "sphinx_book_theme"
html_static_path = [{str(ROOT / "book" / "style")!r}]
html_css_files = ["book.css"]
html_context = {{"default_mode": "auto"}}
nb_execution_mode = "off"
suppress_warnings = ["mystnb.unknown_mime_type"]
"""


def notebook_of(parts) -> nbformat.NotebookNode:
    """Markdown for each text of `parts`, a cell with its output for each figure."""
    cells = []
    for part in parts:
        if isinstance(part, str):
            cells.append(nbformat.v4.new_markdown_cell(part))
            continue
        data, metadata = part._repr_mimebundle_()
        data = {mime: value for mime, value in data.items() if "widget-view" not in mime}
        output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        cells.append(nbformat.v4.new_code_cell("explore(...)", outputs=[output]))
    language = {"name": "python", "pygments_lexer": "ipython3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"language_info": language})


def build(folder: Path, parts) -> Path:
    """The built page; raises if Sphinx warns."""
    source, out = folder / "source", folder / "html"
    source.mkdir()
    (source / "conf.py").write_text(CONF)
    notebook = notebook_of(["# Figures", *parts])
    nbformat.validate(notebook)
    nbformat.write(notebook, source / "index.ipynb")
    with (folder / "warnings.txt").open("w+") as warnings:
        app = Sphinx(
            source, source, out, folder / "doctrees", "html", status=None, warning=warnings
        )
        app.build()
    said = re.sub(r"\x1b\[[0-9;]*m", "", (folder / "warnings.txt").read_text())
    assert app.statuscode == 0 and "index.ipynb" not in said, said
    return out / "index.html"
