"""What the training command finds in data that it has not seen before: splits, columns, classes."""

import os
import runpy
import sys
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Features, Image, Sequence, Value

from coatnet_mini.shapes import CLASSES, shapes
from coatnet_mini.train import sources
from coatnet_mini.train.recipe import Recipe
from coatnet_mini.train.sources import (
    as_split,
    check_files,
    columns,
    divide,
    fetch,
    held_out,
    open_data,
    shuffled,
    table,
)
from tests.image_files import write_folder, write_parquet

LABELS, IMAGES = ClassLabel(names=["a", "b"]), Image()

# ---- Splits


def test_the_held_out_split_is_the_one_asked_for_or_the_first_of_the_usual_names():
    found = {"train": 1, "valid": 2, "test": 3, "validation": 4, "extra": 5}
    for name, expected in (("validation", 4), ("test", 3), ("valid", 2)):
        assert held_out(Recipe(), found) == expected
        del found[name]
    assert held_out(Recipe(), found) is None
    assert held_out(Recipe(split_test="extra"), found) == 5
    with pytest.raises(ValueError, match=r"^digits has no split 'test'; choose from train, extra$"):
        held_out(Recipe(split_test="test"), found)


def test_the_only_split_is_divided_as_numpy_shuffles_it():
    rows = datasets.Dataset.from_dict({"n": range(20)})
    train, test = divide(rows, Recipe(holdout=0.25))
    order = np.random.default_rng(0).permutation(20)
    assert test["n"][:] == sorted(order[:5].tolist()) and train["n"][:] == sorted(order[5:])
    train, test = divide(rows, Recipe(holdout=0.0301))  # one image is enough
    assert (len(train), len(test)) == (19, 1)
    with pytest.raises(ValueError, match=r"^my/data has one split only; streamed data needs a sec"):
        divide(rows, Recipe(data="my/data", streaming=True))


def test_some_of_the_training_images_are_the_first_of_that_shuffle(monkeypatch):
    images, labels = np.arange(20, dtype=np.uint8).repeat(4).reshape(20, 2, 2), np.arange(20) % 3
    monkeypatch.setattr(sources, "raw_digits", lambda: [(images, labels, list("abc"))] * 2)
    everything, _ = open_data(Recipe())
    some, _ = open_data(Recipe(train_images=7))
    first = shuffled(20)[:7]
    assert some.labels.tolist() == everything.labels[first].tolist()
    assert some.read([0, 6]) == [
        (f"train[{n}]", everything.read([first[n]])[0][1], everything.labels[first[n]])
        for n in (0, 6)
    ]
    assert len(open_data(Recipe(train_images=20))[0]) == 20  # all of them are allowed
    with pytest.raises(ValueError, match=r"^train_images is 21; digits has 20$"):
        open_data(Recipe(train_images=21))


def test_splits_are_known_by_their_names_in_messages(tmp_path):
    def names(**flags):
        return [split.name for split in open_data(Recipe(**flags))]

    assert names() == ["train", "test"]
    folder = str(write_folder(tmp_path, count=2))
    assert names(data=folder) == ["train", "held-out"]
    assert names(data=folder, split_test="test") == ["train", "test"]
    assert names(data=folder, split_train="test") == ["test", "held-out"]


def test_splits_of_shapes_are_drawn_apart(monkeypatch):
    monkeypatch.setattr(sources, "SHAPES_TRAIN", 4)
    monkeypatch.setattr(sources, "SHAPES_TEST", 3)
    for split, expected in zip(open_data(Recipe(data="shapes")), (4, 3), strict=True):
        assert split.name == ("train" if expected == 4 else "test")
        assert split.labels.tolist() == shapes(expected, split.name)[1].tolist()
        assert split.classes == CLASSES


