"""Answers that readers of chapter 3 might give, each with words of the hint it must get."""

import torch
import torch.nn.functional as F


def uniform(n):
    return torch.ones(n, n, dtype=torch.float64) / n


def very_cold(x):
    # what the definition says, evaluated at a small T and a large one, without care
    S = x @ x.T
    return torch.stack([torch.exp(S / 1e-6), torch.exp(S / 1e6)])


def winner_takes_all(x):
    cold = torch.zeros(len(x), len(x), dtype=x.dtype)
    for i in range(len(x)):
        cold[i, torch.argmax(x @ x[i])] = 1.0
    return torch.stack([cold, uniform(len(x))])


def looks_for_itself(x):
    return torch.stack([torch.eye(len(x), dtype=x.dtype), uniform(len(x))])


def marks_every_best(x):
    S = x @ x.T
    best = torch.isclose(S, S.max(dim=1, keepdim=True).values).to(x.dtype)
    return torch.stack([best, uniform(len(x))])


def hottest_first(x):
    best = marks_every_best(x)[0]
    return torch.stack([uniform(len(x)), best / best.sum(dim=1, keepdim=True)])


def ones_when_hot(x):
    best = marks_every_best(x)[0]
    return torch.stack([best / best.sum(dim=1, keepdim=True), torch.ones_like(best)])


def maximum_of_columns(x):
    S = x @ x.T
    best = torch.isclose(S, S.max(dim=0, keepdim=True).values).to(x.dtype)
    return torch.stack([best / best.sum(0, keepdim=True), uniform(len(x))])


def attend(x, q, k, scale=1.0):
    return F.scaled_dot_product_attention(q[None], k[None], x[None], scale=scale)[0]


def by_one_hot(x, move, strength, scale=1.0):
    places = torch.eye(len(x), dtype=x.dtype)
    reads = (torch.arange(len(x)) + move).clamp(0, len(x) - 1)
    return attend(x, strength * places[reads], places, scale)


def wraps(x):
    places = torch.eye(len(x), dtype=x.dtype)
    return attend(x, 60 * places.roll(1, 0), places)


def compares_content(x):
    query = torch.cat([x[:1], x[:-1]])
    return attend(x, query, x, scale=None)


def naive(S):
    e = S.exp()
    return e / e.sum(dim=1, keepdim=True)


def global_maximum(S):
    e = (S - S.max()).exp()
    return e / e.sum(dim=1, keepdim=True)


def columns(S):
    e = (S - S.max(dim=0).values).exp()
    return e / e.sum(dim=0)


def minus_mean(S):
    e = (S - S.mean(dim=1, keepdim=True)).exp()
    return e / e.sum(dim=1, keepdim=True)


def per_head(N, D, heads):
    return 4 * (D * D + D), 4 * N * D * D + heads * (2 * N * N * D), heads * N * N


WRONG = {
    "3.1": [
        (looks_for_itself, "a long x_j can beat x_i itself"),
        (winner_takes_all, "ties share"),
        (marks_every_best, "divide by their number"),
        (maximum_of_columns, "down the columns"),
        (hottest_first, "swapped"),
        (ones_when_hot, "still sum to one: 1/N each"),
        (very_cold, "With x of shape (4, 2)"),
    ],
    "3.2": [
        (lambda x: by_one_hot(x, 1, 60), "copies the right neighbour"),
        (wraps, "wraps round"),
        (lambda x: by_one_hot(x, 0, 60), "copies itself"),
        (lambda x: by_one_hot(x, -1, 1), "not by enough"),
        (lambda x: by_one_hot(x, -1, 5), "not by enough"),
        (lambda x: by_one_hot(x, -1, 10), "not by enough"),
        (lambda x: by_one_hot(x, -1, 1, None), "not by enough"),
        (lambda x: by_one_hot(x, -1, 5, None), "not by enough"),
        (lambda x: by_one_hot(x, -1, 10, None), "not by enough"),
        (lambda x: by_one_hot(x, -1, 50, None), "not by enough"),
        (compares_content, "does not say where"),
    ],
    "3.3": [
        (naive, "overflows"),
        (global_maximum, "underflow to 0/0"),
        (columns, "normalises columns"),
        (minus_mean, "the mean of its scores"),
    ],
    "3.4": [
        (
            lambda N, D, heads: (3 * (D * D + D), 3 * N * D * D + 2 * N * N * D, heads * N * N),
            "W_o is missing",
        ),
        (lambda N, D, heads: (4 * D * D, 4 * N * D * D + 2 * N * N * D, heads * N * N), "biases"),
        (
            lambda N, D, heads: (4 * (D * D + D), 4 * N * D * D + N * N * D, heads * N * N),
            "twice",
        ),
        (per_head, "D/heads channels"),
        (lambda N, D, heads: (4 * (D * D + D), 4 * N * D * D + 2 * N * N * D, N * N), "own"),
        (
            lambda N, D, heads: (
                4 * heads * (D * D + D),
                4 * N * D * D + 2 * N * N * D,
                heads * N * N,
            ),
            "once per head",
        ),
        (lambda N, D, heads: [1, 2, 3], "expected (288, 8192, 512), got [1, 2, 3]"),
    ],
}
