"""Exercises of chapter 4: the border, global pooling, strides, what a camera shift leaves exact."""

from math import lcm, prod
from operator import mul

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.convolution import depthwise_conv2d
from coatnet_mini.exercises import Exercise, Mistake


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def repaired(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution on a torus, x (B, D, H, W), weight (D, k, k) by j − i."""
    return depthwise_conv2d(x, weight, padding="circular")


def pool_change(x: Tensor, s: int) -> Tensor:
    """Change of the mean of x (B, D, H, W) over positions when zeros shift it s columns right."""
    return _moved(x, s).mean((2, 3)) - x.mean((2, 3))


def exact_shifts(strides: tuple[int, ...], n: int) -> list[int]:
    """Shifts of a torus of n columns with which circular layers of these strides commute."""
    return _multiples(prod(strides), n)


def exact_columns(
    width: int, kernels: tuple[int, ...], dilations: tuple[int, ...], shift: int
) -> int:
    """Columns that a stack of zero-padded layers repeats after a camera shift."""
    return max(0, width - shift - 2 * _reach(kernels, dilations))


def _moved(x: Tensor, s: int) -> Tensor:
    W = x.shape[-1]
    return F.pad(x, (s, -s))[..., :W]


def _multiples(step: int, n: int) -> list[int]:
    return list(range(0, n, step))


def _reach(kernels: tuple[int, ...], dilations: tuple[int, ...]) -> int:
    return sum(map(_layers_reach, kernels, dilations))


def _layers_reach(kernel: int, dilation: int) -> int:
    return dilation * (kernel - 1) // 2


def _border_cases(rng: torch.Generator) -> list[dict]:
    one = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    one[..., 0, 0] = 1.0
    cases = [{"x": one, "weight": torch.arange(9, dtype=torch.float64).view(1, 3, 3)}]
    for k, H, W in ((3, 5, 7), (5, 6, 9), (7, 8, 10)):
        cases.append({"x": _noise(rng, 2, 3, H, W), "weight": _noise(rng, 3, k, k)})
    return cases


def _padded(mode: str):
    def answer(x: Tensor, weight: Tensor) -> Tensor:
        r = weight.shape[2] // 2
        return depthwise_conv2d(F.pad(x, (r,) * 4, mode=mode), weight, padding="none")

    return answer


def _one_axis(x: Tensor, weight: Tensor, *, across: bool) -> Tensor:
    r = weight.shape[2] // 2
    ring, zeros = ((r, r, 0, 0), (0, 0, r, r)) if across else ((0, 0, r, r), (r, r, 0, 0))
    padded = F.pad(F.pad(x, ring, mode="circular"), zeros)
    return depthwise_conv2d(padded, weight, padding="none")


def _pool_cases(rng: torch.Generator) -> list[dict]:
    ramp = torch.arange(1.0, 5.0, dtype=torch.float64).view(1, 1, 1, 4)
    cases = [{"x": ramp, "s": 1}, {"x": ramp, "s": -2}, {"x": ramp, "s": 0}]
    return cases + [
        {"x": _noise(rng, 2, 3, H, W), "s": s} for H, W, s in ((4, 6, 2), (5, 3, -1), (3, 8, 0))
    ]


def _lost_without_zero(x: Tensor, s: int) -> Tensor:
    return -(x[..., -s:] if s >= 0 else x[..., :-s]).sum((2, 3)) / x[0, 0].numel()


def _other_side(x: Tensor, s: int) -> Tensor:
    return pool_change(x, -s)


def _mean_of_rest(x: Tensor, s: int) -> Tensor:
    W = x.shape[3]
    return _moved(x, s).mean((2, 3)) * W / (W - abs(s)) - x.mean((2, 3))


def _stride_cases(rng: torch.Generator) -> list[dict]:
    cases = (((2,), 6), ((2, 2), 16), ((2, 3), 12), ((4, 6), 48), ((1, 2, 1, 2), 8), ((2,) * 5, 96))
    return [{"strides": strides, "n": n} for strides, n in cases]


def _column_cases(rng: torch.Generator) -> list[dict]:
    return [
        {"width": width, "kernels": kernels, "dilations": dilations, "shift": shift}
        for width, kernels, dilations, shift in (
            (8, (3,), (1,), 1),
            (18, (3, 5), (1, 1), 2),
            (20, (3, 3), (1, 3), 4),
            (10, (7, 7), (1, 1), 3),
            (30, (3, 5, 3), (2, 1, 4), 0),
        )
    ]


_TWO_EDGES = (
    "both edges count: what left on one side is missing there, what entered on the other is new, "
    "and padding spoils both. Take the reach away twice."
)

EXERCISES = [
    Exercise(
        "4.1",
        repaired,
        _border_cases,
        [
            Mistake(
                "this is the zero padding that errs: left of column 0 must lie the last column.",
                lambda x, weight: depthwise_conv2d(x, weight),
            ),
            Mistake(
                "reflected edges stay where they are while the content rolls on, so it errs at the "
                "border as zeros do.",
                _padded("reflect"),
            ),
            Mistake(
                "repeated edges stay where they are while the content rolls on, so it errs at the "
                "border as zeros do.",
                _padded("replicate"),
            ),
            Mistake(
                "that leaves the border out instead of repairing it: the output has to keep its "
                "size.",
                lambda x, weight: depthwise_conv2d(x, weight, padding="none"),
            ),
            Mistake(
                "only left and right are joined: rolls up and down still err.",
                lambda x, weight: _one_axis(x, weight, across=True),
            ),
            Mistake(
                "only top and bottom are joined: rolls to the right and left still err.",
                lambda x, weight: _one_axis(x, weight, across=False),
            ),
            Mistake(
                "the kernel is turned by 180 degrees: `weight` is indexed as conv2d takes it.",
                lambda x, weight: repaired(x, weight.flip(-2, -1)),
            ),
        ],
    ),
    Exercise(
        "4.2",
        pool_change,
        _pool_cases,
        [
            Mistake(
                "right for rolls, which lose nothing; here the columns that leave are gone.",
                lambda x, s: x.new_zeros(x.shape[:2]),
            ),
            Mistake(
                "x[..., -0:] is everything: for s = 0 nothing leaves. Write x[..., W - s:].",
                _lost_without_zero,
            ),
            Mistake(
                "the wrong side: a shift to the right loses the last columns, one to the left the "
                "first.",
                _other_side,
            ),
            Mistake(
                "the sign: what leaves is taken away from the mean.",
                lambda x, s: -pool_change(x, s),
            ),
            Mistake(
                "the zeros that entered count as positions: divide by H·W, not by what is left.",
                _mean_of_rest,
            ),
            Mistake(
                "divide by the number of positions: a mean changes by the lost sum over H·W.",
                lambda x, s: pool_change(x, s) * x[0, 0].numel(),
            ),
        ],
    ),
    Exercise(
        "4.3",
        exact_shifts,
        _stride_cases,
        [
            Mistake(
                "strides multiply: after a stride of 2 the next layer sees half the shift.",
                lambda strides, n: _multiples(sum(strides), n),
            ),
            Mistake(
                "the largest stride alone is not enough: the layers after the first see a shift "
                "that is already divided.",
                lambda strides, n: _multiples(max(strides), n),
            ),
            Mistake(
                "not the least common multiple: after the first layer the shift is s/t, and the "
                "second stride has to divide that.",
                lambda strides, n: _multiples(lcm(*strides), n),
            ),
            Mistake(
                "a shift by 0 is exact too.",
                lambda strides, n: exact_shifts(strides, n)[1:],
            ),
            Mistake(
                "shifts from 0 to n − 1: a shift by n is the shift by 0 again.",
                lambda strides, n: [*exact_shifts(strides, n), n],
            ),
        ],
    ),
    Exercise(
        "4.4",
        exact_columns,
        _column_cases,
        [
            Mistake(
                "the shift costs columns as well: those into which something new has moved.",
                lambda width, kernels, dilations, shift: exact_columns(
                    width, kernels, dilations, 0
                ),
            ),
            Mistake(
                _TWO_EDGES,
                lambda width, kernels, dilations, shift: width - shift - _reach(kernels, dilations),
            ),
            Mistake(
                "dilation multiplies the reach of its layer: d·(k − 1)/2.",
                lambda width, kernels, dilations, shift: exact_columns(
                    width, kernels, (1,) * len(kernels), shift
                ),
            ),
            Mistake(
                "reaches add up over the layers: each reads what the one before has spoiled.",
                lambda width, kernels, dilations, shift: (
                    width - shift - 2 * max(map(_layers_reach, kernels, dilations))
                ),
            ),
            Mistake(
                "no fewer than none: clamp at 0 when the borders meet.",
                lambda width, kernels, dilations, shift: (
                    width - shift - 2 * _reach(kernels, dilations)
                ),
            ),
            Mistake(
                "a kernel of k taps reaches (k − 1)/2 to either side, not k.",
                lambda width, kernels, dilations, shift: max(
                    0, width - shift - 2 * sum(map(mul, kernels, dilations))
                ),
            ),
        ],
    ),
]
