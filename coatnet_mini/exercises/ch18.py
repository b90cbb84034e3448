"""Exercises of chapter 18: a front, a slip, what an accuracy costs, how many runs."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def pareto(x: Tensor, y: Tensor) -> Tensor:
    """(n,) bool: the points with which no other is no worse in both and better in one."""
    return _front(x, y)


def _front(x: Tensor, y: Tensor, strictly: bool = False, itself: bool = False) -> Tensor:
    no_worse = (x <= x[:, None]) & (y >= y[:, None])
    better = (x < x[:, None]) | (y > y[:, None])
    if strictly:
        better = (x < x[:, None]) & (y > y[:, None])
    return ~(no_worse & (better | itself)).any(1)


def slips(printed: Tensor, counted: Tensor, share: float) -> Tensor:
    """(slips,) int64: where the printed number is not the counted one, by more than allowed."""
    return _slips(printed, counted, share * counted + 0.5)


def _slips(printed: Tensor, counted: Tensor, allowed: Tensor | float) -> Tensor:
    return ((printed - counted).abs() > allowed).nonzero()[:, 0]


def cheapest(x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
    """(accuracies,): the least price among the rows that reach each accuracy; some row does."""
    return _least(x, y >= wanted[:, None])


def _least(x: Tensor, reached: Tensor) -> Tensor:
    return torch.where(reached, x, torch.inf).min(1).values


def runs_needed(effect: float, sd: float, t: Tensor) -> Tensor:
    """() int64: the fewest runs whose interval is shorter, on each side, than the effect."""
    return _runs(effect, sd, t)


def _runs(effect: float, sd: float, t: Tensor, first: int = 2, root: float = 0.5) -> Tensor:
    n = torch.arange(2, len(t) + 2)
    return n[(t * sd / n**root < effect).int().argmax()] + first - 2


def _front_cases(rng: torch.Generator) -> list[dict]:
    x = torch.tensor([4.2, 4.5, 4.6, 17.4], dtype=torch.float64)
    y = torch.tensor([81.6, 82.0, 82.0, 82.5], dtype=torch.float64)
    twins = {"x": x[[0, 1, 1, 3]], "y": y[[0, 1, 1, 0]]}
    drawn = [torch.randint(0, 6, (2, 15), generator=rng).double() for _ in range(3)]
    return [{"x": x, "y": y}, twins, *({"x": a, "y": b} for a, b in drawn)]


def _slip_cases(rng: torch.Generator) -> list[dict]:
    counted = torch.tensor([25.04, 166.97, 1350.1, 2441.9, 7.5, 8.25], dtype=torch.float64)
    printed = torch.tensor([25.0, 168.0, 1470.0, 2440.0, 8.0, 9.0], dtype=torch.float64)
    cases = [
        {"printed": printed, "counted": counted, "share": 0.01},
        {"printed": printed, "counted": counted, "share": 0.0},
    ]
    for share in (0.002, 0.02):
        truth = 10 + 90 * torch.rand(12, generator=rng, dtype=torch.float64)
        off = 1 + 3 * share * torch.randn(12, generator=rng, dtype=torch.float64)
        cases.append({"printed": (truth * off).round(), "counted": truth, "share": share})
    return cases


def _price_cases(rng: torch.Generator) -> list[dict]:
    x = torch.tensor([4.2, 4.5, 4.6, 17.4, 8.4], dtype=torch.float64)
    y = torch.tensor([81.6, 82.0, 82.0, 82.5, 83.3], dtype=torch.float64)
    cases = [{"x": x, "y": y, "wanted": torch.tensor([81.6, 82.2, 83.0], dtype=torch.float64)}]
    for n in (12, 30):
        x = 1 + 99 * torch.rand(n, generator=rng, dtype=torch.float64)
        y = (78 + x.log() + torch.rand(n, generator=rng, dtype=torch.float64)).round(decimals=1)
        cases.append({"x": x, "y": y, "wanted": y.sort().values[[1, n // 4, n // 2]]})
    return cases


def _runs_cases(rng: torch.Generator) -> list[dict]:
    t = torch.tensor([12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31], dtype=torch.float64)
    pairs = [(1.0, 0.05), (0.3, 0.15), (0.3, 0.3), (0.5, 0.2), (t[2].item() / 2, 1.0)]
    return [{"effect": effect, "sd": sd, "t": t} for effect, sd in pairs]


EXERCISES = [
    Exercise(
        "18.1",
        pareto,
        _front_cases,
        [
            Mistake(
                "A rival that is as good and cheaper betters too: it need not win in both.",
                lambda x, y: _front(x, y, strictly=True),
            ),
            Mistake(
                "Every point is no worse than itself; to better, a rival has to win in one.",
                lambda x, y: _front(x, y, itself=True),
            ),
            Mistake("A price is to be small, an accuracy large.", lambda x, y: _front(-x, -y)),
            Mistake("True is for the front, not for what is bettered.", lambda x, y: ~_front(x, y)),
        ],
    ),
    Exercise(
        "18.2",
        slips,
        _slip_cases,
        [
            Mistake(
                "A printed number is rounded: half a million is allowed beside the share.",
                lambda printed, counted, share: _slips(printed, counted, share * counted),
            ),
            Mistake(
                "The share is of what was counted, row by row.",
                lambda printed, counted, share: _slips(printed, counted, share + 0.5),
            ),
            Mistake(
                "A slip can go either way: take the size of the gap.",
                lambda printed, counted, share: (
                    printed - counted > share * counted + 0.5
                ).nonzero()[:, 0],
            ),
        ],
    ),
    Exercise(
        "18.3",
        cheapest,
        _price_cases,
        [
            Mistake(
                "A row that has exactly the accuracy reaches it.",
                lambda x, y, wanted: _least(x, y > wanted[:, None]),
            ),
            Mistake(
                "Of the rows that reach it the cheapest is asked for, not the one that is nearest.",
                lambda x, y, wanted: x[torch.where(y >= wanted[:, None], y, torch.inf).argmin(1)],
            ),
            Mistake(
                "To reach an accuracy is to have it or more: `>=`, not `<=`.",
                lambda x, y, wanted: _least(x, y <= wanted[:, None]),
            ),
        ],
    ),
    Exercise(
        "18.4",
        runs_needed,
        _runs_cases,
        [
            Mistake(
                "t[0] is for two runs: the index is two less than n.",
                lambda effect, sd, t: _runs(effect, sd, t, first=0),
            ),
            Mistake(
                "The mean of n runs scatters by sd/√n, not by sd/n.",
                lambda effect, sd, t: _runs(effect, sd, t, root=1.0),
            ),
            Mistake(
                "t depends on n as well: do not use the last one for all.",
                lambda effect, sd, t: _runs(effect, sd, t[-1:].expand(len(t))),
            ),
        ],
    ),
]
