"""The recipe and the command around it: bounds, presets, what is said; nothing is trained."""

import runpy
import sys
import warnings
from dataclasses import FrozenInstanceError, asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from math import inf, nan
from pathlib import Path
from typing import get_type_hints

import pytest

from coatnet_mini.checkpoint import read_training
from coatnet_mini.train import __main__ as command
from coatnet_mini.train.recipe import ABOUT, PRESETS, Recipe, drop_path_of
from coatnet_mini.train.run import Stopped

# ---- Bounds

COUNT, STEPS = ((1, 10**9), (0, 10**9 + 1)), ((0, 10**9), (-1, 10**9 + 1))
AMOUNT = ((0, 1e300), (-1e-9, inf, nan))
PART = ((0, 0.999), (-0.001, 1, 1.5, nan))
EDGES = {  # field: values that are allowed, at the edges; values just beyond
    **dict.fromkeys(("num_classes", "train_images", "shuffle_buffer", "steps"), COUNT),
    **dict.fromkeys(("batch_size", "accumulate", "checkpoint_every", "log_every"), COUNT),
    **dict.fromkeys(("head_steps", "warmup_steps", "evaluate_every"), STEPS),
    **dict.fromkeys(("memory", "mixup", "min_lr", "weight_decay", "clip_norm"), AMOUNT),
    **dict.fromkeys(("translate", "zoom", "label_smoothing", "drop_path", "ema"), PART),
    "holdout": ((0.0001, 0.9999), (0, 1)),
    "threads": ((1, 256), (0, 257)),
    "image_size": ((1, 8192), (0, 8193)),
    "crop_scale": ((1e-9, 1), (0, 1.001)),
    "crop_ratio": ((0.1, 1), (0.099, 1.001)),
    "rotate": ((0, 180), (-0.001, 180.001)),
    "shear": ((0, 89.999), (-0.001, 90, 90.5)),
    "rand_augment_layers": ((0, 100), (-1, 101)),
    "rand_augment_magnitude": ((1, 29), (0, 30)),
    "epochs": ((1e-9, 10**6), (0, 10**6 + 1)),
    "lr": ((1e-9, 1e300), (0, -1, inf, nan)),
    "seed": ((0, 2**63 - 1), (-1, 2**63)),
}
ANY = Recipe(schedule="constant")  # in which every rate of learning may stand beside any other


def test_every_number_has_bounds():
    kinds = get_type_hints(Recipe)
    numbers = {f.name for f in fields(Recipe) if kinds[f.name] in (int, float, int | None)}
    assert EDGES.keys() == (numbers | {"drop_path"})


@pytest.mark.parametrize("name", EDGES)
def test_numbers_up_to_their_bounds_are_allowed_and_no_others(name):
    allowed, refused = EDGES[name]
    for value in allowed:
        replace(ANY, **{name: value}).check()
    for value in refused:
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be (at least|above) "):
            replace(ANY, **{name: value}).check()


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(lr=0), "lr is 0; it must be above 0"),
        (dict(memory=-1), "memory is -1; it must be at least 0"),
        (dict(ema=1), "ema is 1; it must be at least 0 and below 1"),
        (dict(crop_scale=0), "crop_scale is 0; it must be above 0 and at most 1"),
        (dict(image_size=9000), "image_size is 9000; it must be at least 1 and at most 8,192"),
        (dict(lr=0.5, min_lr=0.6), "min_lr is 0.6, above the peak lr 0.5"),
        (dict(lr=0.5, min_lr=0.6, schedule="linear"), "min_lr is 0.6, above the peak lr 0.5"),
        (
            dict(streaming=True, steps=1),
            "streaming is for folders and the hub; digits is made here",
        ),
        (
            dict(streaming=True, steps=1, data="shapes"),
            "streaming is for folders and the hub; shapes is made here",
        ),
        (dict(options=("a",)), "option 'a' is not of the form name=value"),
    ],
)
def test_what_no_run_could_use_is_refused_in_these_words(changed, said):
    with pytest.raises(ValueError) as error:
        replace(Recipe(), **changed).check()
    assert str(error.value) == said


def test_what_a_run_can_use_is_allowed():
    for changed in (
        dict(lr=0.5, min_lr=0.5),
        dict(lr=0.5, min_lr=0.6, schedule="constant"),
        dict(streaming=True, steps=1, data="my/photographs"),
        dict(train_images=9, data="my/photographs"),
        dict(options=("head=tanh", "a==")),
    ):
        replace(Recipe(), **changed).check()


def test_a_recipe_is_never_changed_but_replaced():
    with pytest.raises(FrozenInstanceError):
        Recipe().lr = 1.0


def test_options_are_read_as_json_where_they_can_be():
    options = ("head=tanh", "se_ratio=0", "stages=[[1]]", "a=b=c", "empty=", "deep=" + "[" * 10**5)
    expected = dict(head="tanh", se_ratio=0, stages=[[1]], a="b=c", empty="", deep="[" * 10**5)
    assert Recipe(options=options).overrides() == expected


