"""CeiT: a ViT with three convolutional or layer-wise changes (Yuan et al. 2021).

I2T, Image-to-Tokens, cuts patches from a convolution's features and not from pixels. LeFF, the
Locally-enhanced Feed-Forward, mixes neighbouring patches between the two layers of the MLP. LCA,
Layer-wise Class-token Attention, reads the class tokens of all blocks. Each can be switched off;
with all three off the network is a ViT, weight for weight.

Gradients: after the last block only its class token is read, and LeFF passes class tokens by, so
the last LeFF computes what nobody reads and its weights receive a gradient of zero. That is the
published design (4.8 % of the parameters of CeiT-T); `last_leff=False` leaves it out and gives the
same logits.
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import MLP, as_grid, as_tokens
from coatnet_mini.checks import check_flags, check_positive, is_whole, short
from coatnet_mini.vit import (
    EncoderBlock,
    TokenClassifier,
    TokenEmbedding,
    ViTConfig,
    initialise,
    make_block,
    make_head,
    make_patches,
)

__all__ = [
    "ABLATIONS",
    "FAMILY",
    "CeiT",
    "CeiTConfig",
    "ImageToTokens",
    "LastQueryAttention",
    "LayerwiseClassAttention",
    "LeFF",
    "LeFFBlock",
]

MOST_CONVS, MOST_KERNEL = 10, 1000  # of I2T, pixels


@dataclass(frozen=True)
class CeiTConfig(ViTConfig):
    """Every choice that defines a CeiT; the defaults are those of the official code.

    Args:
        width to init: as in `ViTConfig`; `patch_size` is the side in pixels of what one token
            stands for, I2T's strides included.
        i2t_channels: of I2T's features. The paper's table prints 32, but only 64, as in the
            official code, gives the published 6.4M and 24.2M parameters.
        i2t_convs: (kernel, stride) of each convolution, without activation, as in the paper; ()
            leaves I2T out and cuts the patches from the pixels.
        i2t_pool: (kernel, stride) of the max pooling after them, or None.
        i2t_batch_norm: BatchNorm after each of the convolutions.
        leff_kernel: side of LeFF's depthwise kernel; 0 for the MLP of ViT.
        leff_batch_norm: BatchNorm after each of LeFF's three layers.
        lca: whether the head reads all class tokens through LCA, or the last one.
        last_leff: whether the last block has its LeFF, on which no logit depends.
    """

    i2t_channels: int = 64
    i2t_convs: tuple[tuple[int, int], ...] = ((7, 2),)
    i2t_pool: tuple[int, int] | None = (3, 2)
    i2t_batch_norm: bool = True
    leff_kernel: int = 3
    leff_batch_norm: bool = True
    lca: bool = True
    last_leff: bool = True

    def __post_init__(self):
        if not isinstance(self.i2t_convs, tuple | list) or len(self.i2t_convs) > MOST_CONVS:
            raise ValueError(
                f"i2t_convs is {short(self.i2t_convs)}; it must be a sequence of "
                f"(kernel, stride), at most {MOST_CONVS}"
            )
        # Lists are what a configuration read from JSON holds.
        convs = tuple(as_window("i2t_convs", window) for window in self.i2t_convs)
        object.__setattr__(self, "i2t_convs", convs)
        if self.i2t_pool is not None:
            object.__setattr__(self, "i2t_pool", as_window("i2t_pool", self.i2t_pool))
        check_positive("", self, "i2t_channels", "patch_size")
        check_flags(self, "i2t_batch_norm", "leff_batch_norm", "lca", "last_leff")
        self.check_leff()
        if self.patch_size % self.i2t_stride:
            raise ValueError(
                f"patch_size {self.patch_size} is not a multiple of the stride "
                f"{self.i2t_stride} of i2t_convs and i2t_pool"
            )
        super().__post_init__()

    def check_leff(self) -> None:
        kernel = self.leff_kernel
        if not is_whole(kernel) or not 0 <= kernel < MOST_KERNEL or (kernel and kernel % 2 == 0):
            raise ValueError(
                f"leff_kernel is {short(kernel)}; it must be odd, or 0 for ViT's MLP, "
                f"and below {MOST_KERNEL}"
            )
        if not self.last_leff and not self.leff_kernel:
            raise ValueError("last_leff is False, but with leff_kernel 0 there is no LeFF to drop")

    @property
    def i2t_stride(self) -> int:
        """Pixels per feature from which I2T cuts its patches; 1 without convolutions."""
        if not self.i2t_convs:
            return 1
        pool = 1 if self.i2t_pool is None else self.i2t_pool[1]
        return pool * prod(stride for _, stride in self.i2t_convs)

    def sizes(self) -> dict[str, int]:
        """What the network would hold, without biases and norms; see `CoAtNetConfig.sizes`."""
        sizes, D, N = super().sizes(), self.width, prod(self.grid)
        hidden, channels, (H, W) = self.expansion * D, self.in_channels, self.image_size
        for kernel, stride in self.i2t_convs:
            sizes["parameters"] += channels * self.i2t_channels * kernel**2
            channels, H, W = self.i2t_channels, H // stride, W // stride
            sizes["activations"] += 3 * channels * H * W
        patch = self.patch_size // self.i2t_stride
        sizes["parameters"] += (channels * patch**2 - self.in_channels * self.patch_size**2) * D
        sizes["parameters"] += self.depth * hidden * self.leff_kernel**2
        if self.leff_kernel:
            sizes["activations"] += self.depth * N * (4 * hidden + D)
        if self.lca:
            sizes["parameters"] += (4 * D + 2 * hidden) * D
        return sizes


def as_window(name: str, value) -> tuple[int, int]:
    """(kernel, stride) of a window that keeps its place: the kernel is odd."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value,)
    good = len(sides) == 2 and all(is_whole(side) and 0 < side < MOST_KERNEL for side in sides)
    if not good or sides[0] % 2 == 0:
        raise ValueError(
            f"{name} has {short(value)}; a window is (kernel, stride), both positive and below "
            f"{MOST_KERNEL}, the kernel odd"
        )
    return sides


