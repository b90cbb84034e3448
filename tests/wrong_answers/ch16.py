"""Answers that readers of chapter 16 might give, each with words of the hint it must get."""

import torch


def walk(kernels, strides, start=1, less=1, after=False, chain=True, ignore=False):
    side, step = start, 1
    for n in range(len(kernels)):
        if after:
            step = step * strides[n]
        side = side + (kernels[n] - less) * (1 if ignore else step)
        if not after:
            step = step * strides[n] if chain else strides[n]
    return torch.tensor(side)


def leff(D, k, wide=None, bias=True, norms=(4, 4, 1), each=2):
    wide = 4 * D if wide is None else wide
    total = wide * k * k + (wide if bias else 0)
    return torch.tensor(total + sum(each * n * D for n in norms))


def rows(c, Uq, Uk, scale=None, row=-1, turned=False):
    q, k = c @ Uq, c @ Uk
    scores = k @ q.T if turned else q @ k.T
    scores = scores / (Uq.shape[1] if scale is None else scale) ** 0.5
    return scores.softmax(-1)[row]


def work(side, patch, D, L, extra=1, last=1, twice=2):
    n = (side // patch) * (side // patch) + extra
    return torch.tensor(sum(twice * n * n * D for _ in range(L)) + twice * last * L * D)


WRONG = {
    "16.1": [
        (lambda kernels, strides: walk(kernels, strides, after=True), "the strides before it"),
        (lambda kernels, strides: walk(kernels, strides, chain=False), "strides multiply"),
        (lambda kernels, strides: walk(kernels, strides, start=0, less=0), "six steps"),
        (lambda kernels, strides: walk(kernels, strides, ignore=True), "strides are missing"),
    ],
    "16.2": [
        (lambda D, k: leff(D, k, bias=False), "has a bias"),
        (lambda D, k: leff(D, k, norms=()), "norms are missing"),
        (lambda D, k: leff(D, k, each=1), "learns two numbers"),
        (lambda D, k: leff(D, k, norms=(1, 1, 1)), "stand where the block is wide"),
        (lambda D, k: leff(D, k, wide=D), "wide middle"),
    ],
    "16.3": [
        (lambda c, Uq, Uk: rows(c, Uq, Uk, row=0), "the last one does"),
        (lambda c, Uq, Uk: rows(c, Uq, Uk, scale=1), "not scaled"),
        (lambda c, Uq, Uk: rows(c, Uq, Uk, scale=c.shape[1]), "root of D"),
        (lambda c, Uq, Uk: rows(c, Uq, Uk, turned=True), "exchanged"),
        (
            lambda c, Uq, Uk: rows(c, Uq, Uk, row=slice(None)),
            "expected shape (2,), got (2, 2)",
        ),
    ],
    "16.4": [
        (lambda side, patch, D, L: work(side, patch, D, L, extra=0), "class token is missing"),
        (lambda side, patch, D, L: work(side, patch, D, L, last=0), "LCA attends as well"),
        (lambda side, patch, D, L: work(side, patch, D, L, last=L), "not L²"),
        (lambda side, patch, D, L: work(side, patch, D, L, twice=1), "one product"),
    ],
}
