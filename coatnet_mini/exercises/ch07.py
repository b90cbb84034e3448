"""Exercises of chapter 7: the ramp of rates, the gates, a folded norm, who is read how often."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def ramp(depths: tuple[int, ...], rate: float) -> Tensor:
    """(L,): rate·b/L for block b of L, counted from 0 through all stages."""
    L = sum(depths)
    return rate * torch.arange(L, dtype=torch.float64) / L


def gates(x: Tensor, reduce: Tensor, expand: Tensor) -> Tensor:
    """(B, D): sigmoid(expand·SiLU(reduce·means)), x (B, D, H, W), matrices (few, D), (D, few)."""
    return _gates(x.mean((2, 3)), reduce, expand)


def _gates(means: Tensor, reduce: Tensor, expand: Tensor) -> Tensor:
    return torch.sigmoid(torch.nn.functional.silu(means @ reduce.T) @ expand.T)


def folded(weight: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(out, D + 1): the 1×1 convolution `weight` (out, D) behind a norm; the last column a bias."""
    return _folded(weight, mean, scale / variance.sqrt(), shift)


def _folded(weight: Tensor, mean: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    bias = weight @ (shift - factor * mean)
    return torch.cat([weight * factor, bias[:, None]], dim=1)


def readers_of(length: int, K: int, stride: int, skip: int) -> Tensor:
    """(length,) int64: how many outputs of a strided, zero-padded K-tap kernel read each position.

    skip: of the line, only every skip-th position is passed on to it.
    """
    return _readers_of(length, K, stride, skip)


def _readers_of(length: int, K: int, stride: int, skip: int, outputs: int | None = None) -> Tensor:
    thin = -(-length // skip)
    count = torch.zeros(length, dtype=torch.int64)
    for o in range(-(-thin // stride) if outputs is None else outputs):
        first = o * stride - K // 2
        for m in range(max(first, 0), min(first + K, thin)):
            count[m * skip] += 1
    return count


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _ramp_cases(rng: torch.Generator) -> list[dict]:
    return [
        {"depths": (1, 3), "rate": 0.4},
        {"depths": (2, 3, 5, 2), "rate": 0.2},
        {"depths": (2, 6, 14, 2), "rate": 0.3},
    ]


def _gate_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for B, D, few, height, width in ((1, 2, 1, 1, 2), (2, 8, 2, 5, 4), (3, 12, 3, 6, 7)):
        x = _noise(rng, B, D, height, width) + 0.5
        reduce, expand = 2 * _noise(rng, few, D), 2 * _noise(rng, D, few)
        cases.append({"x": x, "reduce": reduce, "expand": expand})
    return cases


def _fold_cases(rng: torch.Generator) -> list[dict]:
    two = torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    mean, variance = two[0] / 5, torch.tensor([4.0, 0.25], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    first = {"weight": two, "mean": mean, "variance": variance, "scale": one, "shift": 3 * one}
    cases = [first]
    for out, D in ((3, 5), (12, 4), (6, 6)):
        numbers = {name: _noise(rng, D) for name in ("mean", "variance", "scale", "shift")}
        numbers["variance"] = numbers["variance"].square() + 0.1
        cases.append({"weight": _noise(rng, out, D), **numbers})
    return cases


def _reader_cases(rng: torch.Generator) -> list[dict]:
    settings = [(8, 3, 1, 1), (8, 3, 2, 1), (8, 3, 1, 2), (9, 5, 2, 1), (13, 5, 1, 3)]
    settings.append((11, 7, 3, 2))
    return [dict(zip(("length", "K", "stride", "skip"), s, strict=True)) for s in settings]


EXERCISES = [
    Exercise(
        "7.1",
        ramp,
        _ramp_cases,
        [
            Mistake(
                "the last block must stay below the full rate: with b = 0 … L − 1, b/L never "
                "reaches 1. You divided by L − 1.",
                lambda depths, rate: torch.linspace(0, rate, sum(depths), dtype=torch.float64),
            ),
            Mistake(
                "b is counted from 0: the first block is never dropped.",
                lambda depths, rate: (
                    rate * torch.arange(1, sum(depths) + 1, dtype=torch.float64) / sum(depths)
                ),
            ),
            Mistake(
                "one ramp runs through the whole network; yours starts again in every stage.",
                lambda depths, rate: torch.cat([ramp([depth], rate) for depth in depths]),
            ),
        ],
    ),
    Exercise(
        "7.2",
        gates,
        _gate_cases,
        [
            Mistake(
                "the bend between the two matrices is missing.",
                lambda x, reduce, expand: torch.sigmoid(x.mean((2, 3)) @ reduce.T @ expand.T),
            ),
            Mistake(
                "these are the gated channels' factors before the last sigmoid: gates lie between "
                "0 and 1.",
                lambda x, reduce, expand: (
                    torch.nn.functional.silu(x.mean((2, 3)) @ reduce.T) @ expand.T
                ),
            ),
            Mistake(
                "you summed over the grid. A mean does not grow with the picture.",
                lambda x, reduce, expand: _gates(x.sum((2, 3)), reduce, expand),
            ),
            Mistake(
                "you took the largest value of each channel, not its mean.",
                lambda x, reduce, expand: _gates(x.amax((2, 3)), reduce, expand),
            ),
            Mistake(
                "the mean also ran over the pictures: each picture has gates of its own.",
                lambda x, reduce, expand: _gates(
                    x.mean((0, 2, 3)).expand(len(x), -1), reduce, expand
                ),
            ),
        ],
    ),
    Exercise(
        "7.3",
        folded,
        _fold_cases,
        [
            Mistake(
                "the mean is subtracted before the norm's scale: the bias needs "
                "shift − s·mean, with s = scale/√variance.",
                lambda weight, mean, variance, scale, shift: torch.cat(
                    [
                        weight * scale / variance.sqrt(),
                        (weight @ (shift - mean))[:, None],
                    ],
                    dim=1,
                ),
            ),
            Mistake(
                "the shift did not go through the matrix: what the norm adds to channel c reaches "
                "every output.",
                lambda weight, mean, variance, scale, shift: torch.cat(
                    [
                        weight * scale / variance.sqrt(),
                        (shift - scale / variance.sqrt() * mean).sum().expand(len(weight), 1),
                    ],
                    dim=1,
                ),
            ),
            Mistake(
                "a norm divides by the deviation, the root of the variance.",
                lambda weight, mean, variance, scale, shift: _folded(
                    weight, mean, scale / variance, shift
                ),
            ),
            Mistake(
                "the norm's scale is missing from the weights and the bias.",
                lambda weight, mean, variance, scale, shift: _folded(
                    weight, mean, 1 / variance.sqrt(), shift
                ),
            ),
        ],
    ),
    Exercise(
        "7.4",
        readers_of,
        _reader_cases,
        [
            Mistake(
                "you spread the kernel over the line as it was. The 1×1 has thinned it out first: "
                "neighbouring taps lie skip positions apart.",
                lambda length, K, stride, skip: _readers_of(length, K, stride * skip, 1),
            ),
            Mistake(
                "the stride is missing: outputs stand stride thinned-out positions apart.",
                lambda length, K, stride, skip: _readers_of(length, K, 1, skip),
            ),
            Mistake(
                "there are more outputs than that: length / (skip·stride), rounded up, not down.",
                lambda length, K, stride, skip: _readers_of(
                    length, K, stride, skip, length // skip // stride
                ),
            ),
        ],
    ),
]
