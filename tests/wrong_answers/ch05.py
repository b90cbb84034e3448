"""Answers that readers of chapter 5 might give, each with words of the hint it must get."""

import math

import torch


def loop_sums(table, height, width, sign=1, one=1.0):
    sums = []
    for r in range(height):
        for c in range(width):
            total = one
            for r2 in range(height):
                for c2 in range(width):
                    row, column = sign * (r - r2), sign * (c - c2)
                    total = total + table[row + height - 1, column + width - 1]
            sums.append(total)
    return torch.stack(sums)


def up_to_half(table, height, width):
    down, right = (torch.arange(1 - n, n).abs() <= n - 1 - n // 2 for n in (height, width))
    return (1 + table[down][:, right].sum()).repeat(height * width)


def swapped(table, height, width):
    windows = table.unfold(0, width, 1).unfold(1, height, 1)
    return 1 + windows.sum((-2, -1)).flatten()


def straight_line(x, B, end, attention=True, kernel_inside=False):
    scores = x @ x.T + (B if kernel_inside else 0)
    start = torch.softmax(scores, 1) @ x if attention else torch.zeros_like(x)
    slope = B @ x
    return ((end(slope, x) - start) / slope)[:, 0]


def right_end(slope, x):
    return torch.where(slope > 0, x.max(), x.min())


def by_size_of_slope(x, B):
    start = torch.softmax(x @ x.T, 1) @ x
    return ((x.max() - start) / (B @ x).abs())[:, 0]


def gaussian(height, width, factor, sigma):
    r = torch.arange(height * width) // width
    c = torch.arange(height * width) % width
    squares = (r[:, None] - r) ** 2 + (c[:, None] - c) ** 2
    return factor * squares.double() / sigma**2


def strength(x, B, relative=True, limit=0.01):
    P = torch.softmax(B, 1)
    low, high = 0.0, 64.0
    for _ in range(80):
        c = (low + high) / 2
        gap = (torch.softmax(c * x @ x.T + B, 1) - P).abs()
        worst = (gap / P if relative else gap).max()
        low, high = (c, high) if worst < limit else (low, c)
    return torch.tensor(low, dtype=torch.float64)


def gradient(x, B, g, c, mean=True):
    W = torch.softmax(c * x @ x.T + B, 1)
    y = W @ x
    total = torch.zeros((), dtype=x.dtype)
    for i in range(len(x)):
        for j in range(len(x)):
            gain = x[j] - y[i] if mean else x[j]
            total += (x[i] @ x[j]) * W[i, j] * (g[i] @ gain)
    return total


def autograd_through_x(x, B, g, c):
    c = torch.tensor(c, dtype=x.dtype, requires_grad=True)
    z = x * c.sqrt()
    y = torch.softmax(z @ z.T + B, 1) @ z
    (y * g).sum().backward()
    return c.grad


WRONG = {
    "5.1": [
        (lambda table, height, width: loop_sums(table, height, width, one=0.0), "comes on top"),
        (lambda table, height, width: (1 + table.sum()).repeat(height * width), "whole table"),
        (lambda table, height, width: loop_sums(table, height, width, sign=-1), "offsets j − i"),
        (
            lambda table, height, width: loop_sums(table, height, width).view(height, width),
            "expected shape (2,), got (1, 2)",
        ),
        (up_to_half, "up to half the grid"),
        (swapped, "not yet."),
    ],
    "5.2": [
        (lambda x, B: straight_line(x, B, right_end, attention=False), "does not start at 0"),
        (lambda x, B: straight_line(x, B, lambda slope, x: x.max()), "through min x"),
        (lambda x, B: straight_line(x, B, right_end, kernel_inside=True), "inside the softmax"),
        (by_size_of_slope, "strength is asked for, s ≥ 0"),
        (
            lambda x, B: straight_line(x, B, right_end)[:, None],
            "expected shape (3,), got (3, 1)",
        ),
    ],
    "5.3": [
        (
            lambda x, height, width, sigma: strength(
                x, gaussian(height, width, -0.5, sigma), relative=False
            ),
            "1 % is meant of each weight",
        ),
        (
            lambda x, height, width, sigma: strength(x, gaussian(height, width, -1.0, sigma)),
            "lacks its 2",
        ),
        (
            lambda x, height, width, sigma: strength(x, gaussian(height, width, 0.5, sigma)),
            "wrong sign",
        ),
        (
            lambda x, height, width, sigma: math.log(1.01) / (2 * (x @ x.T).abs().max()),
            "safe, but not the largest",
        ),
        (lambda x, height, width, sigma: 0.01, "expected a dense tensor of real numbers, got 0.01"),
    ],
    "5.4": [
        (lambda x, B, g, c: gradient(x, B, g, c, mean=False), "the mean is missing"),
        (lambda x, B, g, c: gradient(x, 0 * B, g, c), "gradient for post"),
        (autograd_through_x, "values are held fixed"),
    ],
}
