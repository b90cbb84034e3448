"""Data: digits, shapes, folders, Parquet, streams; the order of images; what cannot be read."""

import hashlib
import io
import json
import os
import shutil
import socket
import threading
import time
from dataclasses import astuple
from itertools import islice

import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pytest
import torch

from coatnet_mini.images import decode, digit_images, fit, normalize, shape_images
from coatnet_mini.shapes import CLASSES, RELATIONS, SPLITS, positions, shapes
from coatnet_mini.train import sources
from coatnet_mini.train.identity import changes, identity
from coatnet_mini.train.loading import IGNORED, Decoder, Loader, Share, Shuffled, prefetch
from coatnet_mini.train.recipe import Recipe
from coatnet_mini.train.sources import open_data
from coatnet_mini.train.stream import Position, Stream, ahead
from tests.image_files import NAMES, damage, picture, write_folder, write_parquet


def everything(loader: Loader) -> list[tuple[int, int]]:
    """(grey, label) of all held-out images, in order."""
    return [
        (int(image[0, 0, 0]), int(label))
        for batch in loader.evaluate(5)
        for image, label in zip(*batch, strict=True)
    ]


def loader(split, memory=0.0, strict=False) -> Loader:
    return Loader(split, Decoder(8, 3, strict, lambda text: None), memory, 2, 1)


# ---- Digits and shapes


def test_digits_are_scikit_learns_every_third_held_out():
    from sklearn.datasets import load_digits

    source = load_digits()
    train, test = digit_images(8)
    assert (len(train), len(test)) == (1198, 599)
    assert train.classes == [str(n) for n in range(10)]
    expected = torch.from_numpy((source.images[2::3] * 255 / 16).round()).to(torch.uint8)
    assert torch.equal(test.images[:, 0], expected)
    assert test.labels.tolist() == source.target[2::3].tolist()
    kept = np.delete(source.target, np.s_[2::3])
    assert train.labels.tolist() == kept.tolist()


def test_digits_are_enlarged_and_normalized():
    train, _ = digit_images(16)
    assert train.images.shape == (1198, 1, 16, 16) and train.images.dtype == torch.uint8
    x = normalize(train.images)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1


def test_the_command_sees_the_digits_of_the_package():
    train, test = open_data(Recipe(channels=1))
    for split, expected in zip((train, test), digit_images(16), strict=True):
        held = Loader(split, Decoder(16, 1, True), 1e9, 2, 1)
        assert torch.equal(held.images, expected.images)
        assert torch.equal(held.labels, expected.labels)


def test_shapes_reproduce_and_grow():
    images, labels = shapes(40)
    assert images.shape == (40, 3, 32, 32) and images.dtype == np.uint8
    again, _ = shapes(48)
    assert np.array_equal(again[:40], images)
    assert np.array_equal(shapes(40, seed=0)[0], images)
    assert not np.array_equal(shapes(40, seed=1)[0], images)
    assert np.bincount(labels, minlength=16).tolist() == [3] * 8 + [2] * 8
    held = shape_images(20, "test")
    assert len(held) == 20 and held.classes == CLASSES
    assert np.array_equal(held.images.numpy(), shapes(20, "test", seed=0)[0])


def test_shapes_are_the_same_for_everyone():
    """Studies and stored networks were made with these: every pixel stays as it is."""
    digests = [hashlib.sha256(shapes(64, split)[0].tobytes()).hexdigest()[:16] for split in SPLITS]
    assert digests == ["528e39bd6a2c6792", "ffd56ffe9ef06200"]
    assert len(shapes(1)[0]) == 1
    assert CLASSES[:5] == [f"stripes {r}" for r in ("above", "below", "left", "right")] + [
        "bars above"
    ]
    assert CLASSES[-1] == "diagonals right" and CLASSES[8] == "checks above"


def test_shapes_are_as_many_as_the_option_says(monkeypatch):
    asked = []

    def few(count, *options):
        asked.append(count)
        return shapes(32, *options)

    monkeypatch.setattr("coatnet_mini.train.sources.shapes", few)
    open_data(Recipe(data="shapes"))
    open_data(Recipe(data="shapes", train_images=20))
    assert asked == [10_000, 2_000, 20, 2_000]


