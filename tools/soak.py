"""What is random and slow, `make soak MINUTES=10`: kills, hostile commands, damaged files, mutants.

Each of the four has its share of the time, draws what it does from the seed, and prints every
failure with what repeats it. A run that was killed must end with the weights and the metrics of the
run that was not; a command or a stored network that no one can use must be refused in one line.
A mutant is tried against the tests of its module's own name alone, so one that survives is told and
counted, and is no failure: `make mutants` asks all tests.

    python -m tools.soak [MINUTES] [SEED] [kills|commands|networks|mutants ...]
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools import mutants

TRIAL = 90  # seconds after which a trial counts as a hang
KILLS = 8  # of one run, at most
SMALL = [  # a run of two seconds, with everything in it that is drawn at random
    *("--image-size", "8", "--device", "cpu", "--no-tensorboard", "--batch-size", "16"),
    *("--train-images", "96", "--steps", "40", "--log-every", "3", "--checkpoint-every", "5"),
    *("--options", 'stages=[["S",1,8,1],["C",1,8,2],["T",1,32,2]]'),
    *("--drop-path", "0.2", "--mixup", "0.4", "--ema", "0.9"),
]
HOSTILE = [
    *("", " ", "0", "-1", "1e300", "nan", "inf", "-inf", "null", "[]", "{}", "[[]]", "true", "abc"),
    *("1000000000", "99999999999999999999", "0.5", "../..", "~nosuchuser/x", "{foo}", "ä λ", "-"),
]
HOSTILE_OPTIONS = [
    *("head_dim=0", "stages=1", "stages=null", 'stages=[["C",1e9,8,1]]', "drop_path=x", "a=b=c"),
    *("se_ratio=nan", "num_classes=0", "num_classes=1000000000", "expansion=1000000", "=", "x="),
]
FITTING = {  # values that are at least of the field's type, so that the recipe is to refuse them
    int: ["0", "-1", "1", "7", "1000000000", "99999999999999999999"],
    float: ["0", "-1", "0.5", "1", "1e-300", "1e300", "nan", "inf", "-inf"],
    tuple: HOSTILE_OPTIONS,
}
LASTS = ("--steps", "1000000000")  # asks for a run that long, and gets it
GOOD = ("done", "refused in one line", "usage shown")
COLUMNS = (*GOOD, "survived", "hang", "other")

Work = Callable[[random.Random, Path], tuple[str, str]]  # → how it ended, and what repeats it


# ---- One trial, in a process of its own ----------------------------------------------------------


def trial(work, *arguments, seconds: float = TRIAL) -> str:
    """How work(*arguments), which returns "done" or how it was refused, ends in a fork of this.

    "hang" if it took longer than `seconds`, and was killed.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def body():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                outcome = work(*arguments)
            except BaseException as error:
                outcome = f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        sender.send(outcome)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    sender.close()
    end = time.monotonic() + seconds
    try:
        outcome = receiver.recv() if receiver.poll(seconds) else "hang"
    except EOFError:
        outcome = "died"
    process.join(max(end - time.monotonic(), 0))
    if process.exitcode is None:
        process.kill()
        process.join()
        return "hang"
    return f"died with exit code {process.exitcode}" if process.exitcode else outcome


def command(arguments: list[str]) -> str:
    """The training command, and how it answered."""
    from coatnet_mini.train.__main__ import main

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            code = main(arguments)
    except SystemExit as end:  # how tyro leaves after it has shown what is allowed
        return "usage shown" if end.code == 2 else f"left with {end.code}"
    if code == 0:
        return "done"
    lines = [line for line in said.getvalue().splitlines() if line and "%|" not in line]  # no bar
    if len(lines) == 1 and lines[0].startswith("error: "):
        return "refused in one line"
    return f"code {code}, {len(lines)} lines: {' | '.join(lines)[-120:]}"


def stored_network(folder: Path) -> str:
    from coatnet_mini.checkpoint import load

    try:
        load(folder)
    except ValueError as error:
        return "refused in one line" if "\n" not in str(error) else f"many lines: {error}"
    return "done"


# ---- The four ------------------------------------------------------------------------------------


