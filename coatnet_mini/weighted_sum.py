"""The form that convolution and attention share, y_i = Σ_j W_ij x_j, and where its W comes from.

Positions are flat: a grid of H rows and W columns is read row by row, position i = row·W + column.
`weighted_sum` applies a weight matrix, `convolution_matrix` and `attention_matrix` build one, and
`offsets`, `reach`, `is_toeplitz` and `describe` read off what its shape says.
"""

import math
from collections.abc import Callable, Sequence
from operator import index as as_index

import torch
from torch import Tensor

PADDINGS = ("zero", "circular", "none")


def weighted_sum(W: Tensor, x: Tensor, *, per_channel: bool = False) -> Tensor:
    """Weighted sum over positions, y_i = Σ_j W_ij x_j.

    Args:
        W: (..., M, N), one weight for each pair of an output i and an input j; or (..., D, M, N)
            with `per_channel=True`, where channel d has the weights W[d] (W_ij is then a vector
            and the product element-wise, as in equation (1) of arXiv 2106.04803).
        x: (..., N, D), floating, of W's dtype. Leading axes broadcast.

    Returns:
        (..., M, D) of that dtype.
    """
    check_floating(W=W, x=x)
    if x.ndim < 2 or W.ndim < 2 + per_channel:
        need = "(..., D, M, N)" if per_channel else "(..., M, N)"
        raise ValueError(
            f"W must be {need} and x (..., N, D), got shapes {tuple(W.shape)} and {tuple(x.shape)}"
        )
    if W.shape[-1] != x.shape[-2]:
        raise ValueError(f"W weighs {W.shape[-1]} positions, but x has {x.shape[-2]}")
    if per_channel and W.shape[-3] != x.shape[-1]:
        raise ValueError(f"W has matrices for {W.shape[-3]} channels, but x has {x.shape[-1]}")
    check_leading(W.shape[: -3 if per_channel else -2], x.shape[:-2])
    if not per_channel:
        return W @ x
    return torch.einsum("...dij,...jd->...id", W, x)


