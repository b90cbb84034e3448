"""What chapters 5 and 6 claim is shown by cells that would print something else were it false.

Each line makes one claim false, by a mistake in a copy of the package, and names cells that must
notice. (That any such mistake fails strict nbval is the business of test_mutation.py; here it is
the cell beside the claim that has to fail.)
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIVE, SIX = "05_pre_and_post_normalization", "06_relative_bias"

PRE = '(logits + bias).softmax(-1) if form == "pre"'
POST = "else logits.softmax(-1) + bias"
CLAIMS = {
    "pre multiplies and its rows sum to one": (
        FIVE,
        "attention.py",
        PRE,
        'logits.softmax(-1) * bias.exp() if form == "pre"',
        {"ch05-equal", "ch05-matrices", "ch05-pre", "ch05-hull", "ch05-limits"},
    ),
    "the prior favours i − j, and content overrules it": (
        FIVE,
        "attention.py",
        PRE,
        '(logits - bias).softmax(-1) if form == "pre"',
        {"ch05-equal", "ch05-pre", "ch05-prior", "ch05-overrule", "ch05-limits"},
    ),
    "post adds and is not renormalised": (
        FIVE,
        "attention.py",
        POST,
        "else (logits.softmax(-1) + bias).softmax(-1)",
        {"ch05-equal", "ch05-matrices", "ch05-post", "ch05-hull", "ch05-overrule", "ch05-limits"},
    ),
    "nothing in the content silences post's kernel": (
        FIVE,
        "attention.py",
        POST,
        "else logits.softmax(-1) * (1 + bias)",
        {"ch05-equal", "ch05-post", "ch05-overrule", "ch05-limits", "ch05-gradient-content"},
    ),
    "the kernel is read at i − j": (
        FIVE,
        "attention.py",
        "windows.flip(-4, -3)",
        "windows.flip(-2, -1)",
        {"ch05-equal", "ch05-post", "ch05-gradient"},
    ),
    "post is attention plus a depthwise convolution": (
        FIVE,
        "convolution.py",
        "F.conv2d(x, weight[:, None]",
        "F.conv2d(x, weight.flip(-2, -1)[:, None]",
        {"ch05-post"},
    ),
    "the gradient of pre is (5.8)": (
        FIVE,
        "attention.py",
        PRE,
        '(logits + 2 * bias - bias.detach()).softmax(-1) if form == "pre"',
        {"ch05-gradient", "ch05-gradient-content"},
    ),
    "the gradient of post is (5.7)": (
        FIVE,
        "attention.py",
        POST,
        "else logits.softmax(-1) + 2 * bias - bias.detach()",
        {"ch05-gradient", "ch05-gradient-content"},
    ),
    "only post needs a second product": (
        FIVE,
        "attention.py",
        'if self.form == "post":',
        'if self.form != "none":',
        {"ch05-cost"},
    ),
    "one scalar per offset and head": (
        FIVE,
        "attention.py",
        "torch.zeros(self.heads, 2 * H - 1, 2 * W - 1)",
        "torch.zeros(1, 2 * H - 1, 2 * W - 1)",
        {"ch05-cost"},
    ),
    "the bias is not scaled": (
        FIVE,
        "attention.py",
        PRE,
        '(logits + bias * scale).softmax(-1) if form == "pre"',
        {"ch05-prior", "ch05-limits", "ch05-pitfall-scale"},
    ),
    "a row of the table has 2W − 1 cells": (
        SIX,
        "attention.py",
        "* (2 * W - 1) + (x[:, None]",
        "* (2 * H - 1) + (x[:, None]",
        {"ch06-equal", "ch06-pairs", "ch06-shared"},
    ),
    "the table is read at query − key": (
        SIX,
        "attention.py",
        "windows.flip(-4, -3)",
        "windows.flip(-2, -1)",
        {"ch06-equal", "ch06-heads", "ch06-pitfall-flip"},
    ),
    "every head has its table": (
        SIX,
        "attention.py",
        "torch.zeros(self.heads, 2 * H - 1, 2 * W - 1)",
        "torch.zeros(1, 2 * H - 1, 2 * W - 1)",
        {"ch06-cost"},
    ),
    "tables are resized with half-pixel centres": (
        SIX,
        "attention.py",
        'mode="bilinear", align_corners=False',
        'mode="bilinear", align_corners=True',
        {"ch06-resize", "ch06-resize-heads"},
    ),
    "a layer resizes what it loads": (
        SIX,
        "attention.py",
        "state_dict[key] = resize_table(table, *self.grid)",
        "state_dict[key] = resize_table(table, *self.grid).flip(-1)",
        {"ch06-load"},
    ),
}


def copy_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "coatnet_mini", folder / "coatnet_mini", ignore=ignored))


@pytest.fixture(scope="module")
def noticed(tmp_path_factory) -> dict[str, set[str]]:
    """For each claim, and each chapter with the package as it is: the cells that differ."""
    runs = {}
    for claim, (chapter, module, right, wrong, expected) in CLAIMS.items():
        folder = tmp_path_factory.mktemp("copy")
        path = copy_package(folder) / module
        source = path.read_text(encoding="utf-8")
        assert source.count(right) == 1, f"{module} no longer reads {right}: update this test"
        path.write_text(source.replace(right, wrong), encoding="utf-8")
        runs[claim] = (chapter, str(folder), sorted(expected))
    for chapter in (FIVE, SIX):
        folder = tmp_path_factory.mktemp("copy")
        copy_package(folder)
        runs[chapter] = (chapter, str(folder), [])
    script = str(ROOT / "tests" / "chapter_cells.py")
    run = subprocess.run(
        [sys.executable, script, json.dumps(list(runs.values()))],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    return {name: set(cells) for name, cells in zip(runs, found, strict=True)}


@pytest.mark.parametrize("chapter", [FIVE, SIX])
def test_right_package_changes_nothing(chapter, noticed):
    assert noticed[chapter] == set()


@pytest.mark.parametrize("claim", CLAIMS)
def test_false_claim_is_noticed_where_it_is_made(claim, noticed):
    expected = CLAIMS[claim][-1]
    assert expected <= noticed[claim], f"only {sorted(noticed[claim])} differ"
