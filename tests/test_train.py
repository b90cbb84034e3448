"""The training command: end to end, killed and resumed, on two processes, and its arithmetic."""

import copy
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from coatnet_mini import create_model
from coatnet_mini.checkpoint import load, read_training
from coatnet_mini.images import digit_images, normalize
from coatnet_mini.train import run
from coatnet_mini.train.__main__ import main
from coatnet_mini.train.augment import Augment, mixup, one_hot
from coatnet_mini.train.checkpoint import last_run, read_state, runs, save_run, step_of
from coatnet_mini.train.learner import Learner, seed_step
from coatnet_mini.train.log import Metrics
from coatnet_mini.train.machine import LOCK, locked, signals
from coatnet_mini.train.optimization import (
    learning_rate,
    make_ema,
    make_optimizer,
    make_schedule,
    parameter_groups,
)
from coatnet_mini.train.recipe import FREE, PRESETS, Recipe, differences, drop_path_of
from coatnet_mini.train.run import all_finite
from tests.image_files import damage, write_folder, write_parquet

TINY = [
    *("--image-size", "8", "--device", "cpu", "--no-tensorboard", "--batch-size", "16"),
    *("--log-every", "1"),
]
STAGES = 'stages=[["S",1,8,1],["C",1,8,2],["C",1,8,2],["T",1,32,1],["T",1,32,2]]'
SMALL = ["--options", STAGES]  # of 26,000 parameters
STILL = ["--drop-path", "0", "--rotate", "0", "--translate", "0", "--zoom", "0"]
EVERYTHING = [
    *("--drop-path", "0.2", "--rand-augment-layers", "2", "--mixup", "0.4", "--ema", "0.9"),
    *("--crop-scale", "0.5", "--flip", "--accumulate", "2"),
]


def train(folder, *flags, preset="digits", code=0):
    """Run the command in this process; returns its metrics, one dict a line."""
    few = [] if "--data" in flags else ["--train-images", "96"]
    flags = [*TINY, *SMALL, *few, "--output", str(folder), *map(str, flags)]
    assert main([preset, *flags]) == code
    return read_metrics(folder)


def read_metrics(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start(folder, *flags, rank=0, processes=1, port=0):
    """The same, in a process of its own, which has these modules already: the first of `processes`,
    or another, by the variables that torchrun and accelerate set."""

    def run():
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        train(folder, *flags)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def train_on_two(folder, *flags):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(folder, *flags, rank=rank, processes=2, port=port) for rank in (0, 1)]
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    return read_metrics(folder)


def network(folder) -> dict:
    return load_file(folder / "network" / "model.safetensors")


