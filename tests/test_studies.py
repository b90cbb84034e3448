"""The studies: run, stopped, shared by processes, and read again without torch."""

import hashlib
import json
import os
import platform
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import FrozenInstanceError, asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats

from coatnet_mini.checkpoint import save_network
from coatnet_mini.coatnet import CoAtNetConfig, Stage
from coatnet_mini.cost import cost
from coatnet_mini.images import normalize, raw_digits
from coatnet_mini.inside import half_distance
from coatnet_mini.models import create_model
from coatnet_mini.studies import __main__ as command
from coatnet_mini.studies import (
    ablations,
    bias,
    ceit,
    layout,
    list_studies,
    locality,
    recipe,
    resolution,
    student,
    study,
)
from coatnet_mini.studies.__main__ import main, read_arguments, stand_alone
from coatnet_mini.studies.plans import HOW, SCALES, SHOWN, Plan, Planned
from coatnet_mini.studies.results import FOLDER
from coatnet_mini.studies.running import Workplace, device_name, go, row_of, time_limit, write
from coatnet_mini.train import run as engine
from coatnet_mini.train import sources
from coatnet_mini.train.recipe import Recipe
from tests import ROOT

TINY = Recipe(
    image_size=8,
    channels=1,
    train_images=32,
    batch_size=8,
    steps=6,
    evaluate_every=2,
    log_every=2,
    checkpoint_every=2,
    tensorboard=False,
    device="cpu",
    label_smoothing=0.0,
    options=('stages=[["P",1,8,2],["T",1,8,1]]', "head_dim=8"),
)
MOST_BYTES = 200_000
STUDIES = {
    "ablations": ablations,
    "bias": bias,
    "ceit": ceit,
    "layout": layout,
    "locality": locality,
    "recipe": recipe,
    "resolution": resolution,
}


