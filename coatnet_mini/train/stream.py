"""A streamed split, dealt out among the processes, shuffled, and resumed at any of its images.

`datasets` deals out the rows and remembers how far they have been read. Its shuffle buffer it does
not remember, so the shuffling is ours: blocks of rows, each in an order that follows from its place
in the stream. Then the place of the block at hand, and how much of it was used, say all.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event

import numpy as np

from coatnet_mini.train.sources import Sample, Split


@dataclass(frozen=True)
class Position:
    """Where a process is in its stream.

    epoch: passes before this one. block: the block's number in this pass. start: what `datasets`
    needs to read it; None at the start of a pass. used: images of the block that were handed out.
    """

    epoch: int = 0
    block: int = 0
    start: dict | None = None
    used: int = 0

    def __post_init__(self):
        counts = (self.epoch, self.block, self.used)
        if not all(type(n) is int and n >= 0 for n in counts):
            raise TypeError(f"a stream's position is {counts}; it is of whole numbers")


class Stream:
    """The images of a streamed split that fall to one process.

    Args:
        shuffled: images among which the order is random; 1 leaves it as it is.
    """

    def __init__(self, split: Split, rank: int, processes: int, shuffled: int = 1, seed: int = 0):
        from datasets.distributed import split_dataset_by_node

        self.split, self.size, self.key = split, shuffled, (seed, rank)
        self.rows = split_dataset_by_node(split.rows, rank, processes)

    def once(self) -> Iterator[Sample]:
        """Every image, in the order of the stream."""
        for n, row in enumerate(self.rows):
            yield self.split.sample(row, n)

    def endless(self, position: Position) -> Iterator[tuple[Position, Sample]]:
        """Pass after pass: each image, and the position behind it."""
        for at, rows in ahead(self.blocks, position):
            order = np.random.default_rng([*self.key, at.epoch, at.block]).permutation(len(rows))
            for used in range(at.used, len(rows)):
                sample = self.split.sample(rows[order[used]], at.block * self.size + order[used])
                yield replace(at, used=used + 1), sample

    def blocks(self, at: Position, stop: Event) -> Iterator[tuple[Position, list[dict]]]:
        """Each block's rows and its position, from the one in which a position lies."""
        while True:
            self.rows.set_epoch(at.epoch)
            if at.start is not None:
                self.rows.load_state_dict(at.start)
            rows = (row for row in self.rows if not stop.is_set())
            while block := list(islice(rows, self.size)):
                yield at, block
                at = Position(at.epoch, at.block + 1, self.rows.state_dict())
            if not at.block:
                raise ValueError(f"the split {self.split.name!r} holds no images for a process")
            at = Position(at.epoch + 1)


def ahead(produce, *arguments) -> Iterator:
    """produce(*arguments, stop), each item made in a thread while the one before it is used."""
    stop, nothing = Event(), object()
    items = produce(*arguments, stop)
    try:
        with ThreadPoolExecutor(1) as pool:  # whose end waits for the item that is being made
            coming = pool.submit(next, items, nothing)
            try:
                while (item := coming.result()) is not nothing:
                    coming = pool.submit(next, items, nothing)
                    yield item
            finally:
                stop.set()
    finally:
        items.close()
