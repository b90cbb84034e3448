"""Measurements that take any callable: a function, a layer, a whole network.

    Equivariance under shifts    translate, equivariance_error, equivariance_map, equivariance_curve
    Receptive field by gradient  receptive_field, mass_radius, reached_share
    Weights that read the input  weight_dependence

`x` is a batch of images (B, D, H, W), or, with `grid=(H, W)`, positions in row-major order
(..., N, D) with N = H·W. The output has the same form on its own, perhaps coarser, grid (h, w),
or no grid at all: (B, K), or (..., K) beside `grid`.

Mode. A module, a bound method of one (`model.forward_features`) or a `functools.partial` of either
is measured in eval mode: no dropout, no update of running statistics; every submodule gets its own
mode back, also after an error. Other callables (a lambda) are called as they are: put the modules
inside them in eval mode yourself. Parameters' `.grad` and the tensor `x` are never written to.

Results are on the CPU in float64. Random directions come from `seed`, not from the global state.
"""

from contextlib import contextmanager
from functools import partial
from math import isqrt
from numbers import Integral

import torch
from torch import nn


def translate(x, shift, *, fill="wrap", grid=None):
    """T: move the content of `x` down by dy and right by dx, (Tx)[r, c] = x[r − dy, c − dx].

    Args:
        x: (B, D, H, W) images, or (..., N, D) with `grid=(H, W)`.
        shift: (dy, dx) integers, either sign, |dy| < H and |dx| < W; an int s means (0, s).
        fill: "wrap": what leaves on one side enters on the other (a torus); "zeros": zeros enter.

    Returns:
        The shape and type of x.

    Raises:
        ValueError: another rank, a shift as large as the image, or an unknown fill.
    """
    dy, dx = as_shift(shift, input_size(x, grid))
    check_fill(fill)
    return from_images(moved_by(to_images(x, grid), dy, dx, fill), grid)


def equivariance_error(function, x, shift, *, fill="wrap", margin=None, stride=None, grid=None):
    """‖f(Tx) − T f(x)‖ / ‖f(x)‖ as a float: 0 where f commutes with the shift T.

    Two unrelated outputs of zero mean and equal norm are √2 apart. Both norms run over batch,
    channels and the compared output positions (the lower one on T f(x), so that a crop changes
    both alike). 0/0 is 0, d/0 is inf. A large constant in f(x) lowers the number: subtract it
    first when that matters.

    Outputs without a grid ((B, K), or h = w = 1) stay where they are: invariance.

    Args:
        function: x → f(x), see above.
        x, shift, fill: as in `translate`; T acts on input and output.
        margin: None compares everywhere (a torus; fill="wrap" only, with "zeros" it means 0). m
            compares only outputs p whose own place and origin p − s both lie at least m outputs
            inside the grid, and which hold no pixel that has entered: "away from the border".
        stride: input positions per output position, int or pair; None: H/h and W/w, if whole.
            A valid convolution (8 → 6) needs stride=1 and a margin, as its output is no torus.
            A shift by s in x is one by s/stride in f(x). Where that is not whole, T f(x) uses the
            nearest whole shift, halves towards zero: the error that is left is aliasing.

    Raises:
        ValueError: bad input, a non-finite output or nothing left to compare; one line.
    """
    return root_mean_square(error_maps(function, x, [shift], fill, margin, stride, grid)[0])


def equivariance_map(function, x, shift, *, fill="wrap", margin=None, stride=None, grid=None):
    """The error of `equivariance_error` by output position p, (h, w): where does it come from?

    e_p = ‖f(Tx)_p − (T f(x))_p‖ / sqrt(mean_q ‖(T f(x))_q‖²), norms over batch and channels, q over
    the compared positions; the root mean square of e over them is `equivariance_error`.
    NaN marks positions that are not compared (none when `margin` is None and fill="wrap").
    Arguments and errors as in `equivariance_error`.
    """
    return error_maps(function, x, [shift], fill, margin, stride, grid)[0]


def equivariance_curve(function, x, shifts, *, fill="wrap", margin=None, stride=None, grid=None):
    """`equivariance_error` for each of `shifts` (ints s = (0, s), or pairs), shape (len(shifts),).

    f(x) is computed once. With a margin, larger shifts leave fewer positions to compare. Other
    arguments and errors as in `equivariance_error`.
    """
    maps = error_maps(function, x, list(shifts), fill, margin, stride, grid)
    return torch.tensor([root_mean_square(m) for m in maps], dtype=torch.float64)


