"""The blocks: squeeze-and-excitation, MBConv, the Transformer block, stochastic depth.

Every block maps (B, D, H, W) to (B, D_out, H/stride, W/stride) and is pre-activation,
x ← x + Module(Norm(x)) (CoAtNet paper, Appendix A.1). All shapes read (B, D, H, W), all memory is
meant to be channels-last, so that a grid seen as tokens (B, H·W, D) is a view and not a copy.

What the paper leaves open follows the lineage: MaxViT's published code, which grew out of
CoAtNet's own.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.checks import check_fraction, one_of

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
DOWNSAMPLES = ("expand", "depthwise")
INITS = ("fan", "normal")


def as_tokens(x: Tensor) -> Tensor:
    """(B, D, H, W) → (B, H·W, D), in raster order; a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_grid(tokens: Tensor, H: int, W: int) -> Tensor:
    """(B, H·W, D) → (B, D, H, W), the inverse of `as_tokens`; always a view."""
    return tokens.unflatten(1, (H, W)).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation of each position's channels: (B, D, H, W) → the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# The paper names BatchNorm for MBConv and LayerNorm for the Transformer; the eps are the lineage's.
BATCH_NORM = partial(nn.BatchNorm2d, eps=1e-3)
LAYER_NORM = partial(LayerNorm2d, eps=1e-5)


def make_pool(kind: str, stride: int) -> nn.Module:
    """Pooling over stride×stride windows without overlap; nothing at stride 1."""
    pool = POOLS[one_of("pool", kind, POOLS)]
    return pool(stride) if stride > 1 else nn.Identity()


def make_shortcut(dim: int, out_dim: int, stride: int, pool: str) -> nn.Sequential:
    """Proj(Pool(x)) of equations (4) and (5); each part only where it changes something.

    That the projection is left out where the widths agree is the lineage's.
    """
    project = [nn.Conv2d(dim, out_dim, 1)] if dim != out_dim else []
    return nn.Sequential(make_pool(pool, stride), *project)


def check_grid(x: Tensor, stride: int) -> None:
    """Refuse grids whose two branches would come out in different sizes."""
    if x.shape[2] % stride or x.shape[3] % stride:
        H, W = x.shape[2:]
        raise ValueError(
            f"a {H}×{W} grid does not fit stride {stride}: both sides must be multiples of {stride}"
        )


class StochasticDepth(nn.Module):
    """Drop the residual of a whole sample with probability `rate`; identity in evaluation.

    One draw per sample and call; what remains is divided by 1 − rate, which keeps the expectation.
    """

    def __init__(self, rate: float):
        super().__init__()
        check_fraction("drop_path", rate, one=False)
        self.rate = rate

    def forward(self, residual: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return residual
        keep = 1 - self.rate
        shape = (len(residual),) + (1,) * (residual.ndim - 1)
        return residual * residual.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate in (0, 1) that reads the mean of all: (B, D, H, W) → the same.

    Args:
        width: D, channels of x.
        squeezed: channels between the two layers; SiLU after the first is the lineage's, the
            paper names none.
    """

    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Linear(width, squeezed)
        self.expand = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)[:, :, None, None]

    def gates(self, x: Tensor) -> Tensor:
        """x (B, D, H, W) → (B, D), between 0 and 1."""
        squeezed = F.silu(self.reduce(x.mean((2, 3))))  # (B, squeezed)
        return self.expand(squeezed).sigmoid()  # (B, D)


class MLP(nn.Module):
    """Linear, GELU, Linear: (..., D) → (..., D)."""

    def __init__(self, width: int, expansion: int = 4):
        super().__init__()
        self.expand = nn.Linear(width, expansion * width)
        self.act = nn.GELU()
        self.project = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.act(self.expand(x)))


class MBConv(nn.Module):
    """The inverted bottleneck: x ← Proj(Pool(x)) + Conv(DepthConv(Conv(Norm(x), stride))).

    Equation (5) of the paper. Norm and GELU after the first two convolutions, none after the
    third, are the lineage's; so is the squeeze-and-excitation before the third, of which the
    paper gives the ratio alone. That every MBConv has one is what its parameter counts say.

    Args:
        dim, out_dim: channels in and out, D and D_out.
        stride: of the whole block.
        expansion: E, inner width over `out_dim`. The paper has 4 and does not say of what; its
            operation counts rule out `dim`.
        se_ratio: squeezed width over `out_dim`; 0 leaves squeeze-and-excitation out.
        downsample: which convolution strides. "expand", equation (5), reads a quarter of the
            positions at stride 2; "depthwise" (the paper's "Strided DConv", Table 9) reads all.
        pool: "max" or "avg" (lineage), on the shortcut. The paper names max for the Transformer
            block alone.
        norm: width → a normalisation of (B, width, H, W).
        drop_path: probability of dropping a sample's residual.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        stride: int = 1,
        expansion: int = 4,
        se_ratio: float = 0.25,
        downsample: str = "expand",
        pool: str = "max",
        norm: Callable[[int], nn.Module] = BATCH_NORM,
        drop_path: float = 0.0,
    ):
        super().__init__()
        at_expand = one_of("downsample", downsample, DOWNSAMPLES) == "expand"
        strides = (stride, 1) if at_expand else (1, stride)
        hidden = expansion * out_dim
        self.stride = stride
        self.shortcut = make_shortcut(dim, out_dim, stride, pool)
        self.norm = norm(dim)
        self.expand = nn.Conv2d(dim, hidden, 1, strides[0], bias=False)
        self.expand_norm = norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, strides[1], 1, groups=hidden, bias=False)
        self.depthwise_norm = norm(hidden)
        squeezed = max(1, int(se_ratio * out_dim))
        self.se = SqueezeExcitation(hidden, squeezed) if se_ratio else nn.Identity()
        self.project = nn.Conv2d(hidden, out_dim, 1)
        self.act = nn.GELU()
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.stride)
        y = self.expand(self.norm(x))  # (B, E·D_out, H/stride, W/stride); "depthwise": still H, W
        y = self.act(self.expand_norm(y))
        y = self.depthwise(y)  # (B, E·D_out, H/stride, W/stride)
        y = self.act(self.depthwise_norm(y))
        y = self.project(self.se(y))  # (B, D_out, H/stride, W/stride)
        return self.shortcut(x) + self.drop_path(y)


