"""Exercises of chapter 8: norm and pool, what each head adds, a table for a torus, parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def normed_then_pooled(x: Tensor) -> Tensor:
    """x (D, H, W) → (D, H/2, W/2): each position normalised over its channels, then max-pooled."""
    return F.max_pool2d(_norm(x), 2)


def _norm(x: Tensor, axes: int | tuple[int, ...] = 0, correction: int = 0) -> Tensor:
    return (x - x.mean(axes, True)) / x.std(axes, correction=correction, keepdim=True)


def added(A: Tensor, v: Tensor, U: Tensor) -> Tensor:
    """(heads, N, D_out): each head's part of the output; A (heads, N, N), v (heads, N, d)."""
    return A @ v @ U.unflatten(1, (len(A), -1)).permute(1, 2, 0)


def wrapped(ring: Tensor) -> Tensor:
    """(2H−1, 2W−1): the table whose offsets are taken modulo the grid; ring (H, W)."""
    H, W = ring.shape
    return ring[torch.arange(1 - H, H) % H][:, torch.arange(1 - W, W) % W]


def _clamped(ring: Tensor) -> Tensor:
    H, W = ring.shape
    return ring[torch.arange(1 - H, H).clamp(min=0)][:, torch.arange(1 - W, W).clamp(min=0)]


def _mirrored(ring: Tensor) -> Tensor:
    H, W = ring.shape
    return ring[torch.arange(1 - H, H).abs()][:, torch.arange(1 - W, W).abs()]


def parameters(dim: int, out: int, head_dim: int, height: int, width: int) -> int:
    """How many a Transformer block has that reads `dim` channels and writes `out`."""
    return _parameters(dim, out, out // head_dim, height, width)


def _parameters(
    dim: int,
    out: int,
    heads: int,
    height: int,
    width: int,
    *,
    hidden: int | None = None,
    norms: int | None = None,
    projects: bool | None = None,
    biases: bool = True,
) -> int:
    one = int(biases)
    hidden = 4 * out if hidden is None else hidden
    attention = 3 * out * (dim + one) + out * (out + one)
    tables = heads * (2 * height - 1) * (2 * width - 1)
    ffn = hidden * (out + one) + out * (hidden + one)
    project = out * (dim + one) if (dim != out if projects is None else projects) else 0
    return attention + tables + ffn + project + (2 * (dim + out) if norms is None else norms)


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _picture_cases(rng: torch.Generator) -> list[dict]:
    window = torch.tensor([[[5.0, 0.0], [1.0, 2.0]], [[1.0, 2.0], [3.0, 0.0]]], dtype=torch.float64)
    sizes = ((2, 4, 6), (5, 6, 2), (8, 4, 4))
    return [{"x": window}] + [{"x": _noise(rng, *size)} for size in sizes]


def _head_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for heads, N, d, out in ((1, 2, 1, 1), (2, 3, 2, 5), (4, 5, 3, 12), (3, 4, 3, 2)):
        A = _noise(rng, heads, N, N).softmax(-1)
        cases.append({"A": A, "v": _noise(rng, heads, N, d), "U": _noise(rng, out, heads * d)})
    return cases


def _ring_cases(rng: torch.Generator) -> list[dict]:
    line = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    return [{"ring": line}] + [{"ring": _noise(rng, H, W)} for H, W in ((3, 4), (5, 2), (4, 4))]


def _size_cases(rng: torch.Generator) -> list[dict]:
    names = ("dim", "out", "head_dim", "height", "width")
    sizes = ((2, 4, 2, 2, 2), (8, 8, 4, 3, 5), (192, 384, 32, 14, 14), (64, 96, 32, 6, 8))
    return [dict(zip(names, size, strict=True)) for size in sizes]


EXERCISES = [
    Exercise(
        "8.1",
        normed_then_pooled,
        _picture_cases,
        [
            Mistake(
                "that is Norm(Pool(x)). The norm comes first, and what is pooled is normalised.",
                lambda x: _norm(F.max_pool2d(x, 2)),
            ),
            Mistake(
                "you normalised each channel over the positions. Layer normalisation takes the "
                "channels of each position: axis 0.",
                lambda x: F.max_pool2d(_norm(x, (1, 2)), 2),
            ),
            Mistake(
                "the deviation was divided by D − 1. torch.std does so by default; the mean square "
                "is asked for.",
                lambda x: F.max_pool2d(_norm(x, correction=1), 2),
            ),
            Mistake(
                "the pool takes the largest of each window, not the average.",
                lambda x: F.avg_pool2d(_norm(x), 2),
            ),
            Mistake(
                "the whole picture was normalised at once. Each position has its own mean and "
                "deviation.",
                lambda x: F.max_pool2d(_norm(x, (0, 1, 2)), 2),
            ),
        ],
    ),
    Exercise(
        "8.2",
        added,
        _head_cases,
        [
            Mistake(
                "U is stored as nn.Linear stores it, (D_out, heads·d), so a head takes some of its "
                "columns. You dealt out its columns one by one: head after head they lie joined.",
                lambda A, v, U: A @ v @ U.unflatten(1, (-1, len(A))).permute(2, 1, 0),
            ),
            Mistake(
                "this is the whole output. Each head's part is asked for, before the sum.",
                lambda A, v, U: (A @ v).transpose(0, 1).flatten(1) @ U.T,
            ),
            Mistake(
                "row i of A belongs to the position computed: A @ v, not its transpose.",
                lambda A, v, U: A.mT @ v @ U.unflatten(1, (len(A), -1)).permute(1, 2, 0),
            ),
            Mistake(
                "the heads came out in reverse.",
                lambda A, v, U: added(A, v, U).flip(0),
            ),
        ],
    ),
    Exercise(
        "8.3",
        wrapped,
        _ring_cases,
        [
            Mistake(
                "offset −1 is not offset 1. On a torus it is H − 1: go on round.",
                _mirrored,
            ),
            Mistake(
                "negative offsets were all given the first cell. On a torus −1 is H − 1.",
                _clamped,
            ),
            Mistake(
                "the table is turned by 180 degrees: its first row stands for the offset −(H − 1).",
                lambda ring: wrapped(ring).flip(0, 1),
            ),
            Mistake(
                "offset (0, 0) belongs in the middle of the table. You laid the ring out from the "
                "first cell on.",
                lambda ring: ring.tile(2, 2)[:-1, :-1],
            ),
        ],
    ),
    Exercise(
        "8.4",
        parameters,
        _size_cases,
        [
            Mistake(
                "the FFN widens what it reads, and it reads `out` channels: 4·out, not 4·dim.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, hidden=4 * dim
                ),
            ),
            Mistake(
                "every head has a table of its own.",
                lambda dim, out, head_dim, height, width: _parameters(dim, out, 1, height, width),
            ),
            Mistake(
                "attention is as wide as what it writes: out // head_dim heads.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, dim // head_dim, height, width
                ),
            ),
            Mistake(
                "the norms are missing: two numbers for each channel that they read.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, norms=0
                ),
            ),
            Mistake(
                "the first norm is of `dim` channels, the second of `out`.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, norms=4 * out
                ),
            ),
            Mistake(
                "where the widths differ, the shortcut has a Proj.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, projects=False
                ),
            ),
            Mistake(
                "where the widths agree there is no Proj.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, projects=True
                ),
            ),
            Mistake(
                "every linear layer has a bias for each channel that it writes.",
                lambda dim, out, head_dim, height, width: _parameters(
                    dim, out, out // head_dim, height, width, biases=False
                ),
            ),
        ],
    ),
]