def same(a, b) -> bool:
    """Whether two nested dicts and lists are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def last(folder) -> dict:
    """The state in the last checkpoint of a run, without what may differ: its recipe."""
    _, state = last_run(folder / "checkpoints")
    return {name: value for name, value in state.items() if name != "recipe"}


# ---- End to end


def test_digits_learn_and_the_network_can_be_loaded(tmp_path, capsys):
    flags = ["--train-images", 1198, "--epochs", 2, "--lr", 1e-2, "--ema", 0]
    lines = train(tmp_path / "run", *flags, "--evaluate-every", 50, "--tensorboard")
    table = capsys.readouterr().out
    folder = tmp_path / "run" / "network"
    model, training = load(folder), read_training(folder)
    _, test = digit_images(8)
    with torch.no_grad():
        accuracy = (model(normalize(test.images)).argmax(1) == test.labels).double().mean().item()
    results = training["results"]
    assert results["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert accuracy > 0.6 and f"{accuracy:.2%} of the held-out images" in table
    assert results["loader_share"] < 0.05
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 151))
    assert [line["step"] for line in lines if "accuracy" in line] == [50, 100]
    assert training["classes"] == list("0123456789") and training["recipe"]["seed"] == 0
    assert training["command"].startswith("python -m coatnet_mini.train digits --image-size 8")
    assert training["versions"]["scikit-learn"]
    pixels = test.images.numpy().tobytes() + test.labels.numpy().tobytes()
    assert training["data_sha256"]["test"] == hashlib.sha256(pixels).hexdigest()
    assert model.config.num_classes == 10 and model.config.drop_path == 0


def test_a_run_says_and_keeps_what_it_did(tmp_path, capsys):
    flags = ["--evaluate-every", 1, "--ema", 0.5, "--checkpoint-every", 1, "--drop-path", 0.1]
    lines = train(tmp_path, *flags, "--steps", 2)
    found = next(line for line in lines if "accuracy" in line)
    values = ("accuracy", "test_loss", "ema_accuracy", "ema_test_loss")
    assert list(found) == ["step", *values] and found["step"] == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "on a CPU, MBConv and attention train in their lean forms: the same values",
        "step 1: " + ", ".join(f"{name} {found[name]:.4f}" for name in values),
    ]
    assert said[-1] == f"  stored in         {tmp_path / 'network'}" and len(said) == 2 + 9

    runs(tmp_path / "checkpoints")[-1].unlink()
    train(tmp_path, *flags, "--steps", 2, "--resume")
    path = runs(tmp_path / "checkpoints")[0]
    assert f"resumed at step 1 of 2, from {path}" in capsys.readouterr().out.splitlines()
    training, model = read_training(tmp_path / "network"), load(tmp_path / "network")
    results = training.pop("results")
    for name in ("accuracy", "test_loss", "seconds", "images_per_second", "loader_share"):
        assert results.pop(name) > 0, name
    assert results == {
        **dict(step=2, parameters=sum(p.numel() for p in model.parameters())),
        **dict(train_images=96, test_images=599, corrupt_train_images=0, corrupt_test_images=0),
        **dict(device="cpu", processes=1, threads=1),
    }
    assert training.keys() == {"command", "versions", "data_sha256", *STORED}
    assert training["data_sha256"].keys() == {"train", "test"}
    size = {"num_classes": 10, "image_size": 8, "in_channels": 1}
    assert training["options"] == {**size, **Recipe(options=SMALL[1:]).overrides()}
    assert training["model"] == "coatnet_pico" and training["recipe"]["drop_path"] == 0.1


STORED = ("model", "options", "classes", "recipe")


def test_a_run_without_a_checkpoint_begins_anew(tmp_path, capsys):
    train(tmp_path, "--steps", 1, "--resume")
    said = f"no checkpoint in {tmp_path / 'checkpoints'}: starting from the beginning\n"
    assert said in capsys.readouterr().out


class Bar:
    """What a progress bar is told."""

    told, write = None, print

    def __init__(self, **options):
        Bar.told = {**options, "updates": 0, "losses": []}

    def update(self):
        self.told["updates"] += 1

    def set_postfix(self, loss):
        self.told["losses"].append(loss)

    def close(self):
        self.told["closed"] = True


def test_speed_and_bar_are_those_of_the_steps_it_took(tmp_path, monkeypatch):
    folder, flags = tmp_path / "some" / "where", ["--steps", 6, "--checkpoint-every", 4]
    train(folder, *flags)
    runs(folder / "checkpoints")[-1].unlink()
    monkeypatch.setattr(run, "tqdm", Bar)
    lines = train(folder, *flags, "--resume")
    results = read_training(folder / "network")["results"]
    assert results["images_per_second"] * results["seconds"] == pytest.approx(2 * 16)
    assert Bar.told == {
        **dict(total=6, initial=4, unit="step", disable=None, updates=2, closed=True),
        "losses": [f"{line['loss']:.3f}" for line in lines[4:]],
    }
    train(folder, *flags, "--resume")  # with nothing left to do
    results = read_training(folder / "network")["results"]
    speeds = [results[name] for name in ("seconds", "images_per_second", "loader_share")]
    assert speeds == [0, 0, 0]


def test_overfits_one_batch(tmp_path):
    flags = [*STILL, "--label-smoothing", 0, "--lr", 1e-2, "--ema", 0, "--warmup-steps", 5]
    lines = train(tmp_path, "--train-images", 16, "--steps", 60, *flags)
    assert lines[0]["loss"] > 1.5 and lines[-1]["loss"] < 0.01


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset, tmp_path):
    small = [
        "--data",
        write_folder(tmp_path / "data"),
        "--model",
        "coatnet_pico",
        "--image-size",
        16,
        "--steps",
        2,
        "--precision",
        "no",
        "--channels",
        3,
    ]
    lines = train(tmp_path / "run", *small, preset=preset)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_bf16_channels_and_float16_storage(tmp_path):
    train(tmp_path, "--precision", "bf16", "--steps", 2, "--save-dtype", "float16")
    weights = network(tmp_path)
    assert {w.dtype for w in weights.values()} == {torch.float16, torch.int64}
    model = load(tmp_path / "network")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_compiled_training_is_the_same_training(tmp_path, monkeypatch):
    """Traced by Dynamo and run without a C++ compiler, which would take minutes here."""
    compiled = []

    def compile_eagerly(module):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    eager = train(tmp_path / "eager", "--steps", 3)
    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    lines = train(tmp_path / "compiled", "--steps", 3, "--compile")
    assert len(compiled) == 1
    for a, b in zip(eager, lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
    assert network(tmp_path / "eager").keys() == network(tmp_path / "compiled").keys()


def test_parquet_stream_and_corrupt_images(tmp_path, capsys):
    folder = write_folder(tmp_path / "images")
    names = damage(folder)
    train(tmp_path / "run", "--data", folder, "--channels", 3, "--steps", 4, "--memory", 0)
    out = capsys.readouterr().out
    assert "2 skipped" in out and all(name in out for name in names)
    train(tmp_path / "strict", "--data", folder, "--channels", 3, "--steps", 4, "--strict", code=1)
    assert "cannot read the image" in capsys.readouterr().err
    stream = ["--data", write_parquet(tmp_path / "rows"), "--streaming", "--channels", 3]
    flags = [*stream, "--steps", 4, "--checkpoint-every", 2, "--shuffle-buffer", 10]
    train(tmp_path / "a", *flags)
    kept = runs(tmp_path / "a" / "checkpoints")[0]
    assert step_of(kept) == 2
    (tmp_path / "b" / "checkpoints").mkdir(parents=True)
    shutil.copy(kept, tmp_path / "b" / "checkpoints")
    train(tmp_path / "b", *flags, "--resume")
    assert same(network(tmp_path / "a"), network(tmp_path / "b"))


# ---- Never lose work


def test_killed_and_resumed_is_the_run_that_was_not(tmp_path):
    """A SIGKILL after step 4 and one after step 9; then the same weights and metrics, bit for bit,
    also where a line of the metrics is of steps before and after the kill."""
    flags = [*EVERYTHING, "--steps", 16, "--checkpoint-every", 3, "--evaluate-every", 7]
    flags += ["--log-every", 4]
    whole = train(tmp_path / "whole", *flags)
    folder = tmp_path / "killed"
    for after in (4, 8):
        process = start(folder, *flags, "--resume")
        wait_for_step(folder, after, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert train(folder, *flags, "--resume") == whole
    assert same(network(tmp_path / "whole"), network(folder))
    assert same(last(tmp_path / "whole"), last(folder))


def wait_for_step(folder, step, process):
    path, patience = folder / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < patience and process.is_alive():
        if path.exists() and f'{{"step": {step}, "loss"' in path.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"no step {step}; exit code {process.exitcode}")


@pytest.mark.parametrize(
    ("option", "by"),
    [
        ("num_classes=5", "the data"),
        ("image_size=9", "--image-size"),
        ("in_channels=2", "--channels"),
        ("drop_path=x", "--drop-path"),
    ],
)
def test_what_the_command_sets_itself_is_no_option(option, by):
    with pytest.raises(ValueError, match=f"option '{option}': .* is set by {by}$"):
        Recipe(options=(option,)).check()


@pytest.fixture
def heeded():
    """A shell's & lets its processes ignore SIGINT, and nohup SIGHUP; not in this test."""
    kept = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_saves_first(tmp_path, monkeypatch, heeded, sent):
    flags = [*EVERYTHING, "--steps", "6"]
    whole = train(tmp_path / "whole", *flags)
    learn = Learner.learn

    def interrupted(self, batches, step):
        if step == 3:
            signal.raise_signal(sent)
        return learn(self, batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", interrupted)
        train(tmp_path / "stopped", *flags, code=130)
    assert steps_kept(tmp_path / "stopped") == [4]
    assert train(tmp_path / "stopped", *flags, "--resume") == whole
    assert same(network(tmp_path / "whole"), network(tmp_path / "stopped"))


def test_asked_twice_it_stops_at_once(tmp_path, monkeypatch, heeded, capsys):
    def interrupted(self, batches, step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Learner, "learn", interrupted)
    train(tmp_path, "--steps", 2, code=130)
    assert "stopped at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_stays_ignored(tmp_path):
    """As by nohup, which lets a training go on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals(pytest.fail):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_it_trains_and_leaves_signals_alone(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, tmp_path, "--steps", 1).result()
    assert (tmp_path / "network" / "model.safetensors").is_file()


def test_only_finite_weights_are_kept(tmp_path, capsys):
    flags = ["--lr", 1e30, "--warmup-steps", 0, "--clip-norm", 0, "--checkpoint-every", 1]
    train(tmp_path, *flags, "--steps", 50, "--log-every", 50, code=1)
    error = capsys.readouterr().err
    kept = runs(tmp_path / "checkpoints")
    assert "not all weights are finite at step" in error and error.count("\n") == 1
    assert f"the last good checkpoint is {kept[-1]}" in error
    assert all(all_finite(read_state(path)) for path in kept)
    assert not (tmp_path / "network").exists()


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    with locked(tmp_path):
        train(tmp_path, "--steps", 1, code=1)
    assert f"{tmp_path} is in use by process {os.getpid()} on" in capsys.readouterr().err
    here = {"pid": os.getpid(), "started": 1.0, "host": socket.gethostname()}  # long gone
    (tmp_path / LOCK).write_text(json.dumps({**here, "host": "elsewhere"}))
    train(tmp_path, "--steps", 1, code=1)
    assert "on elsewhere; if it is no more, delete" in capsys.readouterr().err
    (tmp_path / LOCK).write_text("")
    train(tmp_path, "--steps", 1, code=1)
    assert "has just been taken by another run" in capsys.readouterr().err
    (tmp_path / LOCK).write_text(json.dumps(here))
    train(tmp_path, "--steps", 1)
    assert not (tmp_path / LOCK).exists()


WRONG = [None, "x", -1, 3.5, 10**30, [], {}, [1, 2], {"a": 1}, (), torch.zeros(2, 3), math.nan]


def harmed(state: dict, rng: random.Random) -> tuple[dict, list]:
    """A copy of a state with something in it missing or of another type, and where."""
    state, path, place = copy.deepcopy(state), [], None
    value = state
    while not path or (isinstance(value, dict | list) and value and rng.random() < 0.6):
        place = value
        path.append(rng.choice([*value] if isinstance(value, dict) else range(len(value))))
        value = place[path[-1]]
    new = rng.choice([other for other in WRONG if type(other) is not type(value)])
    if isinstance(place, dict) and rng.random() < 0.3:
        del place[path[-1]]
    else:
        place[path[-1]] = new
        path.append(new)
    return state, path


@pytest.mark.parametrize("name, count", [("table", 12), ("stream", 4)])
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    name, count, tmp_path, capfd, recwarn
):
    flags = ["--steps", 2, "--checkpoint-every", 1, "--ema", 0.9, "--batch-size", 8]
    if name == "stream":
        flags += ["--data", write_parquet(tmp_path / "rows"), "--streaming", "--channels", 3]
    train(tmp_path / "run", *flags)
    first = read_state(runs(tmp_path / "run" / "checkpoints")[0])
    rng, cases = random.Random(16), [{"model": 3}, {"processes": []}, {"step": 3}, {"logged": 2}]
    cases += [{"optimizer": {**first["optimizer"], 0: {}}}, {"ema": None}, {"recipe": []}]
    cases = [({**first, **case}, case) for case in cases]
    cases += [harmed(first, rng) for _ in range(count)]
    recwarn.clear()
    for n, (state, what) in enumerate(cases):
        folder = tmp_path / str(n)
        path = save_run(folder / "checkpoints", 1, state)
        capfd.readouterr()
        train(folder, *flags, "--resume", code=1)
        error = capfd.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, (what, error)
        said = (f"checkpoint {path} does not fit this run: ", f"cannot resume {folder}: ")
        assert error.removeprefix("error: ").startswith(said), (what, error)
        assert not (folder / "network").exists() and not recwarn.list


@pytest.mark.parametrize("tensorboard", [True, False])
def test_metrics_after_the_resumed_step_are_dropped_everywhere(tmp_path, tensorboard):
    """In metrics.jsonl and in what TensorBoard shows, as it reads it."""
    first = Metrics(tmp_path, 0, tensorboard)
    for step in range(1, 6):
        first.write(step, {"loss": 1 / step, "lr": step / 8})
    first.close()
    second = Metrics(tmp_path, 3, tensorboard)
    second.write(4, {"loss": 7.0})
    second.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2:] == [{"step": 3, "loss": 1 / 3, "lr": 3 / 8}, {"step": 4, "loss": 7.0}]
    assert (tmp_path / "tensorboard").exists() == tensorboard
    if tensorboard:
        shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        expected = {"loss": [1, 1 / 2, 1 / 3, 7], "lr": [1 / 8, 2 / 8, 3 / 8]}
        assert shown.Tags()["scalars"] == list(expected)
        for name, values in expected.items():
            events = shown.Scalars(name)
            assert [event.step for event in events] == list(range(1, len(values) + 1))
            assert [event.value for event in events] == pytest.approx(values)


def steps_kept(folder) -> list[int]:
    return [step_of(path) for path in runs(folder / "checkpoints")]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(tmp_path, capsys):
    flags = ["--steps", "6", "--checkpoint-every", "2"]
    train(tmp_path, *flags)
    before = network(tmp_path)
    path = runs(tmp_path / "checkpoints")[-1]
    path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    train(tmp_path, *flags, "--resume")
    out = capsys.readouterr().out
    assert f"{path.name} is damaged (its 1,000 bytes are not those that were written)" in out
    assert "resumed at step 4 of 6" in out
    assert same(network(tmp_path), before)


def test_a_full_disk_is_reported_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    save = torch.save

    def full(state, file):
        if state["step"] == 4:
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    train(tmp_path, "--steps", 5, "--checkpoint-every", 2)
    assert "could not write the checkpoint of step 4: [Errno 28]" in capsys.readouterr().out
    assert steps_kept(tmp_path) == [2, 5]


def test_resuming_on_other_data_is_refused_unless_it_is_meant(tmp_path, capsys):
    data, folder = write_folder(tmp_path / "data"), tmp_path / "run"
    flags = ["--data", data, "--channels", 3, "--batch-size", 8, "--resume"]
    train(folder, *flags, "--steps", 4, "--checkpoint-every", 2)
    shutil.copy(data / "train" / "cat" / "1.png", data / "train" / "cat" / "99.png")
    train(folder, *flags, "--steps", 4, code=1)
    error = capsys.readouterr().err
    assert "there were 24 training images; there are 25; --changed-data goes on with it" in error
    train(folder, *flags, "--steps", 4, "--changed-data")
    assert "going on all the same: the data is not what it was" in capsys.readouterr().out
    for split in ("train", "test"):
        shutil.copytree(data / split / "cat", data / split / "fox")
    train(folder, *flags, "--steps", 4, "--changed-data", code=1)
    error = capsys.readouterr().err
    assert "the classes were cat, dog, eel; they are cat, dog, eel, fox" in error
    assert error.count("\n") == 1


def test_resuming_another_recipe_is_refused(tmp_path, capsys):
    train(tmp_path, "--steps", 2)
    train(tmp_path, "--steps", 2, "--resume", "--lr", 0.1, code=1)
    assert "lr was 0.002 and is 0.1" in capsys.readouterr().err
    train(tmp_path, "--steps", 2, code=1)
    assert "already holds a run (checkpoints); go on with --resume" in capsys.readouterr().err
    assert {field.name for field in fields(Recipe)} >= FREE
    assert differences(asdict(Recipe()), Recipe(threads=9, output="x")) == []
    older = {name: value for name, value in asdict(Recipe()).items() if name != "shear"}
    assert differences(older, Recipe()) == ["shear was None and is 0.0"]


# ---- Two processes


def test_two_processes_give_the_loss_curve_of_one(tmp_path):
    """gloo on CPUs. Without BatchNorm, whose statistics are each process's own."""
    flags = [*STILL, *SMALL, "conv_norm=layer", "--steps", 6, "--ema", 0, "--evaluate-every", 3]
    one, two = train(tmp_path / "one", *flags), train_on_two(tmp_path / "two", *flags)
    assert len(one) == len(two) == 7
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert all(a[name] == pytest.approx(b[name], abs=1e-4) for name in a)
    results = [read_training(tmp_path / name / "network")["results"] for name in ("one", "two")]
    assert results[1]["processes"] == 2
    assert results[0]["accuracy"] == pytest.approx(results[1]["accuracy"], abs=1e-2)


def test_two_processes_share_a_stream_and_resume(tmp_path, monkeypatch, capsys):
    data = ["--data", write_parquet(tmp_path / "rows"), "--streaming", "--channels", 3]
    flags = [*data, "--steps", 4, "--batch-size", 8, "--checkpoint-every", 2, *EVERYTHING]
    whole = train_on_two(tmp_path / "whole", *flags)
    step_2 = runs(tmp_path / "whole" / "checkpoints")[0]
    for name in ("resumed", "alone"):
        shutil.copytree(step_2.parent, tmp_path / name / "checkpoints")
        (tmp_path / name / "checkpoints" / runs(step_2.parent)[1].name).unlink()
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", tmp_path / "resumed")
    assert train_on_two(tmp_path / "resumed", *flags, "--resume") == whole
    assert same(network(tmp_path / "whole"), network(tmp_path / "resumed"))
    train(tmp_path / "alone", *flags, "--resume", code=1)
    assert "dealt out among 2 processes and cannot be among 1" in capsys.readouterr().err


# ---- Fine-tuning


def test_finetuning_at_another_size_and_with_other_classes(tmp_path, capsys):
    train(tmp_path / "small", "--steps", 3, "--channels", 3)
    start = [
        "--init-from",
        tmp_path / "small" / "network",
        "--channels",
        3,
        "--steps",
        1,
        "--lr",
        1e-12,
        "--min-lr",
        0,
        "--warmup-steps",
        0,
        "--ema",
        0,
    ]
    train(tmp_path / "larger", *start, "--image-size", 16)
    assert "starts anew" not in capsys.readouterr().out
    before, after = network(tmp_path / "small"), network(tmp_path / "larger")
    key = next(key for key in before if key.endswith("relative_bias_table"))
    assert after[key].shape[1:] == (2 * 4 - 1, 2 * 4 - 1)
    expected = nn.functional.interpolate(before[key][None], (7, 7), mode="bilinear")[0]
    assert torch.allclose(after[key], expected, atol=1e-6)
    folder = write_folder(tmp_path / "data")
    train(tmp_path / "other", *start, "--data", folder)
    source = tmp_path / "small" / "network"
    assert f"{source} has other classes: the classifier starts anew" in capsys.readouterr().out
    other = network(tmp_path / "other")
    assert other["head.classifier.weight"].shape[0] == 3
    for name in ("stages.S0.0.weight", "stages.S3.0.attention.qkv.weight"):
        assert torch.allclose(other[name], before[name], atol=1e-6)


# ---- Bad input: one line, exit code not 0, nothing overwritten


@pytest.mark.parametrize("head_steps", [1, 3, 6])
def test_the_classifier_learns_first_and_a_resumed_run_is_the_same(tmp_path, head_steps):
    flags = [*STILL, "--steps", 6, "--head-steps", head_steps, "--checkpoint-every", 2]
    train(tmp_path, *flags, "--ema", 0, "--weight-decay", 0.5)
    before = network(tmp_path)
    runs(tmp_path / "checkpoints")[-1].write_bytes(b"")  # so that step 4 is the last
    train(tmp_path, *flags, "--ema", 0, "--weight-decay", 0.5, "--resume")
    assert same(network(tmp_path), before)
    torch.manual_seed(0)
    fresh = create_model("coatnet_pico", 10, 8, 1, **dict(Recipe(options=SMALL[1:]).overrides()))
    start = {name: weight for name, weight in fresh.state_dict().items() if name in before}
    moved = {name for name in start if not torch.equal(start[name], before[name])}
    head = {name for name in start if name.startswith("head.classifier.")}
    if head_steps == 6:  # no weight decay and no average of BatchNorm's reaches the rest
        assert moved == head
    else:
        assert moved > head and any("running_mean" in name for name in moved)


def test_errors_in_one_line(tmp_path, capsys):
    train(tmp_path / "pico", "--steps", 1)
    pico = tmp_path / "pico" / "network"
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    broken = tmp_path / "broken"
    shutil.copytree(pico, broken)
    (broken / "model.safetensors").write_bytes(b"cut off")
    images = write_folder(tmp_path / "images")
    cases = [
        (["--data", "./nowhere"], "data './nowhere' is not a folder"),
        (["--init-from", tmp_path / "nowhere"], "is no folder, nor the name of a stored network"),
        (["--init-from", images], "cannot read"),
        (["--init-from", broken], "cannot read"),
        (["--init-from", pico, "--options", "head=tanh"], "do not fit: head."),
        (["--init-from", pico, "--channels", 3], "stages.S0.0.weight is (8, 1, 3, 3) there"),
        (["--model", "coatnet_9"], "unknown model 'coatnet_9'; choose from"),
        (["--options", "head=tan"], "head is 'tan'; choose from linear, tanh"),
        (["--options", "heads=3"], "unknown option 'heads'; choose from"),
        (["--options", "tanh"], "option 'tanh' is not of the form name=value"),
        (["--image-size", 12], "image size 12×12 does not fit"),
        (["--batch-size", 15, "--accumulate", 2], "batch_size 15 cannot be divided"),
        (["--ema", 1], "ema is 1.0; it must be at least 0 and below 1"),
        (["--shear", 90], "shear is 90.0; it must be at least 0 and below 90"),
        (["--lr", 0], "lr is 0.0; it must be above 0"),
        (["--min-lr", 1], "min_lr is 1.0, above the peak lr 0.002"),
        (["--rand-augment-magnitude", 40], "it must be at least 1 and at most 29"),
        (["--streaming"], "streaming is for folders and the hub; digits is made here"),
        (["--train-images", 5000], "train_images is 5000; digits has 1198"),
        (["--lr", 1e30, "--steps", 8, "--warmup-steps", 0, "--clip-norm", 0], "the loss is"),
        (["--epochs", 1e300], "epochs is 1e+300; it must be above 0 and at most 1,000,000"),
        (["--lr", "nan"], "lr is nan; it must be above 0"),
        (["--lr", "inf"], "lr is inf; it must be above 0"),
        (["--crop-ratio", 0.0001], "it must be at least 0.1 and at most 1"),
        (["--image-size", 100_000], "it must be at least 1 and at most 8,192"),
        (["--batch-size", 100_000], "batch_size is 100000, of 96 training images"),
        (["--output", "{foo}"], "output is '{foo}'; only {preset} is filled in"),
        (["--output", "{"], "output is '{'; only {preset} is filled in"),
        (["--output", "~nosuchuser/x"], "output is '~nosuchuser/x': "),
        (["--output", blocked], "File exists"),
    ]
    for flags, message in cases:
        capsys.readouterr()
        train(tmp_path / "new", "--steps", 2, *flags, code=1)
        error = capsys.readouterr().err
        assert message in error, (message, error)
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert not (tmp_path / "new" / "network").exists()
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert blocked.read_text() == "kept"
    assert main(["imagenet22k"]) == 1
    assert "unknown preset 'imagenet22k'; choose from digits" in capsys.readouterr().err


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["imagenet1k", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for field in fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "4096" in text and all(preset in text for preset in PRESETS)


# ---- The recipe's arithmetic


def test_paper_presets_are_table_10():
    paper = dict(
        crop_ratio=0.875,
        rand_augment_layers=2,
        rand_augment_magnitude=15,
        mixup=0.8,
        label_smoothing=0.1,
        epochs=300,
        batch_size=4096,
        lr=1e-3,
        min_lr=1e-5,
        warmup_steps=10_000,
        schedule="cosine",
        weight_decay=0.05,
        clip_norm=1.0,
        ema=0.0,
        image_size=224,
    )
    assert {name: getattr(PRESETS["imagenet1k"], name) for name in paper} == paper
    finetune = paper | dict(
        crop_ratio=1.0,
        epochs=30,
        batch_size=512,
        lr=5e-5,
        min_lr=5e-5,
        warmup_steps=0,
        schedule="constant",
        weight_decay=1e-8,
        ema=0.9999,
        image_size=384,
    )
    assert {name: getattr(PRESETS["finetune"], name) for name in finetune} == finetune
    rates = [drop_path_of(replace(PRESETS["imagenet1k"], model=f"coatnet_{n}")) for n in range(4)]
    assert rates == [0.2, 0.3, 0.5, 0.7]


def test_streaming_needs_steps():
    with pytest.raises(ValueError, match="streaming needs --steps"):
        Recipe(data="some/where", streaming=True).check()
    with pytest.raises(ValueError, match="train_images cannot be told from a stream"):
        Recipe(data="some/where", streaming=True, steps=1, train_images=9).check()


def test_schedule_by_hand():
    recipe = Recipe(lr=1.0, min_lr=0.1, warmup_steps=4)
    rates = [learning_rate(step, 8, recipe) for step in range(8)]
    half = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    low = 0.1 + 0.9 * (1 - math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, half, 0.55, low, 0.1], abs=1e-12)
    linear = [learning_rate(step, 8, replace(recipe, schedule="linear")) for step in range(8)]
    assert linear[3:] == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1], abs=1e-12)
    constant = Recipe(lr=0.5, schedule="constant", warmup_steps=1)
    assert [learning_rate(step, 3, constant) for step in range(3)] == [0.5, 0.5, 0.5]


