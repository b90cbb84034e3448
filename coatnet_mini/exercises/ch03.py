"""Exercises of chapter 3: limits of temperature, copying by position, safe softmax, heads."""

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def limits(x: Tensor) -> Tensor:
    """Bare attention's matrix at temperature 0 and at infinity, x (N, D) → (2, N, N)."""
    scores = x @ x.T
    best = _ties(scores)
    return torch.stack([best / best.sum(1, keepdim=True), torch.full_like(scores, 1 / len(x))])


def copy_left(x: Tensor) -> Tensor:
    """y_i = x_{i−1} for x (N, D); position 0 copies itself."""
    return x[_left(len(x))]


def softmax(S: Tensor) -> Tensor:
    """Softmax along every row of S (M, N), safe for large scores."""
    return S.softmax(1)


def cost(N: int, D: int, heads: int) -> tuple[int, int, int]:
    """(parameters, multiply-adds, entries of all A) of a multi-head layer with four biases."""
    return 4 * D * D + 4 * D, 4 * N * D * D + 2 * N * N * D, heads * N * N


def _ties(scores: Tensor) -> Tensor:
    return (scores == scores.amax(1, keepdim=True)).to(scores)


def _left(n: int) -> Tensor:
    return (torch.arange(n) - 1).clamp(min=0)


def _limit_cases(rng: torch.Generator) -> list[dict]:
    twins = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    cases = [{"x": twins}, {"x": torch.zeros(3, 2, dtype=torch.float64)}]
    return cases + [{"x": _noise(rng, n, d)} for n, d in ((6, 2), (9, 4), (17, 3))]


def _wrong_limits(cold: Tensor, hot: Tensor | None = None) -> Tensor:
    return torch.stack([cold, torch.full_like(cold, 1 / len(cold)) if hot is None else hot])


def _one_winner(x: Tensor) -> Tensor:
    return F.one_hot((x @ x.T).argmax(1), len(x)).to(x)


def _copy_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"x": torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)}]
    return cases + [{"x": _noise(rng, n, d)} for n, d in ((5, 3), (12, 2), (30, 4))]


def _by_position(x: Tensor, source: Tensor, strength: float) -> Tensor:
    """Attention that looks for the one-hot position `source` with scores 0 and `strength`."""
    scores = strength * torch.eye(len(x), dtype=x.dtype)[source]
    return scores.softmax(1) @ x


def _too_weak(strength: float) -> Mistake:
    return Mistake(
        "the right neighbours win, but not by enough: the other positions still have weight. Make "
        "the winner's score larger (e^c against N − 1), and mind the scale 1/√d that "
        "scaled_dot_product_attention puts in by default.",
        lambda x: _by_position(x, _left(len(x)), strength),
    )


def _too_weak_by_default_scale(strength: float) -> Mistake:
    hint = _too_weak(strength).hint
    return Mistake(hint, lambda x: _by_position(x, _left(len(x)), strength / len(x) ** 0.5))


def _softmax_cases(rng: torch.Generator) -> list[dict]:
    mild = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    apart = torch.tensor([[1000.0, 999.0], [-1000.0, -999.0]], dtype=torch.float64)
    sizes = ((4, 7, 1e3), (6, 3, 1e5), (5, 9, 1.0))
    return [{"S": mild}, {"S": apart}, *({"S": s * _noise(rng, m, n)} for m, n, s in sizes)]


def _softmax_minus(S: Tensor, m: Tensor, axis: int = 1) -> Tensor:
    e = torch.exp(S - m)
    return e / e.sum(axis, keepdim=True)


def _cost_cases(rng: torch.Generator) -> list[dict]:
    shapes = ((16, 8, 2), (64, 96, 3), (196, 384, 12), (49, 768, 1))
    return [{"N": N, "D": D, "heads": heads} for N, D, heads in shapes]


