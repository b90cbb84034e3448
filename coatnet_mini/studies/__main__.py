"""The studies: `python -m coatnet_mini.studies NAME [--scale small|gpu] [--minutes M]`.

Started again, it goes on where it stopped; started twice, both work. `accelerate launch -m
coatnet_mini.studies NAME` starts one process for each GPU, and each does runs of its own.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from coatnet_mini.studies.plans import SCALES
from coatnet_mini.studies.results import study, table
from coatnet_mini.train.__main__ import fail

STUDIES = ("ablations", "bias", "ceit", "layout", "locality", "recipe", "resolution")
OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise ValueError(message)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m coatnet_mini.studies",
        description="Run one of the book's studies, or what is left of it.",
    )
    parser.add_argument("name", help=f"one of {', '.join(STUDIES)}")
    parser.add_argument("--scale", default="small", help="small (two cores, the default) or gpu")
    parser.add_argument("--minutes", type=float, help="stop after so long, and go on next time")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/studies"),
        help="folder for what is unfinished and for the results",
    )
    parser.add_argument("--collect", action="store_true", help="run nothing; show what there is")
    chosen = parser.parse_args(arguments)
    if chosen.name not in STUDIES:
        raise ValueError(f"unknown study {chosen.name!r}; choose from {', '.join(STUDIES)}")
    if chosen.scale not in SCALES:
        raise ValueError(f"unknown scale {chosen.scale!r}; choose from {', '.join(SCALES)}")
    if chosen.minutes is not None and not chosen.minutes > 0:
        raise ValueError(f"minutes is {chosen.minutes:g}; it must be above 0")
    return chosen


def stand_alone() -> None:
    """Forget the launcher: each of its processes does whole runs, on a GPU of its own."""
    rank = os.environ.pop("LOCAL_RANK", None)
    if rank is None:
        return
    for name in OF_A_LAUNCHER:
        os.environ.pop(name, None)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else None
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(rank) % len(devices)] if devices else rank


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for an error, 130 if the study was stopped."""
    stand_alone()
    try:
        return run(read_arguments(sys.argv[1:] if arguments is None else arguments))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("coatnet_mini"):
            raise
        return fail(f"{error.name} is not installed; pip install 'coatnet-mini[train]'")
    except (ValueError, OSError) as error:
        return fail(" ".join(str(error).split()))


def run(chosen: argparse.Namespace) -> int:
    """Do what is left, and show all that there is."""
    from tqdm import tqdm

    from coatnet_mini.studies.running import Workplace, go
    from coatnet_mini.train.run import Stopped

    plan = import_module(f"coatnet_mini.studies.{chosen.name}").plan(chosen.scale)
    place = Workplace(plan, chosen.output / f"{chosen.name}_{chosen.scale}")
    try:
        if not chosen.collect:
            go(place, chosen.minutes, tqdm.write)
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    path = place.collect()
    print(f"{table(study(chosen.name, path.parent))}\nresults in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