class TransformerBlock(nn.Module):
    """x ← Proj(Pool(x)) + Attention(Pool(Norm(x))), equation (4), then x ← x + FFN(Norm(x)).

    Args:
        dim, out_dim: channels in and out, D and D_out; attention and FFN are as wide as `out_dim`.
        grid: (H, W) of the output, for the bias table.
        stride: of the pooling; 1 for none.
        head_dim, relative_bias: see `MultiHeadAttention`.
        expansion: hidden width of the FFN over `out_dim`.
        pool: "max" (paper) or "avg" (lineage).
        norm: width → a normalisation of (B, width, H, W).
        drop_path: probability of dropping a sample's residual; both are dropped separately.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        grid: tuple[int, int],
        stride: int = 1,
        head_dim: int = 32,
        expansion: int = 4,
        relative_bias: str = "pre",
        pool: str = "max",
        norm: Callable[[int], nn.Module] = LAYER_NORM,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.stride = stride
        self.shortcut = make_shortcut(dim, out_dim, stride, pool)
        self.norm = norm(dim)
        self.pool = make_pool(pool, stride)
        self.attention = MultiHeadAttention(dim, out_dim, head_dim, grid, relative_bias)
        self.mlp_norm = norm(out_dim)
        self.mlp = MLP(out_dim, expansion)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.stride)
        y = self.pool(self.norm(x))  # (B, D, H/stride, W/stride)
        grid = y.shape[2:]
        y = self.attention(as_tokens(y), grid)  # (B, N, D_out), N = H/stride·W/stride
        x = self.shortcut(x) + self.drop_path(as_grid(y, *grid))  # (B, D_out, H/stride, W/stride)
        y = self.mlp(as_tokens(self.mlp_norm(x)))  # (B, N, D_out)
        return x + self.drop_path(as_grid(y, *grid))


class ConvStem(nn.Sequential):
    """S0: a 3×3 convolution of stride `stride`, then depth − 1 of stride 1.

    (B, C, H, W) → (B, width, H/stride, W/stride). Norm and GELU stand between the convolutions
    and not after the last, as in the lineage, whose convolutions also have biases; the paper
    names the convolutions alone.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 2,
        depth: int = 2,
        norm: Callable[[int], nn.Module] = BATCH_NORM,
    ):
        layers = [nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)]
        for _ in range(depth - 1):
            layers += [norm(width), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1, bias=False)]
        super().__init__(*layers)


def init_weights(module: nn.Module, scheme: str = "fan") -> None:
    """New weights for one layer; the paper does not say how. Biases 0, bias tables N(0, 0.02²).

    Args:
        scheme: "fan" scales kernels by their fan, convolutions as EfficientNet does and matrices
            as Xavier, and learns sooner in short runs; "normal", the lineage's, draws all from
            N(0, 0.02²).
    """
    one_of("init", scheme, INITS)
    if isinstance(module, nn.Conv2d | nn.Linear):
        if scheme == "normal":
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        else:
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, MultiHeadAttention) and module.relative_bias_table is not None:
        nn.init.normal_(module.relative_bias_table, std=0.02)
