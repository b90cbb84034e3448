"""Answers that readers of chapter 4 might give, each with words of the hint it must get."""

import torch
import torch.nn.functional as F


def convolve(z, weight):
    return F.conv2d(z, weight[:, None], groups=weight.shape[0])


def pad_by(mode, *, sides=4):
    def answer(x, weight):
        r = weight.shape[-1] // 2
        if sides == 2:  # left and right by `mode`, above and below by zeros
            return convolve(F.pad(F.pad(x, (r, r, 0, 0), mode=mode), (0, 0, r, r)), weight)
        return convolve(F.pad(x, (r, r, r, r), mode=mode), weight)

    return answer


def rows_only(x, weight):
    r = weight.shape[-1] // 2
    ring = torch.cat([x[:, :, -r:], x, x[:, :, :r]], dim=2)
    return F.conv2d(ring, weight[:, None], padding=(0, r), groups=weight.shape[0])


def means(x):
    return x.mean(dim=-1).mean(dim=-1)


def pooled_after(x, s, moved):
    return means(moved(x, s)) - means(x)


def shift_by_cat(x, s):
    blank = torch.zeros_like(x)
    if s < 0:
        return torch.cat([x[..., -s:], blank[..., :-s]], dim=-1)
    return torch.cat([blank[..., :s], x[..., : x.shape[-1] - s]], dim=-1)


def negative_slice(x, s):
    lost = x[..., -s:] if s >= 0 else x[..., : abs(s)]
    return -lost.flatten(2).sum(-1) / (x.shape[2] * x.shape[3])


def mean_of_what_is_left(x, s):
    left = x[..., : x.shape[-1] - s] if s >= 0 else x[..., abs(s) :]
    return means(left) - means(x)


def sum_of_lost(x, s):
    return (means(shift_by_cat(x, s)) - means(x)) * x.shape[2] * x.shape[3]


def product(strides):
    return torch.tensor(strides).prod().item()


def reach(kernels, dilations):
    return sum((k // 2) * d for k, d in zip(kernels, dilations, strict=True))


WRONG = {
    "4.1": [
        (
            lambda x, weight: F.conv2d(
                x, weight[:, None], padding=weight.shape[-1] // 2, groups=weight.shape[0]
            ),
            "zero padding that errs",
        ),
        (pad_by("reflect"), "reflected edges"),
        (pad_by("replicate"), "repeated edges"),
        (lambda x, weight: convolve(x, weight), "leaves the border out"),
        (pad_by("circular", sides=2), "only left and right"),
        (rows_only, "only top and bottom"),
        (lambda x, weight: pad_by("circular")(x, torch.rot90(weight, 2, (1, 2))), "180 degrees"),
        (lambda x, weight: F.conv2d(x, weight, padding=1), "stopped with RuntimeError"),
    ],
    "4.2": [
        (
            lambda x, s: (pooled_after(x, s, lambda x, s: x.roll(s, -1)) * 1e6).round() / 1e6,
            "right for rolls",
        ),
        (negative_slice, "for s = 0 nothing leaves"),
        (lambda x, s: pooled_after(x, -s, shift_by_cat), "wrong side"),
        (lambda x, s: -pooled_after(x, s, shift_by_cat), "the sign"),
        (mean_of_what_is_left, "zeros that entered count"),
        (sum_of_lost, "divide by the number"),
        (
            lambda x, s: pooled_after(x, s, shift_by_cat).mean(),
            "expected shape (1, 1), got ()",
        ),
    ],
    "4.3": [
        (lambda strides, n: [s for s in range(n) if s % sum(strides) == 0], "strides multiply"),
        (lambda strides, n: [s for s in range(n) if s % max(strides) == 0], "largest stride"),
        (
            lambda strides, n: [s for s in range(n) if all(s % t == 0 for t in strides)],
            "least common multiple",
        ),
        (lambda strides, n: [s for s in range(1, n) if s % product(strides) == 0], "0 is exact"),
        (lambda strides, n: list(range(0, n + 1, product(strides))), "the shift by 0 again"),
        (lambda strides, n: [0], "expected [0, 2, 4], got [0]"),
    ],
    "4.4": [
        (
            lambda width, kernels, dilations, shift: max(0, width - 2 * reach(kernels, dilations)),
            "the shift costs columns",
        ),
        (
            lambda width, kernels, dilations, shift: max(
                width - shift - reach(kernels, dilations), 0
            ),
            "both edges",
        ),
        (
            lambda width, kernels, dilations, shift: max(
                0, width - shift - sum(k - 1 for k in kernels)
            ),
            "dilation multiplies",
        ),
        (
            lambda width, kernels, dilations, shift: max(
                0,
                width - shift - max((k - 1) * d for k, d in zip(kernels, dilations, strict=True)),
            ),
            "add up over the layers",
        ),
        (
            lambda width, kernels, dilations, shift: width - shift - 2 * reach(kernels, dilations),
            "clamp at 0",
        ),
        (
            lambda width, kernels, dilations, shift: max(
                0,
                width - shift - sum(2 * k * d for k, d in zip(kernels, dilations, strict=True)),
            ),
            "not k",
        ),
    ],
}
