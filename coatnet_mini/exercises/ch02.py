"""Exercises of chapter 2: the sign of the kernel, kernels inside matrices, blurs, stacks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.convolution import depthwise_conv2d
from coatnet_mini.exercises import Exercise, Mistake
from coatnet_mini.weighted_sum import convolution_matrix


def _noise(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def formula(x: Tensor, w: Tensor) -> Tensor:
    """y_i = Σ_j w_{i−j} ⊙ x_j on a zero-padded grid; x (B, D, H, W), w (D, k, k) by i − j."""
    return depthwise_conv2d(x, w.flip(-2, -1))


def kernel_of(W: Tensor, height: int, width: int, k: int) -> Tensor:
    """The (k, k) weight, as conv2d takes it, of a zero-padded convolution matrix W (N, N)."""
    return _middle(W[_centre(height, width)].view(height, width), k)


def _centre(height: int, width: int) -> int:
    return height // 2 * width + width // 2


def _middle(seen: Tensor, k: int) -> Tensor:
    top, left = (n // 2 - k // 2 for n in seen.shape)
    return seen[top : top + k, left : left + k].clone()


def gaussian_blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Depthwise Gaussian blur of x (B, D, H, W), zero-padded, with a kernel that sums to one."""
    return _blur(x, sigma, radius)


def one_kernel(first: Tensor, second: Tensor) -> Tensor:
    """The (D, 5, 5) weight that does what `first` and then `second`, both (D, 3, 3), do."""
    full = F.pad(first, (2, 2, 2, 2))  # every way in which the two kernels overlap
    return depthwise_conv2d(full[None], second.flip(-2, -1), padding="none")[0]


def _blur(x: Tensor, sigma: float, radius: int, *, scale: float = 2.0, total: bool = True):
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype)
    g = torch.exp(-(offset[:, None] ** 2 + offset**2) / (scale * sigma**2))
    g = g / g.sum() if total else g
    return depthwise_conv2d(x, g.expand(x.shape[1], -1, -1))


def _formula_cases(rng: torch.Generator) -> list[dict]:
    one = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    one[..., 1, 1] = 1.0
    ramp = torch.arange(9, dtype=torch.float64).view(1, 3, 3)
    cases = [{"x": one, "w": ramp}]
    for _ in range(3):
        B, D, H, W = torch.randint(2, 7, (4,), generator=rng).tolist()
        k = 3 if H % 2 else 5
        cases.append({"x": _noise(rng, B, D, H + 3, W + 8), "w": _noise(rng, D, k, k)})
    return cases


def _kernel_cases(rng: torch.Generator) -> list[dict]:
    cases = []
    for height, width, k in ((4, 5, 3), (5, 7, 3), (8, 6, 5), (7, 11, 5), (3, 4, 1)):
        W = convolution_matrix(_noise(rng, k, k), (height, width))
        cases.append({"W": W, "height": height, "width": width, "k": k})
    return cases


def _blur_cases(rng: torch.Generator) -> list[dict]:
    one = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    one[..., 2, 2] = 1.0
    cases = [{"x": one, "sigma": 1.0, "radius": 1}]
    for sigma, radius in ((0.8, 2), (1.7, 3)):
        B, D, H, W = torch.randint(2, 5, (4,), generator=rng).tolist()
        cases.append({"x": _noise(rng, B, D, H + 6, W + 9), "sigma": sigma, "radius": radius})
    return cases


def _mixed_blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    return _blur(x, sigma, radius).sum(1, keepdim=True).expand_as(x)


def _small_blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    return _blur(x, sigma, radius)[..., radius:-radius, radius:-radius]


def _stack_cases(rng: torch.Generator) -> list[dict]:
    first, second = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    first[0, 0, 0], second[0, 0, 1] = 1.0, 1.0  # two shifts: down and right, then down
    cases = [{"first": first, "second": second}]
    for D in torch.randint(1, 5, (3,), generator=rng).tolist():
        cases.append({"first": _noise(rng, D, 3, 3), "second": _noise(rng, D, 3, 3)})
    return cases


def _wrong_stack(first: Tensor, second: Tensor, *, flip: bool = False) -> Tensor:
    second = second if flip else second.flip(-2, -1)
    return depthwise_conv2d(F.pad(first, (2, 2, 2, 2))[None], second, padding="none")[0]