def kills(rng: random.Random, folder: Path) -> tuple[str, str]:
    """A run that is killed at random moments and resumed, against the one that was not."""
    seed, moments = rng.randrange(10**6), [rng.random() for _ in range(KILLS)]
    flags = ["digits", *SMALL, "--seed", str(seed)]
    whole, often = folder / "whole", folder / "often"
    start = time.monotonic()
    outcome = trial(command, [*flags, "--output", str(whole)])
    took, killed = time.monotonic() - start, 0
    if outcome == "done":
        flags += ["--output", str(often), "--resume"]
        while killed < KILLS:
            outcome = trial(command, flags, seconds=took * moments[killed])
            if outcome != "hang":  # it came to its end before the moment
                break
            killed += 1
        else:
            outcome = trial(command, flags)
    what = f"seed {seed}, {killed} kills"
    if outcome != "done":
        return ("hang" if outcome == "hang" else f"not done: {outcome}"), what
    for name in ("network/model.safetensors", "metrics.jsonl"):
        if (often / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs", what
    return "done", what


def commands(rng: random.Random, folder: Path) -> tuple[str, str]:
    """The training command with one to three hostile values."""
    from dataclasses import fields

    from coatnet_mini.train.recipe import Recipe

    chosen = [field for field in fields(Recipe) if field.name not in ("output", "resume")]
    chosen += [field for field in chosen if field.name == "options"] * 9
    flags = []
    for field in (rng.choice(chosen) for _ in range(rng.randint(1, 3))):
        fitting = FITTING.get(type(field.default), HOSTILE)
        value = rng.choice(fitting if rng.random() < 0.8 else HOSTILE)
        pair = (f"--{field.name.replace('_', '-')}", value)
        flags += pair if pair != LASTS else ("--steps", "1")
    usual = {"--image-size": "8", "--device": "cpu", "--batch-size": "16", "--steps": "2"}
    kept = [part for pair in usual.items() if pair[0] not in flags for part in pair]
    arguments = ["digits", *kept, *flags, "--output", str(folder / "run")]
    here = folder / "a" / "b"  # so that ../.. is nobody's folder
    here.mkdir(parents=True)
    with contextlib.chdir(here):
        return trial(command, arguments), " ".join(map(repr, flags))


def networks(rng: random.Random, folder: Path) -> tuple[str, str]:
    """The shipped network with a damaged configuration or damaged weights."""
    from coatnet_mini.checkpoint import SHIPPED

    copy = folder / "network"
    shutil.copytree(SHIPPED / "digits", copy)
    if rng.random() < 0.5:
        path = copy / "config.json"
        values = json.loads(path.read_text())
        name = rng.choice(sorted(values))
        value = rng.choice([*HOSTILE, None, [], {}, 0, -1, 10**9, 1e300, True, [[]], [None] * 3])
        values[name] = value
        path.write_text(json.dumps(values))
        what = f"config.json: {name} = {value!r}"
    else:
        path = copy / "model.safetensors"
        data = bytearray(path.read_bytes())
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))]
            what = f"weights cut at {len(data)}"
        else:
            at, value = rng.randrange(min(len(data), 20_000)), rng.randrange(256)
            data[at] = value
            what = f"weights: byte {at} = {value}"
        path.write_bytes(bytes(data))
    return trial(stored_network, copy), what


class Mutants:
    """Mutations of one module after another, each against the tests of its own name."""

    def __init__(self, tree: Path):
        """tree: a copy of the checkout, in which they are made."""
        self.tree, self.known = tree, mutants.equivalents()
        self.left, self.measured = [], None

    def __call__(self, rng: random.Random, folder: Path) -> tuple[str, str]:
        if not self.left:
            module = rng.choice(self.modules())
            try:
                self.measured = mutants.measure(self.tree, [f"tests/test_{module}.py"])
            except SystemExit as error:
                return str(error), module
            found = mutants.candidates(self.tree, [module])
            found = [m for m in found if mutants.key(m) not in self.known]
            self.left = rng.sample(found, min(20, len(found)))
        mutation = self.left.pop()
        result = mutants.attempt(self.tree, mutation, self.measured)
        what = f"{mutation.file}:{mutation.lines[0]}: {mutation.change}"
        return ("survived" if result == "survived" else "done"), what

    def modules(self) -> list[str]:
        """Those of the root that have a test file of their name."""
        tests = {path.stem.removeprefix("test_") for path in (self.tree / "tests").glob("*.py")}
        roots = (self.tree / mutants.PACKAGE).glob("*.py")
        return sorted(path.stem for path in roots if path.stem in tests)


# ---- All of them ---------------------------------------------------------------------------------


def soak(name: str, work: Work, seconds: float, seed: int, say: Callable[[str], None]) -> Counter:
    """Trials until the time is up, the n-th always the same; every one that is not good is told."""
    found, end = Counter(), time.monotonic() + seconds
    while time.monotonic() < end:
        rng = random.Random(f"{name} {seed} {found.total()}")
        with tempfile.TemporaryDirectory() as folder:
            outcome, what = work(rng, Path(folder))
        found[outcome if outcome in COLUMNS else "other"] += 1
        if outcome not in GOOD:
            say(f"{outcome}   {what}")
    return found


def table(results: dict[str, Counter]) -> str:
    lines = [f"{'':10}{'tried':>8}" + "".join(f"{name:>21}" for name in COLUMNS)]
    for name, found in results.items():
        counts = "".join(f"{found[column]:21}" for column in COLUMNS)
        lines.append(f"{name:10}{found.total():8}{counts}")
    return "\n".join(lines)


KINDS = {"kills": kills, "commands": commands, "networks": networks, "mutants": Mutants}


def read_arguments(arguments: list[str]) -> tuple[float, int, list[str]]:
    """The minutes, the seed, and which of the four; a ValueError names what is none of these."""
    numbers = [a for a in arguments if a not in KINDS]
    try:
        minutes, seed = float((numbers or ["10"])[0]), int((numbers[1:] or ["1"])[0])
        if len(numbers) > 2 or not 0 < minutes < 10**6:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{' '.join(numbers)!r} is not MINUTES SEED, such as 10 1; "
            f"after them there are {', '.join(KINDS)}"
        ) from None
    return minutes, seed, [a for a in arguments if a in KINDS] or list(KINDS)


def main(arguments: list[str]) -> int:
    """Returns 1 if a trial hung, raised or lost something, and 2 if the arguments are none."""
    try:
        minutes, seed, chosen = read_arguments(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"  # a hostile name is not to be asked for on the hub
    mutants.preload()
    import coatnet_mini.train.run  # noqa: F401   once, not in every trial

    results = {}
    for name in chosen:
        print(f"{name}, seed {seed} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            work = KINDS[name] if name != "mutants" else Mutants(mutants.copy_tree(Path(folder)))
            seconds = minutes * 60 / len(chosen)
            say = partial(print, " ", flush=True)
            results[name] = soak(name, work, seconds, seed, say)
    print(f"\n{table(results)}")
    return int(any(found["hang"] + found["other"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
