"""What the Makefile calls: errors take one line and say what to do; no file is half written."""

import copy
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from conftest import MIME, difference
from tests import ROOT
from tools import execute_chapters, find_chromium, vendor_browser_files
from tools.build_book import STATIC, fingerprint


def one_line(run) -> str:
    """What a failed command said, without make's own last line; it must be one line."""
    lines = [line for line in run.stderr.splitlines() if not line.startswith("make: ***")]
    assert run.returncode != 0
    assert len(lines) == 1, lines
    return lines[0]


# ---- The environment ---------------------------------------------------------------------------


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def bare(tmp_path):
    """A checkout without an environment, on a PATH with the shell's own tools alone."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname", "rm", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "make_environment.sh", tmp_path / "tools")
    (tmp_path / "requirements.txt").write_text("")
    return tmp_path


def make_environment(bare, **variables):
    return subprocess.run(
        ["sh", "tools/make_environment.sh"],
        cwd=bare,
        capture_output=True,
        text=True,
        env={"PATH": str(bare / "bin"), **variables},
    )


def test_no_python_says_so(bare):
    message = one_line(make_environment(bare))
    assert "Python 3.11 or newer not found" in message and "make PYTHON=" in message
    assert not (bare / ".venv").exists()


def test_old_python_is_passed_over(bare):
    program(bare / "bin", "python3", "exit 1")  # what 3.10 answers when asked its version
    assert "Python 3.11 or newer not found" in one_line(make_environment(bare))
    message = one_line(make_environment(bare, PYTHON="python3"))
    assert message == "PYTHON=python3 is not Python 3.11 or newer"


def test_a_python_in_a_folder_with_spaces_is_found(bare):
    (bare / "my programs").mkdir()
    broken = 'case "$2" in *ensurepip*) exit 1;; esac; exit 0'
    python = program(bare / "my programs", "python", broken)
    assert one_line(make_environment(bare, PYTHON=str(python))).startswith(f"{python} has no venv")


def test_missing_venv_module_names_the_package(bare):
    broken = 'case "$2" in *ensurepip*) exit 1;; esac; exit 0'
    program(bare / "bin", "python3", broken)
    message = one_line(make_environment(bare))
    assert "no venv module" in message and "apt-get install python3-venv" in message
    assert not (bare / ".venv").exists()


def test_failed_installation_leaves_no_stamp(bare):
    venv = '*"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;'
    program(bare / "bin", "python3", f'case "$*" in {venv} *pip*) exit 1;; esac; exit 0')
    for name in ("mkdir", "cp"):
        (bare / "bin" / name).symlink_to(shutil.which(name))
    run = make_environment(bare)
    assert run.returncode != 0
    assert not (bare / ".venv" / "installed").exists()


def test_requirements_are_exact_and_installed():
    from importlib.metadata import version

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]
    assert "torch==2.13.0" in pins and any(pin.startswith("jupyter-book==1.") for pin in pins)
    for pin in pins:
        name, equals, wanted = pin.partition("==")
        assert equals and version(name).partition("+")[0] == wanted, pin


# ---- Chromium ----------------------------------------------------------------------------------


def test_chromium_is_taken_from_the_variable(monkeypatch):
    monkeypatch.setenv("CHROMIUM", sys.executable)
    assert find_chromium.find_chromium() == sys.executable
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(RuntimeError, match="CHROMIUM=/nowhere/chromium is not a program"):
        find_chromium.find_chromium()


def test_playwrights_own_chromium_is_the_last_resort(monkeypatch, tmp_path):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(find_chromium, "APPS", ())
    monkeypatch.setattr(find_chromium, "playwrights_own", lambda: str(program(tmp_path, "own", "")))
    assert find_chromium.find_chromium() == str(tmp_path / "own")


def test_missing_chromium_names_both_ways_to_get_one(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "CHROMIUM"}
    environment |= {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "tools.find_chromium"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    message = one_line(run)
    assert "apt-get install chromium" in message and "playwright install chromium" in message


# ---- Vendored files ----------------------------------------------------------------------------


def test_vendored_files_are_what_was_fetched(tmp_path):
    assert vendor_browser_files.problems(ROOT / "book" / "vendor") == []
    copy = shutil.copytree(ROOT / "book" / "vendor", tmp_path / "vendor") / "mathjax"
    (copy / "tex-chtml.js").write_text("// mended by hand")
    (copy / "LICENSE").unlink()
    (copy / "extra.js").write_text("")
    assert vendor_browser_files.problems(tmp_path / "vendor") == [
        "mathjax: LICENSE is missing",
        "mathjax: extra.js is not in the manifest",
        "mathjax: tex-chtml.js was changed",
    ]


def test_archive_with_another_checksum_is_refused(tmp_path, monkeypatch):
    fake = program(tmp_path, "npm", f"echo not-mathjax > {tmp_path}/mathjax-3.2.2.tgz")
    monkeypatch.setattr(vendor_browser_files.shutil, "which", lambda name: str(fake))
    with pytest.raises(SystemExit, match="the pin is sha512-"):
        vendor_browser_files.fetch("mathjax", vendor_browser_files.PACKAGES["mathjax"], tmp_path)


# ---- The site ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", STATIC)
def test_each_static_source_is_watched(source, tmp_path):
    (found, *_) = sorted(ROOT.glob(source))
    path = tmp_path / found.relative_to(ROOT) / ("deep.css" if found.is_dir() else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = fingerprint(tmp_path)
    path.write_text("a")
    first = fingerprint(tmp_path)
    path.write_text("b")
    assert len({empty, first, fingerprint(tmp_path)}) == 3


@pytest.mark.parametrize("port", ["http", "0", "70000"])
def test_wrong_port(port):
    command = [sys.executable, "-m", "tools.serve_book", port]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert one_line(run) == f"PORT={port} is not a port number (1 to 65535)"


def test_taken_port_names_another():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "tools.serve_book", str(taken.getsockname()[1])]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "in use" in one_line(run) and "make serve PORT=" in run.stderr


# ---- Executing a chapter -----------------------------------------------------------------------


def chapter(folder, *sources):
    cells = [nbformat.v4.new_markdown_cell("# One\n\nWhy?", id="title")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"state": {}}})
    stamp = {"iopub.status.busy": "2026-01-01"}
    notebook.cells[-1].metadata = {"execution": stamp, "tags": ["nbval-ignore-output"]}
    path = folder / "01_one.ipynb"
    nbformat.write(notebook, path)
    return path


def test_executed_chapter_is_the_same_twice(tmp_path):
    path = chapter(
        tmp_path,
        "print(2)",
        "import sys; print('a'); print('b', file=sys.stdout); 1 + 1",
        "import os; os.environ['OMP_NUM_THREADS']",
    )
    first, second = (execute_chapters.execute(path, "") for _ in range(2))
    ids = [cell.id for cell in first.cells]
    assert ids[:2] == ["title", "setup"] and len(set(ids)) == len(ids)
    assert nbformat.writes(first) == nbformat.writes(second)
    assert first.metadata == {
        "kernelspec": execute_chapters.KERNEL,
        "language_info": execute_chapters.LANGUAGE,
    }
    assert first.cells[-1].metadata == {"tags": ["nbval-ignore-output"]}
    assert first.cells[-1].outputs[0].data["text/plain"] == "'1'"
    assert [cell.execution_count for cell in first.cells[1:]] == [1, 2, 3, 4]


def test_dead_widget_models_are_dropped(tmp_path):
    path = chapter(tmp_path, "import ipywidgets\nipywidgets.IntSlider(3)")
    (output,) = execute_chapters.execute(path, "").cells[-1].outputs
    assert list(output.data) == ["text/plain"]


def test_a_chapter_that_asks_colab_for_a_gpu_still_does():
    from nbformat.v4 import new_notebook

    notebook = new_notebook(metadata={"accelerator": "GPU", "widgets": {}})
    execute_chapters.normalise(notebook)
    assert notebook.metadata["accelerator"] == "GPU" and "widgets" not in notebook.metadata
    plain = new_notebook()
    execute_chapters.normalise(plain)
    assert "accelerator" not in plain.metadata


def test_raising_cell_leaves_the_file(tmp_path, monkeypatch, capsys):
    path = chapter(tmp_path, "print(1)", "raise ValueError('no such kernel')")
    shutil.copy(ROOT / "_config.yml", tmp_path.parent)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError):
        execute_chapters.execute(path, "")
    monkeypatch.setattr(sys, "argv", ["execute_chapters"])
    with pytest.raises(SystemExit, match=r"left as they were: 01_one\.ipynb"):
        execute_chapters.main(tmp_path)
    assert "no such kernel" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_chapter_names_those_that_exist(tmp_path, monkeypatch):
    chapter(tmp_path, "1")
    monkeypatch.setattr(sys, "argv", ["execute_chapters", "07"])
    with pytest.raises(SystemExit, match="ONLY=07 names no chapter; there are 01_one"):
        execute_chapters.main(tmp_path)


# ---- Strict nbval ------------------------------------------------------------------------------

FIGURE = (
    "import numpy as np\nfrom coatnet_mini.explore import explore\n"
    "explore(lambda a: {'v': np.linspace(0, 1, 5) * a}, 'Title', a=[0.75, 1.0])"
)


def shift(text: str, by: int) -> str:
    """The figure's text with one code of its table moved, and deflated to other bytes."""
    spec = json.loads(text)
    raw = bytearray(zlib.decompress(b64decode(spec["data"])))
    raw[2] += by
    spec["data"] = b64encode(zlib.compress(bytes(raw), 1)).decode()
    return json.dumps(spec, separators=(",", ":"))


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbval")
    zero = "print('from -0.00')"
    path = chapter(folder, "print(42)", zero, "object()", "print(42)", FIGURE, FIGURE)
    notebook = execute_chapters.execute(path, "")
    del notebook.cells[-1].metadata["tags"]
    return notebook