def test_shapes_held_out_never_overlap():
    for relation in range(len(RELATIONS)):
        train, test = ({tuple(p) for p in positions(relation, split)} for split in SPLITS)
        assert not train & test
        assert 0.19 < len(test) / (len(test) + len(train)) < 0.21
    pictures = [{image.tobytes() for image in shapes(200, split)[0]} for split in SPLITS]
    assert len(pictures[0]) == len(pictures[1]) == 200 and not pictures[0] & pictures[1]


def test_shapes_relations_are_what_their_names_say():
    """Shapes do not touch, stay inside, and the named direction is the offset's larger part."""
    for relation, direction in enumerate(RELATIONS.values()):
        pairs = positions(relation, "train")
        assert pairs.min() >= 5 and pairs.max() <= 26
        offset = pairs[:, :2] - pairs[:, 2:]
        along, across = offset @ direction, np.abs(offset @ direction[::-1])
        assert along.min() == 11 and (along - across).min() == 4


def test_shapes_classes_differ_in_texture_only_locally():
    """Within the disc a texture is dark and light in equal parts: brightness does not tell it."""
    from coatnet_mini.shapes import TEXTURES

    y, x = np.mgrid[:8, :8]
    patterns = [texture(y, x) for texture in TEXTURES.values()]
    assert all(pattern.mean() == 0.5 for pattern in patterns)
    for n, a in enumerate(patterns):
        for b in patterns[n + 1 :]:
            shifted = [np.roll(b, (i, j), (0, 1)) for i in range(4) for j in range(4)]
            assert not any(np.array_equal(a, s) for s in shifted)


def test_shapes_refuse():
    with pytest.raises(ValueError, match="n is 0"):
        shapes(0)
    with pytest.raises(ValueError, match="'valid'; choose from train, test"):
        shapes(4, "valid")


# ---- Decoding


def test_fit_takes_the_centre_square():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    assert (fit(PIL.Image.fromarray(image), 4, 3) == 200).all()
    assert fit(PIL.Image.fromarray(image), 2, 1).shape == (1, 2, 2)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_decode_any_mode(mode):
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(255)).convert(mode).save(buffer, "PNG")
    assert (decode(buffer.getvalue(), 8, 3) == 255).all()


def test_decode_jpeg():
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(90, (600, 700))).save(buffer, "JPEG")
    pixels = decode(buffer.getvalue(), 24, 3)
    assert pixels.shape == (3, 24, 24) and abs(int(pixels[0, 5, 5]) - 90) <= 2


# ---- Folders, Parquet, streams


def expected_pictures(count=8):
    return sorted((10 * n + label, label) for n in range(count) for label in range(3))


@pytest.mark.parametrize("memory", [0.0, 1e9])
def test_image_folder(tmp_path, memory):
    train, test = open_data(Recipe(data=str(write_folder(tmp_path / "data"))))
    assert train.classes == NAMES and len(train) == 24
    assert sorted(everything(loader(test, memory))) == expected_pictures()


@pytest.mark.parametrize("column", [None, NAMES, [0, 1, 2]], ids=["classes", "strings", "integers"])
def test_parquet(tmp_path, column):
    train, test = open_data(
        Recipe(
            data=str(write_parquet(tmp_path / "data", column)),
            image_column="picture",
            label_column="kind",
        )
    )
    assert train.classes == (["0", "1", "2"] if column == [0, 1, 2] else NAMES)
    assert sorted(everything(loader(test))) == expected_pictures()


def test_one_split_is_divided(tmp_path):
    folder = write_folder(tmp_path / "data", splits=("train",))
    train, test = open_data(Recipe(data=str(folder), holdout=0.25))
    assert (len(train), len(test)) == (18, 6)
    both = everything(loader(train)) + everything(loader(test))
    assert sorted(both) == expected_pictures()
    again = open_data(Recipe(data=str(folder), holdout=0.25, seed=5))
    assert everything(loader(again[1])) == everything(loader(test))


