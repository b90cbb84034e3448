"""Running a study: what is finished stays, what was stopped goes on, and processes share the work.

Everything lies in one folder: `finished/` has one file for each finished run, written whole or not
at all; `claims/` locks that end with the process that holds them; `unfinished/` what the training
command needs to go on; NAME.json all results, in the form in which the package ships them.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from coatnet_mini.studies.plans import Plan, Planned
from coatnet_mini.train.__main__ import versions
from coatnet_mini.train.log import FILE as METRICS
from coatnet_mini.train.run import Run

DIGITS = 5  # decimals that are kept of accuracies and losses


class Workplace:
    """The folder of one study, which any number of processes may work in."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder = plan, folder
        for name in ("finished", "claims"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def runs(self) -> tuple[Planned, ...]:
        """What there is to do, as far as the results so far say."""
        runs, rows = self.plan.runs, self.rows()
        if self.plan.after and all(run.key in rows for run in runs):
            runs += self.plan.after([rows[run.key] for run in runs])
        return runs

    def rows(self) -> dict[str, dict]:
        """The results of all finished runs, by key."""
        files = sorted((self.folder / "finished").glob("*.json"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def finished(self, run: Planned) -> bool:
        """Whether there is a result of this run; a result of another recipe is refused."""
        file = self.folder / "finished" / f"{run.key}.json"
        if not file.exists():
            return False
        told = json.loads(file.read_text(encoding="utf-8"))["recipe"]
        if told != run.told:
            names = sorted(
                {n for n in told.keys() | run.told.keys() if told.get(n) != run.told.get(n)}
            )
            raise ValueError(
                f"{file} is of another recipe ({', '.join(names)}); "
                "remove it or choose another --output"
            )
        return True

    @contextlib.contextmanager
    def claim(self, run: Planned):
        """True for the one process that may do a run now; it is free again when that one ends."""
        lock = FileLock(self.folder / "claims" / f"{run.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def do(self, run: Planned) -> dict:
        """One run, from where it was stopped; its result, which is also stored."""
        folder = self.folder / "unfinished" / run.key
        resumed = (folder / METRICS).exists()
        recipe = replace(run.recipe, resume=resumed)
        if run.start:
            recipe = replace(recipe, init_from=str(run.start(self.folder, folder)))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log, quiet(log):
            results = Run(recipe, folder).train()
        row = row_of(run, results, folder / METRICS, resumed)
        if run.measure:
            more = run.measure(folder / "network")
            row |= {name: round(value, DIGITS) for name, value in more.items()}
        if run.keep:
            shutil.copytree(
                folder / "network", self.folder / "networks" / run.key, dirs_exist_ok=True
            )
        write(self.folder / "finished" / f"{run.key}.json", row)
        shutil.rmtree(folder)
        return row

    def collect(self) -> Path:
        """All results in one file, the form in which the package ships them."""
        path = self.folder / f"{self.plan.name}.json"
        with FileLock(self.folder / "claims" / "collect.lock"):
            runs, rows = self.runs(), self.rows()
            about = {
                "study": self.plan.name,
                "scale": self.plan.scale,
                "question": self.plan.question,
                "piloted": self.plan.piloted,
                "planned": len(runs),
            }
            write(path, {**about, "runs": [rows[run.key] for run in runs if self.finished(run)]})
        return path


@contextlib.contextmanager
def quiet(log):
    """What is printed goes to a file, so that the terminal keeps one line for each run."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def write(path: Path, value: dict) -> None:
    """JSON, one line a run, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False)
    if "runs" in value:
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value["runs"])
        about = json.dumps({**value, "runs": []}, ensure_ascii=False, indent=1)
        text = about.replace('"runs": []', f'"runs": [\n{rows}\n]')
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def row_of(run: Planned, results: dict, metrics: Path, resumed: bool) -> dict:
    """What is kept of a run: what it was, what came out, how it got there, and on what."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    accuracy = {line["step"]: line["accuracy"] for line in lines if "accuracy" in line}
    accuracy[results["step"]] = results["accuracy"]
    loss = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return {
        **run.cell,
        "accuracy": round(results["accuracy"], DIGITS),
        "test_loss": round(results["test_loss"], DIGITS),
        "parameters": results["parameters"],
        "steps": results["step"],
        "curves": {"accuracy": curve(accuracy), "loss": curve(loss)},
        "seconds": round(results["seconds"], 1),
        "resumed": resumed,
        "device": device_name(results["device"]),
        "threads": results["threads"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "recipe": run.told,
    }


def curve(values: dict[int, float]) -> dict[str, list]:
    return {"step": list(values), "value": [round(value, DIGITS) for value in values.values()]}


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {os.cpu_count()} cores of {platform.machine()}"


def go(place: Workplace, minutes: float | None, say: Callable[[str], None]) -> bool:
    """Do what is left of a study, until it is done or time is up; True if all is finished.

    What another process is doing is left to it. A run that is stopped, by time or by Ctrl-C, is
    kept as far as it got.
    """
    runs, left = place.runs(), True
    with time_limit(minutes), tqdm(total=len(runs), unit="run", desc=place.plan.name) as bar:
        while left:
            left = False
            for run in place.runs():
                with place.claim(run) as mine:
                    if not mine or place.finished(run):
                        continue
                    left = True
                    bar.set_postfix_str(run.key)
                    try:
                        row = place.do(run)
                    except (ValueError, ArithmeticError) as error:
                        raise ValueError(f"{words(run)}: {error}") from error
                place.collect()
                runs = place.runs()
                done = sum(place.finished(each) for each in runs)
                bar.total, bar.n = len(runs), done
                bar.refresh()
                say(
                    f"{done}/{len(runs)}  {words(run)}: held-out accuracy {row['accuracy']:.1%} "
                    f"in {row['seconds']:.0f} s"
                )
    return all(place.finished(run) for run in place.runs())


def words(run: Planned) -> str:
    return ", ".join(f"{name} {value}" for name, value in run.cell.items())


@contextlib.contextmanager
def time_limit(minutes: float | None):
    """Ctrl-C after so many minutes: the training command then stores a checkpoint and stops."""
    if minutes is None:
        yield
        return
    timer = threading.Timer(minutes * 60, signal.raise_signal, [signal.SIGINT])
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        timer.start()
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
