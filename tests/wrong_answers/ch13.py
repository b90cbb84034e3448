"""Answers that readers of chapter 13 might give, each with words of the hint it must get."""

import torch


def steps(new, width, limit=None):
    found = [width * k for k in range(new)]
    if limit is not None:
        found = [min(v, limit) for v in found]
    return torch.tensor(found, dtype=torch.float64)


def loop_table(P, at, nearest=False, mirrored=False, swapped=False, rows_only=False):
    middle, n = len(P) // 2, len(at)
    if swapped:
        P = P.T

    def parts(a):
        a = float(a) + middle
        low = min(int(a), len(P) - 2)
        if nearest:
            return [(round(a), 1.0)]
        return [(low, 1 - (a - low)), (low + 1, a - low)]

    new = torch.zeros(n, len(P) if rows_only else n, dtype=P.dtype)
    for r in range(n):
        for i, share in parts(at[r]):
            if rows_only:
                new[r] += share * P[i]
                continue
            for c in range(n):
                for j, part in parts(at[c]):
                    new[r, c] += share * part * P[i, len(P) - 1 - j if mirrored else j]
    return new


def cost(side, linear, pairs):
    return linear * side * side + pairs * side * side * side * side


def share(bias, N):
    return bias.exp() / (bias.exp() + N - 1)


WRONG = {
    "13.1": [
        (lambda H, new: steps(new, (2 * H - 1) / (2 * new - 1)), "reads beyond H − 1"),
        (lambda H, new: steps(new, (H - 1) / (new - 1)), "maps end on end"),
        (lambda H, new: steps(new, H / new, H - 1), "the ratio of the grids"),
        (lambda H, new: steps(new, (2 * new - 1) / (2 * H - 1), H - 1), "upside down"),
        (lambda H, new: steps(2 * new - 1, 1.0), "expected shape (5,), got (9,)"),
    ],
    "13.2": [
        (lambda P, at: loop_table(P, at, nearest=True), "the nearest cell"),
        (lambda P, at: loop_table(P, at, mirrored=True), "read from the other end"),
        (lambda P, at: loop_table(P, at, swapped=True), "have changed places"),
        (lambda P, at: loop_table(P, at, rows_only=True), "expected shape (5, 5), got (5, 3)"),
    ],
    "13.3": [
        (
            lambda epochs, more, ratio, linear, pairs: (
                more * (linear + pairs) * ratio**2 / (epochs * (linear + pairs))
            ),
            "the fourth power of the side",
        ),
        (
            lambda epochs, more, ratio, linear, pairs: (
                more / epochs * (linear * ratio + pairs * ratio**2) / (linear + pairs)
            ),
            "a grid has rows and columns",
        ),
        (
            lambda epochs, more, ratio, linear, pairs: (
                (epochs * cost(1, linear, pairs) + more * cost(ratio, linear, pairs))
                / (epochs * cost(1, linear, pairs))
            ),
            "both trainings together",
        ),
        (
            lambda epochs, more, ratio, linear, pairs: (
                cost(ratio, linear, pairs) / cost(1, linear, pairs)
            ),
            "the epochs are missing",
        ),
    ],
    "13.4": [
        (
            lambda bias, N, more: bias + torch.tensor(more / N).double().log(),
            "the number of others",
        ),
        (lambda bias, N, more: bias * (more - 1) / (N - 1), "added as a logarithm"),
        (
            lambda bias, N, more: bias + torch.tensor((N - 1) / (more - 1)).double().log(),
            "the bias must grow",
        ),
        (lambda bias, N, more: share(bias, more)[:1], "expected shape (2,), got (1,)"),
    ],
}
