"""Answers that readers of chapter 12 might give, each with words of the hint it must get."""

import math

import torch
import torch.nn.functional as F


def schedule(steps, warmup, peak, low, up, down):
    rates = [peak * up(k, warmup) for k in range(warmup)]
    rates += [peak + (low - peak) * down(k, steps - warmup) for k in range(steps - warmup)]
    return torch.tensor(rates, dtype=torch.float64)


def from_zero(steps, warmup, peak, low):
    return schedule(steps, warmup, peak, low, lambda k, n: k / n, lambda k, n: (k + 1) / n)


def peak_twice(steps, warmup, peak, low):
    return schedule(steps, warmup, peak, low, lambda k, n: (k + 1) / n, lambda k, n: k / (n - 1))


def cosine(steps, warmup, peak, low):
    return schedule(
        steps,
        warmup,
        peak,
        low,
        lambda k, n: (k + 1) / n,
        lambda k, n: 0.5 - 0.5 * math.cos(math.pi * (k + 1) / n),
    )


def to_zero(steps, warmup, peak, low):
    return schedule(steps, warmup, peak, 0, lambda k, n: (k + 1) / n, lambda k, n: (k + 1) / n)


def one_by_one(matrix, bias, most):
    parts = []
    for g in (matrix, bias):
        norm = g.square().sum().sqrt()
        parts.append((g * most / norm if norm > most else g).reshape(-1))
    return torch.cat(parts)


def always(matrix, bias, most):
    flat = torch.cat([matrix.reshape(-1), bias])
    return flat / flat.square().sum().sqrt() * most


def soft_loss(scores, first, second, share, smoothing, over="all", reduction="mean"):
    classes = scores.shape[1]
    targets = []
    for labels in (first, second):
        target = torch.zeros_like(scores)
        target[range(len(labels)), labels] = 1
        if over == "all":
            target = (1 - smoothing) * target + smoothing / classes
        elif over == "others":
            target = (1 - smoothing) * target + smoothing * (1 - target) / (classes - 1)
        targets.append(target)
    mixed = share * targets[0] + (1 - share) * targets[1]
    return F.cross_entropy(scores, mixed, reduction=reduction)


WRONG = {
    "12.1": [
        (from_zero, "learns nothing"),
        (peak_twice, "the peak comes twice"),
        (cosine, "half a cosine"),
        (to_zero, "should have `low`"),
        (lambda steps, warmup, peak, low: torch.linspace(peak, low, steps - warmup), "shape"),
    ],
    "12.2": [
        (one_by_one, "by its own norm"),
        (always, "made longer"),
        (
            lambda matrix, bias, most: torch.cat(
                [g.reshape(-1).clip(min=-most, max=most) for g in (matrix, bias)]
            ),
            "cut off by itself",
        ),
        (lambda matrix, bias, most: matrix, "expected shape (3,), got (1, 2)"),
    ],
    "12.3": [
        (lambda gradients, sizes: sum(gradients) / len(sizes), "mean of the means"),
        (
            lambda gradients, sizes: (gradients * sizes[:, None]).sum(0),
            "divide by the number of pictures",
        ),
        (lambda gradients, sizes: sum(gradients), "equal weight"),
    ],
    "12.4": [
        (
            lambda scores, first, second, share, smoothing: soft_loss(
                scores, second, first, share, smoothing
            ),
            "wrong way round",
        ),
        (
            lambda scores, first, second, share, smoothing: soft_loss(
                scores, first, second, share, smoothing, over="none"
            ),
            "not smoothed",
        ),
        (
            lambda scores, first, second, share, smoothing: soft_loss(
                scores, first, second, share, smoothing, over="others"
            ),
            "all classes, the right ones included",
        ),
        (
            lambda scores, first, second, share, smoothing: soft_loss(
                scores, first, second, share, smoothing, reduction="sum"
            ),
            "take the mean",
        ),
    ],
}