@torch.inference_mode(False)  # a caller's no_grad would leave nothing to differentiate
@torch.enable_grad()
def receptive_field(function, x, position=None, *, directions=16, seed=0, grid=None):
    """|∂y_i/∂x_j| over all input positions j, for one output position i: a picture (H, W).

    Each value is the Frobenius norm of the block ∂y_i/∂x_j (output × input channels), its square
    averaged over the batch: pass a batch of random inputs for the *effective* receptive field
    (Luo et al. 2016). For one channel and one image it is |∂y_i/∂x_j| itself.

    f must not mix images of a batch (or whatever stands before N in (..., N, D)). If f does not
    depend on x, the picture is zeros.

    Args:
        position: (row, column) on the output grid, or its row-major index; None: (h // 2, w // 2).
        directions: backward passes. With no more output channels than that the norm is exact;
            otherwise its square is estimated without bias from this many random ± combinations.

    Raises:
        ValueError: the output depends on x but carries no gradient (no_grad or detach inside).
    """
    size = input_size(x, grid)
    check_directions(directions)
    leaf, y = with_gradient(function, x)
    y = output_images(y, x, size, None, grid)  # (..., D', h, w)
    row, column = as_position(position, y.shape[-2:])
    squares = squared_jacobian(y[..., row, column], leaf, directions, seed)
    squares = to_images(squares, grid).sum(-3)  # (..., H, W)
    return squares.reshape(-1, *size).mean(0).sqrt()