def convolution_matrix(
    weight: Tensor,
    size: int | Sequence[int],
    *,
    padding: str = "zero",
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """The W of a convolution with `weight`, which is indexed by j − i as in `torch.nn.functional`.

    Args:
        weight: (..., k) for a line of `size` n, or (..., k_h, k_w) for a grid of `size` (H, W).
            Leading axes, such as the channels of a depthwise convolution, are kept.
        padding: "zero" (what lies outside counts as 0), "circular" (the grid is a torus, and a
            kernel may reach round it once), or "none" (only outputs whose whole neighbourhood
            exists). The first two need odd kernels, which have a centre, and keep the size when
            `stride` is 1.

    Returns:
        (..., M, N) of `weight`'s dtype with N = n or H·W, M outputs in the same row-major order.
        With `stride` 1 and zero or circular padding it is Toeplitz (line) or doubly block-Toeplitz
        (grid).
    """
    check_tensor("weight", weight)
    size = as_lengths(size)
    if weight.ndim < len(size):
        raise ValueError(
            "size must be n with a weight (..., k), or (H, W) with a weight (..., k_h, k_w), "
            f"got size {size} and a weight of shape {tuple(weight.shape)}"
        )
    reads = [
        taps_read(n, k, padding, stride, dilation).to(weight)
        for n, k in zip(size, weight.shape[-len(size) :], strict=True)
    ]
    if len(size) == 1:
        return torch.einsum("...a,aij->...ij", weight, reads[0])
    W = torch.einsum("...ab,aij,bkl->...ikjl", weight, *reads)  # (..., H', W', H, W)
    return W.flatten(-4, -3).flatten(-2)


def attention_matrix(x: Tensor) -> Tensor:
    """The W of bare self-attention, W_ij = softmax_j(x_i · x_j): equation (2) of arXiv 2106.04803.

    x: (..., N, D), floating. Returns (..., N, N) of that dtype. No weight is negative (one whose
    score lies far below the largest of its row rounds to 0), and every row sums to one.
    """
    check_floating(x=x)
    if x.ndim < 2:
        raise ValueError(f"x must be (..., N, D), got shape {tuple(x.shape)}")
    return torch.softmax(x @ x.mT, dim=-1)


def offsets(size: int | Sequence[int]) -> Tensor:
    """The offset i − j of every pair of positions, axis by axis: (N, N, axes), integers.

    Args:
        size: n for a line, (H, W) for a grid; N = n or H·W.
    """
    size = as_lengths(size)
    places = torch.cartesian_prod(*(torch.arange(n) for n in size)).view(math.prod(size), -1)
    return places[:, None] - places[None, :]


def reach(W: Tensor, size: int | Sequence[int] | None = None) -> int:
    """How far, in rows or columns, the farthest input with a nonzero weight lies from its output.

    A circular W reaches across the whole grid, since distances are not taken round the torus.

    Args:
        W: (N, N). size: (H, W) when the positions form a grid (default: a line of N).
    """
    size = square_size(W, size)
    distance = offsets(size).abs().amax(-1).to(W.device)
    return int(distance[W != 0].max()) if bool((W != 0).any()) else 0


def is_toeplitz(
    W: Tensor, size: int | Sequence[int] | None = None, tolerance: float = 1e-6
) -> bool:
    """Whether W_ij depends on the offset i − j alone: the same rule at every position.

    Args:
        W: (N, N).
        size: (H, W) when the positions form a grid (default: a line of N); then offsets have two
            components and the question is whether W is doubly block-Toeplitz.
        tolerance: equal means within this part of the largest |W_ij|.
    """
    size = square_size(W, size)
    W = W.double()
    lengths = torch.tensor([2 * n - 1 for n in size])
    shifted = offsets(size) + torch.tensor(size) - 1  # 0 ... 2n − 2 on each axis
    index = shifted[..., 0] if len(size) == 1 else shifted[..., 0] * lengths[1] + shifted[..., 1]
    cells = W.new_zeros(int(lengths.prod()))
    index, flat = index.flatten().to(W.device), W.flatten()
    highest = cells.scatter_reduce(0, index, flat, "amax", include_self=False)
    lowest = cells.scatter_reduce(0, index, flat, "amin", include_self=False)
    return bool((highest - lowest).max() <= tolerance * W.abs().max())


def describe(
    operator: Callable[[Tensor], Tensor],
    x: Tensor,
    other: Tensor,
    size: int | Sequence[int] | None = None,
) -> dict[str, object]:
    """What the weights of `operator`, a function from inputs (N, D) to W (N, N), look like.

    Args:
        x, other: two different inputs (N, D). size: (H, W) when the positions form a grid.

    Returns:
        "reach" (int, see `reach`), "same rule" (bool, see `is_toeplitz`), "row sums" (lowest,
        highest), "negative weights" (bool) and "depends on x" (bool: whether W differs, by more
        than rounding, between these two inputs).
    """
    check_floating(x=x, other=other)
    if x.shape != other.shape or torch.equal(x, other):
        raise ValueError("x and other must be two different inputs of the same shape")
    W, W_other = operator(x), operator(other)
    sums = W.sum(1)
    return {
        "reach": reach(W, size),
        "same rule": is_toeplitz(W, size),
        "row sums": (float(sums.min()), float(sums.max())),
        "negative weights": bool((W < 0).any()),
        "depends on x": not torch.allclose(W, W_other),
    }


def margin(n: int, k: int, padding: str, dilation: int) -> int:
    """How many positions to add on each side of an axis of length n for a kernel of k taps."""
    if padding not in PADDINGS:
        raise ValueError(f'padding must be "zero", "circular" or "none", got {padding!r}')
    k, dilation = whole("kernel size", k), whole("dilation", dilation)
    span = dilation * (k - 1) + 1
    if padding == "none":
        if span > n:
            raise ValueError(f'a kernel spanning {span} does not fit an axis of {n} with "none"')
        return 0
    if k % 2 == 0:
        raise ValueError(f'{padding} padding needs an odd kernel size, got {k}: use "none" for it')
    if padding == "circular" and span // 2 > n:
        raise ValueError(f"circular padding of {span // 2} wraps more than once round {n}")
    return span // 2


def output_length(padded: int, k: int, stride: int, dilation: int) -> int:
    """How many outputs a kernel of k taps has on an axis of `padded` positions, border included."""
    return (padded - dilation * (k - 1) - 1) // whole("stride", stride) + 1


def whole(name: str, value: object) -> int:
    """`value` as an int, 1 or more; ValueError that names it for anything else."""
    try:
        number = as_index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
    return number


def check_floating(**tensors: Tensor) -> None:
    """Raise an error that names the tensors unless all are floating and of one dtype."""
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    kinds = [tensor.dtype for tensor in tensors.values()]
    if len(set(kinds)) > 1 or not kinds[0].is_floating_point:
        names, got = " and ".join(tensors), " and ".join(map(str, kinds))
        alike = " and of one dtype" if len(kinds) > 1 else ""
        raise ValueError(f"{names} must be floating{alike}, got {got}")


def check_tensor(name: str, tensor: object) -> None:
    """Raise unless `tensor` is a dense tensor of real numbers."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_complex():
        raise ValueError(f"{name} must be dense and real, got {tensor.layout} {tensor.dtype}")


def check_leading(left: Sequence[int], right: Sequence[int]) -> None:
    try:
        torch.broadcast_shapes(left, right)
    except RuntimeError:
        raise ValueError(
            f"the leading axes {tuple(left)} of W and {tuple(right)} of x do not broadcast"
        ) from None


def taps_read(n: int, k: int, padding: str, stride: int, dilation: int) -> Tensor:
    """(k, M, n) of 0 and 1: whether tap a of output i reads input j."""
    before = margin(n, k, padding, dilation)
    count = output_length(n + 2 * before, k, stride, dilation)
    read = stride * torch.arange(count) + dilation * torch.arange(k)[:, None] - before  # (k, M)
    if padding == "circular":
        read = read % n
    return read[..., None] == torch.arange(n)  # outside the grid: equal to no j, so a row of zeros


def as_lengths(size: int | Sequence[int]) -> tuple[int, ...]:
    """`size` as (n,) or (H, W)."""
    lengths = tuple(size) if isinstance(size, Sequence) else (size,)
    if len(lengths) not in (1, 2):
        raise ValueError(f"size must be n or (H, W), got {size!r}")
    return tuple(whole("size", n) for n in lengths)


def square_size(W: Tensor, size: int | Sequence[int] | None) -> tuple[int, ...]:
    """`size`, by default a line, as a tuple that fits the square matrix W."""
    check_tensor("W", W)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not W.numel():
        raise ValueError(f"W must be (N, N) with N of 1 or more, got shape {tuple(W.shape)}")
    lengths = as_lengths(len(W) if size is None else size)
    if math.prod(lengths) != len(W):
        n = math.prod(lengths)
        raise ValueError(f"W must be ({n}, {n}) for size {lengths}, got shape {tuple(W.shape)}")
    return lengths
