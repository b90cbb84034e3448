"""Exercises of chapter 9: what fits into memory, windows, a softmax in two halves, a causal sum."""

import math

import torch
from torch import Tensor

from coatnet_mini.cheaper import window_of
from coatnet_mini.exercises import Exercise, Mistake


def largest_side(memory: int, stride: int, heads: int, layers: int) -> int:
    """The side in pixels of the largest image whose float32 scores fit into `memory` bytes."""
    return stride * math.isqrt(math.isqrt(memory // (4 * heads * layers)))


def same_window(height: int, width: int, size: int, shift: int) -> Tensor:
    """(N, N) int64: 1 where two positions share a window, the cuts moved up and left by `shift`."""
    return _same_window(height, width, size, shift)


def _same_window(height: int, width: int, size: int, shift: int) -> Tensor:
    window = window_of((height, width), size, shift)
    return (window[:, None] == window).long()


def merge(y1: Tensor, z1: Tensor, y2: Tensor, z2: Tensor) -> Tensor:
    """(N, d): attention over both halves of the keys, z the logarithms of the denominators."""
    share = torch.sigmoid(z1 - z2)
    return share * y1 + (1 - share) * y2


def causal(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """(N, e): linear attention over the features a and b that reads j ≤ i only."""
    return _causal(a, b, v)


def _causal(a: Tensor, b: Tensor, v: Tensor, diagonal: int = 0) -> Tensor:
    A = (a @ b.mT).tril(diagonal)
    return A @ v / A.sum(1, keepdim=True)


def _rolled(height: int, width: int, size: int, shift: int) -> Tensor:
    """Windows after a roll without a mask: opposite borders meet."""
    place = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    window = window_of((height, width), size)[place.flatten().argsort()]
    return (window[:, None] == window).long()


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _memory_cases(rng: torch.Generator) -> list[dict]:
    cases = [
        {"memory": 4 * 14**4, "stride": 16, "heads": 1, "layers": 1},
        {"memory": 16 * 10**9, "stride": 1, "heads": 2, "layers": 1},
        {"memory": 10**9, "stride": 8, "heads": 6, "layers": 5},
    ]
    for side in torch.randint(20, 300, (3,), generator=rng).tolist():
        cases.append({"memory": 4 * 36 * side**4, "stride": 4, "heads": 12, "layers": 3})
    return cases


def _window_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"height": 2, "width": 4, "size": 2, "shift": 0}]
    cases.append({"height": 4, "width": 4, "size": 2, "shift": 1})
    for height, width, size, shift in ((6, 9, 3, 1), (8, 4, 4, 2), (3, 10, 5, 3)):
        cases.append({"height": height, "width": width, "size": size, "shift": shift})
    return cases


def _merge_cases(rng: torch.Generator) -> list[dict]:
    one = torch.ones(1, 1, dtype=torch.float64)
    cases = [{"y1": 10 * one, "z1": 0 * one, "y2": 40 * one, "z2": math.log(2) * one}]
    for N, d, large in ((4, 2, 1.0), (7, 3, 3.0), (5, 1, 1e3)):
        y1, y2 = _noise(rng, 2, N, d)
        z1, z2 = large * (3 + _noise(rng, 2, N, 1).abs())
        cases.append({"y1": y1, "z1": z1, "y2": y2, "z2": z2})
    return cases


def _causal_cases(rng: torch.Generator) -> list[dict]:
    line = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    cases = [{"a": torch.ones_like(line), "b": line, "v": 10 * line}]
    for N, d, e in ((6, 2, 3), (20, 4, 1), (33, 3, 5)):
        a, b = _noise(rng, 2, N, d).abs() + 0.1
        cases.append({"a": a, "b": b, "v": _noise(rng, N, e)})
    return cases


EXERCISES = [
    Exercise(
        "9.1",
        largest_side,
        _memory_cases,
        [
            Mistake(
                "that is the side of the grid, in positions. Each stands for stride × stride "
                "pixels.",
                lambda memory, stride, heads, layers: largest_side(memory, 1, heads, layers),
            ),
            Mistake(
                "you took the root once. N² pairs fit, so the root gives N, the number of "
                "positions; the side of their grid is its root.",
                lambda memory, stride, heads, layers: (
                    stride * math.isqrt(memory // (4 * heads * layers))
                ),
            ),
            Mistake(
                "a float32 number takes four bytes.",
                lambda memory, stride, heads, layers: largest_side(
                    4 * memory, stride, heads, layers
                ),
            ),
            Mistake(
                "every layer has its scores, and all of them are to fit.",
                lambda memory, stride, heads, layers: largest_side(memory, stride, heads, 1),
            ),
            Mistake(
                "every head has its own scores.",
                lambda memory, stride, heads, layers: largest_side(memory, stride, 1, layers),
            ),
        ],
    ),
    Exercise(
        "9.2",
        same_window,
        _window_cases,
        [
            Mistake(
                "these windows are not shifted: add the shift before you divide.",
                lambda height, width, size, shift: _same_window(height, width, size, 0),
            ),
            Mistake(
                "your cuts moved down and right. Moved up by the shift, the first band has only "
                "size − shift rows.",
                lambda height, width, size, shift: _same_window(
                    height, width, size, (size - shift) % size
                ),
            ),
            Mistake(
                "opposite borders share a window: a roll needs its mask.",
                _rolled,
            ),
            Mistake(
                "only the bands of rows are compared, or only those of columns: a window is where "
                "both agree.",
                lambda height, width, size, shift: (
                    _same_window(height, 1, size, shift)
                    .repeat_interleave(width, 0)
                    .repeat_interleave(width, 1)
                ),
            ),
        ],
    ),
    Exercise(
        "9.3",
        merge,
        _merge_cases,
        [
            Mistake(
                "the two halves do not count alike: the one with the larger denominator has more "
                "to say.",
                lambda y1, z1, y2, z2: (y1 + y2) / 2,
            ),
            Mistake(
                "the exponential of a thousand is infinite, and your quotient not a number. "
                "Subtract the larger z first.",
                lambda y1, z1, y2, z2: (z1.exp() * y1 + z2.exp() * y2) / (z1.exp() + z2.exp()),
            ),
            Mistake(
                "z is the logarithm of a denominator; the weights are e to the z.",
                lambda y1, z1, y2, z2: (z1 * y1 + z2 * y2) / (z1 + z2),
            ),
            Mistake(
                "the shares are swapped: z1 belongs to y1.",
                lambda y1, z1, y2, z2: merge(y2, z1, y1, z2),
            ),
        ],
    ),
    Exercise(
        "9.4",
        causal,
        _causal_cases,
        [
            Mistake(
                "every position reads all others. Position i may use j ≤ i only.",
                lambda a, b, v: a @ (b.mT @ v) / (a @ b.sum(0))[:, None],
            ),
            Mistake(
                "a position reads itself too, j ≤ i: the first has nobody else.",
                lambda a, b, v: _causal(a, b, v, -1),
            ),
            Mistake(
                "the denominator is that of all positions. It must grow with i as the numerator "
                "does.",
                lambda a, b, v: (a @ b.mT).tril() @ v / (a @ b.sum(0))[:, None],
            ),
            Mistake(
                "the denominator is missing: the weights of a row must sum to one.",
                lambda a, b, v: (a @ b.mT).tril() @ v,
            ),
        ],
    ),
]
