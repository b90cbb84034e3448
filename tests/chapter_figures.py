"""The explorable figures of a chapter, made afresh by running the chapter's own cells."""

import contextlib
import io
from functools import cache
from pathlib import Path

import matplotlib
import nbformat
import torch
from IPython.core.interactiveshell import InteractiveShell

import coatnet_mini.explore as explore_module
from coatnet_mini.explore import MIME

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))


def stored_specs(path: Path) -> list[str]:
    """The figures' data as the notebook holds them, in order."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    return ["".join(o.data[MIME]) for o in outputs if MIME in o.data]


@cache
def figures_of(path: Path) -> list:
    """[(figure, the function it evaluates)] of the chapter, computed now."""
    made, original = [], explore_module.explore

    def recording(function, title, **axes):
        figure = original(function, title, **axes)
        made.append((figure, function))
        return figure

    matplotlib.use("agg")
    shell = InteractiveShell()
    explore_module.explore = recording
    try:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                shell.run_cell(cell.source, store_history=False).raise_error()
    finally:
        explore_module.explore = original
        torch.set_default_dtype(torch.float32)  # a chapter may have chosen another
    return made
