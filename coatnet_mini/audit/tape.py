"""A tape of what a network computes: every operation on tensors, in order, and who feeds whom.

The tape knows operations by PyTorch's names for them and no module of anybody's, so it reads
foreign networks as it reads ours. What runs inside one operation (`nn.MultiheadAttention`'s fast
path, a scripted module) it does not see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}  # `@` is "matmul"
NORMS = {"layer_norm", "batch_norm", "group_norm", "rms_norm", "instance_norm"}
AVERAGES = {"avg_pool2d", "avg_pool1d"}
POOLS = {"max_pool2d", "max_pool1d"} | AVERAGES
ADDS = {"add", "add_"}  # `+` and `+=`


@dataclass
class Event:
    """One operation: its place on the tape, its name, what went in and what came out."""

    place: int
    name: str
    args: tuple
    kwargs: dict
    out: Tensor | tuple

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that went in, in order."""
        return list(flat((*self.args, *self.kwargs.values())))

    def given(self, position: int, name: str, default=None):
        """An argument, however it was passed."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def is_linear(self) -> bool:
        """A matrix for every position: a linear layer or a 1×1 convolution."""
        if self.name == "linear":
            return True
        return self.is_conv and self.kernel == (1, 1) and self.groups == 1

    @property
    def is_conv(self) -> bool:
        return self.name == "conv2d"

    @property
    def is_depthwise(self) -> bool:
        return self.is_conv and self.groups == self.args[0].shape[1] > 1

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.given(1, "weight").shape[2:])

    @property
    def groups(self) -> int:
        return self.given(6, "groups", 1)

    @property
    def stride(self) -> int:
        stride = self.given(3, "stride", 1) if self.is_conv else 1
        return max(stride) if isinstance(stride, tuple | list) else stride

    @property
    def widths(self) -> tuple[int, int]:
        """Channels in and out, of a convolution or a linear layer."""
        weight = self.given(1, "weight")
        return weight.shape[1] * (self.groups if self.is_conv else 1), weight.shape[0]

    @property
    def positions(self) -> int:
        """Of the result of a convolution or a linear layer, for one image."""
        return self.out[0].numel() // self.widths[1]


class Tape(TorchFunctionMode):
    """Records while it is the context, and lets single operations be changed.

    Args:
        before: {place: (args, kwargs) → (args, kwargs)}. after: {place: result → result}.
    """

    def __init__(self, before: dict | None = None, after: dict | None = None):
        super().__init__()
        self.before, self.after = before or {}, after or {}
        self.events: list[Event] = []
        self.made_by: dict[int, list[int]] = {}  # id of a tensor → places; events keep it alive

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, place = kwargs or {}, len(self.events)
        if place in self.before:
            args, kwargs = self.before[place](args, kwargs)
        out = func(*args, **kwargs)
        results = list(flat((out,)))
        if results:
            if place in self.after:
                out = self.after[place](out)
                results = list(flat((out,)))
            self.events.append(Event(place, func.__name__, args, kwargs, out))
            for t in results:
                self.made_by.setdefault(id(t), []).append(place)
        return out

    def maker(self, tensor: Tensor, before: int | None = None) -> Event | None:
        """The last event, before a place, that gave a tensor; in-place ones give it again."""
        places = self.made_by.get(id(tensor), [])
        found = [p for p in places if before is None or p < before]
        return self.events[found[-1]] if found else None

    def back(self, tensor: Tensor, before: int | None = None) -> Iterator[Event]:
        """The events behind a tensor, before a place, along first inputs, newest first."""
        event = self.maker(tensor, before)
        while event is not None:
            yield event
            inputs = event.tensors
            event = self.maker(inputs[0], event.place) if inputs else None

    def after_event(self, event: Event) -> Iterator[tuple[Event, set[int]]]:
        """Later events that use what came of one, each with the ids of all such tensors so far."""
        live = {id(t) for t in flat((event.out,))}
        for later in self.events[event.place + 1 :]:
            if any(id(t) in live for t in later.tensors):
                yield later, set(live)
                live |= {id(t) for t in flat((later.out,))}


def flat(values) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from flat(value)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, detached; to those that are constant a little noise is added.

    A bias table that starts at zero could not be told from none.
    """
    generator = torch.Generator()  # every new one gives the same numbers
    state = {name: b.detach() for name, b in model.named_buffers()}
    for name, p in model.named_parameters():
        value = p.detach()
        if value.numel() > 1 and value.is_floating_point() and value.min() == value.max():
            noise = torch.randn(value.shape, generator=generator)
            value = value.add(noise.to(value), alpha=0.1)
        state[name] = value
    return state


def play(
    model: nn.Module, state: dict, images: Tensor, before: dict | None = None, after=None
) -> tuple[Tape, Tensor]:
    """Run the network once, in the mode it is in: the tape, and the output."""
    with Tape(before, after) as tape:
        out = functional_call(model, state, (images,))
    return tape, out
