"""Answers that readers of chapter 10 might give, each with words of the hint it must get."""

import torch


def loop_grids(side, strides, square=True, chain=True, area=False):
    found, left = [], side * side if area else side
    for stride in strides:
        left = left // stride if chain else side // stride
        found.append(left**2 if square and not area else left)
    return torch.tensor(found)


def rate(N, D, t=12, pairs=2.0, taps=36.0):
    T = N * (t * D * D) + pairs * N * N * D
    return T / (N * (8 * D * D) + taps * N * D)


def interval(d, half):
    m = d.sum() / len(d)
    return torch.stack([m, m - half, m + half])


def deviation(d, less=1):
    return ((d - d.mean()) ** 2).sum().div(len(d) - less).sqrt()


def strangers(a, b, t):
    both = (deviation(a) ** 2 + deviation(b) ** 2).sqrt()
    return interval(a - b, t * both / len(a) ** 0.5)


def walk(loss, accuracy, level, first=True, swapped=False):
    found = None
    for s in range(1, len(loss)):
        if loss[s - 1] > level >= loss[s]:
            way = (loss[s - 1] - level) / (loss[s - 1] - loss[s])
            way = 1 - way if swapped else way
            found = accuracy[s - 1] * (1 - way) + accuracy[s] * way
            if first:
                break
    return found


def nearest_below(loss, accuracy, level):
    return accuracy[[bool(v) for v in loss <= level].index(True)]


WRONG = {
    "10.1": [
        (lambda side, strides: loop_grids(side, strides, square=False), "N is the square"),
        (lambda side, strides: loop_grids(side, strides, chain=False), "the strides multiply"),
        (lambda side, strides: loop_grids(side, strides, area=True), "falls by its square"),
        (
            lambda side, strides: loop_grids(side, strides)[1:],
            "expected shape (3,), got (2,)",
        ),
    ],
    "10.2": [
        (lambda N, D: rate(N, D, pairs=1.0), "two products over pairs"),
        (lambda N, D: rate(N, D, pairs=0.0), "the pairs are missing"),
        (lambda N, D: rate(N, D, t=4), "feed-forward network too"),
        (lambda N, D: rate(N, D, taps=9.0), "wide middle"),
        (lambda N, D: 1 / rate(N, D), "C over T"),
    ],
    "10.3": [
        (strangers, "taken as strangers"),
        (
            lambda a, b, t: interval(a - b, t * deviation(a - b, less=0) / len(a) ** 0.5),
            "divided by n − 1",
        ),
        (lambda a, b, t: interval(a - b, t * deviation(a - b)), "√n is missing"),
        (lambda a, b, t: interval(b - a, t * deviation(b - a) / len(a) ** 0.5), "b − a"),
        (lambda a, b, t: (a - b).mean(), "expected shape (3,), got ()"),
    ],
    "10.4": [
        (nearest_below, "Between two measurements, interpolate"),
        (lambda loss, accuracy, level: walk(loss, accuracy, level, first=False), "the last time"),
        (lambda loss, accuracy, level: walk(loss, accuracy, level, swapped=True), "wrong end"),
    ],
}
