"""Answers that readers of chapter 9 might give, each with words of the hint it must get."""

import torch


def side(memory, stride, heads, layers, root=4, bytes_each=4):
    n = 1
    while bytes_each * heads * layers * (n + 1) ** root <= memory:
        n += 1
    return stride * n


def windows(height, width, size, shift=0, sign=1, columns=True):
    N = height * width
    same = torch.zeros(N, N, dtype=torch.int64)
    for i in range(N):
        for j in range(N):
            bands = []
            for place in (i, j):
                row, column = divmod(place, width)
                row, column = (row + sign * shift) // size, (column + sign * shift) // size
                bands.append((row, column) if columns else row)
            same[i, j] = bands[0] == bands[1]
    return same


def round_the_edge(height, width, size, shift):
    tag = torch.empty(height, width, dtype=torch.int64)
    for r in range(height):
        for c in range(width):
            tag[r, c] = ((r - shift) % height) // size * 100 + ((c - shift) % width) // size
    tag = tag.flatten()
    return (tag[:, None] == tag).long()


def average(y1, z1, y2, z2, weight):
    w1, w2 = weight(z1), weight(z2)
    return (w1 * y1 + w2 * y2) / (w1 + w2)


def steps(a, b, v, before=False, divide="running"):
    summary, total, y = torch.zeros(b.shape[1], v.shape[1], dtype=v.dtype), 0 * b[0], []
    for i in range(len(a)):
        if not before:
            summary, total = summary + torch.outer(b[i], v[i]), total + b[i]
        below = {"running": total, "all": b.sum(0)}.get(divide)
        y.append(a[i] @ summary / (1 if below is None else a[i] @ below))
        if before:
            summary, total = summary + torch.outer(b[i], v[i]), total + b[i]
    return torch.stack(y)


WRONG = {
    "9.1": [
        (lambda memory, stride, heads, layers: side(memory, 1, heads, layers), "in positions"),
        (
            lambda memory, stride, heads, layers: (
                stride * int((memory / (4 * heads * layers)) ** 0.5)
            ),
            "took the root once",
        ),
        (
            lambda memory, stride, heads, layers: side(memory, stride, heads, layers, 4, 1),
            "takes four bytes",
        ),
        (lambda memory, stride, heads, layers: side(memory, stride, heads, 1), "every layer"),
        (lambda memory, stride, heads, layers: side(memory, stride, 1, layers), "every head"),
        (lambda memory, stride, heads, layers: -1, "not yet."),
    ],
    "9.2": [
        (lambda height, width, size, shift: windows(height, width, size), "not shifted"),
        (
            lambda height, width, size, shift: windows(height, width, size, shift, -1),
            "down and right",
        ),
        (round_the_edge, "a roll needs its mask"),
        (
            lambda height, width, size, shift: windows(height, width, size, shift, columns=False),
            "where both agree",
        ),
        (
            lambda height, width, size, shift: 1 - windows(height, width, size, shift),
            "not yet.",
        ),
    ],
    "9.3": [
        (lambda y1, z1, y2, z2: 0.5 * y1 + 0.5 * y2, "do not count alike"),
        (lambda y1, z1, y2, z2: average(y1, z1, y2, z2, torch.exp), "Subtract the larger z"),
        (lambda y1, z1, y2, z2: average(y1, z1, y2, z2, lambda z: z), "e to the z"),
        (
            lambda y1, z1, y2, z2: y1 + (y2 - y1) * torch.sigmoid(z1 - z2),
            "shares are swapped",
        ),
        (lambda y1, z1, y2, z2: y1[:, 0], "expected shape (1, 1), got (1,)"),
    ],
    "9.4": [
        (
            lambda a, b, v: torch.stack(
                [(a[i] @ b.T) @ v / (a[i] @ b.T).sum() for i in range(len(a))]
            ),
            "Position i may use",
        ),
        (lambda a, b, v: steps(a, b, v, before=True), "reads itself too"),
        (lambda a, b, v: steps(a, b, v, divide="all"), "must grow with i"),
        (lambda a, b, v: steps(a, b, v, divide="nothing"), "denominator is missing"),
        (lambda a, b, v: steps(a.float(), b.float(), v.float()), "expected torch.float64"),
    ],
}
