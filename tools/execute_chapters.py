"""Execute the chapters in place: `make chapters`, or `make chapters ONLY=01` for one.

The one writer of stored outputs. It stamps the set-up cell, runs every cell in a fresh kernel
with one thread, and keeps of the metadata only what is the same on every machine; the minutes in
a chapter's head come from tools/clock.py. A chapter in which a cell raises keeps its old file.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools import clock
from tools.home import read_home, stamp_notebook, write

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
CELL_METADATA = ("tags", "mystnb")
# Its model lives in the kernel that is gone; a viewer would show an error instead of the still.
DEAD = "application/vnd.jupyter.widget-view+json"


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Drop, in place, what differs from run to run or machine to machine; give cells their ids."""
    kept = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    if "accelerator" in notebook.metadata:  # asks Colab for a GPU
        kept["accelerator"] = notebook.metadata["accelerator"]
    notebook.metadata = nbformat.from_dict(kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        if not cell.get("id"):
            cell["id"] = f"{number}-{hashlib.sha256(cell.source.encode()).hexdigest()[:8]}"
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(DEAD, None)


def read_stamped(path: Path, home: str) -> nbformat.NotebookNode:
    """The notebook at ``path`` with the set-up cell and the badge of ``home``."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    stamp_notebook(notebook, path.name, home)
    return nbformat.reads(json.dumps(notebook), as_version=4)


def execute(path: Path, home: str) -> nbformat.NotebookNode:
    """The notebook at ``path``, stamped and executed in its own folder; the file is not touched.

    Raises CellExecutionError if a cell raises that is not tagged `raises-exception`.
    """
    notebook = read_stamped(path, home)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # of the transport, not of the cells
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    normalise(notebook)
    if clock.printed(notebook):
        clock.stamp(notebook)
    nbformat.validate(notebook)
    return notebook


def main(chapters: Path = CHAPTERS) -> None:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    paths = sorted(chapters.glob(f"{only}*.ipynb"))
    if not paths:
        names = ", ".join(sorted(p.stem for p in chapters.glob("*.ipynb"))) or "none at all"
        sys.exit(f"ONLY={only} names no chapter; there are {names}")
    home, failed = read_home(chapters.parent), []
    for path in paths:
        start = time.perf_counter()
        try:
            notebook = execute(path, home)
        except (CellExecutionError, ValueError) as error:
            failed.append(path.name)
            print(f"{path.name}: not written, a cell raised\n{error}", file=sys.stderr)
            continue
        write({path: nbformat.writes(notebook) + "\n"})
        print(f"{path.name}: {time.perf_counter() - start:.1f} s")
    if failed:
        sys.exit(f"left as they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
