"""`pytest --random-order SEED`: an order for each seed; cells of a notebook keep theirs."""

import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests import ROOT

pytest_plugins = ["pytester"]
TESTS = "".join(f"def test_{name}():\n    pass\n" for name in "abcdefgh")


@pytest.fixture
def order(pytester):
    """Called with options, gives the tests of a small suite in the order in which they run."""
    shutil.copy(ROOT / "tests" / "conftest.py", pytester.path / "conftest.py")
    for name in ("one", "two", "three"):
        (pytester.path / f"test_{name}.py").write_text(TESTS)
    cells = [new_code_cell(f"{n}") for n in range(6)]
    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, pytester.path / "chapter.ipynb")

    def run(*options: str) -> list[str]:
        listed = pytester.runpytest_inprocess("--collect-only", "-q", "--nbval-lax", *options)
        return [line for line in listed.outlines if "::" in line]

    return run


def test_a_seed_is_an_order_of_its_own(order):
    usual, other = order(), order("--random-order=2")
    first, again = order("--random-order=1"), order("--random-order=1")
    assert first == again
    assert len({*map(tuple, (usual, first, other))}) == 3
    assert sorted(usual) == sorted(first) == sorted(other)


def test_files_stay_together_and_cells_in_their_order(order):
    shuffled = order("--random-order=1")
    files = [name.partition("::")[0] for name in shuffled]
    runs = [file for n, file in enumerate(files) if n == 0 or files[n - 1] != file]
    assert len(runs) == len(set(files)) == 4
    cells = [name for name in shuffled if name.startswith("chapter.ipynb")]
    assert len(cells) == 6 and cells == [name for name in order() if name.startswith("chapter")]
    one = [name for name in shuffled if name.startswith("test_one")]
    assert one != sorted(one)
