"""What the tape of a network shows: its attention layers, its feed-forward networks, its MBConvs.

Nothing here knows a class. An attention layer is a softmax over pairs of positions, or PyTorch's
fused operator; a feed-forward network is two matrices, D → hidden → D, with no product between; an
MBConv is a depthwise convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt

import torch
from torch import Tensor

from coatnet_mini.audit.tape import ADDS, NORMS, POOLS, PRODUCTS, Event, play, state_of

FUSED = "scaled_dot_product_attention"
ROUNDING = 1e-4  # beside the largest number


@dataclass
class Branch:
    """What happens around the core of a block, between leaving the trunk and coming back."""

    way_in: list[Event]  # from the trunk to the first matrix
    trunk: Tensor | None  # what the branch reads
    way_out: list[Event]  # from the core to the sum
    join: Event | None  # the sum with the shortcut
    skip: list[Event] = field(default_factory=list)  # on the shortcut

    @property
    def pools(self) -> list[Event]:
        return [e for e in self.way_in if e.name in POOLS]

    @property
    def norms(self) -> list[Event]:
        return [e for e in self.way_in if e.name in NORMS]


@dataclass
class Attention:
    """One layer: where its scores are made, where its weights, where its values are summed."""

    weights: Event  # softmax, or the fused operator
    scores: Event | None  # the product q·k; None if it is inside the fused operator
    values: Event | None  # the product of weights and values
    value: Tensor | None  # its second factor
    N: int
    heads: int
    head_dim: int
    branch: Branch | None = None

    @property
    def fused(self) -> bool:
        return self.weights.name == FUSED

    @property
    def queries(self) -> Tensor:
        return (self.weights if self.fused else self.scores).tensors[0]


@dataclass
class FFN:
    expand: Event
    project: Event
    between: list[Event]
    branch: Branch | None = None


@dataclass
class MBConv:
    depthwise: Event
    expand: Event | None
    between: list[Event]
    branch: Branch | None = None


class Anatomy:
    """A network seen once, with images (B, C, H, W); parameters hold still, the images do not."""

    def __init__(self, model: torch.nn.Module, images: Tensor):
        self.model, self.images = model, images
        self.state = state_of(model)
        leaf = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.tape, self.out = play(model, self.state, leaf)
        if not isinstance(self.out, Tensor):
            raise ValueError(f"its output is a {type(self.out).__name__}, not a tensor")
        self.batch = len(images)
        self.attentions = list(self.find_attentions())
        self.ffns = list(self.find_ffns())
        self.mbconvs = list(self.find_mbconvs())
        cores = {e.place for e in self.cores}
        for a in self.attentions:
            if a.values is not None:
                a.branch = self.branch_of(a.queries, a.values, cores)
        for f in self.ffns:
            f.branch = self.branch_of(f.expand.out, f.project, cores)
        for m in self.mbconvs:
            start = m.depthwise.out if m.expand is None else m.expand.out
            m.branch = self.branch_of(start, m.depthwise, cores)

    @property
    def cores(self) -> list[Event]:
        found = [a.values for a in self.attentions if a.values is not None]
        return [*found, *(f.project for f in self.ffns), *(m.depthwise for m in self.mbconvs)]

    @cached_property
    def matrices(self) -> list[Event]:
        """Convolutions and linear layers that read the images."""
        events = self.tape.events
        return [e for e in events if (e.is_conv or e.name == "linear") and e.out.requires_grad]

    def find_attentions(self):
        for e in self.tape.events:
            if e.name == FUSED:
                q, v = e.args[0], e.given(2, "value")
                N = q.shape[-2]
                if v.shape[-2] == N:
                    yield Attention(e, None, e, v, N, self.heads(q), v.shape[-1])
            elif e.name == "softmax" and e.out.ndim >= 3 and e.out.requires_grad:
                found = self.written_out(e)
                if found is not None:
                    yield found

    def written_out(self, softmax: Event) -> Attention | None:
        M, N = softmax.out.shape[-2:]
        if M != N or N < 2:
            return None
        scores = next(
            (
                e
                for e in self.tape.back(softmax.tensors[0])
                if e.name in PRODUCTS and e.out.shape[-2:] == (N, N)
            ),
            None,
        )
        if scores is None:
            return None
        heads = self.heads(softmax.out)
        for e, live in self.tape.after_event(softmax):
            if e.name in PRODUCTS:
                value = next((t for t in e.tensors if id(t) not in live), None)
                d = 0 if value is None else value.numel() * N // softmax.out.numel()
                return Attention(softmax, scores, e, value, N, heads, d)
        return Attention(softmax, scores, None, None, N, heads, 0)

    def heads(self, t: Tensor) -> int:
        """Of (B, heads, N, d), or with the heads in the batch."""
        return t.shape[-3] if t.ndim > 3 else len(t) // self.batch

    def find_ffns(self):
        for e in self.matrices:
            if not e.is_linear or e.positions < 2:
                continue
            between = []
            for earlier in self.tape.back(e.tensors[0]):
                if earlier.is_linear:
                    if earlier.widths == e.widths[::-1] and earlier.widths[0] < earlier.widths[1]:
                        yield FFN(earlier, e, between)
                    break
                if earlier.is_conv or earlier.name in PRODUCTS | ADDS | {FUSED}:
                    break
                between.append(earlier)

    def find_mbconvs(self):
        for e in self.matrices:
            if e.is_depthwise:
                between, expand = [], None
                for earlier in self.tape.back(e.tensors[0]):
                    if earlier.is_conv or earlier.name in ADDS:
                        expand = earlier if earlier.is_linear else None
                        break
                    between.append(earlier)
                yield MBConv(e, expand, between)

    def branch_of(self, first: Tensor, core: Event, cores: set[int]) -> Branch:
        """The branch around `core`; `first` lies on it, at its first matrix or behind."""
        way_in, trunk, entered = [], None, False
        for e in self.tape.back(first):
            if not entered:
                entered = e.is_linear or e.is_conv
                trunk = e.tensors[0] if entered else None
            elif e.name in ADDS or e.is_conv or e.is_linear:
                break
            else:
                way_in.append(e)
                trunk = e.tensors[0]
        branch = Branch(way_in[::-1], trunk, [], None)
        for e, live in self.tape.after_event(core):
            if e.place in cores:
                break
            others = [t for t in e.tensors if id(t) not in live and t.requires_grad]
            if e.name in ADDS and others:
                branch.join, branch.skip = e, self.skip_of(others[0], e.place)
                break
            branch.way_out.append(e)
        return branch

    def skip_of(self, tensor: Tensor, join: int) -> list[Event]:
        found = []
        for e in self.tape.back(tensor, join):
            if e.name in ADDS or (e.is_conv and not e.is_linear):
                break
            found.append(e)
        return found

    def grid(self, N: int) -> tuple[int, int] | None:
        """(h, w) of N positions, the picture made coarser by one factor on both sides."""
        H, W = self.images.shape[2:]
        if not N:
            return None
        step = isqrt(H * W // N)
        if not step or H % step or W % step or (H // step) * (W // step) != N:
            return None
        return H // step, W // step

    @cached_property
    def biases(self) -> list[tuple[Attention, Tensor]]:
        """The attention layers that add something to their scores, and what, (heads, N, N)."""
        return self.read_biases(self.state, self.images)

    def read_biases(self, state: dict, images: Tensor) -> list[tuple[Attention, Tensor]]:
        """The scores without their content: the products q·k are made zero, the rest stays."""
        silent = {a.scores.place: torch.zeros_like for a in self.attentions if not a.fused}
        tape, _ = play(self.model, state, images, after=silent)
        found = []
        for a in self.attentions:
            e = tape.events[a.weights.place]
            B = e.given(3, "attn_mask") if a.fused else e.tensors[0]
            if B is None:
                continue
            if a.fused:
                B = B.expand(*a.queries.shape[:-1], a.N)  # as large as the scores
            B = B.reshape(-1, a.N, a.N)[: a.heads].cpu().double()
            if B.std() > 1e-9:
                found.append((a, B))
        return found

    def output(self, images: Tensor, after=None) -> Tensor:
        """What the network gives; chance, if it has any in evaluation, is left as it was."""
        with torch.no_grad(), torch.random.fork_rng():
            return play(self.model, self.state, images, after=after)[1]


def replay(anatomy: Anatomy, events: list[Event]) -> bool:
    """Whether the image still reaches the output when the results of `events` are zero."""
    zero = {e.place: torch.zeros_like for e in events}
    one = anatomy.output(anatomy.images, after=zero)
    other = anatomy.output(-anatomy.images, after=zero)
    return gap(one, other) > 0


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference beside the largest number of `one`; 0 if it may be rounding."""
    found = ((one - other).abs().max() / one.abs().max()).item()
    return 0.0 if found <= ROUNDING else found