@pytest.fixture
def executed(executed_once):
    """Cells that print a number twice and a zero, show an address, and hold a figure twice."""
    return copy.deepcopy(executed_once)


def figure(cell):
    (output,) = cell.outputs
    return output.data


def test_tables_are_compared_as_numbers(executed):
    stored = figure(executed.cells[-1])[MIME]
    assert stored != shift(stored, 0) and difference(stored, shift(stored, 0)) == ""
    assert difference(stored, shift(stored, 1)) == ""  # one step, as rounding may go
    assert "1 of" in difference(stored, shift(stored, 2))
    whole = stored.replace('"decimals":4', '"decimals":0')
    assert whole != stored
    assert "1 of" in difference(whole, shift(whole, 1))  # a count is exact
    limits = re.search(r'"limits":\[(.*?),(.*?)\]', stored)
    for by, said in ((0.0001, ""), (0.0003, "view 'v': limits")):
        moved = f'"limits":[{limits[1]},{float(limits[2]) + by}]'
        assert difference(stored, stored.replace(limits[0], moved)).startswith(said)
        assert bool(said) == bool(difference(stored, stored.replace(limits[0], moved)))
    below = re.sub(r'"base":(-?\d+)', lambda m: f'"base":{int(m[1]) - 1}', stored)
    assert below != stored and difference(stored, below) == ""


def test_strict_nbval_fails_just_what_is_false(executed):
    *_, zero, address, printed, near, far = executed.cells
    zero.outputs[0].text = "from 0.00\n"
    assert "0x" in figure(address)["text/plain"]
    figure(address)["text/plain"] = "<object at 0x7fffdeadbeef>"
    printed.outputs[0].text = "41\n"
    figure(near)[MIME] = shift(figure(near)[MIME], 1)
    figure(far)[MIME] = shift(figure(far)[MIME], 9)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    # Inside the checkout, where its configuration and conftest.py hold as they do for a chapter.
    (ROOT / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "_build") as folder:
        path = Path(folder) / "01_one.ipynb"
        nbformat.write(executed, path)
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
        run = subprocess.run(
            [*command, path], cwd=ROOT, env=environment, capture_output=True, text=True
        )
    assert re.findall(r"^FAILED .*::Cell (\d)", run.stdout, re.M) == ["4", "6"], run.stdout
    assert "Cell outputs differ" in run.stdout and "Explorable figures differ" in run.stdout
