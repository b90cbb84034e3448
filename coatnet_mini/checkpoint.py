"""Stored networks: folders of safetensors and JSON, written whole or not at all.

    config.json         which network it is: its family, and the fields of its configuration
    model.safetensors   its weights
    training.json       how it was trained; nothing is built from it

Nothing in such a folder is code, and reading one runs none. What it claims is checked before
memory is taken: the configuration against `checks.limits`, then the names, shapes and types of the
weights, which a safetensors file tells before its data, against the configuration.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coatnet_mini.checks import configure, one_of
from coatnet_mini.models import FAMILIES

WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.json"
SHIPPED = Path(__file__).parent / "checkpoints"
TABLE, POSITIONS = "relative_bias_table", "positions"  # their layers resize them to another grid
MOST_JSON = 10**7  # bytes


# ---- Reading -------------------------------------------------------------------------------------


def load(where, **overrides) -> nn.Module:
    """A stored network, ready to use: in float32, in evaluation mode, on the CPU.

    Args:
        where: a folder that `save_network` wrote; "digits" for the network that comes with the
            package; or "owner/name" on the Hugging Face hub.
        overrides: fields of its configuration to change, such as `image_size=48`, for which bias
            tables and positions are resized.

    Raises:
        ValueError: there is no such network, or it is not whole; one line.
    """
    folder = find(where)
    fields = read_json(folder, CONFIG)
    family = FAMILIES[one_of(f"family in {folder / CONFIG}", family_of(fields), FAMILIES)]
    config = configure(family.Config, {**fields, **overrides})
    with torch.device("meta"):  # shapes without memory, until the weights are seen to fit
        model = family(config)
    if check_weights(model, folder):
        raise ValueError(f"the weights in {folder} are not for {config.num_classes} classes")
    model.to_empty(device="cpu")
    load_weights(model, folder)
    return model.eval()


def load_weights(model: nn.Module, where) -> bool:
    """Fill a model with a stored network's weights; tables and positions are resized.

    For another number of classes the classifier keeps its new weights.

    Returns:
        Whether the classifier was loaded too.

    Raises:
        ValueError: the weights cannot be read, or they are another network's; one line.
    """
    folder = find(where)
    fresh = check_weights(model, folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {folder / WEIGHTS}: {first_line(error)}") from error
    here = model.state_dict()
    model.load_state_dict({**weights, **{name: here[name] for name in fresh}})
    return not fresh


def read_training(where) -> dict:
    """How a stored network was trained: the command, the recipe, versions, results."""
    return read_json(find(where), TRAINING)


def find(where) -> Path:
    """The folder of a stored network: itself, one that comes with the package, or the hub's."""
    if Path(where).is_dir():
        return Path(where)
    shipped = sorted(path.name for path in SHIPPED.iterdir())
    if str(where) in shipped:
        return SHIPPED / where
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(where)):
        return download(str(where))
    raise ValueError(
        f"{str(where)!r} is no folder, nor the name of a stored network: "
        f"{', '.join(shipped)}, or owner/name on the Hugging Face hub"
    )


def download(name: str) -> Path:
    """The folder into which the hub's network was fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, TRAINING]))
    except Exception as error:  # of a dozen classes: of the hub, the network, the disk
        raise ValueError(
            f"{name!r} is no folder here, nor a network on the Hugging Face hub: "
            f"{first_line(error)}"
        ) from error


def read_json(folder: Path, name: str) -> dict:
    """A JSON file that holds an object, of at most `MOST_JSON` bytes."""
    path = folder / name
    try:
        if not path.is_file():  # a pipe in its place would never end
            raise ValueError("no such file")
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {first_line(error)}") from error
    return values


def family_of(fields: dict) -> str:
    """Take the family out of what config.json holds; older files tell it by their fields."""
    told = {"stages": "CoAtNet", "i2t_channels": "CeiT", "patch_size": "ViT"}
    return fields.pop("family", next((told[name] for name in told if name in fields), None))


def check_weights(model: nn.Module, folder: Path) -> list[str]:
    """Compare what a weights file says it holds with a model; none of its data is read.

    Returns:
        The names of the classifier's parameters, if only its number of classes differs.

    Raises:
        ValueError: a name, a shape or a type does not fit.
    """
    found, here = read_shapes(folder), model.state_dict()
    fresh = []
    for name in sorted(here.keys() | found.keys()):
        if name not in found or name not in here:
            where = "missing there" if name in here else "not in this network"
            raise ValueError(f"the weights in {folder} do not fit: {name} is {where}")
        (there, floating), wanted = found[name], tuple(here[name].shape)
        if floating != here[name].is_floating_point():
            kind = "a floating point" if floating else "an integer"
            raise ValueError(f"the weights in {folder} do not fit: {name} is {kind} tensor there")
        if there == wanted or can_be_resized(name, there, wanted):
            continue
        if name.startswith("head.classifier.") and there[1:] == wanted[1:] and there:
            fresh.append(name)
            continue
        raise ValueError(
            f"the weights in {folder} do not fit: {name} is {there} there and {wanted} here"
        )
    return fresh


def read_shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], bool]]:
    """{name: (shape, whether floating point)} of the weights in a folder."""
    path = folder / WEIGHTS
    try:
        if not path.is_file():
            raise OSError("no such file")
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
                for name, part in parts.items()
            }
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {first_line(error)}") from error


def can_be_resized(name: str, there: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor is a bias table or positions of another grid."""
    if not name.endswith((TABLE, POSITIONS)) or len(there) != 3 or there[0] != wanted[0]:
        return False
    return all(side % 2 if name.endswith(TABLE) else side > 0 for side in there[1:])


# ---- Writing -------------------------------------------------------------------------------------


def save_network(
    folder: Path, weights: dict[str, Tensor], config, training: dict | None = None
) -> None:
    """Store a network, for `load`.

    Args:
        weights: its state dict, in the type to be stored.
        config: its configuration, one of the families' dataclasses.
        training: how it was trained, as JSON can hold it.

    Raises:
        OSError: it could not be written; then the folder is as it was.
    """
    family = next(name for name, model in FAMILIES.items() if model.Config is type(config))

    def write(path: Path) -> None:
        save_tensors(weights, path / WEIGHTS)
        save_json({"family": family, **asdict(config)}, path / CONFIG)
        save_json(training or {}, path / TRAINING)

    replace_folder(Path(folder), write)


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


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
