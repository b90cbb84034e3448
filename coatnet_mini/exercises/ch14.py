"""Exercises of chapter 14: what pairing saves, seeds to plan, a table to read, shared pictures."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def share_left(a: Tensor, b: Tensor) -> Tensor:
    """(): the variance of a − b over the sum of both variances."""
    return (a - b).var() / (a.var() + b.var())


def plan_seeds(effect: Tensor, sd: float, together: float) -> Tensor:
    """(effects,) int64: seeds for a power of 80 %, with runs of one seed so correlated."""
    return _seeds(effect, sd, 2 * (1 - together)).ceil().long()


def _seeds(effect: Tensor, sd: float, variances: float) -> Tensor:
    return 2.8**2 * variances * sd**2 / effect**2


def read_table(with_it: Tensor, without: Tensor, sd: float, n: int) -> Tensor:
    """(rows,) int64: 1, −1 or 0 for each row, all of them wrong somewhere in 5 % of cases."""
    return _read(with_it - without, sd * (2 / n) ** 0.5, 0.025 / len(with_it))


def _read(d: Tensor, sd: float, tail: float) -> Tensor:
    line = torch.special.ndtri(torch.tensor(1 - tail, dtype=torch.float64)) * sd
    return (d / line).clamp(-1, 1).long()  # rounded towards 0


def same_pictures(a: Tensor, b: Tensor) -> Tensor:
    """(2,): the difference in points and its standard deviation over draws of pictures."""
    d = 100 * (a - b)
    return torch.stack([d.mean(), d.std() / len(d) ** 0.5])


def _strangers(a: Tensor, b: Tensor) -> Tensor:
    a, b = 100 * a, 100 * b
    return torch.stack([(a - b).mean(), ((a.var() + b.var()) / len(a)).sqrt()])


def _share_cases(rng: torch.Generator) -> list[dict]:
    pair = torch.tensor([[60.0, 66.0], [58.0, 62.0]], dtype=torch.float64)
    cases = [{"a": pair[0], "b": pair[1]}]
    for n in (3, 5, 10):
        a, b, luck = torch.rand(3, n, generator=rng, dtype=torch.float64)
        cases.append({"a": 60 + 2 * a + 4 * luck, "b": 58 + 7 * b + 4 * luck})
    return cases


def _plan_cases(rng: torch.Generator) -> list[dict]:
    cases = [
        {"effect": torch.tensor([0.3, 1.0], dtype=torch.float64), "sd": 1.0, "together": 0.0},
        {"effect": torch.tensor([1.0, 2.0], dtype=torch.float64), "sd": 3.0, "together": 0.5},
    ]
    for sd, together in ((2.5, 0.3), (0.7, -0.2)):
        effect = 0.2 + torch.rand(4, generator=rng, dtype=torch.float64)
        cases.append({"effect": effect, "sd": sd, "together": together})
    return cases


def _table_cases(rng: torch.Generator) -> list[dict]:
    def case(rows, sd, n):
        with_it, without = torch.tensor(rows, dtype=torch.float64)
        return {"with_it": with_it, "without": without, "sd": sd, "n": n}

    cases = [
        case([[84.5, 84.1, 84.1, 84.1], [84.1, 83.85, 84.1, 84.6]], 0.1, 1),
        case([[84.5, 84.1, 84.1, 84.1], [84.1, 83.85, 84.1, 84.6]], 0.2, 9),
    ]
    for n, sd in ((3, 0.2), (5, 0.4)):
        spread = sd * (2 / n) ** 0.5
        d = spread * torch.tensor([-4.5, -2.3, -1.5, 0.3, 1.8, 2.4, 2.6, 3.5], dtype=torch.float64)
        without = 80 + 4 * torch.rand(8, generator=rng, dtype=torch.float64)
        cases.append({"with_it": without + d, "without": without, "sd": sd, "n": n})
    return cases


def _answers(right: list[int]) -> Tensor:
    return torch.tensor(right, dtype=torch.float64)


def _picture_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"a": _answers([1, 1, 1, 0]), "b": _answers([1, 1, 0, 0])}]
    for N in (20, 500):
        easy = torch.rand(N, generator=rng) < 0.7
        a, b = (easy ^ (torch.rand(N, generator=rng) < 0.1) for _ in range(2))
        cases.append({"a": a.double(), "b": b.double()})
    return cases


EXERCISES = [
    Exercise(
        "14.1",
        share_left,
        _share_cases,
        [
            Mistake(
                "that is a share of standard deviations. Variances add; deviations do not.",
                lambda a, b: (a - b).std() / (a.std() + b.std()),
            ),
            Mistake(
                "that is the root of the share: a share of variances is asked for.",
                lambda a, b: ((a - b).var() / (a.var() + b.var())).sqrt(),
            ),
            Mistake(
                "that is what pairing saves. What is left is 1 minus it.",
                lambda a, b: 1 - (a - b).var() / (a.var() + b.var()),
            ),
            Mistake(
                "that is strangers over pairs; pairs over strangers is asked for.",
                lambda a, b: (a.var() + b.var()) / (a - b).var(),
            ),
        ],
    ),
    Exercise(
        "14.2",
        plan_seeds,
        _plan_cases,
        [
            Mistake(
                "a difference has two runs in it: the variances of both arms add up.",
                lambda effect, sd, together: _seeds(effect, sd, 1 - together).ceil().long(),
            ),
            Mistake(
                "shared luck cancels in a difference: the covariance is taken away, not added.",
                lambda effect, sd, together: _seeds(effect, sd, 2 * (1 + together)).ceil().long(),
            ),
            Mistake(
                "the seeds are rounded down or to the nearest, and the power falls short of 80 %.",
                lambda effect, sd, together: _seeds(effect, sd, 2 * (1 - together)).round().long(),
            ),
            Mistake(
                "the seeds are rounded down or to the nearest, and the power falls short of 80 %.",
                lambda effect, sd, together: _seeds(effect, sd, 2 * (1 - together)).long(),
            ),
            Mistake(
                "the quotient of spread and effect has to be squared: half the effect, four times "
                "the seeds.",
                lambda effect, sd, together: (
                    _seeds(effect, sd, 2 * (1 - together)).sqrt().ceil().long()
                ),
            ),
            Mistake(
                "the luck that both runs of a seed share was left out of account.",
                lambda effect, sd, together: _seeds(effect, sd, 2).ceil().long(),
            ),
        ],
    ),
    Exercise(
        "14.3",
        read_table,
        _table_cases,
        [
            Mistake(
                "each line has 5 % to itself, so a long table is sure to be wrong somewhere. Share "
                "the 5 % among the rows.",
                lambda with_it, without, sd, n: _read(
                    with_it - without, sd * (2 / n) ** 0.5, 0.025
                ),
            ),
            Mistake(
                "both arms are drawn: the difference of two runs has √2 times the spread of one.",
                lambda with_it, without, sd, n: _read(
                    with_it - without, sd / n**0.5, 0.025 / len(with_it)
                ),
            ),
            Mistake(
                "a mean of n runs scatters less than one run does, by √n.",
                lambda with_it, without, sd, n: _read(
                    with_it - without, sd * 2**0.5, 0.025 / len(with_it)
                ),
            ),
            Mistake(
                "a part can help or harm, and each sign has half of the error: 0.025 over the "
                "rows, not 0.05.",
                lambda with_it, without, sd, n: _read(
                    with_it - without, sd * (2 / n) ** 0.5, 0.05 / len(with_it)
                ),
            ),
            Mistake(
                "the sign is turned: a part helps if accuracy with it is higher.",
                lambda with_it, without, sd, n: _read(
                    without - with_it, sd * (2 / n) ** 0.5, 0.025 / len(with_it)
                ),
            ),
        ],
    ),
    Exercise(
        "14.4",
        same_pictures,
        _picture_cases,
        [
            Mistake(
                "the two were taken as strangers. They answered the same pictures: where both are "
                "right nothing scatters.",
                _strangers,
            ),
            Mistake(
                "√n is missing: this is how far one picture scatters, not the mean of n.",
                lambda a, b: torch.stack([(d := 100 * (a - b)).mean(), d.std()]),
            ),
            Mistake(
                "that is in shares; points are asked for, 100 times as many.",
                lambda a, b: same_pictures(a, b) / 100,
            ),
            Mistake(
                "that is b minus a.",
                lambda a, b: same_pictures(b, a),
            ),
        ],
    ),
]
