"""Exercises of chapter 12: a schedule, clipping, parts of a batch, the loss of mixed pictures."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake


def linear_schedule(steps: int, warmup: int, peak: float, low: float) -> Tensor:
    """(steps,): up to `peak` in the last step of the warm-up, then down to `low` in the last."""
    return _schedule(steps, warmup, peak, low)


def _schedule(
    steps: int, warmup: int, peak: float, low: float, *, first: int = 1, late: int = 0, fall=None
) -> Tensor:
    up = torch.arange(first, warmup + first, dtype=torch.float64) / warmup
    n = steps - warmup
    done = torch.arange(1 - late, n + 1 - late, dtype=torch.float64) / (n - late)
    done = fall(done) if fall else done
    return torch.cat([peak * up, peak + (low - peak) * done])


def clipped(matrix: Tensor, bias: Tensor, most: float) -> Tensor:
    """(out·into + out,): both gradients in one vector, whose norm is at most `most`."""
    together = _together(matrix, bias)
    return together * (most / together.norm()).clamp(max=1)


def _together(matrix: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([matrix.flatten(), bias])


def whole_gradient(gradients: Tensor, sizes: Tensor) -> Tensor:
    """(numbers,): of the mean over all pictures, from those of the means over parts."""
    return (sizes / sizes.sum()) @ gradients


def mixed_loss(
    scores: Tensor, first: tuple, second: tuple, share: float, smoothing: float
) -> Tensor:
    """(): the mean cross-entropy with the targets mixed by `share`, then smoothed."""
    return _mixed(scores, first, second, share, smoothing)


def _mixed(scores, first, second, share, smoothing, *, others=False, total=False) -> Tensor:
    logs = scores.log_softmax(1)
    rows, classes = torch.arange(len(scores)), scores.shape[1]
    first, second = torch.tensor(first), torch.tensor(second)
    hard = share * logs[rows, first] + (1 - share) * logs[rows, second]
    even = logs.mean(1)
    if others:  # spread over the wrong classes only, picture by picture
        wrong = [(logs.sum(1) - logs[rows, labels]) / (classes - 1) for labels in (first, second)]
        even = share * wrong[0] + (1 - share) * wrong[1]
    loss = -((1 - smoothing) * hard + smoothing * even)
    return loss.sum() if total else loss.mean()


def _schedule_cases(rng: torch.Generator) -> list[dict]:
    return [
        {"steps": 6, "warmup": 2, "peak": 1.0, "low": 0.2},
        {"steps": 5, "warmup": 0, "peak": 0.5, "low": 0.0},
        {"steps": 90, "warmup": 17, "peak": 1e-3, "low": 1e-5},
    ]


def _layer_cases(rng: torch.Generator) -> list[dict]:
    matrix, bias = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([4.0]).double()
    small = {"matrix": matrix, "bias": bias}
    cases = [{**small, "most": 1.0}, {**small, "most": 10.0}]
    for out, into in ((4, 3), (2, 5)):
        drawn = torch.randn(out, into + 1, generator=rng, dtype=torch.float64)
        cases.append({"matrix": drawn[:, 1:].clone(), "bias": drawn[:, 0].clone(), "most": 0.5})
    return cases


def _part_cases(rng: torch.Generator) -> list[dict]:
    simple = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).double()
    cases = [{"gradients": simple, "sizes": torch.tensor([1.0, 3.0]).double()}]
    for parts, numbers in ((3, 5), (7, 2)):
        gradients = torch.randn(parts, numbers, generator=rng, dtype=torch.float64)
        sizes = torch.randint(1, 64, (parts,), generator=rng).double()
        cases.append({"gradients": gradients, "sizes": sizes})
    return cases


def _mixed_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for B, classes, share, smoothing in ((2, 3, 0.75, 0.3), (5, 10, 0.4, 0.1), (4, 6, 0.9, 0.2)):
        first, second = map(tuple, torch.randint(classes, (2, B), generator=rng).tolist())
        scores = 2 * torch.randn(B, classes, generator=rng, dtype=torch.float64)
        labels = {"first": first, "second": second}
        cases.append({"scores": scores, **labels, "share": share, "smoothing": smoothing})
    return cases


EXERCISES = [
    Exercise(
        "12.1",
        linear_schedule,
        _schedule_cases,
        [
            Mistake(
                "the first step has the rate 0 and learns nothing; it should have peak / warmup, "
                "and the last step of the warm-up the peak.",
                lambda steps, warmup, peak, low: _schedule(steps, warmup, peak, low, first=0),
            ),
            Mistake(
                "the peak comes twice: the last step of the warm-up has it, so the first one after "
                "it is already on the way down.",
                lambda steps, warmup, peak, low: _schedule(steps, warmup, peak, low, late=1),
            ),
            Mistake(
                "that is half a cosine, (12.2); the way down is straight here.",
                lambda steps, warmup, peak, low: _schedule(
                    steps, warmup, peak, low, fall=lambda r: (1 - torch.cos(torch.pi * r)) / 2
                ),
            ),
            Mistake(
                "it ends at 0: the last step should have `low`.",
                lambda steps, warmup, peak, low: _schedule(steps, warmup, peak, 0.0),
            ),
        ],
    ),
    Exercise(
        "12.2",
        clipped,
        _layer_cases,
        [
            Mistake(
                "each was clipped by its own norm, which turns the step to another direction. One "
                "norm of all numbers together decides.",
                lambda matrix, bias, most: _together(
                    *(g * (most / g.norm()).clamp(max=1) for g in (matrix, bias))
                ),
            ),
            Mistake(
                "short gradients were made longer: below `most` nothing happens.",
                lambda matrix, bias, most: (
                    most * _together(matrix, bias) / _together(matrix, bias).norm()
                ),
            ),
            Mistake(
                "each number was cut off by itself; divide all of them by the same factor.",
                lambda matrix, bias, most: _together(matrix, bias).clamp(-most, most),
            ),
        ],
    ),
    Exercise(
        "12.3",
        whole_gradient,
        _part_cases,
        [
            Mistake(
                "the mean of the means counts a picture of a small part more than one of a large "
                "part. Weigh each row by its part's share of the pictures.",
                lambda gradients, sizes: gradients.mean(0),
            ),
            Mistake(
                "this is the gradient of the sum of all losses; divide by the number of pictures.",
                lambda gradients, sizes: sizes @ gradients,
            ),
            Mistake(
                "the parts were added up with equal weight, and not divided.",
                lambda gradients, sizes: gradients.sum(0),
            ),
        ],
    ),
    Exercise(
        "12.4",
        mixed_loss,
        _mixed_cases,
        [
            Mistake(
                "the shares are the wrong way round: `share` is the first picture's.",
                lambda scores, first, second, share, smoothing: _mixed(
                    scores, first, second, 1 - share, smoothing
                ),
            ),
            Mistake(
                "the targets are mixed, but not smoothed.",
                lambda scores, first, second, share, smoothing: _mixed(
                    scores, first, second, share, 0.0
                ),
            ),
            Mistake(
                "smoothing is spread over all classes, the right ones included: with 0.1 and ten "
                "classes the right one is asked for 0.91, not 0.9.",
                lambda scores, first, second, share, smoothing: _mixed(
                    scores, first, second, share, smoothing, others=True
                ),
            ),
            Mistake(
                "this is the sum over the batch; take the mean.",
                lambda scores, first, second, share, smoothing: _mixed(
                    scores, first, second, share, smoothing, total=True
                ),
            ),
        ],
    ),
]
