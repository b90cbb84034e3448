"""Answers that readers of chapter 14 might give, each with words of the hint it must get."""

import math
from statistics import NormalDist

import torch


def variance(v):
    return ((v - v.mean()) ** 2).sum() / (len(v) - 1)


def planned(effect, sd, variances, rounded=math.ceil, power=2):
    n = [(2.8 * (variances**0.5) * sd / e) ** power for e in effect.tolist()]
    return torch.tensor([int(rounded(each)) for each in n])


def verdicts(with_it, without, sd, n, runs=2, share=True, tail=0.025, turned=False):
    z = NormalDist().inv_cdf(1 - tail / (len(with_it) if share else 1))
    line, found = z * sd * math.sqrt(runs / n), []
    for one, other in zip(with_it.tolist(), without.tolist(), strict=True):
        d = other - one if turned else one - other
        found.append(int(d > line) - int(d < -line))
    return torch.tensor(found)


def scatter(a, b, root=True, times=100.0):
    d = times * (a.double() - b.double())
    sd = variance(d).sqrt()
    return torch.stack([d.sum() / len(d), sd / math.sqrt(len(d)) if root else sd])


def binomial(a, b):
    a, b = 100 * a.double(), 100 * b.double()
    both = (variance(a) + variance(b)) / len(a)
    return torch.stack([a.mean() - b.mean(), both.sqrt()])


WRONG = {
    "14.1": [
        (
            lambda a, b: variance(a - b).sqrt() / (variance(a).sqrt() + variance(b).sqrt()),
            "deviations do not",
        ),
        (lambda a, b: (variance(a - b) / (variance(a) + variance(b))) ** 0.5, "root of the share"),
        (lambda a, b: 1 - variance(a - b) / (variance(a) + variance(b)), "what pairing saves"),
        (lambda a, b: (variance(a) + variance(b)) / variance(a - b), "strangers over pairs"),
        (lambda a, b: (a - b) / (a + b), "expected shape (), got (2,)"),
    ],
    "14.2": [
        (lambda effect, sd, together: planned(effect, sd, 1 - together), "two runs in it"),
        (lambda effect, sd, together: planned(effect, sd, 2 + 2 * together), "not added"),
        (
            lambda effect, sd, together: planned(effect, sd, 2 - 2 * together, math.floor),
            "falls short",
        ),
        (lambda effect, sd, together: planned(effect, sd, 2 - 2 * together, round), "falls short"),
        (
            lambda effect, sd, together: planned(effect, sd, 2 - 2 * together, power=1),
            "four times the seeds",
        ),
        (lambda effect, sd, together: planned(effect, sd, 2), "left out of account"),
    ],
    "14.3": [
        (lambda with_it, without, sd, n: verdicts(with_it, without, sd, n, share=False), "Share"),
        (lambda with_it, without, sd, n: verdicts(with_it, without, sd, n, runs=1), "√2 times"),
        (lambda with_it, without, sd, n: verdicts(with_it, without, sd, 1), "by √n"),
        (
            lambda with_it, without, sd, n: verdicts(with_it, without, sd, n, tail=0.05),
            "half of the error",
        ),
        (
            lambda with_it, without, sd, n: verdicts(with_it, without, sd, n, turned=True),
            "the sign is turned",
        ),
    ],
    "14.4": [
        (binomial, "taken as strangers"),
        (lambda a, b: scatter(a, b, root=False), "√n is missing"),
        (lambda a, b: scatter(a, b, times=1.0), "in shares"),
        (lambda a, b: scatter(b, a), "b minus a"),
        (lambda a, b: scatter(a, b)[0], "expected shape (2,), got ()"),
    ],
}
