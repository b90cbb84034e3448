"""Exercises of chapter 5: sums of rows, the convex hull, the Gaussian prior, a gradient."""

import torch
from scipy.optimize import brentq
from torch import Tensor

from coatnet_mini.attention import attention_weights, bias_matrix
from coatnet_mini.exercises import Exercise, Mistake


def post_row_sums(table: Tensor, height: int, width: int) -> Tensor:
    """(N,): 1 + Σ_j w_{i−j}; table (2·height − 1, 2·width − 1), indexed by i − j."""
    return 1 + bias_matrix(table, height, width).sum(1)


def leaves_hull_at(x: Tensor, B: Tensor) -> Tensor:
    """(N,): the strength s beyond which (A + s·B) x leaves min x … max x; x (N, 1), B (N, N)."""
    return _leaves(attention_weights(x) @ x, B @ x, x.min(), x.max())


def _leaves(start: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum((low - start) / slope, (high - start) / slope).flatten()  # the one ≥ 0


def blur_strength(x: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """(): the largest c at which pre with scores c·x_i·x_j is a Gaussian blur to 1 %."""
    return _blur_strength(x, _gaussian(height, width, 2 * sigma**2))


def _gaussian(height: int, width: int, denominator: float) -> Tensor:
    """(N, N): −|i − j|² / denominator."""
    rows, columns = (torch.arange(1 - n, n, dtype=torch.float64) ** 2 for n in (height, width))
    return bias_matrix(-(rows[:, None] + columns) / denominator, height, width)


def _blur_strength(x: Tensor, B: Tensor, *, relative: bool = True, bound: float = 0.01) -> Tensor:
    blur = B.softmax(1)

    def off(c: float) -> float:
        gap = (attention_weights(x, bias=B, scale=c) - blur).abs()
        return float((gap / blur if relative else gap).max())

    largest = brentq(lambda c: off(c) - bound, 0.0, 1.0)
    return torch.tensor(largest, dtype=torch.float64)


def content_gradient(x: Tensor, B: Tensor, g: Tensor, c: float) -> Tensor:
    """(): Σ_ij (x_i·x_j) W_ij g_i·(x_j − y_i), the derivative of Σ g·y in c, values held fixed."""
    return _content_gradient(x, B, g, c)


def _content_gradient(
    x: Tensor, B: Tensor | None, g: Tensor, c: float, *, centred: bool = True
) -> Tensor:
    A = attention_weights(x, bias=B, scale=c)
    pairs = g @ x.T
    if centred:
        pairs = pairs - (g * (A @ x)).sum(1, keepdim=True)
    return (A * pairs * (x @ x.T)).sum()


def _through_values(x: Tensor, B: Tensor, g: Tensor, c: float) -> Tensor:
    """The derivative in c when x is first scaled by √c, values and all."""
    scale = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    scaled = scale.sqrt() * x
    y = attention_weights(scaled, bias=B) @ scaled
    return torch.autograd.grad((g * y).sum(), scale)[0]


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _table_cases(rng: torch.Generator) -> list[dict]:
    small = torch.zeros(1, 3, dtype=torch.float64)
    small[0, 0] = 1.0  # w_{−1}: position 0 reads position 1
    cases = [{"table": small, "height": 1, "width": 2}]
    for height, width in torch.randint(2, 7, (3, 2), generator=rng).tolist():
        table = _noise(rng, 2 * height - 1, 2 * width + 1)
        cases.append({"table": table, "height": height, "width": width + 1})
    return cases


def _hull_cases(rng: torch.Generator) -> list[dict]:
    line = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    cases = [{"x": line, "B": torch.eye(3, dtype=torch.float64)[[2, 0, 1]] + 0.5}]
    for N in torch.randint(4, 20, (3,), generator=rng).tolist():
        cases.append({"x": _noise(rng, N, 1), "B": _noise(rng, N, N)})
    return cases


def _blur_cases(rng: torch.Generator) -> list[dict]:
    line = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    cases = [{"x": line, "height": 1, "width": 3, "sigma": 1.0}]
    for height, width, D, sigma in ((3, 4, 1, 0.8), (5, 3, 3, 1.7), (2, 6, 2, 2.5)):
        x = _noise(rng, height * width, D)
        cases.append({"x": x, "height": height, "width": width, "sigma": sigma})
    return cases


def _gradient_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for N, D, c in ((3, 1, 1.0), (6, 2, 0.5), (11, 4, 0.3), (8, 3, 1.5)):
        cases.append(
            {"x": _noise(rng, N, D), "B": _noise(rng, N, N), "g": _noise(rng, N, D), "c": c}
        )
    return cases


EXERCISES = [
    Exercise(
        "5.1",
        post_row_sums,
        _table_cases,
        [
            Mistake(
                "attention itself is missing: softmax gives every row 1, and the kernel comes on "
                "top.",
                lambda table, height, width: bias_matrix(table, height, width).sum(1),
            ),
            Mistake(
                "every position got the sum of the whole table. Position i uses the offsets i − j "
                "of the j on the grid, a window of height × width cells.",
                lambda table, height, width: 1 + table.sum().expand(height * width),
            ),
            Mistake(
                "these are the sums over i, the columns: your windows belong to offsets j − i. The "
                "top left corner has offsets that are zero or negative.",
                lambda table, height, width: 1 + bias_matrix(table, height, width).sum(0),
            ),
            Mistake(
                "only the offsets up to half the grid are in your sum. The farthest pair is "
                "height − 1 rows apart: the whole window counts.",
                lambda table, height, width: (
                    1
                    + table[
                        height // 2 : -(height // 2) or None, width // 2 : -(width // 2) or None
                    ]
                    .sum()
                    .expand(height * width)
                ),
            ),
        ],
    ),
    Exercise(
        "5.2",
        leaves_hull_at,
        _hull_cases,
        [
            Mistake(
                "the output does not start at 0 but at attention's own output, (A x)_i, and only "
                "the rest of the way is the kernel's.",
                lambda x, B: _leaves(torch.zeros_like(x), B @ x, x.min(), x.max()),
            ),
            Mistake(
                "where (B x)_i is negative the output leaves through min x, not through max x.",
                lambda x, B: _leaves(attention_weights(x) @ x, B @ x, x.max(), x.max()),
            ),
            Mistake(
                "attention was given the kernel too, inside the softmax. In post the softmax sees "
                "the scores alone.",
                lambda x, B: _leaves(attention_weights(x, bias=B) @ x, B @ x, x.min(), x.max()),
            ),
            Mistake(
                "strength is asked for, s ≥ 0: which end is left depends on the sign of (B x)_i, "
                "and the quotient is then positive.",
                lambda x, B: _leaves(attention_weights(x) @ x, (B @ x).abs(), x.min(), x.max()),
            ),
        ],
        tolerance=1e-8,
    ),
    Exercise(
        "5.3",
        blur_strength,
        _blur_cases,
        [
            Mistake(
                "1 % is meant of each weight of the blur: divide by it. You compared with 0.01 "
                "itself, which lets small weights go far astray.",
                lambda x, height, width, sigma: _blur_strength(
                    x, _gaussian(height, width, 2 * sigma**2), relative=False
                ),
            ),
            Mistake(
                "the exponent lacks its 2: w = −|i − j|² / (2σ²).",
                lambda x, height, width, sigma: _blur_strength(
                    x, _gaussian(height, width, sigma**2)
                ),
            ),
            Mistake(
                "the kernel has the wrong sign: far offsets must get less, w = −|i − j|² / (2σ²).",
                lambda x, height, width, sigma: _blur_strength(
                    x, _gaussian(height, width, -2 * sigma**2)
                ),
            ),
            Mistake(
                "that bound is safe, but not the largest: it takes both extremes of the scores at "
                "once. Measure the weights themselves.",
                lambda x, height, width, sigma: (
                    torch.log(torch.tensor(1.01, dtype=torch.float64)) / (2 * (x @ x.T).abs().max())
                ),
            ),
        ],
        tolerance=1e-7,
    ),
    Exercise(
        "5.4",
        content_gradient,
        _gradient_cases,
        [
            Mistake(
                "the mean is missing: raising one weight lowers the others, so x_j counts as "
                "x_j − y_i.",
                lambda x, B, g, c: _content_gradient(x, B, g, c, centred=False),
            ),
            Mistake(
                "the kernel is missing from the softmax: this is the gradient for post.",
                lambda x, B, g, c: _content_gradient(x, None, g, c),
            ),
            Mistake(
                "the values are held fixed here: c multiplies the scores, not x.",
                _through_values,
            ),
        ],
    ),
]
