"""The blocks: squeeze-and-excitation, MBConv, the Transformer block, stochastic depth.

Every block maps (B, D, H, W) to (B, D_out, H/stride, W/stride) and is pre-activation,
x ← x + Module(Norm(x)) (CoAtNet paper, Appendix A.1). All shapes read (B, D, H, W), all memory is
meant to be channels-last, so that a grid seen as tokens (B, H·W, D) is a view and not a copy.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.cpu.lean import gated_projection, norm_gelu

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
DOWNSAMPLES = ("expand", "depthwise")
NORMS = ("batch", "layer")
INITS = ("fan", "normal")


def one_of(option: str, value: str, allowed) -> str:
    """value, if it is allowed; else a ValueError that says what is."""
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}; choose from {', '.join(allowed)}")
    return value


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


def make_norm(kind: str, width: int, eps: float | None = None) -> nn.Module:
    """A "batch" or "layer" normalisation of (B, width, H, W).

    The paper states no eps; the defaults are the lineage code's, 1e-3 and 1e-5.
    """
    if one_of("norm", kind, NORMS) == "batch":
        return nn.BatchNorm2d(width, eps=1e-3 if eps is None else eps)
    return LayerNorm2d(width, eps=1e-5 if eps is None else eps)


def make_pool(kind: str, stride: int) -> nn.Module:
    """Pooling over stride×stride windows without overlap; nothing at stride 1."""
    pool = POOLS[one_of("pool", kind, POOLS)]
    return pool(stride) if stride > 1 else nn.Identity()


def make_shortcut(dim: int, out_dim: int, stride: int, pool: str) -> nn.Sequential:
    """Proj(Pool(x)) of equations (4) and (5); each part only where it changes something.

    The projection is left out where the widths agree, as in the lineage code.
    """
    project = [nn.Conv2d(dim, out_dim, 1)] if dim != out_dim else []
    return nn.Sequential(make_pool(pool, stride), *project)


def check_grid(x: Tensor, stride: int) -> None:
    """Refuse grids whose two branches would come out in different sizes."""
    if x.shape[2] % stride or x.shape[3] % stride:
        raise ValueError(f"a {x.shape[2]}×{x.shape[3]} grid does not fit stride {stride}: "
                         f"both sides must be multiples of {stride}")  # fmt: skip


class StochasticDepth(nn.Module):
    """Drop the residual of a whole sample with probability `rate`; identity in evaluation.

    One draw per sample and call; what remains is divided by 1 − rate, which keeps the expectation.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate}; it must be at least 0 and below 1")
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

    The paper does not name the inner activation; the lineage code has SiLU.
    """

    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Linear(width, squeezed)
        self.expand = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)[:, :, None, None]

    def gates(self, x: Tensor) -> Tensor:
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
    """The inverted bottleneck: Proj(Pool(x)) + Conv(SE(DepthConv(Conv(Norm(x))))), equation (5).

    Args:
        dim, out_dim: channels in and out.
        stride: of the whole block.
        expansion: inner width over `out_dim`; the paper's operation counts rule out `dim`.
        se_ratio: squeezed width over `out_dim`; 0 leaves squeeze-and-excitation out.
        downsample: which convolution strides. "expand", the paper's default, reads a quarter of
            the positions at stride 2; "depthwise" (its "Strided DConv", Table 9) reads all.
        pool: "max" (the paper) or "avg" (the lineage code), on the shortcut.
        norm: "batch" or "layer". eps: see `make_norm`.
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
        norm: str = "batch",
        eps: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        at_expand = one_of("downsample", downsample, DOWNSAMPLES) == "expand"
        strides = (stride, 1) if at_expand else (1, stride)
        hidden = expansion * out_dim
        self.stride = stride
        self.shortcut = make_shortcut(dim, out_dim, stride, pool)
        self.norm = make_norm(norm, dim, eps)
        self.expand = nn.Conv2d(dim, hidden, 1, strides[0], bias=False)
        self.expand_norm = make_norm(norm, hidden, eps)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, strides[1], 1, groups=hidden, bias=False)
        self.depthwise_norm = make_norm(norm, hidden, eps)
        squeezed = max(1, int(se_ratio * out_dim))
        self.se = SqueezeExcitation(hidden, squeezed) if se_ratio else nn.Identity()
        self.project = nn.Conv2d(hidden, out_dim, 1)
        self.act = nn.GELU()
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.stride)
        return self.shortcut(x) + self.drop_path(self.residual(x))

    def residual(self, x: Tensor) -> Tensor:
        x = self.expand(self.norm(x))  # (B, expansion·D_out, H, W)
        x = self.depthwise(norm_gelu(self.expand_norm, self.act, x))
        x = norm_gelu(self.depthwise_norm, self.act, x)  # (B, expansion·D_out, H/stride, W/stride)
        return gated_projection(self.se, self.project, x)  # (B, D_out, H/stride, W/stride)


class TransformerBlock(nn.Module):
    """Proj(Pool(x)) + Attention(Pool(Norm(x))), equation (4), then x + FFN(Norm(x)).

    Args:
        dim, out_dim: channels in and out; the attention and the FFN are as wide as `out_dim`.
        grid: (H, W) of the output, for the bias table.
        stride, pool, norm, eps, drop_path: as in `MBConv`; both residuals are dropped separately.
        head_dim, relative_bias: see `MultiHeadAttention`. expansion: hidden width over `out_dim`.
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
        norm: str = "layer",
        eps: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.stride = stride
        self.shortcut = make_shortcut(dim, out_dim, stride, pool)
        self.norm = make_norm(norm, dim, eps)
        self.pool = make_pool(pool, stride)
        self.attention = MultiHeadAttention(dim, out_dim, head_dim, grid, relative_bias)
        self.mlp_norm = make_norm(norm, out_dim, eps)
        self.mlp = MLP(out_dim, expansion)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.stride)
        x = self.shortcut(x) + self.drop_path(self.attend(x))  # (B, D_out, H/stride, W/stride)
        y = self.mlp(as_tokens(self.mlp_norm(x)))  # (B, N, D_out)
        return x + self.drop_path(as_grid(y, *x.shape[2:]))

    def attend(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(x))  # (B, D, H/stride, W/stride)
        H, W = x.shape[2:]
        return as_grid(self.attention(as_tokens(x), (H, W)), H, W)


class ConvStem(nn.Sequential):
    """S0: a 3×3 convolution of stride `stride`, then depth − 1 of stride 1: (B, C, H, W) in.

    Norm and GELU stand between the convolutions and not after the last, whose output the next
    block normalises first; the paper leaves both open, and so does the lineage code.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 2, depth: int = 2,
                 norm: str = "batch", eps: float | None = None):  # fmt: skip
        layers = [nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)]
        for _ in range(depth - 1):
            layers += [make_norm(norm, width, eps), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False)]
        super().__init__(*layers)


def init_weights(module: nn.Module, scheme: str = "fan") -> None:
    """New weights for one layer; the paper does not say how. Biases 0, bias tables N(0, 0.02²).

    "fan" scales kernels by their fan, convolutions as EfficientNet does and matrices as Xavier;
    "normal", the lineage code's, draws all from N(0, 0.02²). "fan" learns sooner in short runs.
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
