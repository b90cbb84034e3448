"""Answers that readers of chapter 17 might give, each with words of the hint it must get."""

import torch


def weights(dim, width, depth, inner, columns=None, projections=3, out=True):
    total = 0
    for n in range(depth):
        reads = columns or (dim if n == 0 else width)
        for attention in (width, inner):
            sign = 1 if attention == width else -1
            total += sign * projections * reads * attention
            total += sign * attention * width * out
    return total


def rows(H, W, length=4, wide=None):
    wide = wide or W
    found = [[n * length // wide, (n * length + length - 1) // wide] for n in range(H * W // 4)]
    return torch.tensor(found)


def meant(H, W):
    return torch.tensor([[2 * r, 2 * r + 1] for r in range(H // 2) for _ in range(W // 2)])


def fit(y, x, centre=True):
    if centre:
        y, x = y - y.mean(1, keepdim=True), x - x.mean(1, keepdim=True)
    return torch.dot(y.flatten(), x.flatten()) / torch.dot(x.flatten(), x.flatten())


WRONG = {
    "17.1": [
        (lambda dim, width, depth, inner: weights(dim, width, depth, inner, width), "before it"),
        (lambda dim, width, depth, inner: weights(dim, width, depth, inner, out=False), "narrower"),
        (
            lambda dim, width, depth, inner: weights(dim, width, depth, inner, projections=1),
            "a matrix each",
        ),
    ],
    "17.2": [
        (lambda H, W: rows(H, W, 2), "four tokens"),
        (lambda H, W: rows(H, W, 4, W // 2), "on the grid that is read"),
        (meant, "should have read"),
        (lambda H, W: rows(H, W)[:, 0], "expected shape"),
    ],
    "17.3": [
        (lambda A, S, B: fit(A.log(), S), "take it off first"),
        (lambda A, S, B: fit(A.log() - B, S, centre=False), "each row's mean"),
        (lambda A, S, B: 1 / fit(A.log() - B, S), "1/c"),
    ],
    "17.4": [
        (lambda suspicion: "share" in suspicion, "17.3 is one"),
        (
            lambda suspicion: suspicion in ("layers share a table", "scores are not scaled"),
            "give the audit the function",
        ),
        (lambda suspicion: suspicion == "layers share a table", "not square"),
        (lambda suspicion: suspicion == "no bias", "expected"),
    ],
}
