"""The cells of a chapter that print something else when the package is another one.

    python tests/chapter_cells.py '[["05_pre_and_post_normalization", "folder", ["ch05-pre"]]]'

prints, as JSON, a list of cell ids for each chapter, folder with a copy of the package, and cells
of interest: the chapter runs until the last of these, or to its end if there are none.
Each run is a process forked after the slow imports, so that many copies cost little.
Left out are the set-up cell, exercises, explorable figures, and cells whose output nbval ignores.
"""

import contextlib
import io
import json
import multiprocessing
import sys
import traceback
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import anywidget  # noqa: F401
import huggingface_hub  # noqa: F401
import matplotlib.pyplot as plt
import nbformat
import sklearn.datasets  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parent.parent
EXPLORABLE = "application/vnd.coatnet-mini.explorable"


def cells(chapter: str):
    """Yield the id, source and stored print-out of each cell that counts."""
    notebook = nbformat.read(ROOT / "chapters" / f"{chapter}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code" or cell.id == "setup" or "-ex" in cell.id:
            continue
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            continue
        if any(EXPLORABLE in output.get("data", {}) for output in cell.outputs):
            continue
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        yield cell.id, cell.source, printed


def differing(chapter: str, folder: str, interest: list[str]) -> list[str]:
    """The ids of the cells of `chapter` that print something else, or raise, with that package."""
    sys.path.insert(0, folder)
    namespace, found, ahead = {"__name__": "__main__"}, [], set(interest)
    for name, source, printed in cells(chapter):
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(source, namespace)
        except Exception:
            traceback.print_exc()
            found.append(name)
        else:
            if out.getvalue() != printed:
                found.append(name)
        plt.close("all")
        ahead.discard(name)
        if interest and not ahead:
            break
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests")]
    runs = json.loads(sys.argv[1])
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        print(json.dumps(pool.starmap(differing, runs, chunksize=1)))
