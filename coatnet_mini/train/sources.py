"""Where the training command's images come from: digits, shapes, a folder, the Hugging Face hub.

Whatever the source, the rest sees a `Split`: rows of encoded images and labels. Folders and the hub
are read by `datasets`; what is drawn here does without it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from tqdm import tqdm

from coatnet_mini.checkpoint import first_line
from coatnet_mini.images import raw_digits
from coatnet_mini.shapes import CLASSES, SHAPES_TEST, SHAPES_TRAIN, shapes

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

HELD_OUT_NAMES = ("validation", "test", "valid")  # the second split, in order of preference
LABEL_NAMES = ("label", "labels", "fine_label")
SPLITS = ("train", "test")  # of digits and shapes
LARGEST_METADATA = 10**9  # bytes
PATIENCE = 5  # seconds for the hub to answer at all
NUMBERS = (
    *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)),
    "float32",
    "float64",
    "bool",
)

Sample = tuple[str, dict, int]  # name, encoded image ("bytes" or "path"), label


@dataclass
class Split:
    """Encoded images and their labels, not yet decoded.

    rows: `Drawn`, or a `datasets` table or, streamed, iterable.
    image, label: names of its columns; no label for `Drawn`, which has none.
    labels: (N,) int64, known beforehand; None for streamed data.
    """

    name: str
    rows: "Drawn | Dataset | IterableDataset"
    image: str
    label: str | None
    classes: list[str]
    labels: np.ndarray | None = None
    index: dict = field(default_factory=dict)  # label as stored → number of the class

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streamed(self) -> bool:
        return self.labels is None

    def keep(self, rows: np.ndarray) -> "Split":
        """The split with only some of its rows, by number."""
        kept = {**vars(self), "rows": self.rows.select(rows), "labels": self.labels[rows]}
        return Split(**kept)

    def read(self, rows: list[int]) -> list[Sample]:
        """Some rows, by number."""
        images = self.rows[rows][self.image]
        return [
            (name_of(image, f"{self.name}[{row}]"), image, int(self.labels[row]))
            for row, image in zip(rows, images, strict=True)
        ]

    def sample(self, row: dict, n: int) -> Sample:
        """Row n of a stream."""
        name = name_of(row[self.image], f"{self.name}[{n}]")
        return name, row[self.image], self.number(row[self.label], name)

    def number(self, label, name: str) -> int:
        """The number of the class of a label as stored."""
        number = self.index.get(label)
        if number is None:
            raise ValueError(f"{name} has the label {label!r}; the classes are {short(self.index)}")
        return number


def name_of(image: dict | None, otherwise: str) -> str:
    return (image or {}).get("path") or otherwise


def short(names) -> str:
    names = [str(name) for name in names]
    return ", ".join(names if len(names) <= 12 else [*names[:5], "...", *names[-2:]])


def open_data(recipe) -> tuple[Split, Split]:
    """The training and the held-out split that a recipe asks for.

    Raises:
        ValueError: no such data, no images or labels in it, or labels that fit no class.
    """
    if recipe.data == "digits":
        train, test = (table(*part, name) for part, name in zip(raw_digits(), SPLITS, strict=True))
    elif recipe.data == "shapes":
        train = table(*shapes(recipe.train_images or SHAPES_TRAIN), CLASSES, "train")
        test = table(*shapes(SHAPES_TEST, "test"), CLASSES, "test")
    else:
        train, test = load(recipe)
    if recipe.train_images:
        if recipe.train_images > len(train):
            raise ValueError(
                f"train_images is {recipe.train_images}; {recipe.data} has {len(train)}"
            )
        train = train.keep(shuffled(len(train))[: recipe.train_images])
    return train, test


def shuffled(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)


def table(images: np.ndarray, labels: np.ndarray, classes: list[str], name: str) -> Split:
    """Arrays (N, H, W) or (N, 3, H, W) as a split; the images become PNGs, which lose nothing."""
    if images.ndim == 4:
        images = images.transpose(0, 2, 3, 1)
    rows = Drawn([{"bytes": png(image)} for image in images])
    return Split(name, rows, "image", None, classes, np.asarray(labels, np.int64))


class Drawn:
    """Images that were made here, encoded, and the rows of them that count: read as a table of
    `datasets` is."""

    def __init__(self, images: list[dict], rows: np.ndarray | None = None):
        self.images, self.rows = images, np.arange(len(images)) if rows is None else rows

    def __getitem__(self, rows: list[int]) -> dict[str, list[dict]]:
        return {"image": [self.images[row] for row in self.rows[rows]]}

    def select(self, rows: np.ndarray) -> "Drawn":
        return Drawn(self.images, self.rows[rows])


def png(image: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8, encoded."""
    file = BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def as_split(rows, name, image, label, classes, stored) -> Split:
    """A split whose label column holds `stored`'s keys, one for each class."""
    from datasets import Dataset, Image

    rows = rows.cast_column(image, Image(decode=False))
    split = Split(name, rows, image, label, classes, None, {key: n for n, key in enumerate(stored)})
    if isinstance(rows, Dataset):
        column = rows.with_format("arrow")[label].to_pylist()
        numbers = [split.number(value, f"{name}[{n}]") for n, value in enumerate(column)]
        split.labels = np.array(numbers, np.int64)
        if not len(numbers):
            raise ValueError(f"the split {name!r} holds no images")
    return split


def load(recipe) -> tuple[Split, Split]:
    """A folder, or a data set of the hub, by the columns and splits that it turns out to have."""
    found = fetch(recipe)
    if recipe.split_train not in found:
        raise no_split(recipe.data, recipe.split_train, found)
    train, test = found[recipe.split_train], held_out(recipe, found)
    image, label = columns(train, recipe)
    if test is None:
        train, test = divide(train, recipe)
    stored, classes = classes_of(train, label, recipe)
    shared = (image, label, classes, stored)
    return (
        as_split(train, recipe.split_train, *shared),
        as_split(test, recipe.split_test or "held-out", *shared),
    )


