"""The studies: `python -m coatnet_mini.studies NAME [--scale small|gpu] [--minutes M]`.

Started again, it goes on where it stopped; started twice, both work. `accelerate launch -m
coatnet_mini.studies NAME` starts one process for each GPU, and each does runs of its own.
"""

import argparse
import os
import sys
from pathlib import Path

STUDIES = ("bias", "layout")
SCALES = ("small", "gpu")
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


def plan_of(name: str, scale: str):
    from importlib import import_module

    return import_module(f"coatnet_mini.studies.{name}").plan(scale)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing is left to do, 1 for an error, 130 if stopped."""
    stand_alone()
    try:
        chosen = read_arguments(sys.argv[1:] if arguments is None else arguments)
        from tqdm import tqdm

        from coatnet_mini.studies.running import go
        from coatnet_mini.train.run import Stopped

        plan = plan_of(chosen.name, chosen.scale)
        folder = chosen.output / f"{chosen.name}_{chosen.scale}"
        try:
            whole = go(plan, folder, chosen.minutes, tqdm.write)
        except (KeyboardInterrupt, Stopped):
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("coatnet_mini"):
            raise
        print(
            f"error: {error.name} is not installed; pip install 'coatnet-mini[train]'",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(
        f"{'finished' if whole else 'the rest is being done by others'}; "
        f"results in {folder / chosen.name}.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
