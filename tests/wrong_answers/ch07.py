"""Answers that readers of chapter 7 might give, each with words of the hint it must get."""

import torch


def rates(depths, rate, first=0, last=0):
    blocks = sum(depths)
    return torch.tensor([rate * (b + first) / (blocks + last) for b in range(blocks)]).double()


def by_stage(depths, rate):
    return torch.tensor([rate * b / depth for depth in depths for b in range(depth)]).double()


def gate(x, reduce, expand, pool=lambda z: z.mean(-1), bend=True, close=True):
    rows = []
    for picture in x:
        z = reduce @ pool(picture.flatten(1))
        z = expand @ (z / (1 + torch.exp(-z)) if bend else z)
        rows.append(1 / (1 + torch.exp(-z)) if close else z)
    return torch.stack(rows)


def of_the_batch(x, reduce, expand):
    together = x.transpose(0, 1).flatten(1)[None, ..., None]
    return gate(together, reduce, expand).repeat(len(x), 1)


def loop_fold(weight, mean, variance, scale, shift, bias):
    out, D = weight.shape
    both = torch.zeros(out, D + 1, dtype=weight.dtype)
    for o in range(out):
        for c in range(D):
            both[o, c] = weight[o, c] * scale[c] / variance[c] ** 0.5
            both[o, D] += bias(weight[o, c], mean[c], scale[c] / variance[c] ** 0.5, shift[c])
    return both


def fold(weight, mean, variance, scale, shift):
    return loop_fold(weight, mean, variance, scale, shift, lambda w, m, s, t: w * (t - s * m))


def readers(length, K, stride, skip, down=False):
    read = [[] for _ in range(length)]
    thin = list(range(0, length, skip))
    last = length // skip // stride * stride if down else len(thin)
    for o in range(0, last, stride):
        for m in range(o - K // 2, o + K // 2 + 1):
            if 0 <= m < len(thin):
                read[thin[m]].append(o)
    return torch.tensor([len(r) for r in read])


WRONG = {
    "7.1": [
        (lambda depths, rate: rates(depths, rate, last=-1), "divided by L − 1"),
        (lambda depths, rate: rates(depths, rate, first=1), "counted from 0"),
        (by_stage, "starts again in every stage"),
        (lambda depths, rate: rates(depths[:1], rate), "expected shape (4,), got (1,)"),
    ],
    "7.2": [
        (lambda x, reduce, expand: gate(x, reduce, expand, bend=False), "bend between"),
        (lambda x, reduce, expand: gate(x, reduce, expand, close=False), "between 0 and 1"),
        (
            lambda x, reduce, expand: gate(x, reduce, expand, pool=lambda z: z.sum(-1)),
            "does not grow with the picture",
        ),
        (
            lambda x, reduce, expand: gate(x, reduce, expand, pool=lambda z: z.amax(-1)),
            "largest value",
        ),
        (of_the_batch, "gates of its own"),
    ],
    "7.3": [
        (
            lambda weight, mean, variance, scale, shift: loop_fold(
                weight, mean, variance, scale, shift, lambda w, m, s, t: w * (t - m)
            ),
            "before the norm's scale",
        ),
        (
            lambda weight, mean, variance, scale, shift: loop_fold(
                weight, mean, variance, scale, shift, lambda w, m, s, t: t - s * m
            ),
            "through the matrix",
        ),
        (
            lambda weight, mean, variance, scale, shift: fold(
                weight, mean, variance**2, scale, shift
            ),
            "root of the variance",
        ),
        (
            lambda weight, mean, variance, scale, shift: fold(
                weight, mean, variance, torch.ones_like(scale), shift
            ),
            "scale is missing",
        ),
        (
            lambda weight, mean, variance, scale, shift: fold(weight, mean, variance, scale, shift)[
                :, :-1
            ],
            "expected shape (1, 3), got (1, 2)",
        ),
    ],
    "7.4": [
        (
            lambda length, K, stride, skip: readers(length, K, stride * skip, 1),
            "thinned it out first",
        ),
        (lambda length, K, stride, skip: readers(length, K, 1, skip), "the stride is missing"),
        (lambda **line: readers(**line, down=True), "rounded up, not down"),
        (
            lambda length, K, stride, skip: readers(length, K, stride, skip).clamp(max=1),
            "not yet.",
        ),
    ],
}
