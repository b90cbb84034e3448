"""Answers that readers of chapter 15 might give, each with words of the hint it must get."""

import torch


def outputs(x, A, v, U, kept, shortcut=True, factor=1.0, transposed=False):
    y = x.clone() if shortcut else torch.zeros_like(x)
    for h in kept:
        W = A[h].T if transposed else A[h]
        y = y + factor * (W @ v[h] @ U[h].T)
    return y


def others(A, silent):
    return [h for h in range(len(A)) if h not in silent]


def circle(row, away, inner=False):
    rings = sorted(set(away.tolist()))
    for k, ring in enumerate(rings):
        if row[away <= ring].sum() >= 0.5 - 1e-9:
            return rings[max(k - 1, 0)] if inner else ring
    return rings[-1]


def circles(A, away, **options):
    rows = [circle(A[i], away[i], **options) for i in range(len(A))]
    return torch.tensor(rows, dtype=A.dtype)


def by_weight(A, away):
    found = []
    for row, far in zip(A, away, strict=True):
        total = 0.0
        for j in row.argsort(descending=True):
            total += row[j]
            if total >= 0.5 - 1e-9:
                found.append(far[j])
                break
    return torch.stack(found)


def amount(kernels, across, middle=1.0, divided=True):
    ones, slope = kernels.new_tensor([[1, middle, 1], [-1, 0, 1]])
    t = ones[:, None] * slope if across else slope[:, None] * ones
    a = (kernels * t).sum((1, 2))
    return a / t.square().sum().sqrt() if divided else a


def edges(kernels, **options):
    both = amount(kernels, True, **options) ** 2 + amount(kernels, False, **options) ** 2
    return both / (kernels**2).sum((1, 2))


def chain(maps, mixed=True, backwards=False, head=None):
    N = maps.shape[-1]
    y = torch.eye(N, dtype=maps.dtype)
    for layer in maps:
        A = layer.mean(0) if head is None else layer[head]
        A = 0.5 * A + 0.5 * torch.eye(N, dtype=maps.dtype) if mixed else A
        y = y @ A if backwards else A @ y
    return y


WRONG = {
    "15.1": [
        (lambda x, A, v, U, silent: outputs(x, A, v, U, silent), "you kept them"),
        (
            lambda x, A, v, U, silent: outputs(x, A, v, U, others(A, silent), shortcut=False),
            "the shortcut is missing",
        ),
        (lambda x, A, v, U, silent: outputs(x, A, v, U, range(len(A))), "this is the whole sum"),
        (
            lambda x, A, v, U, silent: outputs(
                x, A, v, U, others(A, silent), factor=len(A) / len(others(A, silent))
            ),
            "made larger",
        ),
        (
            lambda x, A, v, U, silent: outputs(x, A, v, U, others(A, silent), transposed=True),
            "not its transpose",
        ),
        (lambda x, A, v, U, silent: A @ v @ U.mT, "expected shape (2, 2), got (2, 2, 2)"),
    ],
    "15.2": [
        (lambda A, away: (A * away).sum(1), "the mean distance"),
        (by_weight, "you sorted by weight"),
        (lambda A, away: circles(A, away, inner=True), "one ring too small"),
        (lambda A, away: circles(A.T / A.T.sum(1, keepdim=True), away), "You took its columns"),
        (lambda A, away: circles(A, away)[:1], "expected shape (5,), got (1,)"),
    ],
    "15.3": [
        (lambda kernels: edges(kernels, divided=False), "divided by their norm"),
        (lambda kernels: amount(kernels, True) ** 2 / (kernels**2).sum((1, 2)), "one direction"),
        (lambda kernels: amount(kernels, False) ** 2 / (kernels**2).sum((1, 2)), "other direction"),
        (lambda kernels: edges(kernels, middle=2.0), "not a template"),
        (lambda kernels: edges(kernels).sqrt(), "shares are of squares"),
    ],
    "15.4": [
        (lambda maps: chain(maps, backwards=True), "in the wrong order"),
        (lambda maps: chain(maps, mixed=False), "the shortcut is missing"),
        (lambda maps: chain(maps).T, "transpose it"),
        (lambda maps: chain(maps, head=0), "not the mean of the heads"),
    ],
}
