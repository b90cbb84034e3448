"""The soak: each kind of end is told from the others, and a seed draws the same trials."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from coatnet_mini import checkpoint
from coatnet_mini.train import __main__ as train
from tools import mutants, soak

# ---- One trial


def end(how: str) -> str:
    if how == "raise":
        raise RuntimeError("two\nlines")
    if how == "sleep":
        time.sleep(60)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "leave":
        sys.exit(3)
    print("not to be seen")
    return how


@pytest.mark.parametrize(
    "how, outcome, seconds",
    [
        ("done", "done", 30),
        ("refused in one line", "refused in one line", 30),
        ("raise", "traceback: RuntimeError: two lines", 30),
        ("leave", "traceback: SystemExit: 3", 30),
        ("die", "died with exit code -9", 30),
        ("sleep", "hang", 0.3),
    ],
)
def test_a_trial_tells_how_it_ended(how, outcome, seconds, capfd):
    assert soak.trial(end, how, seconds=seconds) == outcome
    assert capfd.readouterr().out == ""


def test_a_process_that_has_answered_and_does_not_end_hangs():
    def answer_and_stay():
        import threading

        threading.Thread(target=time.sleep, args=(60,)).start()
        return "done"

    assert soak.trial(answer_and_stay, seconds=0.5) == "hang"


def said(code, *lines):
    """Stands for the training command."""

    def main(arguments):
        for line in lines:
            print(line, file=sys.stderr)
        if code is None:
            raise SystemExit(2)
        return code

    return main


@pytest.mark.parametrize(
    "main, outcome",
    [
        (said(0, "step: 100%|###| 2/2"), "done"),
        (said(1, "step:  50%|#  | 1/2", "error: lr is 0"), "refused in one line"),
        (said(1, "error: lr", "is 0"), "code 1, 2 lines: error: lr | is 0"),
        (said(1, "Warning: lr", "error: lr is 0"), "code 1, 2 lines: Warning: lr | error: lr is 0"),
        (said(1), "code 1, 0 lines: "),
        (said(130, "stopped at once"), "code 130, 1 lines: stopped at once"),
        (said(None, "usage: ..."), "usage shown"),
    ],
)
def test_a_command_is_refused_by_one_line_alone(main, outcome, monkeypatch):
    monkeypatch.setattr(train, "main", main)
    assert soak.command([]) == outcome


def test_a_network_is_refused_by_one_line_alone(tmp_path, monkeypatch):
    assert soak.stored_network(checkpoint.SHIPPED / "digits") == "done"
    assert soak.stored_network(tmp_path) == "refused in one line"

    def raises(error):
        def load(folder):
            raise error

        return load

    monkeypatch.setattr(checkpoint, "load", raises(ValueError("one\ntwo")))
    assert soak.stored_network(tmp_path) == "many lines: one\ntwo"
    monkeypatch.setattr(checkpoint, "load", raises(KeyError("stages")))
    assert soak.trial(soak.stored_network, tmp_path) == "traceback: KeyError: 'stages'"


# ---- The four


def run_of(steps: int, loses: str = "", ends: int = 0):
    """Stands for a training run that takes up what it has and appends a line each 20 ms."""

    def main(arguments):
        folder = Path(arguments[arguments.index("--output") + 1])
        (folder / "network").mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        done = path.read_text() if path.exists() else ""
        if done and loses == "metrics":
            done += "twice\n"
        for step in range(done.count("\n"), steps):
            time.sleep(0.02)
            done += f"{step}\n"
            new = folder / "new"
            new.write_text(done)
            new.replace(path)
        weights = "of a resumed run" if loses == "weights" and "--resume" in arguments else "whole"
        (folder / "network" / "model.safetensors").write_text(weights)
        if "--resume" in arguments and ends:
            print("error: no", file=sys.stderr)
            return ends
        return 0

    return main


@pytest.mark.parametrize(
    "main, outcome",
    [
        (run_of(20), "done"),
        (run_of(20, loses="weights"), "network/model.safetensors differs"),
        (run_of(20, loses="metrics"), "metrics.jsonl differs"),
        (run_of(20, ends=1), "not done: refused in one line"),
        (said(1, "error: no"), "not done: refused in one line"),
    ],
)
def test_a_killed_run_that_differs_is_noticed(main, outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "main", main)
    found, what = soak.kills(random.Random(5), tmp_path)
    assert found == outcome
    assert main.__qualname__.startswith("said") or int(what.split()[2]) > 0, what


def test_a_resumed_run_that_never_ends_hangs(tmp_path, monkeypatch):
    def main(arguments):
        if "--resume" in arguments:
            time.sleep(60)
        return 0

    monkeypatch.setattr(train, "main", main)
    monkeypatch.setattr(soak.trial, "__kwdefaults__", {"seconds": 0.3})
    found, what = soak.kills(random.Random(1), tmp_path)
    assert found == "hang" and what.endswith(f", {soak.KILLS} kills")


def test_commands_hand_the_training_command_what_they_say(tmp_path, monkeypatch):
    seen = []

    def note(work, arguments):
        seen.append((arguments, Path.cwd()))
        return "done"

    monkeypatch.setattr(soak, "trial", note)
    for n in range(800):
        folder = tmp_path / str(n)
        folder.mkdir()
        outcome, what = soak.commands(random.Random(n), folder)
        arguments, here = seen[-1]
        assert outcome == "done" and what in " ".join(map(repr, arguments))
        assert arguments[0] == "digits" and arguments[-2:] == ["--output", str(folder / "run")]
        assert here.parent.parent == folder  # so that the value ../.. is nobody's folder
    flags = [argument for arguments, _ in seen for argument in arguments[:-2]]
    assert {"--lr", "--options", "--data", "--image-size"} < set(flags)
    assert set(soak.HOSTILE) | set(soak.HOSTILE_OPTIONS) <= set(flags)
    assert not {"--output", "--resume"} & set(flags)
    assert ("--steps", "1e300") in pairwise(flags) and soak.LASTS not in pairwise(flags)


def test_networks_are_damaged_copies(tmp_path, monkeypatch):
    shipped = checkpoint.SHIPPED / "digits"
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    kinds = Counter()

    def compare(work, copy):
        files = {path.name: path.read_bytes() for path in copy.iterdir()}
        assert files.keys() == before.keys()
        kinds.update(name for name in files if files[name] != before[name])
        return "done"

    monkeypatch.setattr(soak, "trial", compare)
    for n in range(40):
        (tmp_path / str(n)).mkdir()
        _, what = soak.networks(random.Random(n), tmp_path / str(n))
        assert what.startswith(("config.json: ", "weights cut at ", "weights: byte "))
    assert kinds.keys() == {"config.json", "model.safetensors"} and min(kinds.values()) > 5
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before


def test_a_damaged_network_is_tried_for_good(tmp_path):
    (tmp_path / "a").mkdir()
    outcome, what = soak.networks(random.Random(0), tmp_path / "a")
    assert outcome in soak.GOOD, (outcome, what)
    config = json.loads((tmp_path / "a" / "network" / "config.json").read_text())
    assert config["family"]


def test_mutants_are_of_modules_with_tests_of_their_name(tmp_path, monkeypatch):
    for name in ("attention", "lonely"):
        path = tmp_path / mutants.PACKAGE / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_attention.py").write_text("")
    measured, results = [], iter(["killed", "in time", "survived"])
    monkeypatch.setattr(mutants, "measure", lambda tree, files: measured.append(files) or {})
    monkeypatch.setattr(mutants, "attempt", lambda tree, mutation, measured: next(results))
    work = soak.Mutants(tmp_path)
    found = [work(random.Random(n), tmp_path) for n in range(3)]
    assert [outcome for outcome, _ in found] == ["done", "done", "survived"]
    assert {what for _, what in found} == {
        f"{mutants.PACKAGE}/attention.py:2: {change}"
        for change in ("x + 1 → None", "+ → -", "1 → 2")
    }
    assert measured == [["tests/test_attention.py"]]

    def fails(tree, files):
        sys.exit("the tests fail without any mutation: see log")

    monkeypatch.setattr(mutants, "measure", fails)
    outcome, what = work(random.Random(3), tmp_path)
    assert outcome.startswith("the tests fail without") and what == "attention"


# ---- All of them


def draws(outcomes):
    """A kind of trial that draws a number, and ends in one after another of `outcomes`."""
    drawn = []

    def work(rng, folder):
        assert folder.is_dir() and not any(folder.iterdir())
        (folder / "left").write_text("")
        drawn.append(rng.random())
        time.sleep(0.01)
        return outcomes[(len(drawn) - 1) % len(outcomes)], f"trial {len(drawn)}"

    work.drawn = drawn
    return work


def test_a_seed_gives_the_same_trials_and_another_others():
    drawn = []
    for name, seed, seconds in [("a", 1, 0.5), ("a", 1, 0.6), ("a", 2, 0.1), ("b", 1, 0.1)]:
        work = draws(["done"])
        found = soak.soak(name, work, seconds, seed, pytest.fail)
        assert found == {"done": len(work.drawn)}
        drawn.append(work.drawn)
    common = min(len(drawn[0]), len(drawn[1]))
    assert common > 1 and drawn[0][:common] == drawn[1][:common]
    assert len({numbers[0] for numbers in drawn}) == 3 and len(set(drawn[0])) == len(drawn[0])


def test_what_is_not_good_is_told_and_counted(monkeypatch):
    outcomes = [*soak.GOOD, "survived", "hang", "traceback: X", "died with exit code -6"]
    told, moments = [], iter([0.0, *[0.5] * 7, 2.0])
    monkeypatch.setattr(soak.time, "monotonic", lambda: next(moments))
    found = soak.soak("a", draws(outcomes), 1, 1, told.append)
    assert told == [f"{outcomes[n - 1]}   trial {n}" for n in (4, 5, 6, 7)]
    assert found == {**dict.fromkeys(soak.COLUMNS, 1), "other": 2}
    header, line = soak.table({"kills": found}).splitlines()
    assert header.split()[0] == "tried" and line.split() == ["kills", *"7111112"]
    for column, count in found.items():  # each number ends where its column's name does
        assert line[: header.index(column) + len(column)].endswith(f" {count}")


@pytest.mark.parametrize(
    "outcome, code", [("done", 0), ("usage shown", 0), ("survived", 0), ("hang", 1), ("lost", 1)]
)
def test_exit_codes(outcome, code, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(soak.KINDS, "kills", draws([outcome]))
    monkeypatch.setitem(soak.KINDS, "commands", draws(["done"]))
    assert soak.main(["0.001", "3", "kills", "commands"]) == code
    out = capsys.readouterr().out
    assert "kills, seed 3 ...\n" in out and "networks" not in out
    assert (f"  {outcome}   trial 1\n" in out) == (outcome not in soak.GOOD)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_arguments(capsys):
    assert soak.read_arguments([]) == (10, 1, list(soak.KINDS))
    assert soak.read_arguments(["0.5", "7", "mutants"]) == (0.5, 7, ["mutants"])
    for wrong in (["kilss"], ["1", "1.5"], ["0"], ["nan"], ["inf"], ["-1"], ["²"], ["1", "2", "3"]):
        assert soak.main(wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert f"{' '.join(wrong)!r} is not MINUTES SEED" in error and "kills, commands" in error
