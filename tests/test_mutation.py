"""Strict nbval notices a wrong package: one deliberate mistake, and a chapter's outputs differ.

The chapter runs against a copy of the package that stands first on PYTHONPATH. The copy without
a mistake passes, so it is the mistake that fails. Add a line here for each module a chapter shows.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MISTAKES = {
    "softmax over the wrong axis": (
        "01_weighted_sums",
        "weighted_sum.py",
        "torch.softmax(x @ x.mT, dim=-1)",
        "torch.softmax(x @ x.mT, dim=-2)",
    ),
    "flipped kernel in the matrix": (
        "01_weighted_sums",
        "weighted_sum.py",
        'torch.einsum("...a,aij->...ij", weight, reads[0])',
        'torch.einsum("...a,aij->...ij", weight.flip(-1), reads[0])',
    ),
    "flipped kernel in the loop": (
        "02_depthwise_convolution",
        "convolution.py",
        "weight[:, a, b] * x_j",
        "weight[:, -1 - a, -1 - b] * x_j",
    ),
    "flipped sign of the bias": (
        "05_pre_and_post_normalization",
        "attention.py",
        "(logits + bias).softmax(-1) if form",
        "(logits - bias).softmax(-1) if form",
    ),
}


def nbval(chapter: str, package: Path) -> subprocess.CompletedProcess:
    """Strict nbval on ``chapter`` with the package of the folder ``package``."""
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--color=no"]
    return subprocess.run(
        [*command, f"chapters/{chapter}.ipynb"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip


def copy_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "coatnet_mini", folder / "coatnet_mini", ignore=ignored))


@pytest.mark.parametrize("chapter", sorted({chapter for chapter, *_ in MISTAKES.values()}))
def test_unchanged_copy_passes(chapter, tmp_path):
    copy_package(tmp_path)
    run = nbval(chapter, tmp_path)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_noticed(mistake, tmp_path):
    chapter, module, right, wrong = MISTAKES[mistake]
    path = copy_package(tmp_path) / module
    source = path.read_text(encoding="utf-8")
    assert source.count(right) == 1, f"{module} no longer reads {right}: update this test"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    run = nbval(chapter, tmp_path)
    assert run.returncode == 1
    assert "Cell outputs differ" in run.stdout or "Explorable figures differ" in run.stdout
