"""One job for every operator: a noisy picture, and weights that mend it.

Each function below builds a weight matrix W (N, N) over the N = H·W pixels of a picture, row i
for the pixel computed; `mend` applies it, y_i = Σ_j W_ij x_j. A blur trusts what is near, attention
over patches what looks alike: Buades, Coll and Morel, "A non-local algorithm for image denoising"
(CVPR 2005), and it is attention, queries and keys being patches and values being pixels. With a
bias by distance before the softmax it trusts both.

Pictures are (H, W) float32 with 0 black and 1 white; a noisy one leaves that range a little.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.attention import attention_weights, bias_matrix
from coatnet_mini.images import photograph
from coatnet_mini.weighted_sum import weighted_sum

TOP, LEFT, SIDE, SHRINK = 60, 280, 32, 3  # of the roof in the photograph, in pixels


def noisy_roof(seed: int = 0, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """The roof of the temple, 32×32, and the same with normal noise of deviation `noise`.

    The photograph's grey (the mean of its colours), each pixel the mean of 3×3.

    Returns:
        (clean, noisy), each (32, 32) float32. The noise is not clipped.
    """
    if noise < 0:
        raise ValueError(f"noise is {noise}; it must be 0 or more")
    grey = photograph("china").mean(0)
    rows, columns = (slice(start, start + SIDE * SHRINK) for start in (TOP, LEFT))
    clean = F.avg_pool2d(grey[None, rows, columns], SHRINK)[0]
    generator = torch.Generator().manual_seed(seed)
    return clean, clean + noise * torch.randn(clean.shape, generator=generator)


def psnr(x: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, −10·log₁₀ of the mean squared error; white is 1."""
    if x.shape != clean.shape:
        shapes = f"{tuple(x.shape)} and {tuple(clean.shape)}"
        raise ValueError(f"psnr compares two pictures of one shape, got {shapes}")
    return float(-10 * torch.log10((x - clean).square().mean()))


def mend(W: Tensor, x: Tensor) -> Tensor:
    """y_i = Σ_j W_ij x_j over all pixels: W (N, N), x (H, W) with N = H·W → (H, W)."""
    return weighted_sum(W, x.reshape(-1, 1)).view(x.shape)


def patches(x: Tensor, size: int = 5) -> Tensor:
    """What surrounds each pixel, as its features: (H, W) → (H·W, size²).

    Beyond the border the picture's edge pixels go on. size: odd.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}; a patch around a pixel has an odd size, 1 or more")
    padded = F.pad(x[None, None], [size // 2] * 4, mode="replicate")
    return F.unfold(padded, size)[0].mT


def box_blur(grid: tuple[int, int], size: int = 3) -> Tensor:
    """W of the mean over size×size pixels; at the border, over those of them that exist.

    grid: (H, W). size: odd. Returns (N, N) float32, rows that sum to 1.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}; a box around a pixel has an odd size, 1 or more")
    rows, columns = grid_offsets(grid)
    inside = torch.maximum(rows.abs(), columns.abs()) <= size // 2  # (2H−1, 2W−1)
    W = bias_matrix(inside.float(), *grid)
    return W / W.sum(-1, keepdim=True)


def gaussian_blur(grid: tuple[int, int], width: float) -> Tensor:
    """W of a Gaussian of deviation `width` in pixels: the softmax of `distance_bias` alone."""
    return distance_bias(grid, width).softmax(-1)


def distance_bias(grid: tuple[int, int], width: float) -> Tensor:
    """B_ij = −‖i − j‖² / (2·width²), a bias by offset spread over all pairs: (N, N) float32.

    grid: (H, W). width: in pixels, above 0; infinity makes every place as good as any other.
    """
    if not width > 0:
        raise ValueError(f"width is {width}; it must be above 0")
    rows, columns = grid_offsets(grid)
    return bias_matrix(-(rows.square() + columns.square()) / (2 * width**2), *grid)


def likeness(
    features: Tensor, temperature: float, bias: Tensor | None = None, form: str = "pre"
) -> Tensor:
    """W of attention among `features`, W_ij = softmax_j(−‖f_i − f_j‖² / temperature).

    As ‖f_i − f_j‖² = ‖f_i‖² − 2 f_i·f_j + ‖f_j‖² and a softmax ignores ‖f_i‖², which its whole row
    shares, the scores are products of queries (f_i, 1) and keys (2 f_j, −‖f_j‖²).

    features: (N, d), such as `patches`. temperature: above 0. bias: (N, N), used as `form` says
    ("pre" or "post" of the softmax, or "none"), see `attention.attention_weights`.
    Returns (N, N).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    queries = F.pad(features, (0, 1), value=1.0)
    keys = torch.cat([2 * features, -features.square().sum(-1, keepdim=True)], dim=-1)
    return attention_weights(queries, keys, bias, form, scale=1 / temperature)


def random_order(n: int, seed: int = 0) -> Tensor:
    """A permutation of n pixels, (n,) int64, for `shuffle` and `unshuffle`."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def shuffle(x: Tensor, order: Tensor) -> Tensor:
    """x (H, W) with its pixels in another order: place i then holds pixel order[i]."""
    return x.flatten()[order].view(x.shape)


def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """Every pixel back in its place: the inverse of `shuffle`."""
    return x.flatten()[order.argsort()].view(x.shape)


def grid_offsets(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column offset of each cell of a bias table of (2H−1)×(2W−1) offsets."""
    rows, columns = (torch.arange(1.0 - n, n) for n in grid)
    return torch.meshgrid(rows, columns, indexing="ij")
