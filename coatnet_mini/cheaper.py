"""Attention for less than N² pairs, or without storing them: in blocks, in windows, linear.

Queries, keys and values are (..., N, d), the N positions of a grid row by row; `scale` is the
factor on q·k, as in `attention.attention_weights`, whose A @ v the first two forms equal.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def streamed_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 64, scale=1.0) -> Tensor:
    """softmax(q·k) v, `block` keys at a time, no N×N matrix kept: what fused attention does.

    Each query keeps its largest score so far, and relative to it the sum of exponentials and the
    sum of values; when a larger score comes, both are scaled down (Dao et al., FlashAttention).

    Returns:
        (..., N, d_v)
    """
    if block < 1:
        raise ValueError(f"block is {block}; it must hold at least one key")
    largest = q.new_full((*q.shape[:-1], 1), -torch.inf)
    total, y = torch.zeros_like(largest), v.new_zeros(*q.shape[:-1], v.shape[-1])
    for keys, values in zip(k.split(block, -2), v.split(block, -2), strict=True):
        scores = scale * q @ keys.mT  # (..., N, block)
        higher = torch.maximum(largest, scores.amax(-1, keepdim=True))
        share, shrink = (scores - higher).exp(), (largest - higher).exp()
        total = shrink * total + share.sum(-1, keepdim=True)
        y, largest = shrink * y + share @ values, higher
    return y / total


def window_of(grid: tuple[int, int], size: int, shift: int = 0) -> Tensor:
    """The number of the window that each position lies in: (H·W,) int64.

    The windows are size×size, cut from the top left corner; `shift` moves all cuts up and left by
    so many positions, which leaves smaller windows along the borders. These are the windows that
    Swin (Liu et al., 2021) attends in after its cyclic shift and its mask.
    """
    if not 0 <= shift < size:
        raise ValueError(f"windows of {size} can be shifted by 0 to {size - 1}, not by {shift}")
    row, column = ((torch.arange(n) + shift) // size for n in grid)
    return (row[:, None] * (column[-1] + 1) + column).flatten()


def window_mask(grid: tuple[int, int], size: int, shift: int = 0) -> Tensor:
    """Windows as a bias: (N, N), 0 within a window and −∞ across its border."""
    window = window_of(grid, size, shift)
    return torch.where(window[:, None] == window, 0.0, -torch.inf)


def window_attention(q: Tensor, k: Tensor, v: Tensor, grid, size: int, scale=1.0) -> Tensor:
    """Attention within size×size windows, N·size² pairs; `size` divides the sides of the grid.

    Returns:
        (..., N, d_v), as with `window_mask` as the bias.
    """
    (H, W), M = grid, size
    if H % M or W % M:
        raise ValueError(f"windows of {M}×{M} do not tile a grid of {H}×{W}")

    def cut(x: Tensor) -> Tensor:  # (..., N, d) → (..., windows, M², d)
        x = x.unflatten(-2, (H // M, M, W // M, M)).transpose(-4, -3)
        return x.flatten(-5, -4).flatten(-3, -2)

    y = (scale * cut(q) @ cut(k).mT).softmax(-1) @ cut(v)
    y = y.unflatten(-2, (M, M)).unflatten(-4, (H // M, W // M)).transpose(-4, -3)
    return y.flatten(-5, -2)


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1, the feature map of Katharopoulos et al. (2020): x + 1 above zero, eˣ below."""
    return F.elu(x) + 1


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, feature: Callable[[Tensor], Tensor] = positive
) -> Tensor:
    """y_i = Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), by way of Σ_j φ(k_j) v_jᵀ: no pairs.

    feature: φ, (..., N, d) → (..., N, r) with no negative entry. Returns (..., N, d_v).
    """
    a, b = feature(q), feature(k)
    return a @ (b.mT @ v) / (a @ b.sum(-2).unsqueeze(-1))
