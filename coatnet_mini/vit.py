"""ViT: patches as tokens, a class token, learned absolute positions, pre-norm blocks.

Dosovitskiy et al. 2021. DeiT (Touvron et al. 2021) trains the same network on ImageNet-1K alone
and adds the sizes T and S; its distillation is left out here. The parts take the tokens
(B, 1 + H·W, D), the class token first and then the patches in raster order, or the grid of patches
(B, D, H, W).
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import (
    INITS,
    MLP,
    StochasticDepth,
    as_grid,
    as_tokens,
    init_weights,
)
from coatnet_mini.checks import (
    check_fraction,
    check_image_size,
    check_positive,
    check_size,
    one_of,
    pair,
)
from coatnet_mini.classifier import ImageClassifier

__all__ = ["FAMILY", "EncoderBlock", "TokenEmbedding", "ViT", "ViTConfig", "resize_positions"]


@dataclass(frozen=True)
class ViTConfig:
    """Every choice that defines a ViT; the defaults are DeiT's.

    Args:
        width: D, channels of every token. depth: blocks.
        head_dim: channels per attention head; 64 in all published sizes.
        patch_size: side of the square of pixels that becomes one token.
        expansion: of the MLP.
        num_classes, image_size ((H, W) or one int), in_channels: the task.
        drop_path: rate of stochastic depth in the last block; block b of B drops with
            rate drop_path·b/(B−1), as DeiT's code has it.
        layer_norm_eps: DeiT's 1e-6.
        init: "fan", which learns sooner in short runs, see `init_weights`; or "normal", DeiT's:
            linear layers N(0, 0.02²), convolutions as PyTorch draws them.

    Raises:
        ValueError: as in `CoAtNetConfig`.
    """

    width: int
    depth: int = 12
    head_dim: int = 64
    patch_size: int = 16
    expansion: int = 4
    num_classes: int = 1000
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6
    init: str = "fan"

    def __post_init__(self):
        object.__setattr__(self, "image_size", pair(self.image_size))
        check_positive("", self, "width", "depth", "head_dim", "patch_size", "expansion")
        check_positive("", self, "num_classes", "in_channels")
        check_fraction("drop_path", self.drop_path, one=False)
        check_fraction("layer_norm_eps", self.layer_norm_eps, zero=False)
        one_of("init", self.init, INITS)
        if self.width % self.head_dim:
            raise ValueError(f"width {self.width} is not a multiple of head_dim {self.head_dim}")
        check_image_size(self.image_size, self.total_stride)
        check_size(**self.sizes())

    @property
    def total_stride(self) -> int:
        """Input pixels per token, along each side."""
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the patches at `image_size`."""
        H, W = self.image_size
        return H // self.total_stride, W // self.total_stride

    @property
    def drop_path_rates(self) -> list[float]:
        """The rate of each block."""
        return [self.drop_path * b / max(1, self.depth - 1) for b in range(self.depth)]

    def sizes(self) -> dict[str, int]:
        """What the network would hold, without biases and norms; see `CoAtNetConfig.sizes`."""
        D, N, hidden = self.width, prod(self.grid), self.expansion * self.width
        stem = self.in_channels * self.patch_size**2 * D
        block = 4 * D * D + 2 * D * hidden
        written = N * (7 * D + 2 * hidden) + (D // self.head_dim) * (N + 1) ** 2
        return {
            "blocks": self.depth,
            "parameters": stem + N * D + self.depth * block + D * self.num_classes,
            "activations": 2 * N * D + self.depth * written,
        }


def resize_positions(positions: Tensor, H: int, W: int) -> Tensor:
    """Resize learned positions to an H×W grid, by bicubic interpolation as DeiT's code does.

    Args:
        positions: (D, H₀, W₀).

    Returns:
        (D, H, W); the positions themselves where they fit.
    """
    if tuple(positions.shape[1:]) == (H, W):
        return positions
    return F.interpolate(positions[None], (H, W), mode="bicubic", align_corners=False)[0]


class TokenEmbedding(nn.Module):
    """Add what tells patches apart, and the class token: (B, D, H, W) → (B, 1 + H·W, D).

    The positions are stored as a grid, so that one that is not square keeps its shape; grids
    other than `grid`, in a forward pass or in a file, are met by `resize_positions`. The class
    token has a position of its own. That is redundant, but published parameter counts include it.
    """

    def __init__(self, width: int, grid: tuple[int, int]):
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.class_position = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(width, *grid) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = as_tokens(x + resize_positions(self.positions, *x.shape[2:]))  # (B, H·W, D)
        first = (self.class_token + self.class_position).expand(x.shape[0], 1, -1)
        return torch.cat([first, x], 1)  # (B, 1 + H·W, D)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        key, mine = prefix + "positions", self.positions
        positions = state_dict.get(key)
        if positions is not None and positions.ndim == 3:
            state_dict[key] = resize_positions(positions, *mine.shape[1:])
        super()._load_from_state_dict(state_dict, prefix, *args)


class EncoderBlock(nn.Module):
    """x + Attention(Norm(x)), then x + MLP(Norm(x)), on tokens (B, N, D).

    `blocks.TransformerBlock` does the same on a grid, which a class token is no part of.

    Args:
        attention, mlp: modules that map (B, N, D) to the same.
        drop_path: probability of dropping a sample's residual, drawn for each of the two.
    """

    def __init__(
        self,
        width: int,
        attention: nn.Module,
        mlp: nn.Module,
        eps: float = 1e-6,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width, eps)
        self.mlp = mlp
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """grid: (H, W) of the patches among the tokens."""
        x = x + self.drop_path(self.attention(self.norm(x)))
        return x + self.drop_path(self.feed_forward(self.mlp_norm(x), grid))

    def feed_forward(self, x: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """For all tokens alike; a block that treats patches as a grid overrides it."""
        return self.mlp(x)


class TokenClassifier(ImageClassifier):
    """Stem, embedding and blocks, as ViT and CeiT both run them."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) → the last patches (B, D, h, w), all class tokens (B, depth, D).

        H and W are any multiples of `patch_size`; where they are not those of `image_size`, the
        positions are read resized.
        """
        self.check(images)
        x = self.stem(images.contiguous(memory_format=torch.channels_last))  # (B, D, h, w)
        grid = tuple(x.shape[2:])
        x = self.embedding(x)  # (B, 1 + h·w, D)
        class_tokens = []
        for block in self.blocks:
            x = block(x, grid)
            class_tokens.append(x[:, 0].clone())  # a view would keep all tokens in memory
        return as_grid(x[:, 1:], *grid), torch.stack(class_tokens, 1)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → the patches of the last block (B, D, H/patch, W/patch).

        The class token is left out; `forward` reads nothing else.
        """
        return self.encode(images)[0]


class ViT(TokenClassifier):
    """Images (B, C, H, W) → logits (B, classes), read from the class token after the last block."""

    Config = ViTConfig

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.stem = make_patches(config.in_channels, config.width, config.patch_size)
        self.embedding = TokenEmbedding(config.width, config.grid)
        self.blocks = nn.ModuleList(make_block(config, rate) for rate in config.drop_path_rates)
        self.head = make_head(config)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encode(images)[1][:, -1])


def make_patches(in_channels: int, width: int, size: int) -> nn.Conv2d:
    """One linear map of each size×size square: (B, C, H, W) → (B, D, H/size, W/size)."""
    return nn.Conv2d(in_channels, width, size, size)


def make_block(config: ViTConfig, drop_path: float) -> EncoderBlock:
    attention = MultiHeadAttention(config.width, head_dim=config.head_dim)
    mlp = MLP(config.width, config.expansion)
    return EncoderBlock(config.width, attention, mlp, config.layer_norm_eps, drop_path)


def make_head(config: ViTConfig) -> nn.Sequential:
    """Norm and classifier: (B, D) → (B, classes)."""
    norm = nn.LayerNorm(config.width, config.layer_norm_eps)
    classifier = nn.Linear(config.width, config.num_classes)
    return nn.Sequential(OrderedDict(norm=norm, classifier=classifier))


def initialise(model: TokenClassifier) -> None:
    """New weights by `config.init`, and memory in which a grid seen as tokens is a view."""
    for module in model.modules():
        if model.config.init == "fan" or not isinstance(module, nn.Conv2d):
            init_weights(module, model.config.init)
    model.to(memory_format=torch.channels_last)


FAMILY = {
    "vit_tiny": dict(width=192),  # DeiT-T
    "vit_small": dict(width=384),  # DeiT-S
    "vit_base": dict(width=768),  # ViT-B/16 and DeiT-B
    # Ours, for 32×32 images: near coatnet_pico, with 0.75 of its parameters and 1.3 of its
    # multiply-adds. Every weight of a ViT acts on all 65 tokens, those of coatnet_pico on 42
    # positions in the mean, so that both cannot be equal.
    "vit_pico": dict(width=72, depth=8, head_dim=24, patch_size=4, image_size=32),
}
