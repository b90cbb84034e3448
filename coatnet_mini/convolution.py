"""Depthwise convolution in four forms: a double loop, unfold, a matrix, and PyTorch's operator.

Equation (1) of arXiv 2106.04803 is y_i = Σ_{j∈L(i)} w_{i−j} ⊙ x_j: every channel has its own kernel
and ⊙ multiplies channel by channel. All four functions take `weight` indexed by j − i, as `conv2d`
does; the equation's w is `weight.flip(-2, -1)`.

Args (of all four):
    x: (B, D, H, W), floating. weight: (D, k_h, k_w) of the same dtype.
    padding: "zero", "circular" or "none", see `weighted_sum.convolution_matrix`.
    stride, dilation: whole numbers, 1 or more, the same on both axes.

Returns:
    (B, D, H', W') of x's dtype, with H' = H and W' = W for stride 1 unless padding is "none".

Raises:
    ValueError, TypeError: the same lines from all four, see `pad`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.weighted_sum import (
    check_floating,
    convolution_matrix,
    margin,
    output_length,
    weighted_sum,
    whole,
)


def depthwise_loop(
    x: Tensor, weight: Tensor, *, padding: str = "zero", stride: int = 1, dilation: int = 1
) -> Tensor:
    """The specification: for every output position, a loop over the taps of the kernel."""
    x = pad(x, weight, padding, stride, dilation)
    height, width = output_size(x, weight, stride, dilation)
    y = x.new_zeros(*x.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            for a in range(weight.shape[-2]):
                for b in range(weight.shape[-1]):
                    x_j = x[:, :, stride * row + dilation * a, stride * column + dilation * b]
                    y[:, :, row, column] += weight[:, a, b] * x_j  # (D,) ⊙ (B, D)
    return y


def depthwise_unfold(
    x: Tensor, weight: Tensor, *, padding: str = "zero", stride: int = 1, dilation: int = 1
) -> Tensor:
    """All neighbourhoods side by side as columns, then one product and sum over the taps."""
    x = pad(x, weight, padding, stride, dilation)
    B, D = x.shape[:2]
    size = output_size(x, weight, stride, dilation)
    columns = F.unfold(x, weight.shape[1:], dilation=dilation, stride=stride)  # (B, D·k·k, N)
    columns = columns.view(B, D, weight[0].numel(), math.prod(size))  # (B, D, k·k, N)
    y = torch.einsum("dk,bdkn->bdn", weight.flatten(1), columns)
    return y.view(B, D, *size)


def depthwise_matrix(
    x: Tensor, weight: Tensor, *, padding: str = "zero", stride: int = 1, dilation: int = 1
) -> Tensor:
    """One doubly block-Toeplitz matrix per channel, applied by `weighted_sum`."""
    padded = pad(x, weight, padding, stride, dilation)
    W = convolution_matrix(
        weight, x.shape[2:], padding=padding, stride=stride, dilation=dilation
    )  # (D, N', N)
    y = weighted_sum(W, x.flatten(2).mT, per_channel=True)  # (B, N', D)
    return y.mT.reshape(*x.shape[:2], *output_size(padded, weight, stride, dilation))


def depthwise_conv2d(
    x: Tensor, weight: Tensor, *, padding: str = "zero", stride: int = 1, dilation: int = 1
) -> Tensor:
    """PyTorch's `conv2d` with one group per channel, and circular padding as a further choice."""
    x = pad(x, weight, padding, stride, dilation)
    return F.conv2d(x, weight[:, None], stride=stride, dilation=dilation, groups=len(weight))


def pad(x: Tensor, weight: Tensor, padding: str, stride: int, dilation: int) -> Tensor:
    """Add the border that `padding` asks for to x (B, D, H, W), after checking all arguments."""
    check_floating(x=x, weight=weight)
    if x.ndim != 4 or weight.ndim != 3 or x.shape[1] != weight.shape[0] or 0 in x.shape[1:]:
        raise ValueError(
            "x must be (B, D, H, W) and weight (D, k_h, k_w) with the same D, 1 or more, "
            f"got shapes {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    whole("stride", stride)
    (H, W), (k_h, k_w) = x.shape[2:], weight.shape[1:]
    rows, columns = margin(H, k_h, padding, dilation), margin(W, k_w, padding, dilation)
    mode = "circular" if padding == "circular" else "constant"
    return F.pad(x, (columns, columns, rows, rows), mode=mode)


def output_size(padded: Tensor, weight: Tensor, stride: int, dilation: int) -> tuple[int, int]:
    """(H', W') of the output, from the padded input."""
    lengths = zip(padded.shape[2:], weight.shape[1:], strict=True)
    height, width = (output_length(n, k, stride, dilation) for n, k in lengths)
    return height, width
