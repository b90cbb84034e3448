"""Checkpoints of a run: what it needs to go on where it stopped.

A checkpoint is one file of `torch.save`, written under another name and renamed when it is whole
and on the disk, so a run that dies while it writes leaves the last one as it was. Its name holds
the step and the start of its SHA-256: a file that is not what its name says is damaged, and the one
before it is used. Reading makes tensors, numbers, text and containers of them, and runs no code.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coatnet_mini.checkpoint import digest, first_line, flush

KEPT = 2  # checkpoints of a run that are not deleted
DIGITS = 16  # of the digest, in the name


def save_run(folder: Path, step: int, state: dict) -> Path:
    """Write the checkpoint of a step; then delete all but the last two.

    Args:
        state: tensors, numbers, text, None, and lists, tuples and dicts of them.

    Raises:
        OSError: it could not be written; then those before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished.pt"
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
        flush(unfinished)
        path = folder / f"step-{step:08d}-{digest(unfinished)[:DIGITS]}.pt"
        unfinished.replace(path)
    except RuntimeError as error:  # how torch reports that the file takes no more
        raise OSError(first_line(error)) from error
    finally:
        unfinished.unlink(missing_ok=True)
    flush(folder)
    replaced = [file for file in runs(folder) if step_of(file) == step and file != path]
    others = [file for file in runs(folder) if step_of(file) != step]
    for old in replaced + others[: 1 - KEPT]:
        old.unlink()
    return path


def last_run(folder: Path, say: Callable[[str], None] = print) -> tuple[Path, dict] | None:
    """The newest whole checkpoint and its state; damaged ones are reported and passed over."""
    for path in reversed(runs(folder)):
        try:
            return path, read_state(path)
        except ValueError as error:
            say(f"checkpoint {path} is damaged ({error}); looking for the one before it")
    return None


def runs(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


def read_state(path: Path) -> dict:
    """What `save_run` was given, on the CPU; a ValueError if the file is not as it was written."""
    if digest(path)[:DIGITS] != path.stem.split("-")[-1]:
        raise ValueError(f"its {path.stat().st_size:,} bytes are not those that were written")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(first_line(error)) from error


def check_like(found, wanted, name: str) -> None:
    """Raise a TypeError where a state is not built like another: keys, shapes and types."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if odd := sorted(map(str, found.keys() ^ wanted.keys())):
            verb = "has no" if odd[0] in map(str, wanted) else "has an unknown"
            raise TypeError(f"{name} {verb} {odd[0]}")
        for key in wanted:
            check_like(found[key], wanted[key], f"{name} {key}")
    elif kind_of(found) != kind_of(wanted):
        raise TypeError(f"{name} is {kind_of(found)} there and {kind_of(wanted)} here")


def kind_of(value) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
