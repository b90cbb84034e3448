"""Exercises of chapter 16: the window of a token, LeFF's parameters, LCA's weights, attention."""

from collections.abc import Iterable
from itertools import accumulate, repeat
from operator import mul

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def window(kernels: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """() int64: side in pixels of what one output of the last layer has read."""
    return _window(kernels, accumulate((1, *strides), mul))


def _window(kernels: Iterable[int], steps: Iterable[int]) -> Tensor:
    """Neighbours on the grid that a layer reads lie so many pixels apart; the rest is left over."""
    return torch.tensor(1 + sum((k - 1) * step for k, step in zip(kernels, steps, strict=False)))


def added_by_leff(D: int, k: int) -> Tensor:
    """() int64: the parameters of a LeFF beyond those of an MLP."""
    return _added(D, k)


def _added(D: int, k: int, hidden: int = 4, bias: int = 1, norms: int = 9, each: int = 2) -> Tensor:
    return torch.tensor(hidden * D * (k**2 + bias) + each * norms * D)


def layer_weights(c: Tensor, Uq: Tensor, Uk: Tensor) -> Tensor:
    """(L,): the weights with which the last class token reads those of all blocks."""
    return _weights(c, Uq, Uk)


def _weights(c: Tensor, Uq: Tensor, Uk: Tensor, asks: int = -1, width: int = 0) -> Tensor:
    width = width or Uq.shape[1]
    return ((c @ Uk) @ (c[asks] @ Uq) / width**0.5).softmax(0)


def unprinted(side: int, patch: int, D: int, L: int) -> Tensor:
    """() int64: multiply-adds of q·k and A·v in all blocks and in LCA."""
    return _products(side, patch, D, L)


def _products(side, patch, D, L, token: int = 1, lca=lambda L: 2 * L, products: int = 2) -> Tensor:
    tokens = (side // patch) ** 2 + token
    return torch.tensor(products * L * tokens**2 * D + lca(L) * D)


def _window_cases(rng: torch.Generator) -> list[dict]:
    cases = [
        {"kernels": (3,), "strides": (1,)},
        {"kernels": (7, 3, 4), "strides": (2, 2, 4)},
    ]
    for layers in (3, 5):
        kernels = torch.randint(2, 8, (layers,), generator=rng).tolist()
        strides = torch.randint(2, 4, (layers,), generator=rng).tolist()
        cases.append({"kernels": tuple(kernels), "strides": tuple(strides)})
    return cases


def _leff_cases(rng: torch.Generator) -> list[dict]:
    return [{"D": D, "k": k} for D, k in ((1, 1), (192, 3), (384, 5), (48, 7))]


def _lca_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for L, D, d in ((2, 2, 1), (12, 6, 3), (5, 9, 4)):
        draw = (
            torch.randn(s, generator=rng, dtype=torch.float64) for s in ((L, D), (D, d), (D, d))
        )
        cases.append(dict(zip(("c", "Uq", "Uk"), draw, strict=True)))
    return cases


def _product_cases(rng: torch.Generator) -> list[dict]:
    sizes = ((4, 2, 1, 1), (224, 16, 192, 12), (384, 16, 384, 12), (64, 8, 48, 5))
    return [dict(zip(("side", "patch", "D", "L"), each, strict=True)) for each in sizes]


EXERCISES = [
    Exercise(
        "16.1",
        window,
        _window_cases,
        [
            Mistake(
                "a layer's own stride moves its next output, it does not widen this one: count "
                "the strides before it.",
                lambda kernels, strides: _window(kernels, accumulate(strides, mul)),
            ),
            Mistake(
                "strides multiply: a step of the third layer crosses the strides of the first "
                "and of the second.",
                lambda kernels, strides: _window(kernels, (1, *strides)),
            ),
            Mistake(
                "a kernel of 7 takes six steps from its first pixel to its last, not seven.",
                lambda kernels, strides: window([k + 1 for k in kernels], strides) - 1,
            ),
            Mistake(
                "the strides are missing: on a grid at stride 2, neighbours are two pixels apart.",
                lambda kernels, strides: _window(kernels, repeat(1)),
            ),
        ],
    ),
    Exercise(
        "16.2",
        added_by_leff,
        _leff_cases,
        [
            Mistake(
                "the depthwise layer has a bias: one more number for each of its channels.",
                lambda D, k: _added(D, k, bias=0),
            ),
            Mistake(
                "the batch norms are missing: a scale and a shift for each channel.",
                lambda D, k: _added(D, k, norms=0),
            ),
            Mistake(
                "a batch norm learns two numbers for each channel, a scale and a shift.",
                lambda D, k: _added(D, k, each=1),
            ),
            Mistake(
                "two of the three norms stand where the block is wide, on 4·D channels.",
                lambda D, k: _added(D, k, norms=3),
            ),
            Mistake(
                "the kernels stand in the wide middle: 4·D of them.",
                lambda D, k: _added(D, k, hidden=1),
            ),
        ],
    ),
    Exercise(
        "16.3",
        layer_weights,
        _lca_cases,
        [
            Mistake(
                "the first block's token asks here; the last one does.",
                lambda c, Uq, Uk: _weights(c, Uq, Uk, asks=0),
            ),
            Mistake(
                "the scores are not scaled: divide by the root of d.",
                lambda c, Uq, Uk: _weights(c, Uq, Uk, width=1),
            ),
            Mistake(
                "that is the root of D; the head has d channels.",
                lambda c, Uq, Uk: _weights(c, Uq, Uk, width=c.shape[1]),
            ),
            Mistake(
                "query and key are exchanged: the last token's key was compared with all queries.",
                lambda c, Uq, Uk: ((c @ Uq) @ (c[-1] @ Uk) / Uq.shape[1] ** 0.5).softmax(0),
            ),
        ],
    ),
    Exercise(
        "16.4",
        unprinted,
        _product_cases,
        [
            Mistake(
                "the class token is missing: 1 + N tokens attend.",
                lambda side, patch, D, L: _products(side, patch, D, L, token=0),
            ),
            Mistake(
                "LCA attends as well: one query, L keys.",
                lambda side, patch, D, L: _products(side, patch, D, L, lca=lambda L: 0),
            ),
            Mistake(
                "in LCA only the last class token asks, so it has L pairs, not L².",
                lambda side, patch, D, L: _products(side, patch, D, L, lca=lambda L: 2 * L * L),
            ),
            Mistake(
                "that is one product; there are two, the scores and the sum over the values.",
                lambda side, patch, D, L: _products(side, patch, D, L, products=1, lca=lambda L: L),
            ),
        ],
    ),
]
