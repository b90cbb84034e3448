"""Small data sets on disk, as a folder of images and as Parquet files."""

import datasets
import numpy as np
import PIL.Image

NAMES = ["cat", "dog", "eel"]


def picture(value: int, size=(10, 12)) -> np.ndarray:
    """An image whose pixels are near `value`, so that it can be told after decoding."""
    return np.full((*size, 3), value, np.uint8)


def write_folder(root, count=8, splits=("train", "test")):
    """An image folder: picture n of a class has the grey 10·n + class."""
    for split in splits:
        for label, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                PIL.Image.fromarray(picture(10 * n + label)).save(folder / f"{n}.png")
    return root


def write_parquet(root, column=None, count=24, files=1, missing=()):
    """The same pictures in Parquet files, with an image column; labels as classes or as given.

    missing: rows whose image is null.
    """
    labels = [n % 3 for n in range(count)]
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)}
    if column is not None:
        labels, features["kind"] = [column[label] for label in labels], None
        features["kind"] = datasets.Value("int64" if isinstance(column[0], int) else "string")
    images = [None if n in missing else picture(10 * (n // 3) + n % 3) for n in range(count)]
    rows = datasets.Dataset.from_dict(
        {"picture": images, "kind": labels}, features=datasets.Features(features)
    )
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        for n in range(files):
            part = rows.shard(files, n)
            part.to_parquet(root / f"{split}-{n:05d}-of-{files:05d}.parquet")
    return root


def damage(folder):
    """Two images of 24 unreadable: one cut off, one no image at all."""
    cut = folder / "train" / "cat" / "3.png"
    cut.write_bytes(cut.read_bytes()[:40])
    (folder / "train" / "eel" / "5.png").write_text("no image")
    return {str(cut), str(folder / "train" / "eel" / "5.png")}
