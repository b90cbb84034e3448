"""Exercises of chapter 17: missing weights, a line for a grid, a scale found, three mistakes."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.audit.defects import SMALL, of_kind
from coatnet_mini.coatnet import CoAtNet
from coatnet_mini.exercises import Exercise, Mistake
from coatnet_mini.exercises.ch06 import with_factor

SUSPICIONS = (
    "softmax over queries",
    "layers share a table",
    "no bias",
    "offsets share biases",
    "scores are not scaled",
    "pool before norm",
    "no residual",
    "dropout in evaluation",
)


class Careless(MultiHeadAttention):
    """An attention that is not what it should be."""

    def bias(self, grid=None) -> Tensor:
        H, W = self.grid
        return self.relative_bias_table.flatten(1)[:, with_factor(H, W, 2 * H - 1)]

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads_of(x)
        return q * self.head_dim**0.5, k, v


def suspect(size=16) -> nn.Module:
    """A small CoAtNet for images of a size, with three hidden mistakes. Do not read on."""
    net = CoAtNet(replace(SMALL, image_size=size))
    for stage in net.stages.values():
        layers = of_kind(stage, MultiHeadAttention)
        for a in layers:
            a.__class__ = Careless
        for a, b in pairwise(layers):
            b.relative_bias_table = a.relative_bias_table
    return net


def missing(dim: int, width: int, depth: int, inner: int) -> int:
    """Weights of a stage's projections that a narrow attention does without."""
    return _missing(dim, width, depth, inner)


def _missing(dim, width, depth, inner, projections=3, out=1, first=True) -> int:
    read = dim + (depth - 1) * width if first else depth * width
    return (width - inner) * (projections * read + out * depth * width)


def rows_read(H: int, W: int) -> Tensor:
    """(H·W/4, 2) int64: the first and the last row of the four tokens behind each result."""
    return _rows(H, W, 4)


def _rows(H: int, W: int, length: int, wide: int = 0) -> Tensor:
    first = torch.arange(H * W // 4) * length
    return torch.stack([first, first + length - 1], 1) // (wide or W)


def scale_of(A: Tensor, S: Tensor, B: Tensor) -> Tensor:
    """(): the factor c in A = softmax(c·S + B)."""
    return _slope(A.log() - B, S)


def _slope(y: Tensor, x: Tensor, centred: bool = True) -> Tensor:
    if centred:
        y, x = (v - v.mean(1, keepdim=True) for v in (y, x))
    return (y * x).sum() / x.square().sum()


def guilty(suspicion: str) -> bool:
    """Whether one of `SUSPICIONS` is true of `suspect`."""
    return _is_one_of(suspicion, "layers share a table", "offsets share biases", "not scaled")


def _is_one_of(suspicion: str, *true: str) -> bool:
    return suspicion.endswith(true)


def _missing_cases(rng: torch.Generator) -> list[dict]:
    named = ("dim", "width", "depth", "inner")
    cases = [(2, 4, 1, 3), (192, 384, 5, 256), (384, 768, 2, 256)]
    draws = torch.randint(1, 9, (3, 4), generator=rng).tolist()
    cases += [(32 * a, 32 * (a + b), c + 1, 32 * a) for a, b, c, _ in draws]
    return [dict(zip(named, case, strict=True)) for case in cases]


def _grid_cases(rng: torch.Generator) -> list[dict]:
    drawn = 2 * torch.randint(1, 8, (3, 2), generator=rng)
    return [{"H": 2, "W": 4}, {"H": 4, "W": 4}, {"H": 28, "W": 28}] + [
        {"H": h, "W": w} for h, w in drawn.tolist()
    ]


def _scale_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for N, scale in ((3, 1.0), (6, 0.25), (9, 32**-0.5)):
        S, B = torch.randn(2, N, N, generator=rng, dtype=torch.float64)
        cases.append({"A": (scale * S + B).softmax(-1), "S": S, "B": B})
    return cases


EXERCISES = [
    Exercise(
        "17.1",
        missing,
        _missing_cases,
        [
            Mistake(
                "the first block of a stage reads the channels of the stage before it: its q, k "
                "and v have dim columns, not width.",
                lambda dim, width, depth, inner: _missing(dim, width, depth, inner, first=False),
            ),
            Mistake(
                "the output projection reads the inner channels too: it is narrower as well.",
                lambda dim, width, depth, inner: _missing(dim, width, depth, inner, out=0),
            ),
            Mistake(
                "queries, keys and values have a matrix each: three.",
                lambda dim, width, depth, inner: _missing(dim, width, depth, inner, projections=1),
            ),
        ],
    ),
    Exercise(
        "17.2",
        rows_read,
        _grid_cases,
        [
            Mistake(
                "two pools of two in a row read four tokens, not two.",
                lambda H, W: _rows(H, W, 2),
            ),
            Mistake(
                "the tokens are numbered on the grid that is read, W wide, not on the result's.",
                lambda H, W: _rows(H, W, 4, W // 2),
            ),
            Mistake(
                "these are the rows that it should have read.",
                lambda H, W: (
                    2 * (torch.arange(H * W // 4) // (W // 2))[:, None] + torch.tensor([0, 1])
                ),
            ),
        ],
    ),
    Exercise(
        "17.3",
        scale_of,
        _scale_cases,
        [
            Mistake(
                "the bias is in the logarithm of A as well: take it off first.",
                lambda A, S, B: _slope(A.log(), S),
            ),
            Mistake(
                "the softmax has divided every row by a number of its own. Take off each row's "
                "mean, on both sides, before you compare.",
                lambda A, S, B: _slope(A.log() - B, S, centred=False),
            ),
            Mistake(
                "this is 1/c: how many times S is larger.",
                lambda A, S, B: 1 / _slope(A.log() - B, S),
            ),
        ],
    ),
    Exercise(
        "17.4",
        guilty,
        lambda rng: [{"suspicion": words} for words in SUSPICIONS],
        [
            Mistake(
                "two of three, and the audit finds them. The third it has no check for: exercise "
                "17.3 is one.",
                lambda suspicion: _is_one_of(suspicion, "share a table", "share biases"),
            ),
            Mistake(
                "one is missing that square pictures do not show: give the audit the function, "
                "not the network.",
                lambda suspicion: _is_one_of(suspicion, "share a table", "not scaled"),
            ),
            Mistake(
                "one is missing: look at pictures that are not square, and at the scores.",
                lambda suspicion: _is_one_of(suspicion, "share a table"),
            ),
        ],
    ),
]
