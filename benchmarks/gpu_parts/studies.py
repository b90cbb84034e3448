"""The book's studies at scale gpu, as many of their runs as there is time for.

What a stopped run had reached is kept in runs/studies, where the command `python -m
coatnet_mini.studies NAME --scale gpu` goes on with it.
"""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_parts.job import Job, missing

NAMES = ("bias", "layout")
FOLDER = Path("runs/studies")
TO_STOP = 15  # seconds in which a run that is stopped stores its checkpoint
LEAST = 10  # seconds that are worth a start


def run(job: Job) -> None:
    if lacking := missing("coatnet_mini.studies.running", "sklearn.datasets"):
        job.note(f"{lacking} is not installed, which the studies need: none was run.")
        return
    for name in NAMES[:1] if job.toy else NAMES:
        if not job.toy and job.left() < TO_STOP + LEAST:
            job.note(f"No time was left for: {name}.")
            continue
        study(job, name)


def study(job: Job, name: str) -> None:
    from coatnet_mini.studies.running import Workplace, go
    from coatnet_mini.train.run import Stopped

    plan = import_module(f"coatnet_mini.studies.{name}").plan("small" if job.toy else "gpu")
    if job.toy:
        runs = [replace(run, recipe=replace(run.recipe, steps=2)) for run in plan.runs[:2]]
        plan = replace(plan, runs=tuple(runs), after=None)
    place = Workplace(plan, (job.folder if job.toy else FOLDER) / f"{name}_{plan.scale}")

    def say(text: str) -> None:
        print(text, flush=True)
        for key, row in place.rows().items():
            told = {k: row[k] for k in ("steps", "accuracy", "test_loss", "seconds", "resumed")}
            job.row(f"{name}, {key}", **told)

    minutes = (job.left() - TO_STOP) / 60 if not job.toy else None
    try:
        go(place, minutes, say)
    except (KeyboardInterrupt, Stopped):
        job.note(f"{name}: time was up; the same command goes on from what is in {FOLDER}.")
    say(f"{name}: {len(place.rows())} of {len(place.runs())} runs are finished")
    job.note(f"{name}: {len(place.rows())} of {len(place.runs())} runs are finished.")
