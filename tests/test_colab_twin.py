"""Every chapter, as Colab would run it: its versions, only the .ipynb, the package from its home.

`.twin` is an environment with Colab's versions (tests/colab_twin.txt), torch linked from the
book's environment, and a stand-in for `google.colab`. The notebook is stamped as `make home` would
stamp it; git is told that the home's address is a repository on this disk that holds the working
tree, so the set-up cell's own pip command installs what is being tested. pip has no index here:
whatever else it tried to fetch would fail.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from tests import CHAPTERS, ROOT
from tools import home
from tools.colab_pins import versions
from tools.execute_chapters import read_stamped

TWIN, PINS = ROOT / ".twin", ROOT / "tests" / "colab_twin.txt"
PINNED = versions(PINS.read_text(encoding="utf-8"))
HOME = "colab-twin/book"
PYTHON = TWIN / "bin" / "python"
SETUPTOOLS = f"setuptools=={importlib.metadata.version('setuptools')}"
STAND_IN = {
    "google/colab/__init__.py": "from google.colab import output\n",
    # Colab's own call; here it leaves a trace.
    "google/colab/output.py": (
        "import os\n"
        "def enable_custom_widget_manager():\n"
        "    with open(os.environ['COLAB_TWIN_LOG'], 'a') as log:\n"
        "        log.write('custom widget manager\\n')\n"
    ),
}


def pip(*arguments):
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def torchs_own() -> set[Path]:
    """What torch put at the top of site-packages, CUDA's libraries included where it has them."""
    names = ["torch"]
    for line in importlib.metadata.requires("torch"):
        name = Requirement(line).name
        if name.startswith(("nvidia", "triton", "cuda")):
            names.append(name)
    tops = set()
    for name in names:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # not on this platform
            continue
        parts = {Path(file).parts[0] for file in found.files} - {"..", "__pycache__"}
        tops |= {Path(found.locate_file(part)) for part in parts}
    return tops


def build_twin(site: Path):
    pip("install", "-qq", "--no-deps", "-r", str(PINS))
    # What pip's isolated build of the package needs, so that it needs no index.
    pip("download", "-qq", "--no-deps", "--dest", str(TWIN / "wheels"), SETUPTOOLS)
    colabs = "\ntorch==" in PINS.read_text()  # tools/colab_pins.py pins it for the weekly run
    for top in () if colabs else torchs_own():
        (site / top.name).symlink_to(top)
    for name, text in STAND_IN.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)


@pytest.fixture(scope="module")
def twin():
    """The environment, made when its pins, its torch or this file changed; package removed."""
    found = [sys.version, str(ROOT), SETUPTOOLS, *sorted(map(str, torchs_own()))]
    content = PINS.read_bytes() + Path(__file__).read_bytes() + "\n".join(found).encode()
    wanted = hashlib.sha256(content).hexdigest()
    stamp = TWIN / "stamp"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(TWIN, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", TWIN], check=True)
        (site,) = TWIN.glob("lib/python*/site-packages")
        build_twin(site)
        stamp.write_text(wanted)
    pip("uninstall", "--yes", "-qq", "coatnet-mini")
    return TWIN


@pytest.fixture(scope="module")
def environment(twin, tmp_path_factory):
    """Environment variables of a kernel for which the home's address is the working tree."""
    folder = tmp_path_factory.mktemp("colab")
    git = ["git", "-c", "user.name=twin", "-c", "user.email=twin@localhost"]
    listed = subprocess.run(
        [*git, "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tree = folder / "tree"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "working tree"]):
        subprocess.run([*git, *step], cwd=tree, check=True, env=os.environ | {"HOME": str(folder)})
    config = folder / "gitconfig"
    config.write_text(
        f'[url "file://{tree}"]\n\tinsteadOf = https://github.com/{HOME}\n'
        "[uploadpack]\n\tallowFilter = true\n[safe]\n\tdirectory = *\n"
    )
    kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TMPDIR") if k in os.environ}
    return kept | {
        "PATH": f"{TWIN / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(TWIN / "wheels"),
        "OMP_NUM_THREADS": "1",
        "COLAB_TWIN_LOG": str(folder / "log"),
    }


class TwinKernel(NotebookClient):
    """nbclient with the twin's interpreter instead of an installed kernel specification."""

    def create_kernel_manager(self):
        manager = super().create_kernel_manager()
        manager.kernel_spec.argv = [
            str(PYTHON),
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--IPKernelApp.exec_lines=import google.colab",  # there before the first cell
        ]
        return manager


def run(notebook, folder, environment):
    client = TwinKernel(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    return client.execute(env=environment)


def probe(source):
    return nbformat.v4.new_code_cell(source, id="probe")


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


WHERE = "import IPython, ipywidgets, coatnet_mini\nprint(coatnet_mini.__file__)"
WHICH = "print(IPython.__version__, ipywidgets.__version__)"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs_in_colab(path, environment, tmp_path):
    notebook = read_stamped(path, HOME)
    notebook.cells.append(probe(f"{WHERE}\n{WHICH}"))
    run(notebook, tmp_path, environment)
    where, which = printed(notebook.cells[-1]).splitlines()
    assert where.startswith(str(TWIN)), "the package came from somewhere else"
    assert which == f"{PINNED['ipython']} {PINNED['ipywidgets']}"
    explorables = [c for c in notebook.cells if c.cell_type == "code" and "explore(" in c.source]
    for cell in explorables:
        assert any(
            "application/vnd.jupyter.widget-view+json" in output.get("data", {})
            for output in cell.outputs
        ), f"no widget from {cell.id}"
    if explorables:
        log = Path(environment["COLAB_TWIN_LOG"]).read_text()
        assert "custom widget manager" in log


def test_unstamped_notebook_says_what_to_do(environment, tmp_path):
    pip("uninstall", "--yes", "-qq", "coatnet-mini")
    notebook = nbformat.v4.new_notebook(cells=[probe(home.setup_cell(""))])
    with pytest.raises(Exception, match="run `make home REPO=owner/name`"):
        run(notebook, tmp_path, environment)