EXERCISES = [
    Exercise(
        "2.1",
        formula,
        _formula_cases,
        [
            Mistake(
                "conv2d reads its weight at j − i. The formula's w is indexed by i − j: turn the "
                "kernel by 180 degrees first.",
                lambda x, w: depthwise_conv2d(x, w),
            ),
            Mistake(
                "one axis is flipped, two are needed: i − j changes sign in rows and in columns.",
                lambda x, w: depthwise_conv2d(x, w.flip(-1)),
            ),
            Mistake(
                "one axis is flipped, two are needed: i − j changes sign in rows and in columns.",
                lambda x, w: depthwise_conv2d(x, w.flip(-2)),
            ),
            Mistake(
                "`flip` over all three axes also reverses the channels: flip the last two only.",
                lambda x, w: depthwise_conv2d(x, w.flip(0, 1, 2)),
            ),
            Mistake(
                "that is the transpose of the kernel: turn it by 180 degrees instead.",
                lambda x, w: depthwise_conv2d(x, w.mT),
            ),
        ],
    ),
    Exercise(
        "2.2",
        kernel_of,
        _kernel_cases,
        [
            Mistake(
                "this kernel is turned by 180 degrees: row i of W, seen as a picture, shows the "
                "weight as conv2d takes it; column j shows the formula's w.",
                lambda **case: kernel_of(**case).flip(0, 1),
            ),
            Mistake(
                "row 0 of W belongs to a corner, where part of the kernel falls off the grid: read "
                "a row of the middle.",
                lambda W, height, width, k: W[0].view(height, width)[:k, :k],
            ),
            Mistake(
                "height and width are swapped: a flat row is `.view(height, width)`.",
                lambda W, height, width, k: _middle(
                    W[_centre(height, width)].view(width, height).T, k
                ),
            ),
            Mistake(
                "row N // 2 of W is not the pixel at (height // 2, width // 2) unless the height "
                "is odd: its index is row · width + column.",
                lambda W, height, width, k: _middle(W[len(W) // 2].view(height, width), k),
            ),
            Mistake(
                "each row of the grid has `width` pixels: the flat index is row · width + column, "
                "not row · height + column.",
                lambda W, height, width, k: _middle(
                    W[height // 2 * height + width // 2].view(height, width), k
                ),
            ),
        ],
    ),
    Exercise(
        "2.3",
        gaussian_blur,
        _blur_cases,
        [
            Mistake(
                "the kernel does not sum to one, so the picture changes its brightness: divide "
                "by the sum.",
                lambda x, sigma, radius: _blur(x, sigma, radius, total=False),
            ),
            Mistake(
                "1/(2πσ²) makes the integral over the plane one, not the sum over these offsets: "
                "divide by the sum.",
                lambda x, sigma, radius: (
                    _blur(x, sigma, radius, total=False) / (2 * math.pi * sigma**2)
                ),
            ),
            Mistake(
                "`/ 2 * sigma**2` divides by 2 and then multiplies by σ²: bracket the "
                "denominator, / (2 * sigma**2).",
                lambda x, sigma, radius: _blur(x, 1 / sigma, radius),
            ),
            Mistake(
                "the exponent lacks its 2: exp(−(a² + b²) / (2σ²)).",
                lambda x, sigma, radius: _blur(x, sigma, radius, scale=1.0),
            ),
            Mistake(
                "the exponent has σ where it needs σ²: exp(−(a² + b²) / (2σ²)).",
                lambda x, sigma, radius: _blur(x, sigma**0.5, radius),
            ),
            Mistake(
                "the output is smaller than the input: pad by `radius` zeros on every side.",
                _small_blur,
            ),
            Mistake(
                "the channels are added together: a depthwise blur needs as many groups as there "
                "are channels.",
                _mixed_blur,
            ),
        ],
    ),
    Exercise(
        "2.4",
        one_kernel,
        _stack_cases,
        [
            Mistake(
                "one of the two kernels is turned by 180 degrees: the weights of two layers meet "
                "as a true convolution of the kernels, which needs one flip inside conv2d.",
                lambda first, second: _wrong_stack(first, second, flip=True),
            ),
            Mistake(
                "both kernels are turned: the result is the formula's w of the stack, not conv2d's "
                "weight. Flip it back.",
                lambda first, second: _wrong_stack(first, second).flip(-2, -1),
            ),
            Mistake(
                "that keeps the 3×3 middle and drops the rim: offsets add up, so two steps of one "
                "reach two. Pad by 2 first.",
                lambda first, second: _wrong_stack(first, second)[..., 1:-1, 1:-1],
            ),
            Mistake(
                "adding the kernels runs the layers side by side. One after the other is a product "
                "of matrices, and a convolution of kernels.",
                lambda first, second: F.pad(first + second, (1, 1, 1, 1)),
            ),
        ],
    ),
]