def no_split(data: str, name: str, found: dict) -> ValueError:
    return ValueError(f"{data} has no split {name!r}; choose from {', '.join(found)}")


def fetch(recipe) -> dict:
    """Every split under its name."""
    import datasets

    datasets.disable_progress_bars()
    path = Path(recipe.data).expanduser()
    looks_like_path = recipe.data.startswith((".", "/", "~")) or recipe.data.count("/") > 1
    if path.is_file() or (looks_like_path and not path.is_dir()):
        raise ValueError(f"data {recipe.data!r} is not a folder")
    name = str(path.resolve()) if path.is_dir() else recipe.data
    if path.is_dir():
        check_files(path)
    try:
        with nullcontext() if path.is_dir() else hub_or_cache(name):
            return datasets.load_dataset(name, recipe.data_config, streaming=recipe.streaming)
    except Exception as error:  # of a dozen classes: of the hub, the network, the file formats
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = "cannot be read" if path.is_dir() else "is no folder here, nor on the hub"
        raise ValueError(f"data {recipe.data!r} {what}: {reason}") from error


@contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Leave the hub out of it if it cannot be reached: `datasets` would try for half a minute."""
    import datasets
    import huggingface_hub
    from huggingface_hub.utils import HfHubHTTPError

    tqdm.write(f"looking for {name!r} on the Hugging Face hub ...")
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=PATIENCE)
    except (HfHubHTTPError, ValueError):
        pass  # it has answered, or no hub could have such a name: `datasets` says so
    except Exception as error:  # of a dozen classes: of the network, and of what is between
        tqdm.write(f"the hub cannot be reached ({first_line(error)}); is it in the cache? ...")
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def check_files(folder: Path) -> None:
    """Refuse what would be waited for without end: pipes and devices, and tables of gigabytes."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.exists() and not path.is_file():
                raise ValueError(f"{path} is no file but a pipe, a socket or a device")
            if path.stem == "metadata" and path.stat().st_size > LARGEST_METADATA:
                raise ValueError(
                    f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST_METADATA:,}"
                )


def held_out(recipe, found):
    """The second split: the one asked for, or the first of the usual names; None without any."""
    if recipe.split_test and recipe.split_test not in found:
        raise no_split(recipe.data, recipe.split_test, found)
    names = [recipe.split_test] if recipe.split_test else HELD_OUT_NAMES
    return next((found[name] for name in names if name in found), None)


def divide(train, recipe) -> "tuple[Dataset, Dataset]":
    """Hold out a part of the only split, always the same one."""
    if recipe.streaming:
        raise ValueError(
            f"{recipe.data} has one split only; streamed data needs a second one to be held out "
            "(--split-test)"
        )
    n = round(len(train) * recipe.holdout)
    if not 0 < n < len(train):
        raise ValueError(f"holdout is {recipe.holdout}, which leaves {n} of {len(train)} images")
    order = shuffled(len(train))
    return train.select(np.sort(order[n:])), train.select(np.sort(order[:n]))


def columns(rows, recipe) -> tuple[str, str]:
    """The names of the image and the label column: those asked for, or the usual ones."""
    from datasets import ClassLabel, Image

    features = rows.features
    if features is None:  # a stream may not know its columns before the first row
        features = dict.fromkeys(next(iter(rows)))
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    kinds = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    image = recipe.image_column or next(iter(images or [n for n in features if n == "image"]), None)
    known = [name for name in LABEL_NAMES if name in features]
    label = recipe.label_column or next(iter(known + kinds), None)
    for what, name in (("image", image), ("label", label)):
        if name not in features:
            wanted = f"no column {name!r}" if name else f"no {what} column that could be told"
            raise ValueError(
                f"{recipe.data} has {wanted} among {', '.join(features)}; "
                f"name it with --{what}-column"
            )
    refuse_kinds(recipe.data, features, image, label)
    return image, label


def refuse_kinds(data: str, features: dict, image: str, label: str) -> None:
    """Labels for images and images for labels, as far as the columns' types tell."""
    from datasets import ClassLabel, Value

    kind = features[image]
    if isinstance(kind, ClassLabel) or getattr(kind, "dtype", "") in NUMBERS:
        raise ValueError(f"{data}: the column {image!r} holds no images; choose an --image-column")
    kind = features[label]
    plain = isinstance(kind, Value) and kind.dtype in (*NUMBERS, "string")
    if not (kind is None or plain or isinstance(kind, ClassLabel)):
        raise ValueError(
            f"{data}: the column {label!r} holds no labels, which are integers or text; "
            "choose a --label-column"
        )


def classes_of(rows, label: str, recipe) -> tuple[list, list[str]]:
    """The labels as stored, one for each class in order, and the classes' names."""
    from datasets import ClassLabel, Dataset

    kind = (rows.features or {}).get(label)
    if isinstance(kind, ClassLabel):
        return list(range(kind.num_classes)), kind.names
    if recipe.num_classes:
        stored = list(range(recipe.num_classes))
    elif isinstance(rows, Dataset):
        stored = sorted(set(rows.with_format("arrow")[label].to_pylist()) - {None})
        if stored and all(isinstance(value, int) for value in stored):
            stored = list(range(max(stored) + 1))
    else:
        raise ValueError(
            f"a stream does not tell how many classes its column {label!r} has; "
            "say so with --num-classes"
        )
    return stored, [str(value) for value in stored]