# ---- Presets

PAPER = dict(model="coatnet_0", crop_scale=0.08, flip=True, rand_augment_layers=2, mixup=0.8)
LARGE = dict(data="ILSVRC/imagenet-1k", precision="bf16", threads=16)
OFTEN = dict(checkpoint_every=1000, evaluate_every=3125, log_every=50)
OURS = {  # beside what no preset changes; a changed one is to be meant
    "digits": dict(
        **dict(image_size=24, channels=1, rotate=10, translate=0.08, zoom=0.1),
        **dict(lr=2e-3, warmup_steps=60, drop_path=0.1, ema=0.98),
    ),
    "shapes": dict(data="shapes", epochs=5, lr=2e-3, warmup_steps=100, drop_path=0.1),
    "cifar10": dict(
        **dict(data="uoft-cs/cifar10", model="coatnet_nano", crop_scale=0.5, flip=True),
        **dict(rand_augment_layers=2, rand_augment_magnitude=10, mixup=0.2, drop_path=0.2),
        **dict(epochs=60, batch_size=256, warmup_steps=500, evaluate_every=1000),
    ),
    "imagenet1k": dict(
        **dict(image_size=224, crop_ratio=0.875, epochs=300, batch_size=4096),
        **dict(warmup_steps=10_000, **PAPER, **LARGE, **OFTEN),
    ),
    "finetune": dict(
        **dict(image_size=384, epochs=30, batch_size=512, lr=5e-5, min_lr=5e-5),
        **dict(schedule="constant", weight_decay=1e-8, ema=0.9999, **PAPER, **LARGE, **OFTEN),
    ),
}


def test_presets_are_as_decided():
    assert PRESETS.keys() == ABOUT.keys() == OURS.keys()
    for name, preset in PRESETS.items():
        preset.check()
        assert asdict(preset) == {**asdict(Recipe()), **OURS[name]}


def test_the_command_of_the_shipped_network_still_asks_for_its_recipe():
    """Every default and the preset `digits` are what the network in the package was made by."""
    training = read_training("digits")
    program, arguments = training["command"].split(" digits ")
    assert program == "python -m coatnet_mini.train"
    recipe, preset = command.read_arguments(["digits", *arguments.split()])
    assert preset == "digits"
    stored = {**training["recipe"], "options": (), "head_steps": 0}  # the last is newer
    assert asdict(recipe) == stored
    usual = dict(image_size=32, channels=3, rotate=0, translate=0, zoom=0, shear=0, drop_path=None)
    usual |= dict(epochs=30, lr=1e-3, warmup_steps=0, ema=0)
    usual |= dict(save_dtype="float32", output="runs/{preset}")
    assert asdict(Recipe()) == {**stored, **usual}


@pytest.mark.parametrize(
    "arguments, preset, changed",
    [
        ([], "digits", {}),
        (["--lr", "0.5"], "digits", dict(lr=0.5)),
        (["shapes", "--steps", "3"], "shapes", dict(steps=3)),
    ],
)
def test_the_first_word_is_the_preset_and_digits_without_one(arguments, preset, changed):
    given = list(arguments)
    assert command.read_arguments(arguments) == (replace(PRESETS[preset], **changed), preset)
    assert arguments == given


def test_the_rate_of_stochastic_depth_is_the_papers_unless_told():
    names = [f"coatnet_{n}" for n in range(5)]
    assert [drop_path_of(Recipe(model=name)) for name in names] == [0.2, 0.3, 0.5, 0.7, 0]
    assert drop_path_of(Recipe(model="coatnet_0", drop_path=0.0)) == 0


# ---- What the command says

RESULTS = {
    "corrupt_train_images": 2,
    "corrupt_test_images": 3,
    "train_images": 1198,
    "test_images": 599,
    "parameters": 1_234_567,
    "step": 1500,
    "accuracy": 0.98765,
    "test_loss": 0.123456,
    "seconds": 99.6,
    "images_per_second": 1234.5,
    "processes": 2,
    "device": "cpu",
    "loader_share": 0.0123,
}
TABLE = """\
  network           coatnet_pico, 1,234,567 parameters
  trained on        digits, 1,198 images, 1,500 steps of 64
  held out          599 images
  accuracy          98.77% of the held-out images
  loss              0.1235 on them
  time              100 s, 1,234 images/s on 2 × cpu
  waiting for data  1.2% of the time
  corrupt images    5 skipped
  stored in         runs/digits/network"""


def test_the_table_at_the_end():
    folder = Path("runs/digits")
    assert command.report(RESULTS, Recipe(), folder) == TABLE
    streamed = {**RESULTS, "train_images": None, "test_images": None}
    lines = command.report(streamed, Recipe(), folder).splitlines()
    assert lines[1].endswith("digits, a stream, 1,500 steps of 64")
    assert lines[2] == "  held out          a stream"


