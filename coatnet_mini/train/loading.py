"""From encoded images to batches of uint8 tensors, in an order that follows from seed and step.

Order and position are computed, not remembered: batch s of a run is the same whether the run got
there in one go or was resumed, and on one process or many. Decoding runs in threads, since Pillow
lets go of Python's lock while it decodes and resizes; that needs no pickling and no shared memory.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np
import torch
from torch import Tensor

from coatnet_mini.images import decode
from coatnet_mini.train.sources import Split

IGNORED = -1  # the label of an image that could not be read: no part of loss or accuracy
AHEAD = 2  # batches prepared beforehand, for each thread
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) uint8, labels (B,) int64


class Decoder:
    """Decodes the images of a split; those that cannot be read it names, counts and replaces."""

    def __init__(self, size: int, channels: int, strict: bool, say: Callable[[str], None] = print):
        self.size, self.channels, self.strict, self.say = size, channels, strict, say
        self.corrupt: dict[str, str] = {}

    def __call__(self, samples: list[tuple[str, dict, int]]) -> Batch:
        pixels = [self.image(name, image) for name, image, _ in samples]
        labels = [label if pixel is not None else IGNORED
                  for (_, _, label), pixel in zip(samples, pixels, strict=True)]  # fmt: skip
        blank = np.zeros((self.channels, self.size, self.size), np.uint8)
        images = np.stack([blank if pixel is None else pixel for pixel in pixels])
        return torch.from_numpy(images), torch.tensor(labels)

    def image(self, name: str, image: dict) -> np.ndarray | None:
        try:
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

    Piece p of `batch_size` images is split among the processes in order of their rank, so that all
    processes together read the same batch, whatever their number.
    """

    batch_size: int
    parts: int = 1
    rank: int = 0
    processes: int = 1

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % (self.parts * self.processes):
            raise ValueError(f"batch_size {self.batch_size} cannot be divided among "
                             f"{self.processes} processes × {self.parts} parts")  # fmt: skip

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
    """

    def __init__(self, split: Split, decoder: Decoder, memory: float = 0, threads: int = 2):
        self.split, self.decoder, self.threads = split, decoder, threads
        self.images = self.labels = None
        self.position = (0, 0)  # of a stream: epoch, and rows of it that training has used
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

    def train(self, share: Share, seed: int, step: int = 0, position=(0, 0)) -> Iterator[Batch]:
        """Endless batches from a step on; a stream starts at a `position` instead."""
        if self.split.streamed:
            yield from self.train_from_stream(share, position)
            return
        shuffled = Shuffled(self.size, seed)
        starts = (share.start(s, part) for s in count(step) for part in range(share.parts))
        rows = (shuffled(start, start + share.size) for start in starts)
        held = self.images is not None
        for batch in map(self.read, rows) if held else prefetch(self.read, rows, self.threads):
            yield replaced(*batch)

    def train_from_stream(self, share: Share, position: tuple[int, int]) -> Iterator[Batch]:
        """Every process reads the whole stream, and decodes its share."""
        pieces = in_background(self.pieces(share, position), AHEAD * self.threads)
        batches = prefetch(lambda piece: (piece[0], self.decoder(piece[1])), pieces, self.threads)
        for self.position, batch in batches:
            yield replaced(*batch)

    def pieces(self, share: Share, position: tuple[int, int]) -> Iterator[tuple]:
        """(position behind the piece, this process's samples) of each piece of each batch."""
        first_epoch, used = position
        whole, first = share.size * share.processes, share.rank * share.size
        piece = []
        for epoch in count(first_epoch):
            rows = islice(self.split.stream(epoch), used, None)
            n = used
            for n, sample in enumerate(rows, used + 1):
                piece.append(sample)
                if len(piece) == whole:
                    yield (epoch, n), piece[first : first + share.size]
                    piece = []
            if n == 0:
                raise ValueError(f"the split {self.split.name!r} holds no images")
            used = 0

    def evaluate(self, n: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Every image once, in batches of n; of all batches, this process's."""
        if not self.split.streamed:
            yield from self.decoded(range(rank * n, self.size, processes * n), n)
            return
        stream = self.split.stream(0)
        batches = iter(lambda: list(islice(stream, n)), [])
        mine = in_background(islice(batches, rank, None, processes), AHEAD * self.threads)
        yield from prefetch(self.decoder, mine, self.threads)


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


def prefetch(load: Callable, tasks: Iterable, threads: int) -> Iterator:
    """load(task) for each task, in order, some ahead of time and in several threads."""
    pool, pending = ThreadPoolExecutor(threads), deque()
    try:
        for task in tasks:
            pending.append(pool.submit(load, task))
            if len(pending) > AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_background(items: Iterator, ahead: int) -> Iterator:
    """The same items, produced in a thread of their own up to `ahead` before they are needed."""
    queue, stop, end = Queue(ahead), Event(), object()

    def put(item) -> bool:
        while not stop.is_set():
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def produce():
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # to be raised where the items are used
            put((end, error))

    Thread(target=produce, daemon=True).start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
