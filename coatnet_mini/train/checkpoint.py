"""Checkpoints of a run: what it needs to go on where it stopped.

Nothing in a checkpoint is code, and reading one runs none. A folder is written under another name
and renamed when it is complete and on the disk, so a run that dies while it writes leaves the last
checkpoint as it was. The sizes and SHA-256 digests of all files are in `state.json`, by which a
damaged folder is told and the one before it is used.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from coatnet_mini.checkpoint import digest, replace_folder, save_json, save_tensors

STATE = "state.json"
KEPT = 2  # checkpoints of a run that are not deleted


def save_run(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict) -> None:
    """Write the checkpoint of a step; then delete all but the last two.

    Args:
        tensors: for each file (without suffix) its named tensors.
        state: everything else, as JSON can hold it.
    """

    def write(path: Path) -> None:
        for name, named in tensors.items():
            save_tensors(named, path / f"{name}.safetensors")
        files = {file.name: [file.stat().st_size, digest(file)] for file in path.iterdir()}
        save_json({**state, "step": step, "files": files}, path / STATE)

    replace_folder(folder / f"step-{step:08d}", write)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def last_run(folder: Path, say: Callable[[str], None] = print) -> tuple[Path, dict] | None:
    """The newest whole checkpoint and its state; damaged ones are reported and passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return path, read_state(path)
        except ValueError as error:
            say(f"checkpoint {path} is damaged ({error}); looking for the one before it")
    return None


def read_state(path: Path) -> dict:
    """`state.json` of a checkpoint whose files are all as they were written, else a ValueError."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files = state["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{STATE} cannot be read") from error
    for name, (size, expected) in files.items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != size:
            raise ValueError(f"{name} has {file.stat().st_size:,} of {size:,} bytes")
        if digest(file) != expected:
            raise ValueError(f"{name} has changed since it was written")
    return state


# ---- Optimizers, as named tensors and JSON -------------------------------------------------------


def optimizer_tensors(state: dict[str, dict]) -> dict[str, Tensor]:
    """{"weight": {"exp_avg": t}} → {"weight|exp_avg": t}"""
    return {f"{name}|{key}": value
            for name, values in state.items() for key, value in values.items()}  # fmt: skip


def optimizer_state(tensors: dict[str, Tensor]) -> dict[str, dict]:
    """The inverse of `optimizer_tensors`."""
    state: dict[str, dict] = {}
    for name, value in tensors.items():
        name, key = name.rsplit("|", 1)
        state.setdefault(name, {})[key] = value
    return state


@torch.no_grad()
def restore_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's averages out in memory as the parameters are; files hold rows only."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter).copy_(value)


def read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