def mass_radius(picture, share=0.95, *, position=None, stride=1):
    """Smallest r for which the square |Δrow|, |Δcolumn| ≤ r holds `share` of the picture's sum.

    A k×k kernel has r ≤ (k − 1)/2. The square is centred on the output position the picture is of
    (same meaning as in `receptive_field`): at (p + ½)·stride − ½ in input coordinates, hence a
    half-integer for an even stride. Distances do not wrap. A picture of zeros has radius 0.
    """
    if picture.dim() != 2 or not torch.isfinite(picture).all() or (picture < 0).any():
        raise ValueError("picture must be (H, W), finite and not negative")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; allowed: 0 < share <= 1")
    steps = as_pair(stride, "stride")
    size = [-(-n // s) for n, s in zip(picture.shape, steps, strict=True)]
    center = [(p + 0.5) * s - 0.5 for p, s in zip(as_position(position, size), steps, strict=True)]
    rows, columns = (
        (torch.arange(n).double() - c).abs() for n, c in zip(picture.shape, center, strict=True)
    )
    distance, order = torch.maximum(rows[:, None], columns).flatten().sort()
    mass = picture.detach().to("cpu", torch.float64).flatten()[order].cumsum(0)
    if mass[-1] == 0:
        return 0.0
    # The tolerance keeps the rounding of the sum from asking for one more ring.
    return distance[(mass < (share - 1e-12) * mass[-1]).sum()].item()


def reached_share(picture, tolerance=1e-6):
    """Share of input positions whose value exceeds `tolerance` times the largest; 1 is global.

    The tolerance keeps rounding errors out (fast float32 convolutions leave some); 0 counts all.
    A picture of zeros reaches nothing: 0.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; allowed: 0 <= tolerance < 1")
    return (picture > tolerance * picture.max()).double().mean().item()


@torch.inference_mode(False)
@torch.enable_grad()
def weight_dependence(weights, x, *, directions=64, seed=0):
    """‖∂W/∂x‖_F of a callable x → W, as a float: 0 if the weights ignore x, as a kernel does.

    x and W have any shape; W is the weight matrix, attention matrix or kernel that f applies to x.
    Exact if W has at most `directions` entries, otherwise its square is estimated without bias.
    Errors as in `receptive_field`.
    """
    check_directions(directions)
    leaf, matrix = with_gradient(weights, x)
    return squared_jacobian(matrix.flatten(), leaf, directions, seed).sum().sqrt().item()


# Shifts


@torch.no_grad()
def error_maps(function, x, shifts, fill, margin, stride, grid):
    """One map (h, w) per shift, as `equivariance_map` defines it."""
    size = input_size(x, grid)
    shifts = [as_shift(s, size) for s in shifts]
    check_fill(fill)
    if margin is not None and (not isinstance(margin, Integral) or margin < 0):
        raise ValueError(f"margin is {margin!r}; allowed: None or an int >= 0")
    margin = 0 if margin is None and fill == "zeros" else margin
    steps = None if stride is None else as_pair(stride, "stride")
    images = to_images(x, grid)
    with evaluating(function):

        def output(images):
            y = call(function, from_images(images, grid))
            return output_images(y, x, size, steps, grid).to("cpu", torch.float64)

        y = output(images)
        steps = strides_of(size, y.shape[-2:], steps, margin)
        moved = (output(moved_by(images, *s, fill)) for s in shifts)
        return [error_map_of(y, m, s, steps, margin) for m, s in zip(moved, shifts, strict=True)]


def error_map_of(y, moved, shift, steps, margin):
    """The map from y = f(x) and moved = f(Tx), both (..., D', h, w)."""
    if moved.shape != y.shape:
        raise ValueError(f"function gave {tuple(y.shape)} for x and {tuple(moved.shape)} for Tx")
    size = y.shape[-2:]
    # A single output has nowhere to move: it is compared with itself.
    axes = [(n, 0 if n == 1 else s, t) for n, s, t in zip(size, shift, steps, strict=True)]
    region = (..., *(slice(n) if margin is None else inside(n, s, t, margin) for n, s, t in axes))
    expected = y.roll([nearest(s, t) for _, s, t in axes], (-2, -1))[region]
    if expected.numel() == 0:
        raise ValueError(
            f"shift {shift} and margin {margin} leave nothing to compare "
            f"of the {size[0]}×{size[1]} output"
        )
    result = torch.full(size, torch.nan, dtype=torch.float64)
    scale = position_norms(expected).square().mean().sqrt()
    difference = position_norms(moved[region] - expected)
    # 0/0 is 0 by definition: an output of zeros that stays zero is equivariant.
    result[region] = torch.where(difference == 0, 0.0, difference / scale)
    return result


def moved_by(images, dy, dx, fill):
    moved = torch.roll(images, (dy, dx), (-2, -1))
    if fill == "zeros":
        for n, s, axis in ((images.shape[-2], dy, -2), (images.shape[-1], dx, -1)):
            moved.narrow(axis, 0 if s > 0 else n + s, abs(s)).zero_()
    return moved


def nearest(shift, step):
    """shift / step as the nearest integer, halves towards zero."""
    whole, rest = divmod(abs(shift), step)
    whole += 2 * rest > step
    return whole if shift > 0 else -whole


def inside(n, shift, step, margin):
    """The outputs along one axis that `margin` leaves and that hold no entered pixel, a slice."""
    entered = -(-abs(shift) // step)
    start, stop = (entered, n) if shift > 0 else (0, n - entered)
    return slice(start + margin, max(start + margin, stop - margin))


def position_norms(images):
    """(..., D, h, w) → (h, w): the norm over everything but the position."""
    return images.reshape(-1, *images.shape[-2:]).square().sum(0).sqrt()


def root_mean_square(error_map):
    return error_map[~error_map.isnan()].square().mean().sqrt().item()


# Gradients


def with_gradient(function, x):
    """(leaf, f(leaf)) with a graph between them, if f depends on x at all."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ValueError("x must be a tensor of floating point numbers")
    with evaluating(function):
        leaf = x.detach().clone().requires_grad_()
        y = call(function, leaf)
        if not is_connected(y, leaf):
            # A seed that no caller draws x from: noise equal to x would only double it.
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(720_720_151))
            if not torch.equal(y, call(function, leaf.detach() + noise.to(x))):
                raise ValueError(
                    "the output depends on x but carries no gradient: "
                    "no_grad, detach or integers inside the function?"
                )
        return leaf, y


def is_connected(y, leaf):
    if not y.requires_grad:
        return False
    return torch.autograd.grad(y.sum(), leaf, retain_graph=True, allow_unused=True)[0] is not None


def squared_jacobian(target, leaf, directions, seed):
    """Σ_k (∂ target[..., k] / ∂ leaf)², in the leaf's shape, exact or by random signs."""
    total = torch.zeros(leaf.shape, dtype=torch.float64)
    if not target.requires_grad:
        return total
    count = target.shape[-1]
    exact = count <= directions
    generator = torch.Generator().manual_seed(seed)
    for k in range(count if exact else directions):
        if exact:
            row = target[..., k]
        else:  # for independent signs v, E (vᵀJ)² = Σ_k J_k²
            row = target * (2 * torch.randint(2, (count,), generator=generator) - 1).to(target)
        (gradient,) = torch.autograd.grad(row.sum(), leaf, retain_graph=True, allow_unused=True)
        if gradient is None:
            return total
        total += gradient.to("cpu", torch.float64).square()
    if not torch.isfinite(total).all():
        raise ValueError("the gradient of the function is not finite")
    return total if exact else total / directions


# Shapes and checks


@contextmanager
def evaluating(function):
    """Eval mode for the module behind `function`, every submodule's own mode back at the end."""
    while isinstance(function, partial):
        function = function.func
    module = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    modes = [(m, m.training) for m in module.modules()] if isinstance(module, nn.Module) else []
    try:
        if any(training for _, training in modes):
            module.eval()
        yield
    finally:
        for m, training in modes:  # parents come first, so each has the last word on itself
            if m.training != training:
                m.train(training)


def call(function, x):
    y = function(x.clone())  # a copy, as functions may work in place
    if not isinstance(y, torch.Tensor):
        raise ValueError(f"function must return a tensor, not {type(y).__name__}")
    if not torch.isfinite(y).all():
        raise ValueError("the output of the function is not finite: nan or inf")
    return y


def input_size(x, grid):
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ValueError("x must be a tensor of floating point numbers")
    if grid is None:
        if x.dim() != 4:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; allowed: (B, D, H, W), "
                "or (..., N, D) with grid=(H, W)"
            )
        return tuple(x.shape[2:])
    size = as_pair(grid, "grid")
    if x.dim() < 2 or x.shape[-2] != size[0] * size[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; grid {size} needs (..., {size[0] * size[1]}, D)"
        )
    return size


def to_images(x, grid):
    return x if grid is None else x.unflatten(-2, as_pair(grid, "grid")).movedim(-1, -3)


def from_images(images, grid):
    return images if grid is None else images.movedim(-3, -1).flatten(-3, -2)


def output_images(y, x, size, steps, grid):
    """The output as (..., D', h, w); without a grid h = w = 1."""
    if y.dim() == (2 if grid is None else x.dim() - 1):
        return y[..., None, None]
    if y.dim() != x.dim():
        allowed = "(B, D, h, w) or (B, K)" if grid is None else "(..., n, D) or (..., K)"
        raise ValueError(f"the output has shape {tuple(y.shape)}; allowed: {allowed}")
    return y if grid is None else to_images(y, output_grid(y.shape[-2], size, steps))


def output_grid(count, size, steps):
    """(h, w) of `count` positions, coarser than `size` by `steps` or by one inferred stride."""
    if count == 1:
        return 1, 1
    if steps is None:
        steps = (isqrt(size[0] * size[1] // max(count, 1)) or 1,) * 2
    h, w = (-(-n // s) for n, s in zip(size, steps, strict=True))
    if h * w != count:
        raise ValueError(
            f"the output has {count} positions, but {size[0]}×{size[1]} at stride "
            f"{steps[0]}×{steps[1]} has {h * w}: drop class tokens, or return images"
        )
    return h, w


def strides_of(size, output, steps, margin):
    """Input positions per output position, along both axes."""
    if steps is None:
        if any(n % m for n, m in zip(size, output, strict=True)):
            raise ValueError(
                f"cannot tell the stride from {size[0]}×{size[1]} to "
                f"{output[0]}×{output[1]}: pass stride="
            )
        return tuple(n // m for n, m in zip(size, output, strict=True))
    if margin is None and any(m * s != n for n, m, s in zip(size, output, steps, strict=True)):
        raise ValueError(
            f"a {output[0]}×{output[1]} output at stride {steps} does not tile the "
            f"{size[0]}×{size[1]} torus: pass margin= to compare inside"
        )
    return steps


def as_pair(value, name):
    """An int or a pair of ints, all positive, as a pair."""
    pair = as_integers(value, lambda v: (v, v))
    if pair is None or min(pair) < 1:
        raise ValueError(f"{name} is {value!r}; allowed: an int or a pair of ints, above 0")
    return pair


def as_integers(value, spread):
    """A pair of ints, from a pair or by `spread` from one; None if `value` is neither."""
    pair = spread(value) if isinstance(value, Integral) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return None
    return tuple(int(v) for v in pair) if all(isinstance(v, Integral) for v in pair) else None


def as_shift(shift, size):
    pair = as_integers(shift, lambda s: (0, s))
    if pair is None:
        raise ValueError(f"shift is {shift!r}; allowed: an int or a pair of ints (down, right)")
    if any(abs(s) >= n for s, n in zip(pair, size, strict=True)):
        raise ValueError(f"shift {pair} is too large for {size[0]}×{size[1]} positions")
    return pair


def as_position(position, size):
    """(row, column) on a grid of `size`, from a pair, a row-major index or None (the centre)."""
    h, w = size
    if position is None:
        return h // 2, w // 2
    pair = as_integers(position, lambda i: divmod(i, w))
    if pair is None or not (0 <= pair[0] < h and 0 <= pair[1] < w):
        raise ValueError(
            f"position is {position!r}; allowed: (row, column) or a row-major index "
            f"on the {h}×{w} output"
        )
    return pair


def check_fill(fill):
    if fill not in ("wrap", "zeros"):
        raise ValueError(f"fill is {fill!r}; allowed: 'wrap' or 'zeros'")


def check_directions(directions):
    if not isinstance(directions, Integral) or directions < 1:
        raise ValueError(f"directions is {directions!r}; allowed: an int >= 1")