def tiny(runs=4, steps=6) -> Plan:
    planned = tuple(
        Planned({"lr": lr, "seed": seed}, replace(TINY, lr=lr, seed=seed, steps=steps))
        for seed in range(runs // 2)
        for lr in (1e-3, 2e-3)
    )
    return Plan("tiny", "small", "Does it run?", "Nothing.", planned)


def few_digits():
    """As many as the tiny study needs, since encoding all 1,797 takes longer than training."""
    parts = raw_digits()
    return tuple((images[:40], labels[:40], classes) for images, labels, classes in parts)


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(sources, "raw_digits", few_digits)


def rows(folder) -> list[dict]:
    return study("tiny", folder).runs


@pytest.fixture
def worker():
    """Starts processes of their own on the tiny study, which end with the test."""
    started = []

    def start(folder, runs=4, steps=6, launcher=()) -> subprocess.Popen:
        code = (
            "from pathlib import Path; from coatnet_mini.studies.__main__ import stand_alone; "
            "stand_alone(); from coatnet_mini.studies.running import Workplace, go; "
            "from tests.test_studies import few_digits, sources, tiny; "
            "sources.raw_digits = few_digits; "
            f"go(Workplace(tiny({runs}, {steps}), Path({str(folder)!r})), None, print)"
        )
        script = Path(folder).with_suffix(".py")
        script.write_text(code, encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *launcher, str(script)]
        started.append(subprocess.Popen(command, env=environment, text=True, stdout=PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def output(process) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return text


# ---- Running


def test_every_run_leaves_one_row_with_its_provenance(tmp_path):
    said = []
    assert go(Workplace(tiny(), tmp_path), None, said.append)
    found = study("tiny", tmp_path)
    assert found.planned == len(found.runs) == len(said) == 4
    assert [(run["lr"], run["seed"]) for run in found.runs] == [
        (1e-3, 0),
        (2e-3, 0),
        (1e-3, 1),
        (2e-3, 1),
    ]
    for run, line in zip(found.runs, said, strict=True):
        assert run["curves"]["accuracy"]["step"] == [2, 4, 6]
        assert run["curves"]["loss"]["step"] == [2, 4, 6]
        assert run["curves"]["accuracy"]["value"][-1] == run["accuracy"]
        assert run["recipe"].get("lr", 1e-3) == run["lr"] and run["recipe"]["train_images"] == 32
        assert run["versions"]["torch"] and run["device"].startswith("cpu") and not run["resumed"]
        assert f"lr {run['lr']}, seed {run['seed']}" in line
    assert not list((tmp_path / "unfinished").iterdir())


def test_what_a_run_measures_of_its_network_is_kept(tmp_path):
    def width_of(network):
        return {"width": len(load_file(network / "model.safetensors")["head.norm.weight"]) + 1e-9}

    plan = tiny(2)
    measuring = replace(plan.runs[0], measure=width_of)
    go(Workplace(replace(plan, runs=(measuring, plan.runs[1])), tmp_path), None, str)
    with_it, without = study("tiny", tmp_path).runs
    assert with_it["width"] == 8 and "width" not in without


def test_halves_of_a_class_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHAPES_TEST", 32)

    class TexturesOnly(torch.nn.Module):
        def forward(self, images):  # the labels go round: 0, 1, ..., 15, 0, ...
            labels = torch.arange(len(images)) % 16
            return torch.nn.functional.one_hot(labels // 4 * 4, 16)  # says "above" always

    monkeypatch.setattr(layout, "load", lambda network: TexturesOnly())
    assert layout.halves(32, tmp_path) == {"texture": 1.0, "relation": 0.25}


def test_the_layouts_with_the_most_images_tell_the_halves_of_the_class():
    found, most = study("layout"), max(layout.IMAGES["small"])
    for run in found.where(task="shapes", images=most):
        assert max(0, run["texture"] + run["relation"] - 1) - 1e-4 <= run["accuracy"]
        assert run["accuracy"] <= min(run["texture"], run["relation"]) + 1e-4


def test_a_finished_study_does_nothing_again(tmp_path, monkeypatch):
    go(Workplace(tiny(), tmp_path), None, str)
    before = rows(tmp_path)
    monkeypatch.setattr(Workplace, "do", None)
    assert go(Workplace(tiny(), tmp_path), None, str)
    assert rows(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_in_the_middle_it_goes_on_and_ends_the_same(tmp_path, worker, number):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    process = worker(ended, runs=2, steps=40)
    metrics = ended / "unfinished" / "0.001-0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("loss") > 4):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()
    assert not (ended / "tiny.json").exists()
    for folder in (ended, whole):
        assert go(Workplace(tiny(2, 40), folder), None, str)
    assert [run["resumed"] for run in rows(ended)] == [True, False]
    for one, other in zip(rows(ended), rows(whole), strict=True):
        for name in ("accuracy", "test_loss", "curves", "steps"):
            assert one[name] == other[name]


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_time_is_up(before):
    kept = signal.signal(signal.SIGINT, before)  # a shell's & lets its processes ignore it
    try:
        with pytest.raises(KeyboardInterrupt), time_limit(1e-4):
            while True:
                time.sleep(0.01)
        with time_limit(1):
            pass
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, kept)


def test_a_stopped_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise engine.Stopped

    monkeypatch.setattr(Workplace, "do", stop)
    assert main(["bias", "--output", str(tmp_path)]) == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", ["two commands", "accelerate launch"])
def test_two_processes_share_the_runs(tmp_path, worker, launcher):
    if launcher == "two commands":
        both = [worker(tmp_path / "w"), worker(tmp_path / "w")]
        said = [output(process) for process in both]
    else:
        command = (
            "-m",
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            "0",
        )
        said = [output(worker(tmp_path / "w", launcher=command))]
    lines = [line for text in said for line in text.splitlines() if "held-out" in line]
    assert len(lines) == 4  # each run was done once, by one of them
    assert len({line.split("  ")[1].split(":")[0] for line in lines}) == 4
    assert len(rows(tmp_path / "w")) == 4


def test_a_claimed_run_is_left_to_the_other(tmp_path):
    place, (first, second) = Workplace(tiny(2), tmp_path), tiny(2).runs
    with place.claim(first) as mine:
        assert mine
        other = Workplace(tiny(2), tmp_path)
        with other.claim(first) as theirs:
            assert not theirs
        with other.claim(second) as theirs:
            assert theirs
        assert not go(Workplace(tiny(2), tmp_path), None, str)
        assert [run["lr"] for run in rows(tmp_path)] == [2e-3]
    with place.claim(first) as mine:
        assert mine


def test_results_of_another_recipe_are_refused(tmp_path):
    go(Workplace(tiny(2), tmp_path), None, str)
    with pytest.raises(ValueError, match=r"another recipe \(steps\)"):
        go(Workplace(tiny(2, steps=8), tmp_path), None, str)


def test_further_runs_may_depend_on_the_first(tmp_path):
    def more(found):
        best = max(found, key=lambda row: row["accuracy"])
        cell = {"lr": 5e-4, "seed": best["seed"]}
        start = lambda place, folder: place / "networks" / "0.001-0"  # noqa: E731
        return (Planned(cell, replace(TINY, lr=5e-4), start),)

    plan = tiny(2)
    kept = tuple(replace(run, keep=True) for run in plan.runs)
    assert go(Workplace(replace(plan, runs=kept, after=more), tmp_path), None, str)
    assert [run["lr"] for run in rows(tmp_path)] == [1e-3, 2e-3, 5e-4]
    assert study("tiny", tmp_path).planned == 3


def finish(place: Workplace, run: Planned) -> dict:
    """A run that takes no time, in place of `Workplace.do`."""
    row = {**run.cell, "accuracy": 0.125, "seconds": 3.2, "recipe": run.told}
    write(place.folder / "finished" / f"{run.key}.json", row)
    return row


def test_one_line_is_said_after_each_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Workplace, "do", finish)
    said = []
    assert go(Workplace(tiny(2), tmp_path), None, said.append)
    assert said == [
        "1/2  lr 0.001, seed 0: held-out accuracy 12.5% in 3 s",
        "2/2  lr 0.002, seed 0: held-out accuracy 12.5% in 3 s",
    ]
    assert not (tmp_path / "networks").exists()  # no run was asked to keep its own


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
def test_a_run_that_fails_is_named(tmp_path, monkeypatch, kind):
    def fail(*_):
        raise kind("loss is nan")

    monkeypatch.setattr(Workplace, "do", fail)
    with pytest.raises(ValueError, match=r"^lr 0.001, seed 0: loss is nan$"):
        go(Workplace(tiny(2), tmp_path), None, str)


def test_a_row_tells_what_a_run_was_what_came_out_and_how(tmp_path):
    lines = [
        {"step": 2, "loss": 2 / 3},
        {"step": 4, "loss": 0.5, "accuracy": 1 / 3},
        {"step": 6, "loss": 1 / 3},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    results = dict(accuracy=2 / 3, test_loss=1 / 7, step=6, parameters=99, seconds=1.26)
    run = tiny().runs[1]
    row = row_of(run, results | dict(device="cpu", threads=1), tmp_path / "metrics.jsonl", True)
    assert row.pop("versions").keys() >= {"python", "torch"}
    assert abs(datetime.now(UTC) - datetime.fromisoformat(row.pop("finished"))).seconds < 600
    assert row == {
        "lr": 2e-3,
        "seed": 0,
        "accuracy": 0.66667,
        "test_loss": 0.14286,
        "parameters": 99,
        "steps": 6,
        "curves": {
            "accuracy": {"step": [4, 6], "value": [0.33333, 0.66667]},
            "loss": {"step": [2, 4, 6], "value": [0.66667, 0.5, 0.33333]},
        },
        "seconds": 1.3,
        "resumed": True,
        "device": f"cpu, {os.cpu_count()} cores of {platform.machine()}",
        "threads": 1,
        "recipe": run.told,
    }


def test_a_gpu_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    assert device_name("cuda:1") == "the GPU cuda:1"


def test_results_are_text_that_is_read_by_people(tmp_path):
    write(tmp_path / "row.json", {"arm": "größer"})
    assert (tmp_path / "row.json").read_text("utf-8") == '{"arm": "größer"}\n'
    write(tmp_path / "all.json", {"study": "1 → 2", "runs": [{"arm": "größer"}, {"arm": "–"}]})
    lines = '{\n "study": "1 → 2",\n "runs": [\n{"arm": "größer"},\n{"arm": "–"}\n]\n}\n'
    assert (tmp_path / "all.json").read_text("utf-8") == lines
    assert {path.name for path in tmp_path.iterdir()} == {"row.json", "all.json"}


def test_time_is_given_in_minutes_and_its_clock_keeps_no_process_alive(monkeypatch):
    made = []

    class Timer:
        def __init__(self, seconds, *_):
            self.seconds, self.start, self.cancel = seconds, list, list
            made.append(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    with time_limit(2.5):
        pass
    assert (made[0].seconds, made[0].daemon) == (150, True)


# ---- The command


def test_what_is_asked_for_without_options():
    found = vars(read_arguments(["bias"]))
    folder = Path("runs/studies")
    assert found == dict(name="bias", scale="small", minutes=None, output=folder, collect=False)
    assert [read_arguments(["ceit", "--scale", scale]).scale for scale in SCALES] == [*SCALES]
    assert SCALES == ("small", "gpu")


def test_the_command_reads_what_was_typed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies", "color"])
    monkeypatch.delitem(sys.modules, "coatnet_mini.studies.__main__")
    with pytest.raises(SystemExit, match="1"):
        runpy.run_module("coatnet_mini.studies", run_name="__main__")
    assert "unknown study 'color'" in capsys.readouterr().err


def test_a_package_that_is_missing_is_one_line_and_one_of_our_own_a_mistake(monkeypatch, capsys):
    def missing(name):
        def run(chosen):
            raise ModuleNotFoundError(name=name)

        return run

    monkeypatch.setattr(command, "run", missing("tqdm"))
    assert main(["bias"]) == 1
    told = "error: tqdm is not installed; pip install 'coatnet-mini[train]'\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(command, "run", missing("coatnet_mini.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main(["bias"])


def test_what_there_is_is_shown_and_nothing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Workplace, "do", None)
    monkeypatch.setattr(bias, "plan", lambda scale: replace(tiny(), name="bias"))
    folder = tmp_path / "bias_small"
    for run, accuracy in zip(tiny().runs[:3], (0.5, 0.25, 0.75), strict=True):
        row = {**run.cell, "accuracy": accuracy, "recipe": run.told}
        write(Workplace(tiny(), folder).folder / "finished" / f"{run.key}.json", row)
    assert main(["bias", "--collect", "--output", str(tmp_path)]) == 0
    first, pair, single, last = capsys.readouterr().out.splitlines()
    assert "3 of 4 runs" in first and "Student's t" in first
    low, high = stats.ttest_1samp([50, 75], 0).confidence_interval()
    assert f"62.50 [{low:6.2f}, {high:6.2f}]  2 runs  0.001" in pair
    assert single.split() == ["25.00", "1", "runs", "0.002"]
    assert last == f"results in {folder / 'bias.json'}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["color"], "unknown study 'color'; choose from " + ", ".join(STUDIES)),
        (["bias", "--scale", "big"], "unknown scale 'big'; choose from small, gpu"),
        (["bias", "--minutes", "0"], "minutes is 0; it must be above 0"),
        (["bias", "--minutes", "nan"], "minutes is nan; it must be above 0"),
        (["bias", "--minutes", "soon"], "argument --minutes: invalid float value: 'soon'"),
        (["bias", "--fast"], "unrecognized arguments: --fast"),
        ([], "the following arguments are required: name"),
    ],
)
def test_bad_input_is_one_line(arguments, line, capsys):
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["bias", "--output", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Not a directory" in error and error.count("\n") == 1


LAUNCHED = {  # what torch's elastic launch tells its processes, beside LOCAL_RANK
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_each_process_of_a_launcher_stands_alone(monkeypatch):
    for name, value in {
        **LAUNCHED,
        "LOCAL_RANK": "1",
        "CUDA_VISIBLE_DEVICES": "4,6",
    }.items():
        monkeypatch.setenv(name, value)
    stand_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert not {"LOCAL_RANK", *LAUNCHED} & os.environ.keys()
    stand_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("LOCAL_RANK", "3")
    stand_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    for name in ("CUDA_VISIBLE_DEVICES", *LAUNCHED):
        monkeypatch.setenv(name, "5")
    stand_alone()  # no launcher's doing, so that nothing of it is touched
    assert {os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", *LAUNCHED)} == {"5"}


# ---- The plans


def runs_of(plan: Plan) -> list[Planned]:
    """All runs, those that follow from the first ones included."""
    after = plan.after([{**run.cell, "accuracy": 0.5} for run in plan.runs]) if plan.after else ()
    return [*plan.runs, *after]


# Of each planned run all that differs from the training command's own values, threads and log
# included. To change one on purpose, write the new digest here.
DECIDED = {
    ("ablations", "small"): "c0a03ee32906",
    ("ablations", "gpu"): "8b9f5b894d6b",
    ("bias", "small"): "912aa4e9cf6f",
    ("bias", "gpu"): "dcc17f71fab9",
    ("ceit", "small"): "4b90a60692bc",
    ("ceit", "gpu"): "bf955f3a45e9",
    ("layout", "small"): "a5728ba07897",
    ("layout", "gpu"): "b38bc8ad1c5b",
    ("locality", "small"): "d3bd597e8e14",
    ("locality", "gpu"): "b3d7adb3ed35",
    ("recipe", "small"): "ec37f1e2dc34",
    ("recipe", "gpu"): "c3c0f849bcdf",
    ("resolution", "small"): "0cd74e6af0c4",
    ("resolution", "gpu"): "57e848eda48d",
}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_plans_are_as_decided(name, scale):
    """A run on a GPU takes hours: no number of it changes unless somebody means it."""
    runs = runs_of(STUDIES[name].plan(scale))
    usual = asdict(Recipe()).items()
    fields = [(run.cell, dict(asdict(run.recipe).items() - usual)) for run in runs]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    assert digest == DECIDED[name, scale]


@pytest.mark.parametrize("module", STUDIES.values())
@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_plans_are_whole(module, scale):
    plan = module.plan(scale)
    runs = runs_of(plan)
    assert len({run.key for run in runs}) == len(runs) >= 6
    assert len({tuple(run.cell) for run in runs}) == 1
    for run in runs:
        assert list(run.cell)[-1] == "seed" and run.recipe.seed == run.cell["seed"]
        run.recipe.check()
    assert plan.question and plan.piloted
    assert (plan.name, plan.scale) == (module.__name__.rpartition(".")[2], scale)
    with pytest.raises(FrozenInstanceError):
        plan.runs = ()
    with pytest.raises(FrozenInstanceError):
        runs[0].keep = True


def test_how_a_run_is_done_is_no_part_of_what_it_is():
    assert {field.name for field in fields(Recipe)} >= HOW | SHOWN
    usual = Recipe()
    for name in HOW | SHOWN:
        other = replace(usual)
        object.__setattr__(other, name, "another")
        assert Planned({}, other).told == {}
    assert Planned({}, replace(usual, lr=0.5)).told == {"lr": 0.5}


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_the_two_layouts_that_did_best_on_the_most_images_go_on_to_digits(scale, tmp_path):
    plan, most = layout.plan(scale), max(layout.IMAGES[scale])
    points = dict(zip(layout.LAYOUTS, (0.1, 0.3, 0.5, 0.2, 0.4), strict=True))

    def row(cell):
        best = points[cell["layout"]] if cell["images"] == most else 1 - points[cell["layout"]]
        return {**cell, "accuracy": best + 0.01 * cell["seed"]}

    runs = plan.after([row(run.cell) for run in plan.runs])
    told = [tuple(run.cell[name] for name in ("layout", "start", "seed")) for run in runs]
    assert told == [
        (name, start, seed)
        for seed in layout.SEEDS
        for name in ("CCCT", "CTTT")
        for start in ("shapes", "new")
    ]
    kept = {run.key: run for run in plan.runs if run.keep}
    for run in runs:
        assert run.recipe.data == run.cell["task"] == "digits"
        assert (run.start is None) == (run.cell["start"] == "new")
        if run.start:
            stored = run.start(tmp_path, tmp_path / "run")
            trained = kept[stored.name]
            assert stored.parent == tmp_path / "networks"
            assert (trained.cell["layout"], trained.cell["seed"]) == told[runs.index(run)][::2]


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_what_goes_on_from_small_pictures_names_a_network_that_is_kept(scale, tmp_path):
    plan = resolution.plan(scale)
    kept = {run.key: run.cell for run in plan.runs if run.keep}
    seen = set()
    for run in plan.after([]):
        cell, start = run.cell, run.start
        if cell["start"].startswith("new"):
            continue
        name = start.args[0] if isinstance(start, partial) else start(tmp_path, tmp_path).name
        trained = kept[name]
        assert (trained["network"], trained["seed"]) == (cell["network"], cell["seed"])
        assert (trained["augmented"] == "before") == (cell["augmented"] == "both")
        seen.add((cell["network"], cell["start"], cell["augmented"], cell["learns"]))
    assert len(seen) == 4 + 1 + 2 + 3 + 2 + 3  # starts of each network, augmented, that learn


def toy(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        steps=1,
        batch_size=2,
        warmup_steps=0,
        evaluate_every=0,
        device="cpu",
        precision="no",
        train_images=4,
    )


@pytest.mark.parametrize("module", STUDIES.values())
def test_recipes_for_a_gpu_run_at_toy_size(module, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SHAPES_TEST", 16)
    seen = {}
    for run in module.plan("gpu").runs:  # one of each network, and of each arm of `recipe`
        kind = (run.recipe.model, run.recipe.options, run.start is None, run.cell.get("arm"))
        seen.setdefault(kind, run)
    assert len(seen) >= 2
    for n, run in enumerate(seen.values()):
        folder, recipe = tmp_path / str(n), toy(run.recipe)
        if run.start:
            recipe = replace(recipe, init_from=str(run.start(tmp_path, folder)))
        results = engine.Run(recipe, folder).train()
        assert results["step"] == 1 and np.isfinite(results["test_loss"])


@pytest.mark.parametrize("name", resolution.RESIZED)
def test_resized_tables_keep_their_middle_and_their_size(name):
    table = torch.randn(2, 9, 13, dtype=torch.float64)
    resize = resolution.RESIZED[name]
    same, large = resize(table, 5, 7), resize(table, 8, 11)
    assert large.shape == (2, 15, 21) and large.dtype == table.dtype
    middle = torch.zeros(2).double() if name == "zero" else table[:, 4, 6]
    torch.testing.assert_close(large[:, 7, 10], middle)
    torch.testing.assert_close(same, torch.zeros_like(table) if name == "zero" else table)


def test_held_out_accuracy_is_the_share_that_is_right(monkeypatch):
    labels = torch.arange(450) % 10
    test = SimpleNamespace(images=torch.zeros(450, 1, 5, 5, dtype=torch.uint8), labels=labels)
    monkeypatch.setattr(resolution, "digit_images", lambda side: (None, {5: test}[side]))
    said = iter(torch.where(torch.arange(450) % 5 == 0, 10, labels))

    def model(images):
        return torch.nn.functional.one_hot(torch.stack([next(said) for _ in images]), 11)

    assert resolution.accuracy(model, 5) == pytest.approx(0.8)


def test_locality_measures_content_table_and_weights_of_each_layer(tmp_path, monkeypatch):
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    held_out = SimpleNamespace(images=torch.randint(256, (6, 1, 8, 8)).byte(), labels=labels)
    monkeypatch.setattr(locality, "digit_images", lambda side: (None, {8: held_out}[side]))
    stages = (Stage("P", 1, 16, 2), Stage("T", 2, 16, 1))
    config = CoAtNetConfig(stages, head_dim=8, num_classes=10, image_size=8, in_channels=1)
    model = locality.untrained(7, config)
    new = {f"new_{name}": value for name, value in half_distances(model, held_out.images).items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_network(tmp_path / "network", model.state_dict(), config)
    expected = half_distances(model, held_out.images) | new
    with torch.no_grad():
        for layer in locality.tables(model):
            layer.relative_bias_table.zero_()
        right = model(normalize(held_out.images)).argmax(1) == labels
    expected["without_tables"] = right.sum().item() / 6
    assert locality.measured(7, tmp_path / "network") == pytest.approx(expected)


def half_distances(model, images) -> dict[str, float]:
    """Of weights, content and table of each layer, from queries and keys as it gets them."""
    read, found = {}, {}
    layers = locality.tables(model)
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, given: read.update({layer: given[0]}))
    with torch.no_grad():
        model(normalize(images))
        for n, layer in enumerate(layers, 1):
            q, k, _ = layer.heads_of(read[layer])
            scores, table = q @ k.mT / layer.head_dim**0.5, layer.bias()
            kinds = {"weights": scores + table, "content": scores, "table": table}
            for kind, logits in kinds.items():
                away = half_distance(logits.softmax(-1), *layer.grid)
                found[f"{kind}_{n}"] = away.mean().item()
    return found


def test_a_geometric_table_keeps_what_is_near_and_reaches_the_end():
    right = resolution.places(4, 8)[4:]  # 1 + q + q² = 7
    assert right == pytest.approx([1, 3, 7])
    table = torch.randn(1, 7, 7, dtype=torch.float64)
    large = resolution.geometric(table, 8, 8)
    picked = [0, 4, 6, 7, 8, 10, 14]  # where the old offsets lie
    torch.testing.assert_close(large[:, picked][:, :, picked], table)


def test_a_dilated_network_reads_the_larger_picture_as_the_small_one():
    stages = 'stages=[["S",2,8,1],["C",1,8,1],["T",1,16,1]]'
    options = Recipe(options=(stages, "head_dim=16")).overrides()
    torch.manual_seed(0)
    model = create_model("coatnet_pico", 10, 12, 1, **options, relative_bias="none").eval()
    x = torch.randn(2, 1, 6, 6)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        small = model(x)
        assert not torch.allclose(model(doubled), small, atol=1e-4)
        torch.testing.assert_close(resolution.dilate(model)(doubled), small)


def test_what_starts_from_a_network_of_the_study_starts_there(tmp_path, monkeypatch):
    monkeypatch.setattr(resolution, "accuracy", lambda model, side: 0.5)
    first = resolution.digits("hybrid", 5, "new", "never", 0)
    then = [resolution.digits("hybrid", 10, start, "never", 0) for start in ("nearest", "fresh")]
    plan = Plan("tiny", "small", "?", "Nothing.", (replace(first, recipe=toy(first.recipe)),))
    place = Workplace(plan, tmp_path)
    row = place.do(plan.runs[0])
    assert {"5 zero", "10 bilinear", "12 in cells", "10 dilated"} <= row.keys()
    small = load_file(tmp_path / "networks" / first.key / "model.safetensors")
    for run in then:
        large = load_file(run.start(tmp_path, tmp_path / run.key) / "model.safetensors")
        for name, weight in large.items():
            if name.endswith("relative_bias_table"):
                values = set(weight.flatten().tolist())
                assert (values <= set(small[name].flatten().tolist())) == ("nearest" in run.key)
            else:
                assert np.array_equal(weight, small[name])


def test_layouts_cost_the_same():
    def totals(size, **fields):
        options = dict(option.split("=") for option in fields.get("options", ()))
        options = {name: json.loads(value) for name, value in options.items()}
        total = cost(create_model(fields["model"], 16, size, **options))[-1]
        return total.parameters, total.multiply_adds

    for scale, size, most in (("small", 32, 1.05), ("gpu", 128, 1.15)):
        found = [totals(size, **layout.network(scale, name)) for name in layout.LAYOUTS]
        for column in zip(*found, strict=True):
            assert max(column) <= most * min(column), (scale, column)


def test_the_enlarged_table_is_all_that_differs(tmp_path):
    plain, enlarged = (bias.planned("small", form, 300, 3) for form in ("pre", bias.ENLARGED))
    start = enlarged.start(tmp_path, tmp_path / "run")
    still = replace(plain.recipe, train_images=32, steps=1, lr=1e-12, min_lr=0.0)
    engine.Run(still, tmp_path / "a").train()
    engine.Run(replace(still, init_from=str(start)), tmp_path / "b").train()
    a, b = (load_file(tmp_path / name / "network" / "model.safetensors") for name in "ab")
    for name in a:
        factor = bias.TIMES if name.endswith("relative_bias_table") else 1
        np.testing.assert_allclose(b[name], factor * a[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_each_arm_adds_or_leaves_out_what_it_says(scale):
    told = {run.cell["arm"]: run.told for run in recipe.plan(scale).runs if run.cell["seed"] == 4}
    assert set(told) == set(recipe.ARMS) and len(told) == 2 * len(recipe.ADDED) + 2

    def changed(one: str, other: str) -> set[str]:
        a, b = told[one], told[other]
        return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}

    fields = {
        "augmentation": {"rotate", "translate", "zoom"},
        "MixUp": {"mixup"},
        "label smoothing": {"label_smoothing"},
        "stochastic depth": {"drop_path"},
        "weight decay": {"weight_decay"},
        "warm-up": {"warmup_steps"},
        "cosine": {"schedule", "min_lr"},
        "EMA": {"ema"},
        "clipping": {"clip_norm"},
    }
    for name, expected in fields.items():
        assert changed("nothing", name) == expected, name
        assert changed("everything", f"everything but {name}") == expected, name
    assert changed("nothing", "everything") == set().union(*fields.values())


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_each_ablation_changes_one_option(scale):
    told = {run.cell["arm"]: run.recipe for run in ablations.plan(scale).runs}
    assert set(told) == set(ablations.ARMS)
    base = told[ablations.BASE]
    for arm, recipe_ in told.items():
        one, other = (dict(o.split("=", 1) for o in r.options) for r in (recipe_, base))
        changed = {n for n in one.keys() | other.keys() if one.get(n) != other.get(n)}
        assert len(changed) == (arm != ablations.BASE), arm
        assert replace(recipe_, options=base.options, seed=base.seed) == base
        values = {
            name: value if value.isalpha() else json.loads(value) for name, value in one.items()
        }
        create_model(recipe_.model, 16, 32, **values)
    depths = {
        arm: [stage[1] for stage in json.loads(told[arm].options[0].partition("=")[2])]
        for arm in told
    }
    (_, _, S2, S3, _), V1, V2 = (
        depths[arm] for arm in (ablations.BASE, "V1, a block to S3", "V2, a block to S2")
    )
    assert (V1[2], V1[3], V2[2], V2[3]) == (S2 - 1, S3 + 1, S2 + 1, S3 - 1)


def test_the_recipes_grid_is_whole():
    plan = recipe.plan("small")
    cells = [(run.cell["lr"], run.recipe.drop_path) for run in plan.runs if run.cell["seed"] == 0]
    assert set(cells) == set(product(recipe.LRS["small"], recipe.DROP_PATHS))
    for run in plan.runs:
        assert run.cell["drop_path"] == run.recipe.drop_path and run.cell["lr"] == run.recipe.lr
        steady = run.recipe.schedule == "constant"
        assert run.recipe.min_lr == (run.recipe.lr if steady else run.recipe.lr / 100)


@pytest.mark.parametrize(("scale", "most"), [("small", 1.05), ("gpu", 1.08)])
def test_budgets_of_the_arms_of_ceit(scale, most):
    size, channels, classes = {"small": (16, 1, 10), "gpu": (32, 3, 16)}[scale]

    def network(arm):
        fields = ceit.network(scale, arm)
        options = replace(TINY, **fields).overrides()
        return create_model(fields["model"], classes, size, channels, **options)

    models = {arm: network(arm) for arm in ceit.ARMS}
    totals = {arm: cost(model)[-1] for arm, model in models.items()}
    full, wider, coatnet = (totals[arm] for arm in ("CeiT", ceit.WIDER, ceit.COATNET))
    for one, other in (
        (wider.parameters, full.parameters),
        (coatnet.parameters, full.parameters),
        (coatnet.multiply_adds, full.multiply_adds),
    ):
        assert max(one, other) <= most * min(one, other)
    assert totals["DeiT"].multiply_adds < full.multiply_adds < wider.multiply_adds
    for arm, parts in ceit.COMBINATIONS.items():
        config = models[arm].config
        on = (bool(config.i2t_convs), bool(config.leff_kernel), config.lca)
        assert on == tuple(part in parts for part in ceit.PARTS)
    assert len(ceit.COMBINATIONS) == 8


# ---- Reading


def made(values: dict) -> dict:
    """Stored results with these accuracies: {(form, seed): value}."""
    runs = [
        {
            "form": form,
            "images": 300,
            "seed": seed,
            "accuracy": value,
            "seconds": 2.0,
            "curves": {"accuracy": {"step": [1, 2], "value": [value / 2, value]}},
        }
        for (form, seed), value in values.items()
    ]
    return {
        "study": "made",
        "scale": "small",
        "question": "?",
        "piloted": "-",
        "planned": 99,
        "runs": runs,
    }


@pytest.fixture
def four(tmp_path):
    values = {
        ("pre", 1): 0.5,
        ("pre", 0): 0.7,
        ("pre", 2): 0.6,
        ("post", 0): 0.9,
        ("post", 1): 0.65,
        ("post", 2): 0.8,
    }
    (tmp_path / "made.json").write_text(json.dumps(made(values)))
    return study("made", tmp_path)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_students_interval_is_scipys(n, level):
    values = np.random.default_rng(n).normal(3, 2, n)
    ours, theirs = student(values, level), stats.ttest_1samp(values, 0)
    low, high = theirs.confidence_interval(level)
    np.testing.assert_allclose((ours.low, ours.high), (low, high), rtol=1e-12)
    assert ours.mean == pytest.approx(values.mean()) and (ours.n, ours.level) == (n, level)
    assert ours.half == pytest.approx(ours.high - ours.mean) and "Student" in ours.method


def test_students_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1, 3, (4000, 5))
    found = [student(row) for row in draws]
    assert np.mean([i.low <= 1 <= i.high for i in found]) == pytest.approx(0.95, abs=0.01)


def test_intervals_of_cells_and_of_differences(four):
    pre, post = [0.7, 0.5, 0.6], [0.9, 0.65, 0.8]
    assert four.interval(form="pre") == student(pre)
    paired = four.difference({"form": "post"}, {"form": "pre"}, images=300)
    low, high = stats.ttest_rel(post, pre).confidence_interval()
    np.testing.assert_allclose((paired.low, paired.high), (low, high), rtol=1e-12)
    curve = four.curve(form="post")
    assert curve.steps.tolist() == [1, 2] and curve.n == 3
    assert curve.mean[1] == pytest.approx(np.mean(post)) and curve.low[1] < curve.mean[1]
    assert four.columns == ["form", "images", "seed"] and four.values("form") == ["pre", "post"]


@pytest.mark.parametrize(
    ("question", "line"),
    [
        (lambda s: s.interval(from_="pre"), "no column 'from_'; choose from form, images, seed"),
        (lambda s: s.interval(form="mid"), "no run with {'form': 'mid'}; choose from form: pre"),
        (lambda s: s.interval(images=300), "differ in 'form'; choose one of post, pre"),
        (lambda s: s.interval(form="pre", seed=0), "an interval needs at least 2 runs, got 1"),
        (lambda s: s.interval("speed", form="pre"), "no measure 'speed'; choose from accuracy"),
        (lambda s: s.curve("speed", form="pre"), "no curve 'speed'; choose from accuracy"),
        (lambda s: s.interval(form="pre", level=1), "level is 1; it must be above 0 and below 1"),
        (lambda s: s.interval(form="pre", level=0), "level is 0; it must be above 0 and below 1"),
    ],
)
def test_bad_questions_are_one_line(four, question, line):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        question(four)
    assert line in str(error.value)


def test_a_study_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no results of a study 'bios'.*choose from ablations"):
        study("bios")
    with pytest.raises(ValueError, match="choose from none"):
        study("bias", tmp_path)


def test_reading_needs_neither_torch_nor_the_training_command():
    code = (
        "import sys; from coatnet_mini.studies import list_studies, study\n"
        "found = study('bias'); found.interval(form='pre', images=300)\n"
        "assert not {'torch', 'coatnet_mini.train', 'accelerate', 'matplotlib'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# ---- The results that are shipped


@pytest.mark.parametrize("name", list_studies())
def test_shipped_results_are_whole_and_small(name):
    path = FOLDER / f"{name}.json"
    assert path.stat().st_size <= MOST_BYTES
    found = study(name)
    plan = STUDIES[found.name].plan(found.scale)
    runs = list(plan.runs)
    if plan.after and len(found.runs) >= len(runs):
        runs += plan.after(found.runs[: len(runs)])
    assert (found.question, found.piloted) == (plan.question, plan.piloted)
    assert found.planned == len(runs)
    recipes = {run.key: run.told for run in runs}
    keys = ["-".join(str(run[column]) for column in found.columns) for run in found.runs]
    assert len(set(keys)) == len(keys) and set(keys) == set(recipes)  # every run, once
    for key, run in zip(keys, found.runs, strict=True):
        assert run["recipe"] == recipes[key]  # made by the recipe that the code has now
        assert run["versions"].keys() >= {"python", "torch", "numpy"} and run["device"]
        assert 0 <= run["accuracy"] <= 1 and run["seconds"] > 0 and run["parameters"] > 0
        for curve in run["curves"].values():
            assert len(curve["step"]) == len(curve["value"]) > 1
            assert np.isfinite(curve["value"]).all() and curve["step"][-1] == run["steps"]
        assert run["curves"]["accuracy"]["value"][-1] == run["accuracy"]
