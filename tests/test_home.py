"""`make home` stamps everything or nothing, and the set-up cell says what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from tests import ROOT
from tools import home

HOST = "github"


def notebook(*, setup=True):
    cells = [
        {
            "id": "title",
            "cell_type": "markdown",
            "metadata": {},
            "source": ["# One\n", "\n", "Why?"],
        },
        {
            "id": "sum",
            "cell_type": "code",
            "metadata": {},
            "source": ["1 + 1"],
            "outputs": [],
            "execution_count": None,
        },
    ]
    document = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    if setup:
        home.stamp_notebook(document, "01_one.ipynb", "")
    return document


@pytest.fixture
def checkout(tmp_path):
    """The files that a stamp touches, unstamped, with two small chapters."""
    for name in ("_config.yml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "chapters").mkdir()
    for name in ("01_one.ipynb", "02_two.ipynb"):
        (tmp_path / "chapters" / name).write_text(home.dumps(notebook()), encoding="utf-8")
    home.write(home.stamped(tmp_path, ""))
    return tmp_path


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def make_home(root, **variables):
    """`make home` as a reader runs it: the Makefile's recipe in a copy of the checkout."""
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {k: v for k, v in os.environ.items() if k not in ("REPO", "FORCE", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-m", "tools.home"],
        cwd=root,
        env=environment | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("repo", ["ada/engine", "A-1/b.c_d-e", "a" * 39 + "/" + "b" * 100, "x/.x"])
def test_github_names_are_accepted(repo):
    assert home.check_repo(repo) == repo


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "engine",
        "ada/",
        "/engine",
        "ada/engine/x",
        "ada engine",
        "-ada/engine",
        "ada-/engine",
        "a--b/engine",
        "a_b/engine",
        "a" * 40 + "/x",
        "ada/" + "b" * 101,
        "ada/..",
        "ada/.",
        "ada/engine.git",
        "ada/e ngine",
        "ada/engine\n",
        "ada/é",
        "https://example.org/ada/engine",
        "ada/x;rm",
        'ada/"x"',
        "{ada}/x",
    ],
)
def test_wrong_repo_changes_nothing_and_takes_one_line(checkout, repo):
    before = contents(checkout)
    run = make_home(checkout, REPO=repo)
    shutil.rmtree(checkout / "tools")
    assert run.returncode != 0
    assert len(run.stderr.strip().splitlines()) == 1
    assert "owner/name" in run.stderr
    assert contents(checkout) == before


def test_stamp_reaches_every_file_and_can_be_repeated(checkout):
    run = make_home(checkout, REPO="ada/engine")
    assert run.returncode == 0, run.stderr
    config = yaml.safe_load((checkout / "_config.yml").read_text())
    assert config["repository"] == {"url": "https://github.com/ada/engine", "branch": "main"}
    assert config["launch_buttons"]["colab_url"] == home.COLAB
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text())
    assert citation["repository-code"] == "https://github.com/ada/engine"
    assert "https://ada.github.io/engine/" in (checkout / "README.md").read_text()
    for name in ("01_one.ipynb", "02_two.ipynb"):
        cells = json.loads((checkout / "chapters" / name).read_text())["cells"]
        first, setup = "".join(cells[0]["source"]), "".join(cells[1]["source"])
        assert first == f"# One\n\n{home.badge('ada/engine', name)}\n\nWhy?"
        assert f"/colab.research.google.com/github/ada/engine/blob/main/chapters/{name})" in first
        assert 'HOME = "ada/engine"' in setup
    stamped = contents(checkout)
    assert home.stamp("ada/engine", checkout) == []
    assert contents(checkout) == stamped
    home.check("ada/engine", checkout)
    home.check("Ada/Engine", checkout)


def test_second_home_needs_force(checkout):
    home.stamp("ada/engine", checkout)
    before = contents(checkout)
    run = make_home(checkout, REPO="eve/engine")
    assert run.returncode != 0
    assert "ada/engine" in run.stderr and "FORCE=1" in run.stderr
    shutil.rmtree(checkout / "tools")
    assert contents(checkout) == before
    assert make_home(checkout, REPO="eve/engine", FORCE="1").returncode == 0
    shutil.rmtree(checkout / "tools")
    assert b"ada" not in b"".join(contents(checkout).values()).replace(b"metadata", b"")
    home.check("eve/engine", checkout)


def test_unstamping_gives_back_every_byte(checkout):
    before = contents(checkout)
    home.stamp("ada/engine", checkout)
    assert contents(checkout) != before
    home.write(home.stamped(checkout, ""))
    assert contents(checkout) == before


