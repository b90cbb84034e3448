"""Which data a run was begun with, so that it is not resumed on other images without a word.

A split is known by the names, sizes and labels of its images: telling them needs no image to be
read. An image replaced by another of the same name and the same number of bytes is not seen.
"""

import hashlib
from pathlib import Path

import numpy as np

from coatnet_mini.train.sources import Drawn, Split, short


def identity(train: Split, test: Split) -> dict:
    """What a checkpoint keeps of the data; of streamed splits the classes alone are known."""
    parts = {} if train.streamed else {"training": of_split(train), "held-out": of_split(test)}
    return {"classes": train.classes, "parts": parts}


def of_split(split: Split) -> dict:
    """{"images": N, "digest": SHA-256 of all names and sizes, and of the labels}."""
    images = listed(split)
    found = hashlib.sha256(split.labels.astype("<i8").tobytes())
    for path, length in images:
        name = "/".join(Path(path).parts[-2:]) if path else ""
        size = length if length is not None else size_of(path)
        found.update(f"{name}\0{size}\n".encode())
    if len(split) != len(images):  # some of the rows, which no other digest tells
        found.update(np.int64(len(split)).tobytes())
    return {"images": len(split), "digest": found.hexdigest()}


def listed(split: Split) -> list[tuple[str | None, int | None]]:
    """The path of each image of the table, and the number of bytes if it is in the table itself."""
    if isinstance(split.rows, Drawn):
        return [(None, len(image["bytes"])) for image in split.rows.images]
    import pyarrow.compute as pc

    column = split.rows.data.column(split.image)
    paths = pc.struct_field(column, "path").to_pylist()
    lengths = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
    return list(zip(paths, lengths, strict=True))


def size_of(path: str | None) -> int | None:
    try:
        return Path(path or "").stat().st_size
    except OSError:  # no file of its own, or gone: reading it will say so
        return None


def changes(before: dict, now: dict) -> list[str]:
    """What is not as it was, in words."""
    found = []
    if before["classes"] != now["classes"]:
        found.append(
            f"the classes were {short(before['classes'])}; they are {short(now['classes'])}"
        )
    for name in before["parts"].keys() & now["parts"].keys():
        was, is_ = before["parts"][name], now["parts"][name]
        if was["images"] != is_["images"]:
            found.append(f"there were {was['images']:,} {name} images; there are {is_['images']:,}")
        elif was["digest"] != is_["digest"]:
            found.append(f"{name} images have other names, sizes or labels")
    return sorted(found)
