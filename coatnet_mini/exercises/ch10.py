"""Exercises of chapter 10: grids of stages, what letters cost, paired seeds, equal loss."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def grids(side: int, strides: tuple[int, ...]) -> Tensor:
    """(stages,) int64: the positions of each stage's grid."""
    return _sides(side, strides) ** 2


def _sides(side: int, strides: tuple[int, ...]) -> Tensor:
    return side // torch.tensor(strides).cumprod(0)


def exchange(N: Tensor, D: int) -> Tensor:
    """(n,): multiply-adds of a Transformer block over those of an MBConv, without its gate."""
    return _exchange(N, D)


def _exchange(N: Tensor, D: int, matrices: int = 12, pairs: int = 2, kernels: int = 36) -> Tensor:
    return (matrices * D**2 + pairs * N * D) / (8 * D**2 + kernels * D)


def paired(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(3,): mean, low and high end of the interval of a − b, seed by seed."""
    d = a - b
    return _around(d.mean(), t * d.std() / len(d) ** 0.5)


def _around(mean: Tensor, half: Tensor) -> Tensor:
    return torch.stack([mean, mean - half, mean + half])


def accuracy_at(loss: Tensor, accuracy: Tensor, level: float) -> Tensor:
    """(): the accuracy where the loss first comes down to `level`, linear in the loss."""
    after = int((loss <= level).int().argmax())
    return _between(loss, accuracy, level, after)


def _between(loss: Tensor, accuracy: Tensor, level: float, after: int) -> Tensor:
    before = after - 1
    way = (loss[before] - level) / (loss[before] - loss[after])
    return accuracy[before] + way * (accuracy[after] - accuracy[before])


def _last_crossing(loss: Tensor, accuracy: Tensor, level: float) -> Tensor:
    return _between(loss, accuracy, level, int((loss > level).nonzero()[-1]) + 1)


def _backwards(loss: Tensor, accuracy: Tensor, level: float) -> Tensor:
    after = int((loss <= level).int().argmax())
    way = (level - loss[after]) / (loss[after - 1] - loss[after])
    return accuracy[after - 1] + way * (accuracy[after] - accuracy[after - 1])


def _grid_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"side": 8, "strides": (1, 2, 2)}, {"side": 224, "strides": (2, 2, 2, 2, 2)}]
    for strides in torch.randint(1, 4, (3, 4), generator=rng).tolist():
        side = 3 * int(torch.tensor(strides).prod())
        cases.append({"side": side, "strides": tuple(strides)})
    return cases


def _exchange_cases(rng: torch.Generator) -> list[dict]:
    cases = [{"N": torch.tensor([1.0, 64.0], dtype=torch.float64), "D": 32}]
    for D in (16, 96, 384):
        N = torch.randint(2, 60, (4,), generator=rng).double() ** 2
        cases.append({"N": N, "D": D})
    return cases


def _paired_cases(rng: torch.Generator) -> list[dict]:
    first = torch.tensor([[0.9, 0.8, 0.7], [0.8, 0.6, 0.7]], dtype=torch.float64)
    cases = [{"a": first[0], "b": first[1], "t": 4.3}]
    for n, t in ((5, 2.78), (10, 2.26)):
        level = torch.rand(n, generator=rng, dtype=torch.float64)
        both = level + 0.1 * torch.rand(2, n, generator=rng, dtype=torch.float64)
        cases.append({"a": both[0], "b": both[1], "t": t})
    return cases


def _loss_cases(rng: torch.Generator) -> list[dict]:
    def case(loss, accuracy, level):
        loss, accuracy = (torch.tensor(v, dtype=torch.float64) for v in (loss, accuracy))
        return {"loss": loss, "accuracy": accuracy, "level": level}

    cases = [
        case([2.0, 1.0, 0.0], [0.0, 0.4, 0.6], 0.75),
        case([3.0, 1.0, 2.0, 0.5], [0.1, 0.5, 0.6, 0.9], 1.5),  # it rises again
    ]
    cases.append(case([2.0, 1.0, 1.0, 0.5], [0.2, 0.3, 0.7, 0.8], 1.0))  # it stays there
    for n in (5, 9):
        loss = torch.rand(n, generator=rng, dtype=torch.float64).sort(descending=True)[0] * 2
        accuracy = torch.rand(n, generator=rng, dtype=torch.float64)
        cases.append({"loss": loss, "accuracy": accuracy, "level": float(loss[1:].mean())})
    return cases


EXERCISES = [
    Exercise(
        "10.1",
        grids,
        _grid_cases,
        [
            Mistake(
                "these are the sides. A grid has as many columns as rows: N is the square.",
                _sides,
            ),
            Mistake(
                "each stage strides on the grid that the one before has left, not on the picture: "
                "the strides multiply.",
                lambda side, strides: (side // torch.tensor(strides)) ** 2,
            ),
            Mistake(
                "a stride divides the rows and the columns: N falls by its square.",
                lambda side, strides: side**2 // torch.tensor(strides).cumprod(0),
            ),
        ],
    ),
    Exercise(
        "10.2",
        exchange,
        _exchange_cases,
        [
            Mistake(
                "attention has two products over pairs: scores from q and k, and the sum over v.",
                lambda N, D: _exchange(N, D, pairs=1),
            ),
            Mistake(
                "the pairs are missing: every position meets N others, twice.",
                lambda N, D: _exchange(N, D, pairs=0),
            ),
            Mistake(
                "the block T has a feed-forward network too, 8·D² for each position.",
                lambda N, D: _exchange(N, D, matrices=4),
            ),
            Mistake(
                "the depthwise kernels stand in the wide middle: 4·D channels, 9 numbers each.",
                lambda N, D: _exchange(N, D, kernels=9),
            ),
            Mistake(
                "that is C over T; T over C is asked for.",
                lambda N, D: 1 / _exchange(N, D),
            ),
        ],
    ),
    Exercise(
        "10.3",
        paired,
        _paired_cases,
        [
            Mistake(
                "the two were taken as strangers: you added their variances. Seed by seed they "
                "share their pictures, so take the differences first.",
                lambda a, b, t: _around((a - b).mean(), t * ((a.var() + b.var()) / len(a)).sqrt()),
            ),
            Mistake(
                "the squares were divided by n. A deviation about a mean that was itself computed "
                "from the n numbers is divided by n − 1.",
                lambda a, b, t: _around(
                    (a - b).mean(), t * (a - b).std(correction=0) / len(a) ** 0.5
                ),
            ),
            Mistake(
                "√n is missing: this interval holds single differences, not their mean.",
                lambda a, b, t: _around((a - b).mean(), t * (a - b).std()),
            ),
            Mistake(
                "this is the interval of b − a.",
                lambda a, b, t: _around((b - a).mean(), t * (a - b).std() / len(a) ** 0.5),
            ),
        ],
    ),
    Exercise(
        "10.4",
        accuracy_at,
        _loss_cases,
        [
            Mistake(
                "that is the accuracy measured at the first step at or below the level. Between "
                "two measurements, interpolate.",
                lambda loss, accuracy, level: accuracy[int((loss <= level).int().argmax())],
            ),
            Mistake(
                "the loss comes down to the level more than once, and this is the last time. The "
                "first is asked for.",
                _last_crossing,
            ),
            Mistake(
                "the way is measured from the wrong end: where the level is the loss before, the "
                "accuracy before is right.",
                _backwards,
            ),
        ],
    ),
]