@pytest.mark.parametrize(("holdout", "left"), [(0.01, 0), (0.99, 24)])
def test_both_parts_of_a_split_have_images(tmp_path, holdout, left):
    folder = write_folder(tmp_path / "data", splits=("train",))
    with pytest.raises(ValueError, match=f"holdout is {holdout}, which leaves {left} of 24 images"):
        open_data(Recipe(data=str(folder), holdout=holdout))


def test_stream_equals_table(tmp_path):
    folder = str(write_parquet(tmp_path / "data"))
    _, test = open_data(Recipe(data=folder, streaming=True, steps=1, shuffle_buffer=1))
    assert test.streamed
    assert sorted(everything(loader(test))) == expected_pictures()


def take(split, n, rank=0, processes=1, shuffled=24, position=None):
    """n (grey, position behind it) of a process's stream."""
    items = Stream(split, rank, processes, shuffled).endless(position or Position())
    greys = [
        (int(decode(image["bytes"], 8, 1)[0, 0, 0]), at) for at, (_, image, _) in islice(items, n)
    ]
    items.close()
    return greys


@pytest.fixture(scope="module", params=[1, 3], ids=["one file", "three files"])
def stream(request, tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("data"), files=request.param)
    return open_data(Recipe(data=str(folder), streaming=True, steps=1))[0]


def test_stream_is_shuffled_anew_in_each_pass(stream):
    greys = [grey for grey, _ in take(stream, 72)]
    passes = [greys[k : k + 24] for k in (0, 24, 48)]
    assert [sorted(each) for each in passes] == [sorted(g for g, _ in expected_pictures())] * 3
    assert passes[0] != passes[1] and passes[0] != sorted(passes[0])
    blocks = [grey for grey, _ in take(stream, 24, shuffled=8)]
    assert [sorted(blocks[k : k + 8]) for k in (0, 8, 16)] != [sorted(passes[0])[:8]] * 3
    assert sorted(blocks) == sorted(passes[0]) != blocks


def test_stream_keeps_its_order_unless_it_is_shuffled(stream):
    items = Stream(stream, 0, 1).endless(Position())
    greys = [decode(image["bytes"], 8, 1)[0, 0, 0] for _, (_, image, _) in islice(items, 24)]
    items.close()
    assert sorted(greys) == sorted(grey for grey, _ in expected_pictures())
    once = Stream(stream, 0, 1).once()
    assert greys == [decode(image["bytes"], 8, 1)[0, 0, 0] for _, image, _ in once]


def test_stream_names_its_images_by_their_place(stream):
    """In the order of the stream, also where they are handed out in another."""
    once = {name: image["bytes"] for name, image, _ in Stream(stream, 0, 1).once()}
    assert list(once) == [f"train[{n}]" for n in range(24)]
    items = Stream(stream, 0, 1, shuffled=5, seed=3).endless(Position())
    shuffled = [(name, image["bytes"]) for _, (name, image, _) in islice(items, 24)]
    items.close()
    assert dict(shuffled) == once and list(dict(shuffled)) != list(once)
    order = np.random.default_rng([3, 0, 0, 0]).permutation(5)
    assert [name for name, _ in shuffled[:5]] == [f"train[{n}]" for n in order]


def test_a_process_for_which_no_image_is_left_says_so(stream):
    with pytest.raises(ValueError, match=r"^the split 'train' holds no images for a process$"):
        take(stream, 1, rank=24, processes=25)


def test_what_is_made_ahead_is_told_to_stop_when_nobody_reads_on():
    stopped = []

    def produce(stop):
        yield 1
        stopped.append(stop.wait(10))
        yield 2

    items = ahead(produce)
    assert next(items) == 1
    items.close()
    assert stopped == [True]


