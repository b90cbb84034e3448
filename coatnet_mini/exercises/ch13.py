"""Exercises of chapter 13: tables resized, what fine-tuning costs, and heads kept sharp."""

import math

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def reads(H: int, new: int) -> Tensor:
    """(new,): the old offset that each new one from 0 on reads, bilinearly resized."""
    return _reads(H, new).clamp(max=H - 1)


def _reads(H: int, new: int) -> Tensor:
    return torch.arange(new, dtype=torch.float64) * (2 * H - 1) / (2 * new - 1)


def read_table(P: Tensor, at: Tensor) -> Tensor:
    """(n, n): the table P read at the offsets `at` along both axes, linear between cells."""
    R = _hats(P, at)
    return R @ P @ R.mT


def _hats(P: Tensor, at: Tensor) -> Tensor:
    H = len(P) // 2 + 1
    old = torch.arange(1 - H, H, dtype=torch.float64)
    return (1 - (at[:, None] - old).abs()).clamp(min=0)


def extra(epochs: int, more: int, ratio: Tensor, linear: float, pairs: float) -> Tensor:
    """(n,): the cost of fine-tuning at a side `ratio` times as large, over that of training."""
    return _extra(epochs, more, ratio, linear, pairs)


def _extra(epochs, more, ratio, linear, pairs, powers=(2, 4)) -> Tensor:
    large = linear * ratio ** powers[0] + pairs * ratio ** powers[1]
    return more * large / (epochs * (linear + pairs))


def sharpened(bias: Tensor, N: int, more: int) -> Tensor:
    """(n,): the bias with which one offset keeps its share of the weight among more positions."""
    return bias + math.log((more - 1) / (N - 1))


def _read_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"H": 3, "new": 5}, {"H": 14, "new": 24}]
    for H in torch.randint(2, 12, (3,), generator=rng).tolist():
        cases.append({"H": H, "new": H + 4})
    return cases


def _table_cases(rng: torch.Generator) -> list[dict]:
    P = torch.zeros(3, 3, dtype=torch.float64)
    P[0, 2] = 8.0
    cases = [{"P": P, "at": torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=torch.float64)}]
    for H, n in ((3, 5), (4, 9)):
        P = torch.randn(2 * H - 1, 2 * H - 1, generator=rng, dtype=torch.float64)
        at = (2 * torch.rand(n, generator=rng, dtype=torch.float64) - 1) * (H - 1)
        cases.append({"P": P, "at": at.sort()[0]})
    return cases


def _cost_cases(rng: torch.Generator) -> list[dict]:
    ratio = torch.tensor([1, 12 / 7, 2], dtype=torch.float64)
    cases = [{"epochs": 300, "more": 30, "ratio": ratio, "linear": 4.0, "pairs": 0.2}]
    for epochs in (10, 90):
        ratio = 1 + 2 * torch.rand(4, generator=rng, dtype=torch.float64)
        linear, pairs = (1 + torch.rand(2, generator=rng)).tolist()
        cases.append(dict(epochs=epochs, more=7, ratio=ratio, linear=linear, pairs=pairs))
    return cases


def _bias_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"bias": torch.tensor([0.0, 8.0], dtype=torch.float64), "N": 196, "more": 576}]
    for side in (4, 7):
        b = 5 * torch.randn(4, generator=rng, dtype=torch.float64)
        cases.append({"bias": b, "N": side**2, "more": (2 * side) ** 2})
    return cases


EXERCISES = [
    Exercise(
        "13.1",
        reads,
        _read_cases,
        [
            Mistake(
                "the last new offset reads beyond H − 1, where the old table ends: limit it.",
                _reads,
            ),
            Mistake(
                "that maps end on end, as align_corners=True does. With half-pixel centres it is "
                "the widths that correspond: all old cells and all new ones.",
                lambda H, new: torch.arange(new, dtype=torch.float64) * (H - 1) / (new - 1),
            ),
            Mistake(
                "that is the ratio of the grids. What is resized is the table, of 2H − 1 cells.",
                lambda H, new: (torch.arange(new, dtype=torch.float64) * H / new).clamp(max=H - 1),
            ),
            Mistake(
                "the quotient is upside down: a larger table reads the old one in smaller steps.",
                lambda H, new: (
                    torch.arange(new, dtype=torch.float64) * (2 * new - 1) / (2 * H - 1)
                ).clamp(max=H - 1),
            ),
        ],
    ),
    Exercise(
        "13.2",
        read_table,
        _table_cases,
        [
            Mistake(
                "that is the value of the nearest cell. Between two cells, take a part of each.",
                lambda P, at: P[_near(P, at)][:, _near(P, at)],
            ),
            Mistake(
                "the columns are read from the other end: the second factor is the transpose of "
                "the first, not its mirror image.",
                lambda P, at: _hats(P, at) @ P @ _hats(P, at).flip(1).mT,
            ),
            Mistake(
                "rows and columns have changed places.",
                lambda P, at: _hats(P, at) @ P.mT @ _hats(P, at).mT,
            ),
            Mistake(
                "only the rows were read at `at`.",
                lambda P, at: _hats(P, at) @ P,
            ),
        ],
    ),
    Exercise(
        "13.3",
        extra,
        _cost_cases,
        [
            Mistake(
                "pairs of positions grow with the square of the positions: the fourth power of "
                "the side.",
                lambda **given: _extra(**given, powers=(2, 2)),
            ),
            Mistake(
                "the ratio is that of the sides; a grid has rows and columns.",
                lambda **given: _extra(**given, powers=(1, 2)),
            ),
            Mistake(
                "that is both trainings together; the second alone is asked for.",
                lambda **given: 1 + _extra(**given),
            ),
            Mistake(
                "the epochs are missing: the second training is shorter than the first.",
                lambda **given: _extra(**{**given, "epochs": 1, "more": 1}),
            ),
        ],
    ),
    Exercise(
        "13.4",
        sharpened,
        _bias_cases,
        [
            Mistake(
                "nearly: the offset itself is one of the N. It is the number of others that grew.",
                lambda bias, N, more: bias + math.log(more / N),
            ),
            Mistake(
                "a bias is in the exponent: what multiplies the weight is added as a logarithm.",
                lambda bias, N, more: bias * (more - 1) / (N - 1),
            ),
            Mistake(
                "with more positions the head is diluted: the bias must grow.",
                lambda bias, N, more: bias - math.log((more - 1) / (N - 1)),
            ),
        ],
    ),
]


def _near(P: Tensor, at: Tensor) -> Tensor:
    return (at + len(P) // 2).round().long()