class ImageToTokens(nn.Sequential):
    """I2T: MaxPool(BN(Conv(x))), then a linear map of each patch, (B, C, H, W) → (B, D, h, w).

    Args:
        patch: side of a patch on the grid of features.
        channels: of the features. convs, pool, batch_norm: see `CeiTConfig`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        patch: int = 4,
        channels: int = 64,
        convs=((7, 2),),
        pool=(3, 2),
        batch_norm: bool = True,
    ):
        layers = OrderedDict()
        for n, (kernel, stride) in enumerate(convs, 1):
            layers[f"conv{n}"] = nn.Conv2d(
                in_channels, channels, kernel, stride, kernel // 2, bias=False
            )
            if batch_norm:
                layers[f"norm{n}"] = nn.BatchNorm2d(channels)
            in_channels = channels
        if pool is not None:
            layers["pool"] = nn.MaxPool2d(*pool, pool[0] // 2)
        layers["patches"] = make_patches(channels, width, patch)
        super().__init__(layers)


class LeFF(nn.Module):
    """A feed-forward with a depthwise convolution between its layers: (B, D, H, W) → the same.

    BN(Linear(GELU(BN(DepthConv(GELU(BN(Linear(x)))))))). The official code ends with the BN, as
    here; the paper's formula prints one more GELU after it, which would take nearly all negative
    values from the residual. `LeFFBlock` leads the class token past it.
    """

    def __init__(self, width: int, expansion: int = 4, kernel: int = 3, batch_norm: bool = True):
        super().__init__()
        hidden = expansion * width
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        self.expand = nn.Linear(width, hidden)
        self.expand_norm = norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, 1, kernel // 2, groups=hidden)
        self.depthwise_norm = norm(hidden)
        self.project = nn.Linear(hidden, width)
        self.project_norm = norm(width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        x = as_grid(self.expand(as_tokens(x)), H, W)  # (B, expansion·D, H, W)
        x = self.act(self.expand_norm(x))
        x = self.act(self.depthwise_norm(self.depthwise(x)))
        return self.project_norm(as_grid(self.project(as_tokens(x)), H, W))  # (B, D, H, W)


class LeFFBlock(EncoderBlock):
    """x + Attention(Norm(x)), then x + LeFF(Norm(x)), whose class token LeFF passes by.

    The class token c thus becomes c + Norm(c): paper and official code both join the normalised
    token to LeFF's output before the residual is added.
    """

    def feed_forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = as_tokens(self.mlp(as_grid(x[:, 1:], *grid)))  # (B, H·W, D)
        return torch.cat([x[:, :1], patches], 1)  # (B, 1 + H·W, D)


class LastQueryAttention(MultiHeadAttention):
    """Attention in which only the last of L tokens asks: (B, L, D) → (B, 1, D).

    Linear in L. `weights` are (B, heads, 1, L).
    """

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query of the last token (B, heads, 1, d), keys and values of all (B, heads, L, d)."""
        D = self.heads * self.head_dim
        q = F.linear(x[:, -1:], self.qkv.weight[:D], self.qkv.bias[:D])  # (B, 1, D)
        k, v = F.linear(x, self.qkv.weight[D:], self.qkv.bias[D:]).chunk(2, -1)  # each (B, L, D)
        q, k, v = (y.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for y in (q, k, v))
        return q, k, v