@pytest.mark.parametrize("rank, processes", [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("shuffled, n", [(1, 5), (7, 1), (24, 7)])
def test_stream_stopped_often_is_the_stream_that_was_not(stream, rank, processes, shuffled, n):
    """Stopped after every n images."""
    share = dict(rank=rank, processes=processes, shuffled=shuffled)
    whole = [grey for grey, _ in take(stream, 35, **share)]
    greys, position = [], None
    while len(greys) < 35:
        part = take(stream, n, **share, position=position)
        plain = json.loads(json.dumps(astuple(part[-1][1])))  # numbers, text, containers only
        greys, position = greys + [grey for grey, _ in part], Position(*plain)
    assert greys == whole


def test_stream_is_dealt_out_among_processes(stream):
    for processes in (2, 3):
        n = 24 // processes
        greys = [grey for rank in range(processes) for grey, _ in take(stream, n, rank, processes)]
        assert sorted(greys) == sorted(g for g, _ in expected_pictures())
        loaders = [loader(stream).evaluate(5, rank, processes) for rank in range(processes)]
        labels = torch.cat([batch[1] for part in loaders for batch in part])
        assert labels.bincount().tolist() == [8, 8, 8]


def test_stream_leaves_no_thread(stream):
    before = threading.active_count()
    batches = loader(stream).train(Share(4), 0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


# ---- Order


def test_shuffled_holds_every_row_once_an_epoch():
    shuffled = Shuffled(10, seed=3)
    rows = shuffled(0, 30)
    assert all(sorted(rows[k : k + 10]) == list(range(10)) for k in (0, 10, 20))
    assert not np.array_equal(rows[:10], rows[10:20])
    assert np.array_equal(Shuffled(10, seed=3)(7, 24), rows[7:24])
    assert not np.array_equal(Shuffled(10, seed=4)(0, 30), rows)


def test_processes_and_parts_share_a_batch(tmp_path):
    train, _ = open_data(Recipe(data=str(write_folder(tmp_path / "data"))))
    held = loader(train, 1e9)

    def batches(*share):
        stream = held.train(Share(8, *share), 0, 2)
        return [next(stream)[0] for _ in range(2 * share[0])]

    whole = torch.cat(batches(1))
    parts = [batches(2, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part[k] for k in range(4) for part in parts]), whole)
    lazy = loader(train).train(Share(8), 0, 2)
    assert torch.equal(torch.cat([next(lazy)[0], next(lazy)[0]]), whole)
    with pytest.raises(ValueError, match="8 cannot be divided among 3 processes × 2 parts"):
        Share(8, 2, 0, 3)


def test_evaluation_sees_every_image_once_over_processes(tmp_path):
    _, test = open_data(Recipe(data=str(write_folder(tmp_path / "data"))))
    labels = [torch.cat([b[1] for b in loader(test).evaluate(5, rank, 3)]) for rank in range(3)]
    assert torch.cat(labels).bincount().tolist() == [8, 8, 8]


def test_prefetch_keeps_order_and_raises_where_used():
    assert list(prefetch(lambda n: n * n, range(20), 3)) == [n * n for n in range(20)]
    assert list(ahead(lambda stop: (n for n in range(20)))) == list(range(20))

    def broken(stop):
        yield 1
        raise OSError("gone")

    items = ahead(broken)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


# ---- What cannot be read


def test_corrupt_images_are_named_counted_and_skipped(tmp_path):
    folder = write_folder(tmp_path / "data")
    names = damage(folder)
    train, _ = open_data(Recipe(data=str(folder)))
    said = []
    held = Loader(train, Decoder(8, 3, False, said.append), 1e9, 2, 1)
    assert held.size == 22 and set(held.decoder.corrupt) == names
    assert len(said) == 2 and all(any(name in line for line in said) for name in names)
    lazy = loader(train)
    batches = lazy.train(Share(24), 0)
    images, labels = next(batches)
    next(batches)
    batches.close()
    assert (labels != IGNORED).all() and (images.amax((1, 2, 3)) > 0).sum() >= 21
    assert set(lazy.decoder.corrupt) == names
    assert [label for _, label in everything(loader(train))].count(IGNORED) == 2


def test_corrupt_images_stop_a_strict_run(tmp_path):
    folder = write_folder(tmp_path / "data")
    damage(folder)
    train, _ = open_data(Recipe(data=str(folder)))
    with pytest.raises(ValueError, match=r"cannot read the image .*\.png"):
        loader(train, strict=True, memory=1e9)


def test_nothing_readable(tmp_path):
    folder = write_folder(tmp_path / "data", count=2)
    for path in folder.glob("train/*/*"):
        path.write_text("no image")
    train, _ = open_data(Recipe(data=str(folder)))
    with pytest.raises(ValueError, match="none of the images of the split 'train' can be read"):
        loader(train, 1e9)
    with pytest.raises(ValueError, match="none of the 4 images of a batch"):
        next(loader(train).train(Share(4), 0))


def test_bad_data_in_one_line(tmp_path):
    folder = str(write_parquet(tmp_path / "data"))
    empty = tmp_path / "empty"
    empty.mkdir()
    flat = tmp_path / "flat"
    flat.mkdir()
    PIL.Image.fromarray(picture(1)).save(flat / "a.png")
    odd = str(write_parquet(tmp_path / "odd", column=[0, 1, 7]))
    negative = str(write_parquet(tmp_path / "negative", column=[0, -1, 1]))
    cases = [
        (dict(data="./nowhere"), "data './nowhere' is not a folder"),
        (dict(data=str(empty)), "empty' cannot be read: "),
        (dict(data=str(flat)), "no label column that could be told among image"),
        (dict(data=folder, split_train="all"), "no split 'all'; choose from"),
        (dict(data=folder, split_test="all"), "no split 'all'; choose from"),
        (dict(data=folder, image_column="pixels"), "no column 'pixels' among picture, kind"),
        (
            dict(data=odd, label_column="kind", num_classes=3),
            r"train\[2\] has the label 7; the classes are 0, 1, 2",
        ),
        (dict(data=negative, label_column="kind"), "has the label -1; the classes are 0, 1"),
        (dict(data=odd, label_column="kind", streaming=True, steps=1), "--num-classes"),
        (dict(train_images=5000), "train_images is 5000; digits has 1198"),
    ]
    for flags, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            open_data(Recipe(**flags))
        assert "\n" not in str(caught.value)


def test_stream_names_a_label_out_of_range(tmp_path):
    folder = str(write_parquet(tmp_path / "data", column=[0, 1, 7]))
    train, _ = open_data(
        Recipe(
            data=folder,
            label_column="kind",
            num_classes=3,
            streaming=True,
            steps=1,
            shuffle_buffer=1,
        )
    )
    with pytest.raises(ValueError, match="has the label 7; the classes are 0, 1, 2"):
        next(loader(train).train(Share(6), 0))


def test_train_images_limits(tmp_path):
    train, test = open_data(Recipe(data="shapes", train_images=32))
    assert len(train) == 32 and len(test) == 2000
    train, _ = open_data(Recipe(train_images=100))
    assert len(train) == 100 and len(np.unique(train.labels)) == 10


# ---- Null, swapped and endless


def test_a_missing_label_is_named_and_a_missing_image_is_skipped(tmp_path):
    nulls = write_parquet(tmp_path / "nulls", column=["ant", None, "bee"])
    with pytest.raises(
        ValueError, match=r"train\[1\] has the label None; the classes are ant, bee"
    ):
        open_data(Recipe(data=str(nulls), label_column="kind"))
    only = write_parquet(tmp_path / "only", column=[None, None, None])
    with pytest.raises(ValueError, match=r"train\[0\] has the label None"):
        open_data(Recipe(data=str(only), label_column="kind"))
    folder = write_parquet(tmp_path / "images", missing=(4,))
    train, _ = open_data(Recipe(data=str(folder)))
    said = []
    read = Loader(train, Decoder(8, 3, False, said.append), 1e9, 2, 1)
    assert read.size == 23 and said == ["skipped a corrupt image, train[4]: there is no image"]


@pytest.mark.parametrize("streaming", [False, True])
def test_images_for_labels_and_labels_for_images_are_refused(tmp_path, streaming):
    folder = str(write_parquet(tmp_path / "data"))
    shared = dict(data=folder, streaming=streaming, steps=1)
    for flags, message in (
        (dict(label_column="picture"), "the column 'picture' holds no labels, which are integers"),
        (dict(image_column="kind", label_column="kind"), "the column 'kind' holds no images"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            open_data(Recipe(**shared, **flags))
        assert "\n" not in str(caught.value)


def test_a_pipe_and_a_huge_table_are_refused_at_once(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "piped", count=1)
    os.mkfifo(folder / "train" / "cat" / "9.png")
    with pytest.raises(ValueError, match=r"9\.png is no file but a pipe"):
        open_data(Recipe(data=str(folder)))
    folder = write_folder(tmp_path / "tabled", count=1)
    (folder / "train" / "metadata.csv").write_text("file_name,label\n" + "cat/0.png,0\n" * 9)
    monkeypatch.setattr(sources, "LARGEST_METADATA", 100)
    with pytest.raises(ValueError, match=r"metadata\.csv has 124 bytes; at most 100"):
        open_data(Recipe(data=str(folder)))


def test_a_hub_that_does_not_answer_is_given_up_soon(monkeypatch, capsys):
    """`datasets` alone tries for half a minute, and says nothing of it on standard output."""
    monkeypatch.setattr(sources, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(ValueError, match="'no/thing' is no folder here, nor on the hub: ") as e:
            open_data(Recipe(data="no/thing"))
        assert time.monotonic() - start < 5 and "\n" not in str(e.value)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "looking for 'no/thing' on the Hugging Face hub ..."
    assert second.startswith("the hub cannot be reached (") and "is it in the cache?" in second


@pytest.mark.parametrize("reached", [True, False])
def test_the_hub_is_left_out_only_where_it_cannot_be_reached(reached, monkeypatch):
    settings = (huggingface_hub.constants, datasets.config)
    for module in settings:
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)

    def info(api, name, timeout):
        if not reached:
            raise ConnectionError("no route")

    def load_dataset(*arguments, **options):
        assert all(module.HF_HUB_OFFLINE is not reached for module in settings)
        raise OSError("seen")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="nor on the hub: seen"):
        open_data(Recipe(data="no/thing"))
    assert not any(module.HF_HUB_OFFLINE for module in settings)


# ---- Which data it was


def identity_of(folder, **flags) -> dict:
    return identity(*open_data(Recipe(data=str(folder), **flags)))


def test_data_is_known_by_names_sizes_labels_and_classes(tmp_path):
    folder = write_folder(tmp_path / "data")
    before = identity_of(folder)
    assert changes(before, identity_of(folder)) == []
    shutil.copytree(folder, tmp_path / "moved")
    assert changes(before, identity_of(tmp_path / "moved")) == []

    cat = folder / "train" / "cat"
    PIL.Image.fromarray(picture(7, (40, 40))).save(cat / "0.png")
    assert changes(before, identity_of(folder)) == [
        "training images have other names, sizes or labels"
    ]
    shutil.copy(cat / "1.png", cat / "99.png")
    assert changes(before, identity_of(folder)) == ["there were 24 training images; there are 25"]
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "gnu")
    found = changes(before, identity_of(folder))
    assert "the classes were cat, dog, eel; they are dog, eel, gnu" in found


def test_data_in_tables_is_known_too(tmp_path):
    before = identity_of(write_parquet(tmp_path / "data"))
    assert changes(before, identity_of(tmp_path / "data")) == []
    write_parquet(tmp_path / "other", column=[0, 1, 1])
    assert changes(before, identity_of(tmp_path / "other", label_column="kind"))
    digits = identity(*open_data(Recipe()))
    assert changes(digits, identity(*open_data(Recipe(train_images=100)))) == [
        "there were 1,198 training images; there are 100"
    ]
    stream = identity_of(tmp_path / "data", streaming=True, steps=1)
    assert stream == {"classes": before["classes"], "parts": {}}