EXERCISES = [
    Exercise(
        "3.1",
        limits,
        _limit_cases,
        [
            Mistake(
                "at T → 0 a position need not win its own row: what wins is the largest x_i·x_j, "
                "and a long x_j can beat x_i itself.",
                lambda x: _wrong_limits(torch.eye(len(x)).to(x)),
            ),
            Mistake(
                "ties share: argmax picks one of several best positions. Mark all that reach the "
                "row's maximum, then divide by their number.",
                lambda x: _wrong_limits(_one_winner(x)),
            ),
            Mistake(
                "several marks in a row add up to more than one: divide by their number.",
                lambda x: _wrong_limits(_ties(x @ x.T)),
            ),
            Mistake(
                "the two limits are swapped: T → 0 comes first.",
                lambda x: limits(x).flip(0),
            ),
            Mistake(
                "at T → ∞ the weights are equal, but they still sum to one: 1/N each.",
                lambda x: _wrong_limits(limits(x)[0], torch.ones_like(x @ x.T)),
            ),
            Mistake(
                "the maximum was taken down the columns: every row has its own winner.",
                lambda x: _wrong_limits(limits(x)[0].T),
            ),
        ],
    ),
    Exercise(
        "3.2",
        copy_left,
        _copy_cases,
        [
            Mistake(
                "this copies the right neighbour: queries and keys have changed places. The query "
                "of i must match the key of i − 1.",
                lambda x: x[(torch.arange(len(x)) + 1).clamp(max=len(x) - 1)],
            ),
            Mistake(
                "position 0 reads the last one: `roll` wraps round. Clamp at 0 instead.",
                lambda x: x.roll(1, 0),
            ),
            Mistake("every position copies itself: give i the query of i − 1.", torch.clone),
            *(_too_weak(c) for c in (1.0, 5.0, 10.0)),
            *(_too_weak_by_default_scale(c) for c in (1.0, 5.0, 10.0, 50.0)),
            Mistake(
                "the content of x is compared, and it does not say where a position is. Make "
                "queries and keys from the positions; x is the values only.",
                lambda x: F.scaled_dot_product_attention(x[_left(len(x))][None], x[None], x[None])[
                    0
                ],
            ),
        ],
        tolerance=1e-6,
    ),
    Exercise(
        "3.3",
        softmax,
        _softmax_cases,
        [
            Mistake(
                "exp overflows to inf, and inf/inf is nan. Take the row's maximum away first.",
                lambda S: _softmax_minus(S, torch.zeros(())),
            ),
            Mistake(
                "one maximum for the whole matrix: rows far below it underflow to 0/0. Use each "
                "row's own, S.amax(1, keepdim=True).",
                lambda S: _softmax_minus(S, S.max()),
            ),
            Mistake(
                "this normalises columns: sum over axis 1 for rows.",
                lambda S: S.softmax(0),
            ),
            Mistake(
                "each row lost the mean of its scores, not the maximum: what lies far above the "
                "mean still overflows.",
                lambda S: _softmax_minus(S, S.mean(1, keepdim=True)),
            ),
        ],
    ),
    Exercise(
        "3.4",
        cost,
        _cost_cases,
        [
            Mistake(
                "the last projection W_o is missing: four matrices, not three.",
                lambda N, D, heads: (
                    3 * D * D + 3 * D,
                    3 * N * D * D + 2 * N * N * D,
                    heads * N * N,
                ),
            ),
            Mistake(
                "the parameters lack the four biases of D numbers each.",
                lambda N, D, heads: (4 * D * D, *cost(N, D, heads)[1:]),
            ),
            Mistake(
                "N² comes in twice: once for the scores, once for the average of the values.",
                lambda N, D, heads: (4 * D * D + 4 * D, 4 * N * D * D + N * N * D, heads * N * N),
            ),
            Mistake(
                "a head works in D/heads channels: the heads together multiply as much as one "
                "head of D channels.",
                lambda N, D, heads: (
                    4 * D * D + 4 * D,
                    4 * N * D * D + 2 * N * N * D * heads,
                    heads * N * N,
                ),
            ),
            Mistake(
                "every head has an (N, N) matrix of its own.",
                lambda N, D, heads: (*cost(N, D, heads)[:2], N * N),
            ),
            Mistake(
                "the heads share the D×D projections: nothing in the parameters is counted once "
                "per head.",
                lambda N, D, heads: (heads * (4 * D * D + 4 * D), *cost(N, D, heads)[1:]),
            ),
        ],
    ),
]