class LayerwiseClassAttention(nn.Module):
    """LCA: the class tokens of all L blocks (B, L, D) → one token (B, D).

    y = c_L + Attention(Norm(c)), then y + MLP(Norm(y)), with the last token as the only query. The
    official code adds a learned vector for each layer, zero at first, which the published counts
    include.
    """

    def __init__(
        self, width: int, layers: int, head_dim: int = 64, expansion: int = 4, eps: float = 1e-6
    ):
        super().__init__()
        self.layer_positions = nn.Parameter(torch.zeros(layers, width))
        self.norm = nn.LayerNorm(width, eps)
        self.attention = LastQueryAttention(width, head_dim=head_dim)
        self.mlp_norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, expansion)

    def forward(self, class_tokens: Tensor) -> Tensor:
        x = class_tokens + self.layer_positions  # (B, L, D)
        x = x[:, -1] + self.attention(self.norm(x))[:, 0]  # (B, D)
        return x + self.mlp(self.mlp_norm(x))


class CeiT(TokenClassifier):
    """Images (B, C, H, W) → logits (B, classes)."""

    Config = CeiTConfig

    def __init__(self, config: CeiTConfig):
        super().__init__(config)
        self.stem = make_stem(config)
        self.embedding = TokenEmbedding(config.width, config.grid)
        self.blocks = nn.ModuleList(make_blocks(config))
        if config.lca:
            shape = (config.width, config.depth, config.head_dim, config.expansion)
            self.lca = LayerwiseClassAttention(*shape, config.layer_norm_eps)
        self.head = make_head(config)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        class_tokens = self.encode(images)[1]  # (B, depth, D)
        return self.head(self.lca(class_tokens) if self.config.lca else class_tokens[:, -1])


def make_stem(config: CeiTConfig) -> nn.Module:
    if not config.i2t_convs:
        return make_patches(config.in_channels, config.width, config.patch_size)
    patch = config.patch_size // config.i2t_stride
    features = (config.i2t_channels, config.i2t_convs, config.i2t_pool, config.i2t_batch_norm)
    return ImageToTokens(config.in_channels, config.width, patch, *features)


def make_blocks(config: CeiTConfig) -> list[EncoderBlock]:
    if not config.leff_kernel:
        return [make_block(config, rate) for rate in config.drop_path_rates]
    blocks, leff = [], (config.expansion, config.leff_kernel, config.leff_batch_norm)
    for n, rate in enumerate(config.drop_path_rates, 1):
        dropped = n == config.depth and not config.last_leff
        # Without LeFF all tokens take the way of the class token.
        mlp = nn.Identity() if dropped else LeFF(config.width, *leff)
        attention = MultiHeadAttention(config.width, head_dim=config.head_dim)
        blocks.append(LeFFBlock(config.width, attention, mlp, config.layer_norm_eps, rate))
    return blocks


FAMILY = {
    "ceit_tiny": dict(width=192),
    "ceit_small": dict(width=384),
    "ceit_base": dict(width=768),
    # Ours, for 32×32 images: 0.87 of coatnet_pico's parameters, 1.17 of its multiply-adds.
    "ceit_pico": dict(
        width=96,
        depth=4,
        head_dim=32,
        patch_size=4,
        image_size=32,
        i2t_channels=16,
        i2t_convs=((3, 1),),
    ),
}

DEIT = dict(i2t_convs=(), leff_kernel=0, lca=False)  # all three parts off
PLAIN = dict(i2t_pool=None, i2t_batch_norm=False)
# The rows of the paper's ablations: one part at a time, added to DeiT. Options of any member.
ABLATIONS = {
    name: {**DEIT, **row}
    for name, row in {
        "DeiT": {},
        "I2T k7s4": dict(i2t_convs=((7, 4),), **PLAIN),
        "I2T k5s4": dict(i2t_convs=((5, 4),), **PLAIN),
        "I2T k3s2 k3s2": dict(i2t_convs=((3, 2), (3, 2)), **PLAIN),
        "I2T k7s2 pool": dict(i2t_convs=((7, 2),), i2t_channels=32, i2t_batch_norm=False),
        "I2T k7s2 BN pool": dict(i2t_convs=((7, 2),), i2t_channels=32),
        "LeFF 1×1": dict(leff_kernel=1, leff_batch_norm=False),
        "LeFF 3×3": dict(leff_kernel=3, leff_batch_norm=False),
        "LeFF 5×5": dict(leff_kernel=5, leff_batch_norm=False),
        "LeFF 3×3 BN": dict(leff_kernel=3),
        "LeFF 5×5 BN": dict(leff_kernel=5),
        "LCA": dict(lca=True),
    }.items()
}