def test_unreadable_chapter_stops_the_stamp_before_anything_is_written(checkout):
    (checkout / "chapters" / "02_two.ipynb").write_text('{"cells": [')
    before = contents(checkout)
    with pytest.raises(ValueError, match="Expecting"):
        home.stamp("ada/engine", checkout)
    assert contents(checkout) == before


def test_failing_write_leaves_no_half_stamp(checkout, monkeypatch):
    before = contents(checkout)
    write_text = Path.write_text

    def full(path, *args, **kwargs):
        if "02_two" in path.name:
            raise OSError("No space left on device")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        home.stamp("ada/engine", checkout)
    assert contents(checkout) == before


def test_publishing_is_refused_unless_the_home_is_its_own(checkout):
    with pytest.raises(ValueError, match="make home REPO=ada/engine"):
        home.check("ada/engine", checkout)
    home.stamp("ada/engine", checkout)
    with pytest.raises(ValueError, match=r"the home is ada/engine, this is eve/copy: .*make home"):
        home.check("eve/copy", checkout)
    chapter = checkout / "chapters" / "03_new.ipynb"
    chapter.write_text(home.dumps(notebook()))  # a chapter that came after the stamp
    with pytest.raises(ValueError, match="03_new"):
        home.check("ada/engine", checkout)


def test_the_workflows_own_command_refuses(checkout):
    """The step of publish.yml itself, with a Python that has no package installed."""
    shutil.copytree(ROOT / "tools", checkout / "tools")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    step = workflow["jobs"]["home"]["steps"][-1]["run"]
    python = checkout / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{checkout}{os.pathsep}{os.environ['PATH']}"}
    for repository, code in (("eve/copy", 1), ("ada/engine", 0)):
        run = subprocess.run(
            ["sh", "-c", step],
            cwd=checkout,
            capture_output=True,
            text=True,
            env=environment | {"GITHUB_REPOSITORY": repository},
        )
        assert run.returncode == code, run.stderr
        assert ("make home" in run.stderr) == bool(code)
        home.stamp("ada/engine", checkout)


def test_badge_and_set_up_cell_come_into_a_chapter_that_has_none():
    document = notebook(setup=False)
    home.stamp_notebook(document, "01_one.ipynb", "ada/engine")
    kinds = [cell["id"] for cell in document["cells"]]
    assert kinds == ["title", "setup", "sum"]


def test_tree_holds_no_address_until_it_is_stamped():
    if home.read_home(ROOT):
        home.check(home.read_home(ROOT), ROOT)
        return
    for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml"):
        assert not re.search(rf"{HOST}\.(?:com|io)/", (ROOT / name).read_text()), name
    for path in (ROOT / "chapters").glob("*.ipynb"):
        sources = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
        assert "github.com/{HOME}" in sources
        assert "colab.research" not in sources


# ---- The set-up cell, run ----------------------------------------------------------------------


def run_setup_cell(stamped, importable, monkeypatch):
    """Run the cell where `find_spec` finds just ``importable``; returns what it asked pip for."""
    code = TransformerManager().transform_cell(home.setup_cell(stamped))
    code = code.replace("from importlib.util import find_spec\n", "")
    asked = []

    class Shell:
        def run_line_magic(self, name, line):
            asked.append((name, line))

    names = {"find_spec": importable.__contains__, "get_ipython": Shell}
    exec(code, names)
    return [(name, line.replace("{HOME}", names["HOME"])) for name, line in asked]


def test_set_up_cell_is_short_and_narrow():
    lines = home.setup_cell("ada/engine").splitlines()
    assert len(lines) <= 15 and max(map(len, lines)) <= 76


def test_set_up_cell_does_nothing_where_the_package_is(monkeypatch):
    for stamped in ("", "ada/engine"):
        assert run_setup_cell(stamped, {"coatnet_mini", "google"}, monkeypatch) == []


def test_set_up_cell_says_how_to_install_at_home(monkeypatch):
    with pytest.raises(ImportError, match=r"pip install -e \."):
        run_setup_cell("ada/engine", {"google"}, monkeypatch)  # protobuf brings a bare `google`
    with pytest.raises(ImportError, match=r"pip install -e \."):
        run_setup_cell("", set(), monkeypatch)


def test_set_up_cell_installs_in_colab(monkeypatch):
    colab = {"google", "google.colab"}
    asked = run_setup_cell("ada/engine", colab, monkeypatch)
    where = "git+https://github.com/ada/engine"
    assert asked == [("pip", f"install --quiet --no-deps {where}")]
    with pytest.raises(RuntimeError, match="make home REPO=owner/name") as error:
        run_setup_cell("", colab, monkeypatch)
    assert len(str(error.value).splitlines()) == 1
