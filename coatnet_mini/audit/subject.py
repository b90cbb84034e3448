"""What is audited: a network or what makes one, and what it is held to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from coatnet_mini.audit.anatomy import Anatomy
from coatnet_mini.checks import pair
from coatnet_mini.coatnet import FAMILY, CoAtNetConfig
from coatnet_mini.published import rows

REFUSALS = (ValueError, RuntimeError, AssertionError, TypeError, IndexError, AttributeError)


class Subject:
    """A network under audit, and a small picture's worth of what it computes.

    Args:
        network: a module, or a function of an image size (H, W) that gives one.
        like: the paper's name, or a `CoAtNetConfig`, of what it is meant to be.
        size: (H, W) of the pictures to look with; by default not square, where there is a
            function, else the size that a module was built for must be given.
    """

    def __init__(self, network: nn.Module | Callable, like: str | CoAtNetConfig, size=None):
        if not callable(network):
            raise ValueError(f"a module, or a function from (H, W) to one, not {network!r}")
        if not isinstance(like, CoAtNetConfig) and like not in FAMILY:
            raise ValueError(f"unknown network {like!r}; choose from {', '.join(FAMILY)}")
        named = isinstance(like, str)
        sizes = {row.member: row.parameters for row in rows()}  # millions, as printed
        self.published = sizes.get(like) if named else None
        self.like = CoAtNetConfig(**FAMILY[like]) if named else like
        self.make = None if isinstance(network, nn.Module) else network
        step, self.refused = self.like.total_stride, None
        if self.make is None:
            self.size = pair(self.like.image_size if size is None else size)
            self.model = network
        else:
            self.size = pair((2 * step, 3 * step) if size is None else size)
            try:
                self.model = self.make(self.size)
                with torch.no_grad():
                    self.model.eval()(self.images)
            except REFUSALS:  # a network for squares only
                self.refused = "×".join(map(str, self.size))
                self.size = (2 * step, 2 * step) if size is None else (max(self.size),) * 2
                self.model = self.make(self.size)
        if not isinstance(self.model, nn.Module):
            raise ValueError(f"the function gives {self.model!r}, not a module")
        H, W = self.size
        if (H // step) * (W // step) < 2:
            raise ValueError(f"{H}×{W} images leave one position at the last stage: nothing to see")

    @property
    def images(self) -> Tensor:
        """Two pictures of noise, of the size that was found; the same ones each time."""
        generator = torch.Generator()  # every new one gives the same numbers
        shape = (2, self.like.in_channels, *self.size)
        like = next(self.model.parameters(), torch.empty([]))
        return torch.randn(shape, generator=generator).to(like)

    @cached_property
    def anatomy(self) -> Anatomy:
        return Anatomy(self.model, self.images)

    @property
    def depths(self) -> dict[str, int]:
        """Blocks of each kind that it is meant to have."""
        return {k: len(self.widths(k)) for k in "CT"}

    def halvings(self, kind: str) -> int:
        """How many stages of one kind are meant to halve the grid."""
        return sum(s.kind == kind and s.stride > 1 for s in self.like.stages)

    def widths(self, kind: str) -> list[int]:
        """The width of each block of one kind, in order."""
        return [s.width for s in self.like.stages if s.kind == kind for _ in range(s.depth)]

    def at_paper_size(self) -> nn.Module:
        """The network for pictures of the paper's size, without memory for its weights."""
        if self.make is None:
            return self.model
        with torch.device("meta"):
            return self.make(pair(self.like.image_size))
