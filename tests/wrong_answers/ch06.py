"""Answers that readers of chapter 6 might give, each with words of the hint it must get."""

import torch


def rectangle(height, width, factor, lift_rows, lift_columns, turned=False):
    N = height * width
    index = torch.zeros(N, N, dtype=torch.int64)
    for i in range(N):
        for j in range(N):
            down, right = i // width - j // width, i % width - j % width
            if turned:
                down, right = -down, -right
            index[i, j] = (down + lift_rows) * factor + right + lift_columns
    return index


def torus(height, width, factor, turned=False):
    N = height * width
    index = torch.zeros(N, N, dtype=torch.int64)
    for i in range(N):
        for j in range(N):
            a, b = (j, i) if turned else (i, j)
            down, right = (a // width - b // width) % height, (a % width - b % width) % width
            index[i, j] = down * factor + right
    return index


def flat_torus(height, width):
    N = height * width
    return torch.stack([torch.arange(i, i - N, -1) % N for i in range(N)])


def uses(height, width, less=0):
    rows = [height - less - abs(d) for d in range(1 - height, height)]
    columns = [width - less - abs(d) for d in range(1 - width, width)]
    return torch.tensor([[r * c for c in columns] for r in rows])


def uses_added(height, width):
    rows = [(height - abs(d)) * width for d in range(1 - height, height)]
    columns = [(width - abs(d)) * height for d in range(1 - width, width)]
    return torch.tensor([[min(r, c) for c in columns] for r in rows])


def halves(flat, height, width):
    return flat.T.reshape(flat.shape[1], 2 * height - 1, 2 * width - 1)


WRONG = {
    "6.1": [
        (
            lambda height, width: rectangle(
                height, width, 2 * width - 1, height - 1, width - 1, turned=True
            ),
            "index of j − i",
        ),
        (lambda height, width: rectangle(height, width, 2 * width - 1, 0, 0), "negative"),
        (
            lambda height, width: rectangle(height, width, 2 * height - 1, height - 1, width - 1),
            "on a square only",
        ),
        (
            lambda height, width: rectangle(height, width, width, height - 1, width - 1),
            "not width",
        ),
        (
            lambda height, width: rectangle(height, width, 2 * width - 1, height, width),
            "counts from 1",
        ),
    ],
    "6.2": [
        (
            lambda height, width: rectangle(height, width, 2 * width - 1, height - 1, width - 1),
            "nothing wraps",
        ),
        (lambda height, width: torus(height, width, height), "your factor is `height`"),
        (lambda height, width: torus(height, width, 2 * width - 1), "grid with borders"),
        (lambda height, width: torus(height, width, width, turned=True), "index of j − i"),
        (flat_torus, "subtract rows and columns separately"),
    ],
    "6.3": [
        (uses_added, "multiply the two counts"),
        (lambda height, width: uses(width, height), "exchanged"),
        (lambda height, width: uses(height, width, less=1), "one too few"),
        (
            lambda height, width: torch.full((2 * height - 1, 2 * width - 1), height * width),
            "on a torus",
        ),
        (lambda height, width: uses(height, width).flatten(), "expected shape"),
    ],
    "6.4": [
        (
            lambda flat, height, width: flat.view(
                flat.shape[1], 2 * height - 1, 2 * width - 1
            ).flip(1, 2),
            "Transpose first",
        ),
        (halves, "still read at key − query"),
        (lambda flat, height, width: halves(flat, height, width).flip(2), "two are needed"),
        (lambda flat, height, width: halves(flat, height, width).flip(1), "two are needed"),
        (lambda flat, height, width: halves(flat, height, width).flip(0, 1, 2), "keep their order"),
        (
            lambda flat, height, width: halves(flat, width, height).flip(1, 2),
            "expected shape",
        ),
    ],
}
