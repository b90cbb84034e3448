"""`make gpu`: every part at toy size on the CPU, and what one that fails leaves of the others."""

import json
import sys
import time

import pytest

from benchmarks import gpu
from tests import ROOT

MODULES = {
    "good": """
def run(job):
    job.row("a", one=1.5, wrong="not this")
    job.row("a", wrong=None, two=2)
    job.row("b", one=2_000)
    job.note("a note")
""",
    "raises": """
def run(job):
    job.row("found before", value=1)
    raise ArithmeticError("it broke\\nin two lines")
""",
    "hangs": """
import subprocess, sys, time
def run(job):
    job.row("found before", value=1)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(600)
""",
    "dies": """
import os, signal
def run(job):
    os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Makes modules of the texts above `make gpu`'s parts; each has so many seconds' share."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def of(**shares):
        for name in shares:
            (tmp_path / f"part_{name}.py").write_text(MODULES[name])
        monkeypatch.setattr(gpu, "PARTS", {n: (f"part_{n}", s) for n, s in shares.items()})
        return tmp_path / "results"

    return of


def run(folder, *flags):
    code = gpu.main(["--toy", "--output", str(folder), *flags])
    return code, json.loads((folder / "gpu.json").read_text())


def toy(name: str, folder) -> list[dict]:
    """The rows of a part at toy size, after a look at all that is written beside them."""
    code, results = run(folder, "--only", name, "--minutes", "9")
    part = results[name]
    assert "error" not in part, part["error"]
    assert (code, part["state"]) == (0, "done")
    assert part["device"] == "a CPU, at toy size: no number means anything"
    assert {"python", "torch", "numpy", "safetensors"} <= part["versions"].keys()
    assert part["command"].startswith("python3 -m benchmarks.gpu --toy --output ")
    assert part["commit"] and part["date"].startswith("20") and part["seconds"] > 0
    assert all("error" not in row for row in part["rows"])
    assert (folder / "gpu.md").read_text().startswith(f"## {name}: done, ")
    return part["rows"]


def notes(folder, name: str) -> list[str]:
    return json.loads((folder / "gpu.json").read_text())[name]["notes"]


def test_these_are_all_the_parts():
    assert list(gpu.PARTS) == ["logits", "speed", "resumed", "paper", "studies"]
    assert sum(share for _, share in gpu.PARTS.values()) == pytest.approx(1)


def test_logits_are_those_of_float64_within_rounding(tmp_path):
    rows = toy("logits", tmp_path)
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["cpu_error"] < 1e-5 and 0 < row["device_error"] < 1e-5
        assert row["below_limit"] and row["logits_std"] > 0.1


def test_speed_sets_timm_beside_ours(tmp_path):
    training, compiled = toy("speed", tmp_path)
    assert training["timm/ours"] == pytest.approx(training["timm_ms"] / training["ours_ms"])
    assert min(training["timm_peak_gb"], training["ours_peak_gb"]) > 0
    assert training["batch"] == 2 and "without_timm" not in training
    assert compiled["without_timm"] == "it has none" and compiled["name"].endswith("compiled")
    rate = float(notes(tmp_path, "speed")[0].split()[-2]) * 1e12
    operations = 6 * 361e6  # coatnet_0 at 64×64: 2 × 3 passes × multiply-adds, about
    share = operations * training["images_per_second"] / rate
    assert training["share_of_matmul"] == pytest.approx(share, rel=0.02)


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path):
    (row,) = toy("resumed", tmp_path)
    assert row["loop"] == "the training command's" and row["steps"] == 24
    assert row["resumed_at"] % 5 == 0 and row["killed_after"] > row["resumed_at"] > 0
    assert row["steps_compared"] == row["killed_after"] - row["resumed_at"]
    assert row["largest_loss_difference"] == 0


def test_the_papers_recipe_says_what_300_epochs_take(tmp_path):
    (row,) = toy("paper", tmp_path)
    hours = 300 * 1_281_167 / row["images_per_second"] / 3600
    assert row["hours_for_300_epochs"] == pytest.approx(hours)
    assert (row["steps"], row["batch"], row["parts"]) == (3, 16, 2)


def test_studies_finish_runs(tmp_path):
    assert len(toy("studies", tmp_path)) == 2
    assert "bias: 2 of 2 runs are finished." in notes(tmp_path, "studies")


def test_a_part_that_fails_costs_only_itself(parts, capsys):
    folder = parts(raises=1, hangs=0.3, dies=1, good=1)
    start = time.monotonic()
    code, results = run(folder, "--minutes", "1")
    assert code == 1 and time.monotonic() - start < 60
    assert results["raises"]["state"] == "failed (1)"
    assert results["raises"]["error"] == "ArithmeticError: it broke in two lines"
    assert results["hangs"]["state"].startswith("killed after ")
    for name in ("raises", "hangs"):
        assert results[name]["rows"] == [{"name": "found before", "value": 1}]
    assert results["dies"]["state"] == "failed (-9)"
    assert results["good"]["state"] == "done"
    assert results["good"]["rows"] == [
        {"name": "a", "one": 1.5, "wrong": None, "two": 2},
        {"name": "b", "one": 2000},
    ]
    text = (folder / "gpu.md").read_text()
    assert "| a | 1.5 |  | 2 |" in text and "| b | 2,000 |  |  |" in text and "a note" in text
    assert "ArithmeticError: it broke" in capsys.readouterr().out


def test_one_part_keeps_the_others_results(parts):
    folder = parts(good=1, raises=1)
    run(folder, "--minutes", "1")
    before = json.loads((folder / "gpu.json").read_text())
    (folder.parent / "part_raises.py").write_text(MODULES["good"])
    code, results = run(folder, "--only", "raises", "--minutes", "1")
    assert code == 0 and results["good"] == before["good"]
    assert results["raises"]["state"] == "done" and "error" not in results["raises"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "sleep", "--toy"], "unknown part 'sleep'; choose from logits, speed, resumed"),
        (["--minutes", "0", "--toy"], "minutes is 0; it must be above 0"),
        (["--minutes", "nan", "--toy"], "minutes is nan; it must be above 0"),
        (["--minutes", "x"], "argument --minutes: invalid float value: 'x'"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--toy", "--output", "benchmarks/results"], "--output cannot be benchmarks/results"),
        ([], "no CUDA device here"),
    ],
)
def test_wrong_arguments_get_one_line(flags, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(flags) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and not captured.out


def test_damaged_results_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "gpu.json").write_text("{")
    assert gpu.main(["--toy", "--output", str(tmp_path)]) == 1
    assert "cannot read" in capsys.readouterr().err
    assert (tmp_path / "gpu.json").read_text() == "{"


def test_missing_packages_are_named(monkeypatch):
    from benchmarks.gpu_parts.job import missing

    assert missing("coatnet_mini.train.recipe") is None
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "coatnet_mini.train.machine", raising=False)
    assert missing("coatnet_mini.train.recipe", "coatnet_mini.train.machine") == "accelerate"