def test_schedule_drives_the_optimizer_and_resumes():
    recipe = Recipe(lr=0.3, min_lr=0.01, warmup_steps=3, weight_decay=0)
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, 10)
    seen = []
    for _ in range(10):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    for step in range(10):
        assert seen[step] == [pytest.approx(learning_rate(step, 10, recipe), abs=1e-15)] * 2
        resumed = make_schedule(make_optimizer(nn.Linear(2, 2), recipe), recipe, 10, step)
        assert resumed.get_last_lr() == seen[step]


def test_decay_groups_by_name():
    for name in ("coatnet_pico", "vit_rel"):
        model = create_model(name, 10)
        groups = parameter_groups(model, 0.05)
        assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
        ids = [{id(p) for p in group["params"]} for group in groups]
        for key, parameter in model.named_parameters():
            weight = key.endswith("weight") and parameter.ndim >= 2
            assert (id(parameter) in ids[0], id(parameter) in ids[1]) == (weight, not weight), key
        assert sum(map(len, ids)) == len(list(model.parameters()))
        assert any("relative_bias_table" in key for key, _ in model.named_parameters())


def test_undecayed_parameters_stay_and_decayed_shrink():
    model = create_model("coatnet_pico", 10, image_size=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, Recipe(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name.endswith("weight") and p.ndim >= 2 else 1
        assert torch.allclose(p, before[name] * factor, atol=1e-7), name


def test_ema_by_hand():
    layer = nn.BatchNorm1d(2)
    ema = make_ema(layer, 0.75)
    values = [1.0, 3.0, -2.0, 5.0]
    for value in values:
        layer.weight.data.fill_(value)
        layer.running_mean.fill_(10 * value)
        ema.update_parameters(layer)
    expected = values[0]  # the first update copies
    for value in values[1:]:
        expected = 0.75 * expected + 0.25 * value
    assert ema.module.weight.tolist() == pytest.approx([expected] * 2, abs=1e-6)
    assert ema.module.running_mean.tolist() == pytest.approx([10 * expected] * 2, abs=1e-5)


def test_label_smoothing_and_mixup_by_hand():
    images, targets = torch.rand(6, 1, 2, 2), one_hot(torch.arange(6) % 3, 3)
    torch.manual_seed(1)
    mixed, soft = mixup(images, targets, 0.8)
    torch.manual_seed(1)
    share = torch.distributions.Beta(0.8, 0.8).sample()
    other = torch.randperm(6)
    assert 0 < share < 1 and not torch.equal(other, torch.arange(6))
    assert torch.allclose(mixed, share * images + (1 - share) * images[other])
    assert torch.allclose(soft, share * targets + (1 - share) * targets[other])
    logits = torch.randn(6, 3)
    smooth = soft * 0.9 + 0.1 / 3
    loss = nn.functional.cross_entropy(logits, soft, label_smoothing=0.1)
    assert torch.allclose(loss, -(smooth * logits.log_softmax(1)).sum(1).mean())


def test_augmentation_is_off_unless_asked_for_and_reproduces():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(Augment(Recipe())(images), images / 255)
    for flags in (
        dict(flip=True),
        dict(rotate=20.0),
        dict(translate=0.2),
        dict(zoom=0.3),
        dict(shear=20.0),
        dict(crop_scale=0.3),
        dict(rand_augment_layers=2),
    ):
        augment = Augment(Recipe(image_size=16, **flags))
        draws = []
        for seed in (0, 0, 1):
            seed_step(seed, 5, 0, 0)
            draws.append(augment(images))
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2]), flags
        assert draws[0].shape == (4, 3, 16, 16) and 0 <= draws[0].min() <= draws[0].max() <= 1
    flipped = Augment(Recipe(flip=True))(images)
    assert all(
        any(torch.equal(f, i) for i in (image / 255, image.flip(-1) / 255))
        for f, image in zip(flipped, images, strict=True)
    )


def test_a_slant_moves_rows_sideways():
    line = torch.zeros(64, 1, 9, 9, dtype=torch.uint8)
    line[..., 4] = 255
    torch.manual_seed(0)
    slanted = Augment(Recipe(channels=1, image_size=9, shear=20.0))(line)[:, 0]
    assert torch.allclose(slanted.sum(-1), torch.ones(64, 9), atol=1e-4)  # no ink leaves its row
    middles = slanted @ torch.arange(9.0) - 4  # (64, 9): where each row's ink lies
    slopes = middles[:, 0] / -4
    assert torch.allclose(middles, slopes[:, None] * torch.arange(-4, 5), atol=1e-3)
    steepest = torch.tensor(20.0).deg2rad().tan()
    assert 0.8 * steepest < slopes.max() <= steepest and 0.8 * steepest < -slopes.min() <= steepest


def test_grey_images_survive_every_operation_of_rand_augment():
    augment = Augment(Recipe(channels=1, image_size=8, rand_augment_layers=1))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    for seed in range(60):
        torch.manual_seed(seed)
        assert augment(images).shape == (2, 1, 8, 8)
