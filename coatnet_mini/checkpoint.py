"""Stored networks: folders of safetensors and JSON, written whole or not at all.

Nothing in such a folder is code, and reading one runs none. It is written under another name and
renamed when it is complete and on the disk.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coatnet_mini.model import create_model

WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.json"
RESIZED = ("relative_bias_table", "positions")  # by the layers that hold them, to another grid


def digits_checkpoint() -> Path:
    """The folder of the small network that comes with the package, trained on digits."""
    return Path(__file__).parent / "checkpoints" / "digits"


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Named tensors of any device and memory layout, as one safetensors file.

    Raises:
        OSError: it could not be written.
    """
    rows = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(rows, path)
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(f"cannot write {path.name}: {first_line(error)}") from error


def save_json(value, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, and put it in `target`'s place once all of it is on the disk.

    Raises:
        OSError: it could not be written; then `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        unfinished.mkdir()
        write(unfinished)
        for path in [*unfinished.iterdir(), unfinished]:
            flush(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    unfinished.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file or a folder's list of files is on the disk, where the system can tell."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_network(folder: Path, weights: dict[str, Tensor], config, training: dict) -> None:
    """A network to be used: weights, configuration, and how it was trained.

    Args:
        weights: its state dict, in the type to be stored.
        config: its configuration (a dataclass), from which `CoAtNet.from_pretrained` builds it.
        training: must hold "model" and "options", from which `load_network` builds it.
    """

    def write(path: Path) -> None:
        save_tensors(weights, path / WEIGHTS)
        save_json(asdict(config), path / CONFIG)
        save_json(training, path / TRAINING)

    replace_folder(folder, write)


def load_network(folder) -> tuple[nn.Module, dict]:
    """A network as `save_network` left it, in float32 and in evaluation mode, and `training`.

    Raises:
        ValueError: no such folder, or not a whole network.
    """
    training = read_training(folder)
    model = create_model(training["model"], **training["options"])
    load_weights(model, folder)
    return model.eval(), training


def read_training(folder) -> dict:
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"checkpoint {str(folder)!r} is not a folder")
    try:
        training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        training["model"], training["options"]["num_classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {str(folder)!r} holds no readable {TRAINING}") from error
    return training


def load_weights(model: nn.Module, folder) -> bool:
    """Fill a model with a network's weights; tables and positions of another grid are resized.

    For another number of classes the classifier keeps its new weights.

    Returns:
        Whether the classifier was loaded too.

    Raises:
        ValueError: the weights cannot be read, or they are another network's.
    """
    name = read_training(folder)["model"]
    try:
        weights = load_file(Path(folder) / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {Path(folder) / WEIGHTS}: {first_line(error)}") from error
    here = model.state_dict()
    other = sorted(here.keys() ^ weights.keys())
    if other:
        where = "missing there" if other[0] in here else "not in this network"
        raise ValueError(f"{folder} holds a {name} that does not fit: {other[0]} is {where}")
    fresh = classifier_of(model, weights)
    for key in fresh:
        weights[key] = here[key]
    fitting = {key for key, w in weights.items() if w.shape == here[key].shape}
    for key in sorted(weights.keys() - fitting):
        if not key.endswith(RESIZED):  # the layers do that
            there, wanted = tuple(weights[key].shape), tuple(here[key].shape)
            raise ValueError(f"{folder} holds a {name} that does not fit: {key} is {there} there "
                             f"and {wanted} here")  # fmt: skip
    model.load_state_dict(weights)
    return not fresh


def classifier_of(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """The last linear layer's parameters, if only their number of classes differs."""
    here = model.state_dict()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    keys = [key for key in here if key.startswith(f"{linear}.")]
    differ = [key for key in keys if here[key].shape[0] != weights[key].shape[0]]
    return [key for key in differ if here[key].shape[1:] == weights[key].shape[1:]]


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
