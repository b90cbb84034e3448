"""Answers that readers of chapter 2 might give, each with words of the hint it must get."""

import torch
import torch.nn.functional as F


def conv(x, weight, **options):
    return F.conv2d(x, weight[:, None], groups=len(weight), **options)


def gaussian(x, sigma, radius, normalise=True, two=2.0):
    r = torch.arange(-radius, radius + 1).to(x)
    line = torch.exp(-(r**2) / (two * sigma**2))
    line = line / line.sum() if normalise else line
    return torch.outer(line, line)


def unbracketed(x, sigma, radius):
    r = torch.arange(-radius, radius + 1).to(x)
    kernel = torch.exp(-(r[:, None] ** 2 + r**2) / 2 * sigma**2)
    return kernel / kernel.sum()


def blur(x, kernel, padding):
    return conv(x, kernel.repeat(x.shape[1], 1, 1), padding=padding)


def blur_with_a_dense_layer(x, sigma, radius):
    D = x.shape[1]
    kernel = gaussian(x, sigma, radius).repeat(D, D, 1, 1)
    return F.conv2d(x, kernel, padding=radius)


def stack_by_loops(first, second, sign):
    weight = first.new_zeros(len(first), 5, 5)
    for a in range(3):
        for b in range(3):
            for c in range(3):
                for d in range(3):
                    row, column = (a + c, b + d) if sign > 0 else (a - c + 2, b - d + 2)
                    weight[:, row, column] += first[:, a, b] * second[:, c, d]
    return weight


def changes_its_input(x, w):
    x *= 2
    return conv(x, w.flip(1, 2), padding=w.shape[-1] // 2) / 2


def first_row(W, height, width, k):
    return W[0].reshape(height, width)[:k, :k]


def middle(picture, k):
    height, width = picture.shape
    top, left = height // 2 - k // 2, width // 2 - k // 2
    return picture[top : top + k, left : left + k]


def centre(height, width):
    return (height // 2) * width + width // 2


WRONG = {
    "2.1": [
        (lambda x, w: conv(x, w, padding=w.shape[-1] // 2), "indexed by i − j"),
        (lambda x, w: conv(x, w.flip(-1), padding=w.shape[-1] // 2), "one axis is flipped"),
        (lambda x, w: conv(x, w.flip(1), padding=w.shape[-1] // 2), "one axis is flipped"),
        (lambda x, w: conv(x, torch.flip(w, (0, 1, 2)), padding=w.shape[-1] // 2), "channels"),
        (lambda x, w: conv(x, w.transpose(1, 2), padding=w.shape[-1] // 2), "transpose"),
        (
            lambda x, w: conv((x / 3).float().double() * 3, w.flip(1, 2), padding=len(w[0]) // 2),
            "did you compute in float32?",
        ),
        (changes_its_input, "changed its input x"),
        (lambda x, w: conv(x, w.flip(1, 2)), "expected shape (1, 1, 3, 4), got (1, 1, 1, 2)"),
        (lambda x, w: F.conv2d(x, w, padding=1), "stopped with RuntimeError"),
        (
            lambda x, w: conv(x, w.flip(1, 2), padding=w.shape[-1] // 2).float(),
            "expected torch.float64 like the input, got torch.float32",
        ),
    ],
    "2.2": [
        (
            lambda W, height, width, k: middle(W[:, centre(height, width)].view(height, width), k),
            "turned by 180 degrees",
        ),
        (first_row, "row 0 of W belongs to a corner"),
        (
            lambda W, height, width, k: middle(W[centre(height, width)].view(width, height).T, k),
            "height and width are swapped",
        ),
        (
            lambda W, height, width, k: middle(W[height * width // 2].view(height, width), k),
            "unless the height is odd",
        ),
        (
            lambda W, height, width, k: middle(
                W[height // 2 * height + width // 2].view(height, width), k
            ),
            "not row · height + column",
        ),
    ],
    "2.3": [
        (
            lambda x, sigma, radius: blur(x, gaussian(x, sigma, radius, False), radius),
            "divide by the sum",
        ),
        (
            lambda x, sigma, radius: blur(x, gaussian(x, sigma, radius, two=1.0), radius),
            "lacks its 2",
        ),
        (
            lambda x, sigma, radius: blur(x, gaussian(x, sigma**0.5, radius), radius),
            "σ where it needs σ²",
        ),
        (
            lambda x, sigma, radius: blur(x, gaussian(x, sigma, radius), 0),
            "pad by `radius` zeros",
        ),
        (
            lambda x, sigma, radius: blur(x, unbracketed(x, sigma, radius), radius),
            "bracket the denominator",
        ),
        (
            lambda x, sigma, radius: blur(
                x, gaussian(x, sigma, radius, False) / (2 * torch.pi * sigma**2), radius
            ),
            "not the sum over these offsets",
        ),
        (
            lambda x, sigma, radius: blur(
                x.float(), gaussian(x.float(), sigma, radius), radius
            ).double(),
            "float64 should agree to 1e-10: did you compute in float32?",
        ),
        (blur_with_a_dense_layer, "as many groups"),
    ],
    "2.4": [
        (lambda first, second: stack_by_loops(first, second, -1), "turned by 180 degrees"),
        (
            lambda first, second: stack_by_loops(first, second, 1).flip(1, 2),
            "both kernels are turned",
        ),
        (
            lambda first, second: stack_by_loops(first, second, 1)[:, 1:4, 1:4],
            "keeps the 3×3 middle",
        ),
        (lambda first, second: F.pad(first + second, (1, 1, 1, 1)), "product of matrices"),
        (lambda first, second: first * second, "expected shape (1, 5, 5), got (1, 3, 3)"),
    ],
}
