"""What is random and slow, `make soak MINUTES=10`: kills, hostile commands, damaged files, mutants.

Each of the four has its share of the time, draws what it does from the seed, and prints every
failure with what repeats it. A run that was killed must end with the weights and the metrics of the
run that was not; a command or a stored network that no one can use must be refused in one line.

    python -m tools.soak [MINUTES] [SEED] [kills|commands|networks|mutants ...]
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tools import mutants

TRIAL = 90  # seconds after which a trial counts as a hang
SMALL = [  # a run of two seconds, with everything in it that is drawn at random
    *("--image-size", "8", "--device", "cpu", "--no-tensorboard", "--batch-size", "16"),
    *("--train-images", "96", "--steps", "40", "--log-every", "3", "--checkpoint-every", "5"),
    *("--options", 'stages=[["S",1,8,1],["C",1,8,2],["T",1,32,2]]'),
    *("--drop-path", "0.2", "--mixup", "0.4", "--ema", "0.9"),
]
HOSTILE = [
    *("", " ", "0", "-1", "1e300", "nan", "inf", "-inf", "null", "[]", "{}", "[[]]", "true", "abc"),
    *("1000000000", "99999999999999999999", "0.5", "../..", "~nosuchuser/x", "{foo}", "ä λ", "-"),
    *("head_dim=0", "stages=1", "stages=null", 'stages=[["C",1e9,8,1]]', "drop_path=x", "a=b=c"),
    *("se_ratio=nan", "num_classes=0", "num_classes=1000000000", "expansion=1000000", "=", "x="),
]
GOOD = ("done", "refused in one line", "usage shown")


# ---- One trial, in a process of its own ----------------------------------------------------------


def trial(work, *arguments, seconds: float = TRIAL) -> str:
    """How work(*arguments), which returns "done" or how it was refused, ends in a fork of this."""
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
    try:
        return receiver.recv() if receiver.poll(seconds) else "hang"
    except EOFError:
        process.join()
        return f"died with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def command(arguments: list[str]) -> str:
    """The training command, and how it answered."""
    from coatnet_mini.train.__main__ import main

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            code = main(arguments)
    except SystemExit as end:  # how tyro leaves after it has shown what is allowed
        return "usage shown" if end.code == 2 else f"left with {end.code}"
    lines = [line for line in said.getvalue().splitlines() if "%|" not in line]  # without the bar
    if code == 0:
        return "done"
    ok = lines and lines[-1].startswith("error: ") and not any("Traceback" in s for s in lines)
    return "refused in one line" if ok else f"code {code}: {' | '.join(lines)[-120:]}"


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
    seed = str(rng.randrange(10**6))
    flags = [*SMALL, "--seed", seed]
    whole, often = folder / "whole", folder / "often"
    if (outcome := trial(command, [*flags, "--output", str(whole)])) != "done":
        return outcome, f"seed {seed}"
    killed = 0
    while True:
        arguments = ["digits", *flags, "--output", str(often), "--resume"]
        process = multiprocessing.get_context("fork").Process(target=silent, args=(arguments,))
        process.start()
        process.join(rng.uniform(0.3, 3) if killed < 8 else TRIAL)
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
    for name in ("network/model.safetensors", "metrics.jsonl"):
        if (
            not (often / name).is_file()
            or (often / name).read_bytes() != (whole / name).read_bytes()
        ):
            return f"{name} differs", f"seed {seed}, {killed} kills"
    return "done", f"{killed} kills"


def silent(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = command(arguments)
    os._exit(0 if code == "done" else 1)


def commands(rng: random.Random, folder: Path) -> tuple[str, str]:
    """The training command with one to three hostile values."""
    from dataclasses import fields

    from coatnet_mini.train.recipe import Recipe

    names = [field.name for field in fields(Recipe) if field.name not in ("output", "resume")]
    flags = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(names)
        flags += [f"--{name.replace('_', '-')}", rng.choice(HOSTILE)]
    usual = {"--image-size": "8", "--device": "cpu", "--batch-size": "16", "--steps": "2"}
    kept = [part for pair in usual.items() if pair[0] not in flags for part in pair]
    arguments = ["digits", *kept, *flags, "--output", str(folder / "run")]
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

    def __init__(self, folder: Path):
        self.tree = mutants.copy_tree(folder / "tree")
        self.left, self.measured, self.known = [], None, mutants.equivalents()

    def __call__(self, rng: random.Random, folder: Path) -> tuple[str, str]:
        if not self.left:
            tests = {path.stem.removeprefix("test_") for path in (self.tree / "tests").glob("*.py")}
            roots = (self.tree / mutants.PACKAGE).glob("*.py")
            module = rng.choice(sorted(path.stem for path in roots if path.stem in tests))
            files = [f"tests/test_{module}.py"]
            self.measured = mutants.measure(self.tree, files)
            found = mutants.candidates(self.tree, [module])
            found = [m for m in found if mutants.key(m) not in self.known]
            self.left = rng.sample(found, min(20, len(found)))
        mutation = self.left.pop()
        result = mutants.attempt(self.tree, mutation, self.measured)
        return ("done" if result != "survived" else result), f"{mutation.file}: {mutation.change}"


# ---- All of them ---------------------------------------------------------------------------------


def soak(work, seconds: float, rng: random.Random, say) -> Counter:
    """Trials until the time is up; every one that is not good is told."""
    found, end = Counter(), time.monotonic() + seconds
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            outcome, what = work(rng, Path(folder))
        found[outcome if outcome in GOOD else "hang" if outcome == "hang" else "other"] += 1
        if outcome not in GOOD:
            say(f"{outcome}   {what}")
    return found


def table(results: dict[str, Counter]) -> str:
    columns = (*GOOD, "hang", "other")
    lines = [f"{'':10}{'tried':>8}" + "".join(f"{name:>21}" for name in columns)]
    for name, found in results.items():
        counts = "".join(f"{found[column]:21}" for column in columns)
        lines.append(f"{name:10}{sum(found.values()):8}{counts}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Returns 1 if a trial hung, raised, lost something, or (of mutants) was not noticed."""
    numbers = [a for a in arguments if a.replace(".", "", 1).isdigit()]
    minutes, seed = float((numbers or ["10"])[0]), int((numbers[1:] or ["1"])[0])
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"kills": kills, "commands": commands, "networks": networks}
        chosen = [a for a in arguments if a not in numbers] or [*kinds, "mutants"]
        if unknown := set(chosen) - {*kinds, "mutants"}:
            print(f"no {', '.join(sorted(unknown))}; there are {', '.join(kinds)}, mutants")
            return 2
        results = {}
        for name in chosen:
            print(f"{name}, seed {seed} ...", flush=True)
            work = kinds[name] if name in kinds else Mutants(Path(folder))
            rng = random.Random(f"{name} {seed}")
            seconds = minutes * 60 / len(chosen)
            results[name] = soak(work, seconds, rng, lambda text: print(f"  {text}", flush=True))
    print(f"\n{table(results)}")
    return int(any(found["hang"] + found["other"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
