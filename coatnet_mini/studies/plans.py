"""What a study is, before it is run: a table of runs, each a recipe of the training command."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from coatnet_mini.train.recipe import Recipe

SCALES = ("small", "gpu")
# How a run is done, and what it stores and shows on its way: no part of what it is.
HOW = {"resume", "init_from", "accumulate", "memory", "compile", "strict", "threads", "device"}
SHOWN = {"output", "checkpoint_every", "log_every", "tensorboard"}


@dataclass(frozen=True)
class Planned:
    """One run.

    Args:
        cell: what sets it apart from the others of its study, such as {"form": "pre", "seed": 0}.
        start: called with the study's folder and the run's own, gives the folder of the weights
            from which the run starts; without it they are drawn anew.
        keep: store the trained network for another run's `start`.
        measure: called with the folder of the trained network, gives more numbers to be kept.
    """

    cell: dict
    recipe: Recipe
    start: Callable[[Path, Path], Path] | None = None
    keep: bool = False
    measure: Callable[[Path], dict[str, float]] | None = None

    @property
    def key(self) -> str:
        return key_of(self.cell)

    @property
    def told(self) -> dict:
        """The recipe as stored with the result: what differs from the training command's own."""
        values, usual = asdict(self.recipe), Recipe()
        return {
            field.name: list(value) if isinstance(value := values[field.name], tuple) else value
            for field in fields(Recipe)
            if field.name not in HOW | SHOWN and values[field.name] != getattr(usual, field.name)
        }


@dataclass(frozen=True)
class Plan:
    """A study: its runs in the order in which they are done.

    Args:
        question: what the runs are to answer. piloted: what was tried before the recipe was fixed.
        runs: all that can be done at once.
        after: from the results of all of these, further runs.
    """

    name: str
    scale: str
    question: str
    piloted: str
    runs: tuple[Planned, ...]
    after: Callable[[list[dict]], tuple[Planned, ...]] | None = None


def key_of(cell: dict) -> str:
    """A name for files: {"form": "pre", "images": 300, "seed": 0} → "pre-300-0"."""
    return "-".join(str(value) for value in cell.values())


def options_of(**fields) -> tuple[str, ...]:
    """A network's options as the training command takes them: head_dim=16 → ("head_dim=16",)."""
    return tuple(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
    )
