"""The loader's parts, one at a time: what is decoded, held, handed out and counted."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coatnet_mini.train import loading
from coatnet_mini.train.identity import identity, of_split
from coatnet_mini.train.loading import Decoder, Loader, Share, Shuffled, Waiting, batched, replaced
from coatnet_mini.train.recipe import Recipe
from coatnet_mini.train.sources import open_data, png, table
from coatnet_mini.train.stream import Position
from tests.image_files import damage, write_folder

GREYS = np.arange(10, 18, dtype=np.uint8)


def drawn(greys=GREYS):
    """A split of 4×4 images of one grey each, whose label is the grey modulo 3."""
    greys = np.asarray(greys, np.uint8)
    images = np.broadcast_to(greys[:, None, None], (len(greys), 4, 4))
    return table(images, greys.astype(np.int64) % 3, list("abc"), "train")


def quiet(channels=1, **options):
    return Decoder(4, channels, False, lambda text: None, **options)


# ---- Decoding


def test_an_image_is_decoded_from_its_bytes_or_from_its_file(tmp_path):
    data = png(np.full((4, 4), 7, np.uint8))
    (tmp_path / "a.png").write_bytes(data)
    stored, elsewhere = {"bytes": data, "path": "gone.png"}, {"path": str(tmp_path / "a.png")}
    samples = [("a", stored, 2), ("b", elsewhere, 1), ("c", {"bytes": None}, 5), ("d", None, 4)]
    decoder = quiet(3)
    images, labels = decoder(samples)
    assert images.shape == (4, 3, 4, 4) and images.dtype == torch.uint8
    assert [image.unique().tolist() for image in images] == [[7], [7], [0], [0]]
    assert labels.tolist() == [2, 1, loading.IGNORED, loading.IGNORED]
    assert decoder.corrupt == dict.fromkeys("cd", "there is no image")


def test_an_image_that_cannot_be_read_is_told_once(capsys):
    decoder = Decoder(4, 1, strict=False)
    for _ in range(2):
        decoder([("a", None, 0)])
    assert capsys.readouterr().out == "skipped a corrupt image, a: there is no image\n"
    with pytest.raises(ValueError, match=r"^cannot read the image a: there is no image$"):
        Decoder(4, 1, strict=True)([("a", None, 0)])


def test_good_images_stand_in_for_bad_ones_in_turn():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 2, 2).clone()
    labels = torch.tensor([loading.IGNORED, 11, *[loading.IGNORED] * 3, 15])
    images, labels = replaced(images, labels)
    assert images[:, 0, 0, 0].tolist() == [1, 1, 5, 1, 5, 5]
    assert labels.tolist() == [11, 11, 15, 11, 15, 15]


# ---- Memory


def test_images_are_held_if_they_need_no_more_than_the_memory():
    for memory, held in ((8 * 16 * 3 - 1, False), (8 * 16 * 3, True)):
        loader = Loader(drawn(), quiet(3), memory, 2, 1)
        assert (loader.images is not None) == held
        assert (loader.size, loader.position) == (8, None)
        batches = list(loader.evaluate(3))
        assert [len(labels) for _, labels in batches] == [3, 3, 2]
        assert torch.cat([images for images, _ in batches])[:, 0, 0, 0].tolist() == [*GREYS]
        assert torch.cat([labels for _, labels in batches]).tolist() == [*(GREYS % 3)]


def test_images_that_are_held_are_read_without_threads():
    for memory, threads in ((0, 3), (1e9, 0)):
        batches = Loader(drawn(), quiet(), memory, 3, 1).train(Share(4), 0)
        before = threading.active_count()
        next(batches)
        assert threading.active_count() == before + threads
        batches.close()
        assert threading.active_count() == before


def test_a_split_of_many_batches_is_held_whole_and_known_by_its_pixels_and_labels():
    greys = np.arange(600) % 251
    loader = Loader(drawn(greys), quiet(), 1e9, 2, 1)
    assert loader.images[:, 0, 1, 2].tolist() == greys.tolist()
    assert loader.labels.tolist() == (greys % 3).tolist()
    pixels = np.broadcast_to(greys.astype(np.uint8)[:, None], (600, 16)).tobytes()
    expected = hashlib.sha256(pixels + (greys % 3).astype("<i8").tobytes()).hexdigest()
    assert loader.digest == expected and Loader(drawn(), quiet(), 0, 2, 1).digest is None


def test_an_unreadable_image_is_counted_by_the_process_that_meets_it(tmp_path):
    folder = write_folder(tmp_path)
    damage(folder)
    train, _ = open_data(Recipe(data=str(folder)))
    held, lazy = (Loader(train, quiet(3), memory, 2, 1) for memory in (1e9, 0))
    list(lazy.evaluate(24))
    assert [held.corrupt_in(rank) for rank in (0, 1)] == [2, 0]  # every process decodes them all
    assert [lazy.corrupt_in(rank) for rank in (0, 1)] == [2, 2]  # its own part alone


# ---- Order


def test_a_batch_is_shared_out_piece_by_piece():
    shares = [Share(12, 2, rank, 3) for rank in range(3)]
    assert {share.size for share in shares} == {2}
    starts = [share.start(5, part) for part in (0, 1) for share in shares]
    assert starts == [60, 62, 64, 66, 68, 70]
    assert Share(12) == Share(12, 1, 0, 1) and Share(1).size == 1
    for size, words in ((0, "1 processes × 1 parts"), (-4, "1 processes × 1 parts")):
        with pytest.raises(ValueError, match=f"^batch_size {size} cannot be divided among {words}"):
            Share(size)


def test_the_order_of_an_epoch_is_that_of_its_own_generator():
    seed, n = 3, 7
    expected = [np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(4)]
    shuffled = Shuffled(n, seed)
    for start, stop in ((0, 7), (5, 16), (14, 21), (13, 14), (0, 28), (0, 6), (3, 13), (5, 15)):
        rows = shuffled(start, stop)
        assert rows.tolist() == np.concatenate(expected)[start:stop].tolist()


def test_training_batches_follow_that_order_from_any_step_on():
    order = Shuffled(8, 5)
    for memory in (0, 1e9):
        loader = Loader(drawn(), quiet(), memory, 2, 1)
        assert next(loader.train(Share(3), 5))[0][:, 0, 0, 0].tolist() == [*GREYS[order(0, 3)]]
        batches = loader.train(Share(3), 5, step=2)
        for step, (images, labels) in zip(range(2, 9), batches, strict=False):
            greys = GREYS[order(3 * step, 3 * step + 3)]
            assert images[:, 0, 0, 0].tolist() == [*greys] and labels.tolist() == [*(greys % 3)]
        batches.close()


# ---- Waiting and reading ahead


def test_waiting_is_added_up_and_using_is_not(monkeypatch):
    clock = iter([10.0, 10.5, 20.0, 20.25, 30.0, 31.0])
    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    waiting = Waiting(letter for letter in "ab")
    assert list(waiting) == ["a", "b"]
    assert waiting.seconds == 0.5 + 0.25 + 1


def test_closing_what_is_waited_for_closes_it():
    items = (letter for letter in "ab")
    waiting = Waiting(items)
    assert next(waiting) == "a"
    waiting.close()
    assert next(items, None) is None


def test_two_tasks_for_each_thread_are_begun_ahead_of_time():
    begun = []
    results = loading.prefetch(lambda n: n, (begun.append(n) or n for n in count()), threads=3)
    assert next(results) == 0
    assert begun == list(range(2 * 3 + 1))
    assert list(islice(results, 4)) == [1, 2, 3, 4] and len(begun) == 2 * 3 + 5
    results.close()


def test_tasks_are_worked_off_in_several_threads():
    meeting = threading.Barrier(3, timeout=10)
    assert list(loading.prefetch(lambda n: meeting.wait() >= 0, range(3), 3)) == [True] * 3


def test_tasks_that_wait_are_dropped_when_the_reader_leaves(monkeypatch):
    done, gate = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            gate.set()  # the task at hand, which ends only now
            super().shutdown(wait=wait)

    def load(n):
        if n:
            gate.wait(10)
        done.append(n)
        return n

    monkeypatch.setattr(loading, "ThreadPoolExecutor", Pool)
    results = loading.prefetch(load, range(50), threads=1)
    assert next(results) == 0
    results.close()
    assert 2 not in done


def test_items_are_handed_out_in_lists():
    assert list(batched("abcdefg", 3)) == [list("abc"), list("def"), ["g"]]
    assert list(batched([], 3)) == []


@pytest.mark.parametrize("wrong", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0.5, 0, 0), (0, True, 0)])
def test_a_position_in_a_stream_is_of_whole_numbers(wrong):
    epoch, block, used = wrong
    with pytest.raises(TypeError, match=r"^a stream's position is \(.*\); it is of whole numbers$"):
        Position(epoch, block, None, used)


# ---- Which data it was


def test_a_split_is_known_by_names_sizes_and_labels_as_written_here(tmp_path):
    """The digest is kept in checkpoints, so that it must stay what it is."""
    folder = write_folder(tmp_path / "some" / "where", count=2)
    train, test = open_data(Recipe(data=str(folder)))
    found = hashlib.sha256(np.array([0, 0, 1, 1, 2, 2], "<i8").tobytes())
    for name in ("cat", "dog", "eel"):
        for n in (0, 1):
            size = (folder / "train" / name / f"{n}.png").stat().st_size
            found.update(f"{name}/{n}.png\0{size}\n".encode())
    assert of_split(train) == {"images": 6, "digest": found.hexdigest()}
    assert identity(train, test) == {
        "classes": ["cat", "dog", "eel"],
        "parts": {"training": of_split(train), "held-out": of_split(test)},
    }


def test_drawn_images_are_known_by_their_sizes_and_which_of_them_count():
    split = drawn()
    found = hashlib.sha256((GREYS % 3).astype("<i8").tobytes())
    for _, image, _ in split.read(list(range(8))):
        found.update(f"\0{len(image['bytes'])}\n".encode())
    assert of_split(split) == {"images": 8, "digest": found.hexdigest()}
    found = hashlib.sha256((GREYS[:7] % 3).astype("<i8").tobytes())
    for _, image, _ in split.read(list(range(8))):
        found.update(f"\0{len(image['bytes'])}\n".encode())
    found.update((7).to_bytes(8, "little"))
    assert of_split(split.keep(np.arange(7))) == {"images": 7, "digest": found.hexdigest()}


def test_an_image_that_is_gone_changes_what_is_known_and_not_that_it_can_be_told(tmp_path):
    train, _ = open_data(Recipe(data=str(write_folder(tmp_path))))
    before = of_split(train)
    (tmp_path / "train" / "cat" / "0.png").unlink()
    after = of_split(train)
    assert after["images"] == before["images"] and after["digest"] != before["digest"]
