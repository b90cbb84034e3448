"""Exercises of chapter 15: heads left out, half of the weight, edges in kernels, rollout."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake
from coatnet_mini.inside import distances


def without(x: Tensor, A: Tensor, v: Tensor, U: Tensor, silent: tuple[int, ...]) -> Tensor:
    """(N, D): x and what the heads add that are not in `silent`; U (heads, D, d)."""
    kept = [h for h in range(len(A)) if h not in silent]
    return x + (A @ v @ U.mT)[kept].sum(0)


def radius(A: Tensor, away: Tensor) -> Tensor:
    """(N,): the least distance within which at least half of each row's weight lies."""
    far, order = away.sort(1)
    below = A.gather(1, order).cumsum(1) < 0.5
    return far.gather(1, below.sum(1, keepdim=True))[:, 0]


def edge_share(kernels: Tensor) -> Tensor:
    """(n,): what mean × slope, both ways, explain of kernels (n, 3, 3)."""
    return _edges(kernels).square().sum(1) / kernels.square().sum((1, 2))


def _edges(kernels: Tensor, middle: float = 1.0, norm: bool = True) -> Tensor:
    """The amounts (n, 2) of the two templates."""
    mean, slope = kernels.new_tensor([[1, middle, 1], [-1, 0, 1]])
    one = torch.outer(mean, slope)
    one = one / one.norm() if norm else one
    return torch.einsum("tyx,nyx->nt", torch.stack([one, one.T]), kernels)


def rollout(maps: Tensor) -> Tensor:
    """(N, N): the product of the layers' mean attentions, each half identity, the last first."""
    return _rollout(maps)


def _rollout(maps: Tensor, shortcut: bool = True, reverse: bool = False) -> Tensor:
    one = torch.eye(maps.shape[3], dtype=maps.dtype)
    through = one
    for A in maps.mean(1):
        step = (A + one) / 2 if shortcut else A
        through = through @ step if reverse else step @ through
    return through


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _head_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for heads, N, D, d, silent in ((2, 2, 2, 1, (0,)), (3, 4, 6, 2, (1,)), (4, 3, 5, 2, (0, 3))):
        A = _noise(rng, heads, N, N).softmax(-1)
        x, v, U = _noise(rng, N, D), _noise(rng, heads, N, d), _noise(rng, heads, D, d)
        cases.append({"x": x, "A": A, "v": v, "U": U, "silent": silent})
    return cases


def _row_cases(rng: torch.Generator) -> list[dict]:
    row = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)
    halves = torch.tensor([0.1875, 0.0625, 0.25, 0.5], dtype=torch.float64)  # of which two are 0.5
    halves = torch.stack([halves.roll(n) for n in range(4)])
    cases = [{"A": row.expand(5, 5).clone(), "away": distances(1, 5)}]
    cases.append({"A": halves, "away": distances(1, 4)})
    for H, W in ((3, 3), (4, 5), (2, 7)):
        A = (2 * _noise(rng, H * W, H * W)).softmax(-1)
        cases.append({"A": A, "away": distances(H, W)})
    return cases


def _kernel_cases(rng: torch.Generator) -> list[dict]:
    step = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    return [{"kernels": torch.stack([step, step.T])}] + [
        {"kernels": _noise(rng, n, 3, 3)} for n in (3, 5)
    ]


def _map_cases(rng: torch.Generator) -> list[dict]:
    return [
        {"maps": (2 * _noise(rng, layers, heads, N, N)).softmax(-1)}
        for layers, heads, N in ((2, 1, 2), (3, 2, 4), (4, 3, 3))
    ]


EXERCISES = [
    Exercise(
        "15.1",
        without,
        _head_cases,
        [
            Mistake(
                "the heads in `silent` are to be left out; you kept them and left out the others.",
                lambda x, A, v, U, silent: x + (A @ v @ U.mT)[list(silent)].sum(0),
            ),
            Mistake(
                "the shortcut is missing: y begins with x.",
                lambda x, A, v, U, silent: without(x, A, v, U, silent) - x,
            ),
            Mistake(
                "this is the whole sum. Leave out the terms of `silent`.",
                lambda x, A, v, U, silent: x + (A @ v @ U.mT).sum(0),
            ),
            Mistake(
                "the other heads were made larger, as if the sum had to stay the same size. A "
                "head that is silent is not replaced.",
                lambda x, A, v, U, silent: (
                    x + (without(x, A, v, U, silent) - x) * len(A) / (len(A) - len(silent))
                ),
            ),
            Mistake(
                "row i of A belongs to the position computed: A @ v, not its transpose.",
                lambda x, A, v, U, silent: without(x, A.mT, v, U, silent),
            ),
        ],
    ),
    Exercise(
        "15.2",
        radius,
        _row_cases,
        [
            Mistake(
                "that is the mean distance, weighted. The least circle that holds half is asked "
                "for.",
                lambda A, away: (A * away).sum(1),
            ),
            Mistake(
                "you sorted by weight. The circle grows with the distance, whatever lies there.",
                lambda A, away: away.gather(
                    1,
                    A.argsort(1, descending=True).gather(
                        1,
                        (A.sort(1, descending=True)[0].cumsum(1) < 0.5).sum(1, keepdim=True),
                    ),
                )[:, 0],
            ),
            Mistake(
                "this is the circle one ring too small: it holds less than half.",
                lambda A, away: torch.where(away < radius(A, away)[:, None], away, 0.0).amax(1),
            ),
            Mistake(
                "row i of A belongs to the query i. You took its columns.",
                lambda A, away: radius(A.T / A.T.sum(1, keepdim=True), away),
            ),
        ],
    ),
    Exercise(
        "15.3",
        edge_share,
        _kernel_cases,
        [
            Mistake(
                "the templates were not divided by their norm, √6.",
                lambda kernels: (
                    _edges(kernels, norm=False).square().sum(1) / kernels.square().sum((1, 2))
                ),
            ),
            Mistake(
                "that is the share of one direction. The family has two templates.",
                lambda kernels: _edges(kernels)[:, 0].square() / kernels.square().sum((1, 2)),
            ),
            Mistake(
                "that is the share of the other direction alone. The family has two templates.",
                lambda kernels: _edges(kernels)[:, 1].square() / kernels.square().sum((1, 2)),
            ),
            Mistake(
                "Sobel's kernel is not a template: the mean is (1, 1, 1), not (1, 2, 1).",
                lambda kernels: (
                    _edges(kernels, middle=2.0).square().sum(1) / kernels.square().sum((1, 2))
                ),
            ),
            Mistake(
                "shares are of squares. You divided amounts by the norm.",
                lambda kernels: edge_share(kernels).sqrt(),
            ),
        ],
    ),
    Exercise(
        "15.4",
        rollout,
        _map_cases,
        [
            Mistake(
                "the layers were multiplied in the wrong order: the first acts first, so it "
                "stands on the right.",
                lambda maps: _rollout(maps, reverse=True),
            ),
            Mistake(
                "the shortcut is missing: mix each layer half and half with the identity.",
                lambda maps: _rollout(maps, shortcut=False),
            ),
            Mistake(
                "this is the other way round, position before by position after: transpose it.",
                lambda maps: _rollout(maps).T,
            ),
            Mistake(
                "the first head is not the mean of the heads.",
                lambda maps: _rollout(maps[:, :1]),
            ),
        ],
    ),
]
