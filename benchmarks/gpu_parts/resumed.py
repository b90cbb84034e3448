"""A training run on shapes, in bfloat16 and compiled, killed by SIGKILL and resumed.

    python -m benchmarks.gpu_parts.resumed FOLDER JSON

is one such run: JSON says which fields of the recipe differ from the preset's, and on which device.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu_parts import bare
from benchmarks.gpu_parts.job import Job, missing
from coatnet_mini.train.checkpoint import runs, step_of
from coatnet_mini.train.log import FILE as METRICS
from coatnet_mini.train.recipe import PRESETS, Recipe

COMMAND = "coatnet_mini.train.run"  # the training command's own loop
RESULTS = "results.json"
FIELDS = {"compile": True, "checkpoint_every": 100}
TOY_FIELDS = {
    **{"steps": 24, "batch_size": 8, "train_images": 64, "image_size": 16, "device": "cpu"},
    **{"log_every": 1, "checkpoint_every": 5},
    "options": ['stages=[["S",1,8,2],["C",1,8,2],["T",1,32,1]]'],
}


def recipe_of(fields: dict) -> Recipe:
    options = tuple(fields.get("options", ()))  # as the dataclass has them; JSON knows lists only
    fixed = {"precision": "bf16", "tensorboard": False}
    return replace(PRESETS["shapes"], **{**fixed, **fields, "options": options})


def run(job: Job) -> None:
    fields = TOY_FIELDS if job.toy else FIELDS
    if job.toy:
        job.note("At toy size nothing is compiled.")
    folder = job.folder / "run"
    started = time.monotonic()
    before = killed(folder, fields)
    at = step_of(runs(folder / "checkpoints")[-1])
    resumed = time.monotonic()
    with start(folder, {**fields, "resume": True}) as process:
        if process.wait():
            raise RuntimeError(f"the resumed run ended with {process.returncode}")
    after = losses(folder)
    again = sorted(step for step in before if step > at)
    largest = max(abs(before[step] - after[step]) for step in again)
    results = json.loads((folder / RESULTS).read_text())
    if lacking := results["lacking"]:
        job.note(
            f"{lacking} is not installed, which the training command needs: its learner and "
            "checkpoints ran in this benchmark's own loop, without its loader, evaluation and log."
        )
    job.row(
        f"shapes, {recipe_of(fields).model}",
        loop="this benchmark's" if lacking else "the training command's",
        steps=results["step"],
        killed_after=max(before),
        resumed_at=at,
        steps_compared=len(again),
        largest_loss_difference=largest,
        accuracy=results["accuracy"],
        seconds_until_killed=resumed - started,
        seconds_resumed=time.monotonic() - resumed,
    )


def killed(folder: Path, fields: dict) -> dict[int, float]:
    """Start the run, kill it well behind a checkpoint; the losses that it had written by then."""
    every = fields["checkpoint_every"]
    with start(folder, fields) as process:
        try:
            while max(losses(folder), default=0) < 1.5 * every or not runs(folder / "checkpoints"):
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended with {process.returncode}, not killed")
                time.sleep(0.01)
        finally:
            process.kill()
    return losses(folder)


def start(folder: Path, fields: dict) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.gpu_parts.resumed", str(folder)]
    return subprocess.Popen([*command, json.dumps(fields)])


def losses(folder: Path) -> dict[int, float]:
    """What the run wrote down, by step; a line that was cut off is left out."""
    path = folder / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def main() -> None:
    folder, fields = Path(sys.argv[1]), json.loads(sys.argv[2])
    recipe = recipe_of(fields)
    lacking = missing(COMMAND)
    if lacking:
        device = torch.device("cpu" if recipe.device == "cpu" else "cuda")
        results = bare.train(recipe, folder, device)
    else:
        from coatnet_mini.train.run import Run

        results = Run(recipe, folder).train()
    (folder / RESULTS).write_text(json.dumps({**results, "lacking": lacking}))


if __name__ == "__main__":
    main()