def test_what_is_drawn_here_needs_no_library_of_data_sets(monkeypatch):
    for name in ("datasets", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    anew = runpy.run_path(sources.__file__)
    train, _ = anew["open_data"](Recipe(data="shapes", train_images=2))
    assert len(train) == 2


def test_a_split_without_images_is_refused():
    kinds = Features({"image": IMAGES, "label": LABELS})
    rows = datasets.Dataset.from_dict({"image": [], "label": []}, features=kinds)
    with pytest.raises(ValueError, match=r"^the split 'train' holds no images$"):
        as_split(rows, "train", "image", "label", ["a", "b"], [0, 1])


# ---- Columns

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMBERS += ["float32", "float64", "bool"]


def found(kinds, **flags):
    return columns(SimpleNamespace(features=Features(kinds)), Recipe(data="my/data", **flags))


def test_columns_are_found_by_kind_and_by_the_usual_names():
    kinds = {"name": Value("string"), "thumb": IMAGES, "photo": IMAGES, "group": LABELS}
    assert found(kinds) == ("thumb", "group")
    for label in ("fine_label", "labels", "label"):  # each is preferred to those before it
        kinds[label] = Value("int64")
        assert found(kinds) == ("thumb", label)
    assert found(kinds, image_column="photo", label_column="group") == ("photo", "group")
    assert found({"image": Value("binary"), "label": LABELS}) == ("image", "label")


def test_columns_of_a_stream_that_does_not_tell_are_those_of_its_first_row():
    class Stream(list):
        features = None

    rows = Stream([{"label": 1, "image": {}}, {"other": 2}])
    assert columns(rows, Recipe()) == ("image", "label")


@pytest.mark.parametrize(
    "kinds, flags, said",
    [
        ({"label": LABELS}, {}, "no image column that could be told among label; name it with --i"),
        ({"image": IMAGES, "n": Value("int64")}, {}, "no label column that could be told among im"),
        ({"image": IMAGES, "label": LABELS}, {"label_column": "x"}, "no column 'x' among image, l"),
        ({"image": IMAGES, "label": LABELS}, {"image_column": "x"}, "no column 'x' among image, l"),
    ],
)
def test_columns_that_are_missing_are_named_with_the_option(kinds, flags, said):
    with pytest.raises(ValueError, match=f"^my/data has {said}") as error:
        found(kinds, **flags)
    option = "image" if "image" in said.split()[1] or "image_column" in flags else "label"
    assert str(error.value).endswith(f"name it with --{option}-column")


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_labels_and_no_images(kind):
    kinds = {"n": Value(kind), "image": IMAGES, "label": LABELS}
    assert found(kinds, label_column="n") == ("image", "n")
    with pytest.raises(
        ValueError, match=r"^my/data: the column 'n' holds no images; choose an --i"
    ):
        found(kinds, image_column="n")


def test_text_is_a_label_and_anything_else_is_none():
    kinds = {"image": IMAGES, "text": Value("string"), "bytes": Value("binary")}
    kinds |= {"half": Value("float16"), "list": Sequence(Value("int64"))}
    assert found(kinds, label_column="text") == ("image", "text")
    for name in ("image", "bytes", "half", "list"):
        with pytest.raises(ValueError, match=f"^my/data: the column '{name}' holds no labels, whi"):
            found(kinds, label_column=name)


# ---- Classes


def test_classes_of_integers_are_counted_from_zero_and_those_of_text_in_their_order(tmp_path):
    for n, (column, classes) in enumerate(
        [([0, 2, 5], list("012345")), (["b", "10", "9"], ["10", "9", "b"])]
    ):
        folder = str(write_parquet(tmp_path / str(n), column=column))
        train, _ = open_data(Recipe(data=folder, label_column="kind"))
        assert train.classes == classes
        assert train.labels.dtype == np.int64
        assert [train.classes[label] for label in train.labels[:3]] == list(map(str, column))


def test_a_number_of_classes_that_is_told_counts(tmp_path):
    folder = str(write_parquet(tmp_path, column=[0, 1, 2]))
    for streaming in (False, True):
        flags = dict(data=folder, label_column="kind", num_classes=4)
        train, _ = open_data(Recipe(**flags, streaming=streaming, steps=1))
        assert train.classes == ["0", "1", "2", "3"]
        assert train.sample({"picture": None, "kind": 2}, 5) == ("train[5]", None, 2)


def test_of_many_classes_the_first_and_the_last_are_named():
    assert sources.short(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert sources.short(range(13)) == "0, 1, 2, 3, 4, ..., 11, 12"


# ---- Images


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 3, 5, 7)])
def test_what_is_drawn_here_is_stored_without_loss(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = table(images, [1, 0], ["a", "b"], "train")
    assert (split.name, split.classes, split.labels.tolist()) == ("train", ["a", "b"], [1, 0])
    assert not split.streamed and len(split) == 2
    for n, (name, image, label) in enumerate(split.read([0, 1])):
        with PIL.Image.open(BytesIO(image["bytes"])) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture)
        assert np.array_equal(pixels if len(shape) == 3 else pixels.transpose(2, 0, 1), images[n])
        assert (name, label) == (f"train[{n}]", 1 - n)


def test_an_image_is_named_by_its_path_or_by_its_row():
    assert sources.name_of({"path": "a.png", "bytes": None}, "train[3]") == "a.png"
    for image in ({"path": None, "bytes": b""}, {}, None):
        assert sources.name_of(image, "train[3]") == "train[3]"


# ---- Places


@pytest.mark.parametrize("name", ["./a", "../a", "/no/where", "~/no/where", "a/b/c"])
def test_what_looks_like_a_folder_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr(sources, "hub_or_cache", lambda name: pytest.fail("asked"))
    with pytest.raises(ValueError, match=f"^data '{name}' is not a folder$"):
        fetch(Recipe(data=name))


def test_folders_and_names_reach_the_library_as_asked(tmp_path, monkeypatch):
    asked, looked_for = [], []

    @contextmanager
    def hub(name):
        looked_for.append(name)
        yield

    def load_dataset(*arguments, **options):
        asked.append((*arguments, options))
        return {"train": 1}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "hub_or_cache", hub)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert fetch(Recipe(data="mine")) == {"train": 1}
    fetch(Recipe(data="ada/thing", data_config="small", streaming=True))
    folder = str((tmp_path / "mine").resolve())
    expected = [(folder, None, {"streaming": False}), ("ada/thing", "small", {"streaming": True})]
    assert asked == expected and looked_for == ["ada/thing"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^data 'file' is not a folder$"):
        fetch(Recipe(data="file"))


def test_the_librarys_own_bars_are_off(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": 1})
    shown = not datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()
    try:
        fetch(Recipe(data="."))
        assert datasets.are_progress_bars_disabled()
    finally:
        if shown:
            datasets.enable_progress_bars()


def test_an_error_without_words_is_told_by_its_kind(tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise MemoryError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"cannot be read: MemoryError$"):
        fetch(Recipe(data=str(tmp_path)))


def test_tables_up_to_a_gigabyte_and_links_to_nothing_are_no_trouble(tmp_path):
    folder = write_folder(tmp_path, count=1)
    (folder / "train" / "gone.png").symlink_to(folder / "nowhere")
    for name in ("metadata.csv", "other.csv"):
        (folder / name).touch()
        os.truncate(folder / name, 10**9 + (name != "metadata.csv"))  # no disk is taken
    check_files(folder)
    os.truncate(folder / "metadata.csv", 10**9 + 1)
    with pytest.raises(ValueError, match=r"has 1,000,000,001 bytes; at most 1,000,000,000$"):
        check_files(folder)