def test_the_table_is_shown_by_the_first_process_alone(monkeypatch, capsys):
    ends = iter([(RESULTS, Path("runs/digits")), ({}, Path("runs/digits"))])
    monkeypatch.setattr(command, "run", lambda *_: next(ends))
    assert command.main([]) == 0 and capsys.readouterr().out == f"{TABLE}\n"
    assert command.main([]) == 0 and capsys.readouterr().out == ""


def test_the_arguments_are_those_of_the_command_line(monkeypatch):
    seen = []
    monkeypatch.setattr(command, "run", lambda *given: seen.append(given) or ({}, Path()))
    monkeypatch.setattr(sys, "argv", ["coatnet", "shapes", "--steps", "3"])
    assert command.main() == 0
    recipe = replace(PRESETS["shapes"], steps=3)
    assert seen == [(recipe, "shapes", ["shapes", "--steps", "3"])]


def test_a_run_is_given_what_is_kept_with_its_network(monkeypatch):
    class Run:
        is_main, stops = True, False

        def __init__(self, *given):
            self.given = given

        def train(self):
            if self.stops:
                raise Stopped("stopped by SIGTERM at step 3 of 9")
            return self.given

    monkeypatch.setattr("coatnet_mini.train.run.Run", Run)
    arguments = ["shapes", "--output", "my runs/{preset}"]
    recipe, preset = command.read_arguments(arguments)
    told = "python -m coatnet_mini.train shapes --output 'my runs/{preset}'"
    folder, about = Path("my runs/shapes"), {"command": told, "versions": command.versions()}
    assert command.run(recipe, preset, arguments) == ((recipe, folder, about), folder)
    Run.is_main = False
    assert command.run(recipe, preset, arguments) == ({}, folder)
    Run.stops = True
    with pytest.raises(command.Interrupted) as stop:
        command.run(recipe, preset, arguments)
    said = "stopped by SIGTERM at step 3 of 9; go on with --resume"
    assert (str(stop.value), stop.value.code) == (said, 130)


def test_the_module_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "imagenet22k"])
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has been imported before
        runpy.run_module("coatnet_mini.train", run_name="__main__")
    presets = "digits, shapes, cifar10, imagenet1k, finetune"
    said = f"error: unknown preset 'imagenet22k'; choose from {presets}\n"
    assert (end.value.code, capsys.readouterr().err) == (1, said)


class OutOfMemoryError(RuntimeError):
    """As torch names it for a GPU."""


NO_MEMORY = (
    "error: not enough memory; a smaller --batch-size or --image-size, or more of --accumulate, "
    "needs less\n"
)


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("two\n  lines"), 1, "error: two lines\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (ZeroDivisionError("none left"), 1, "error: none left\n"),
        (OutOfMemoryError("CUDA"), 1, NO_MEMORY),
        (RuntimeError("[...] can't allocate memory: you tried"), 1, NO_MEMORY),
        (command.Interrupted("stopped by SIGTERM", 130), 130, "stopped by SIGTERM\n"),
        (
            KeyboardInterrupt(),
            130,
            "stopped at once; go on from the last checkpoint with --resume\n",
        ),
    ],
)
def test_how_a_run_can_end(error, code, said, monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda *_: raises(error))
    assert command.main([]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", said)


def raises(error):
    raise error


NEEDED = ("accelerate", "datasets", "kornia", "psutil", "tqdm", "tyro", "tensorboard")


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_not_installed_is_named_with_the_remedy(name, monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda *_: raises(ModuleNotFoundError("no", name=name)))
    assert command.main([]) == 1
    said = f"error: {name} is not installed; pip install 'coatnet-mini[train]'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [ModuleNotFoundError("no", name="coatnet"), RuntimeError("bug")])
def test_a_mistake_of_ours_is_no_error_of_the_readers(error, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *_: raises(error))
    with pytest.raises(type(error)) as caught:
        command.main([])
    assert caught.value is error


def test_versions_are_of_all_that_takes_part_and_is_installed(monkeypatch):
    names = ("torch", "numpy", "scikit-learn", *NEEDED)
    here = {name: version(name) for name in names}
    assert command.versions() == {"python": sys.version.split()[0], **here}

    def without_kornia(name):
        return here[name] if name != "kornia" else raises(PackageNotFoundError(name))

    monkeypatch.setattr(command, "version", without_kornia)
    assert command.versions().keys() == {"python", *names} - {"kornia"}


def test_the_output_folder():
    assert command.folder_of("runs/{preset}", "digits") == Path("runs/digits")
    assert command.folder_of("~/x", "digits") == Path.home() / "x"
    for output in ("{foo}", "{", "{0}", "{preset.x}"):
        with pytest.raises(ValueError) as error:
            command.folder_of(output, "digits")
        assert str(error.value) == f"output is {output!r}; only {{preset}} is filled in"
    with pytest.raises(ValueError, match=r"^output is '~nosuchuser/x': .*home"):
        command.folder_of("~nosuchuser/x", "digits")
