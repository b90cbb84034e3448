"""From encoded images to batches of uint8 tensors, in an order that follows from seed and step.

Order and position are computed, not remembered: batch s of a run is the same whether the run got
there in one go or was resumed, and on one process or many. Decoding runs in threads, since Pillow
lets go of Python's lock while it decodes and resizes; that needs no pickling and no shared memory.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coatnet_mini.images import decode
from coatnet_mini.train.sources import Sample, Split
from coatnet_mini.train.stream import Position, Stream

IGNORED = -1  # the label of an image that could not be read: no part of loss or accuracy
AHEAD = 2  # batches decoded beforehand, for each thread
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) uint8, labels (B,) int64


class Decoder:
    """Decodes the images of a split; those that cannot be read it names, counts and replaces."""

    def __init__(self, size: int, channels: int, strict: bool, say: Callable[[str], None] = print):
        self.size, self.channels, self.strict, self.say = size, channels, strict, say
        self.corrupt: dict[str, str] = {}

    def __call__(self, samples: list[Sample]) -> Batch:
        pixels = [self.image(name, image) for name, image, _ in samples]
        labels = [
            IGNORED if pixel is None else label
            for (_, _, label), pixel in zip(samples, pixels, strict=True)
        ]
        blank = np.zeros((self.channels, self.size, self.size), np.uint8)
        images = np.stack([blank if pixel is None else pixel for pixel in pixels])
        return torch.from_numpy(images), torch.tensor(labels)

    def image(self, name: str, image: dict | None) -> np.ndarray | None:
        try:
            if not image or not (image.get("bytes") or image.get("path")):
                raise ValueError("there is no image")
            data = image.get("bytes")
            return decode(data or Path(image["path"]).read_bytes(), self.size, self.channels)
        except Exception as error:  # Pillow raises whatever its many decoders raise
            if self.strict:
                raise ValueError(f"cannot read the image {name}: {error}") from error
            if name not in self.corrupt:
                self.corrupt[name] = str(error)
                self.say(f"skipped a corrupt image, {name}: {error}")
            return None


class Shuffled:
    """An endless sequence of row numbers: each epoch of n holds every row once, in a new order."""

    def __init__(self, n: int, seed: int):
        self.n, self.seed, self.epoch, self.rows = n, seed, None, None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Positions start to stop of the sequence: (stop − start,) int64."""
        parts = []
        for epoch in range(start // self.n, (stop - 1) // self.n + 1):
            if epoch != self.epoch:  # its permutation is drawn once for a reader that moves on
                self.epoch = epoch
                self.rows = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            parts.append(self.rows[max(start - epoch * self.n, 0) : stop - epoch * self.n])
        return np.concatenate(parts)


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process reads, in `parts` pieces (gradient accumulation).

    Of a table, piece p of a batch is split among the processes in order of their rank, so that all
    of them together read the same batch, whatever their number.
    """

    batch_size: int
    parts: int = 1
    rank: int = 0
    processes: int = 1

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % (self.parts * self.processes):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among "
                f"{self.processes} processes × {self.parts} parts"
            )

    @property
    def size(self) -> int:
        """Images in one piece of this process."""
        return self.batch_size // (self.parts * self.processes)

    def start(self, step: int, part: int) -> int:
        return step * self.batch_size + (part * self.processes + self.rank) * self.size


class Loader:
    """Batches of one split, for training or evaluation.

    Args:
        memory: bytes; decoded images that need no more are held in memory, and then loading is
            indexing. Others are decoded when needed, by `threads` threads.
        shuffled: images of a stream among which it is shuffled for training.

    Attributes:
        size: number of images; None for a stream.
        position: in a stream, where training goes on: behind the last batch; else None.
    """

    def __init__(self, split: Split, decoder: Decoder, memory: float, threads: int, shuffled: int):
        self.split, self.decoder, self.threads, self.shuffled = split, decoder, threads, shuffled
        self.images = self.labels = None
        self.position = Position() if split.streamed else None
        self.size = None if split.streamed else len(split)
        image = decoder.channels * decoder.size**2
        if not split.streamed and len(split) * image <= memory:
            self.hold()

    def hold(self) -> None:
        """Decode everything now; what cannot be decoded is left out."""
        batches = list(self.decoded(range(0, self.size, 256), 256))
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        good = labels != IGNORED
        self.images, self.labels = images[good], labels[good]
        self.size = len(self.labels)
        if not self.size:
            raise ValueError(f"none of the images of the split {self.split.name!r} can be read")

    @property
    def digest(self) -> str | None:
        """SHA-256 of the images in memory and their labels, or None: the version of the data."""
        if self.images is None:
            return None
        pixels, labels = (part.numpy().tobytes() for part in (self.images, self.labels))
        return hashlib.sha256(pixels + labels).hexdigest()

    def decoded(self, starts: Iterable[int], n: int) -> Iterator[Batch]:
        def load(start):
            return self.read(np.arange(start, min(start + n, self.size)))

        return prefetch(load, starts, self.threads)

    def read(self, rows: np.ndarray) -> Batch:
        if self.images is not None:
            rows = torch.from_numpy(rows)
            return self.images[rows], self.labels[rows]
        return self.decoder(self.split.read(rows.tolist()))

    def corrupt_in(self, rank: int) -> int:
        """Images that this process was the first to find unreadable; all decode what is held."""
        return len(self.decoder.corrupt) if self.images is None or rank == 0 else 0

    def train(self, share: Share, seed: int, step: int = 0) -> Iterator[Batch]:
        """Endless batches: of a table those from a step on, of a stream those from `position`."""
        if self.split.streamed:
            yield from self.train_from_stream(share, seed)
            return
        order = Shuffled(self.size, seed)
        starts = (share.start(s, part) for s in count(step) for part in range(share.parts))
        rows = (order(start, start + share.size) for start in starts)
        held = self.images is not None
        for batch in map(self.read, rows) if held else prefetch(self.read, rows, self.threads):
            yield replaced(*batch)

    def train_from_stream(self, share: Share, seed: int) -> Iterator[Batch]:
        stream = Stream(self.split, share.rank, share.processes, self.shuffled, seed)
        pieces = batched(stream.endless(self.position), share.size)
        for ends, batch in prefetch(self.decode_piece, pieces, self.threads):
            self.position = ends
            yield replaced(*batch)

    def decode_piece(self, piece: list[tuple[Position, Sample]]) -> tuple[Position, Batch]:
        return piece[-1][0], self.decoder([sample for _, sample in piece])

    def evaluate(self, n: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Every image of this process once, in batches of n."""
        if self.split.streamed:
            samples = Stream(self.split, rank, processes).once()
            return prefetch(self.decoder, batched(samples, n), self.threads)
        return self.decoded(range(rank * n, self.size, processes * n), n)


def replaced(images: Tensor, labels: Tensor) -> Batch:
    """A training batch in which a good image stands in for each that could not be read."""
    bad = (labels == IGNORED).nonzero()[:, 0]
    if not len(bad):
        return images, labels
    good = (labels != IGNORED).nonzero()[:, 0]
    if not len(good):
        raise ValueError(f"none of the {len(labels)} images of a batch can be read")
    stand_in = good[torch.arange(len(bad)) % len(good)]
    images[bad], labels[bad] = images[stand_in], labels[stand_in]
    return images, labels


class Waiting:
    """An iterator that adds up for how many seconds it let its user wait."""

    def __init__(self, items: Iterator):
        self.items, self.seconds = items, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self.items.close()


def batched(items: Iterable, n: int) -> Iterator[list]:
    """Lists of n items, the last perhaps of fewer."""
    items = iter(items)
    return iter(lambda: list(islice(items, n)), [])


def prefetch(load: Callable, tasks: Iterable, threads: int) -> Iterator:
    """load(task) for each task, in order, some ahead of time and in several threads."""
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(load, task))
                if len(pending) > AHEAD * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
