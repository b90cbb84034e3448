"""Answers that readers of chapter 8 might give, each with words of the hint it must get."""

import torch
import torch.nn.functional as F


def pooled(x, largest=True):
    D, H, W = x.shape
    y = x.reshape(D, H // 2, 2, W // 2, 2)
    return y.amax((2, 4)) if largest else y.mean((2, 4))


def normed(x, axis=0, unbiased=False):
    m = x.mean(axis, keepdim=True)
    n = x.shape[0] - unbiased if axis == 0 else x.shape[1] * x.shape[2]
    return (x - m) / ((x - m).square().sum(axis, keepdim=True) / n).sqrt()


def joined(A, v, U):
    return torch.einsum("hij,hjd->ihd", A, v).flatten(1) @ U.T


def per_head(A, v, U, heads_last=False, transposed=False):
    d = v.shape[2]
    parts = []
    for h in range(len(A)):
        own = slice(h, None, len(A)) if heads_last else slice(h * d, (h + 1) * d)
        W = A[h].T if transposed else A[h]
        parts.append(W @ v[h] @ U[:, own].T)
    return torch.stack(parts)


def table(ring, index):
    H, W = ring.shape
    rows = [[ring[index(r, H), index(c, W)] for c in range(1 - W, W)] for r in range(1 - H, H)]
    return torch.stack([torch.stack(row) for row in rows])


def count(dim, out, heads, height, width, hidden, norms, project, bias=1):
    linear = [(dim, 3 * out), (out, out), (out, hidden), (hidden, out)]
    if project:
        linear.append((dim, out))
    total = sum((a + bias) * b for a, b in linear)
    return total + norms + heads * (2 * height - 1) * (2 * width - 1)


WRONG = {
    "8.1": [
        (lambda x: normed(pooled(x)), "that is Norm(Pool(x))"),
        (lambda x: pooled(normed(x, (1, 2))), "over the positions"),
        (lambda x: pooled(normed(x, unbiased=True)), "divided by D − 1"),
        (lambda x: pooled(normed(x), largest=False), "not the average"),
        (lambda x: pooled((x - x.mean()) / x.std(correction=0)), "the whole picture"),
        (lambda x: normed(x), "expected shape (2, 1, 1), got (2, 2, 2)"),
        (lambda x: F.layer_norm(x, x.shape[-1:]), "expected shape (2, 1, 1), got (2, 2, 2)"),
    ],
    "8.2": [
        (lambda A, v, U: per_head(A, v, U, heads_last=True), "one by one"),
        (joined, "this is the whole output"),
        (lambda A, v, U: per_head(A, v, U, transposed=True), "not its transpose"),
        (lambda A, v, U: per_head(A, v, U).flip(0), "in reverse"),
    ],
    "8.3": [
        (lambda ring: table(ring, lambda k, n: abs(k)), "offset −1 is not offset 1"),
        (lambda ring: table(ring, lambda k, n: max(k, 0)), "all given the first cell"),
        (lambda ring: table(ring, lambda k, n: -k % n), "turned by 180 degrees"),
        (lambda ring: table(ring, lambda k, n: (k + n - 1) % n), "in the middle of the table"),
        (lambda ring: ring.tile(2, 2), "expected shape (1, 5), got (2, 6)"),
    ],
    "8.4": [
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * dim, 2 * (dim + out), dim != out
            ),
            "4·out, not 4·dim",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, 1, height, width, 4 * out, 2 * (dim + out), dim != out
            ),
            "table of its own",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, dim // head_dim, height, width, 4 * out, 2 * (dim + out), dim != out
            ),
            "out // head_dim heads",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * out, 0, dim != out
            ),
            "the norms are missing",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * out, 4 * out, dim != out
            ),
            "the second of `out`",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * out, 2 * (dim + out), False
            ),
            "the shortcut has a Proj",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * out, 2 * (dim + out), True
            ),
            "there is no Proj",
        ),
        (
            lambda dim, out, head_dim, height, width: count(
                dim, out, out // head_dim, height, width, 4 * out, 2 * (dim + out), dim != out, 0
            ),
            "has a bias",
        ),
    ],
}
