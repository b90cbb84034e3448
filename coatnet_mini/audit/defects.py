"""Ten defects of public CoAtNets, rebuilt on a small one: each changes a sound network in place.

`broken(name, size)` gives the small network with one of them; `SMALL` is what all are meant to be.
Where they were found stands in chapter 17.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import MBConv, TransformerBlock, as_grid, as_tokens
from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig, Stage

SMALL = CoAtNetConfig(
    stages=(Stage("S", 2, 8, 1), Stage("C", 2, 16), Stage("T", 2, 32, 1), Stage("T", 2, 64)),
    head_dim=16,
    num_classes=10,
    image_size=16,
    in_channels=1,
)


def of_kind(net: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, kind)]


def fixed_heads(net: nn.Module, heads: int = 1) -> None:
    """The same few heads in every stage, however wide."""
    for a in of_kind(net, MultiHeadAttention):
        width = heads * a.head_dim
        a.heads, table = heads, a.relative_bias_table[:heads]
        a.qkv = nn.Linear(a.qkv.in_features, 3 * width)
        a.out = nn.Linear(width, a.out.out_features)
        a.relative_bias_table = nn.Parameter(table.detach().clone())


def hidden_from_input(net: nn.Module) -> None:
    """A feed-forward network 4 times as wide as what comes in."""
    for block in of_kind(net, TransformerBlock):
        D_in, D = block.attention.qkv.in_features, block.mlp.project.out_features
        block.mlp.expand = nn.Linear(D, 4 * D_in)
        block.mlp.project = nn.Linear(4 * D_in, D)


def no_expansion(net: nn.Module) -> None:
    """MBConv without the inverted bottleneck."""
    for stage in net.stages.values():
        for n, block in enumerate(stage):
            if isinstance(block, MBConv):
                D_in, D = block.expand.in_channels, block.project.out_channels
                stage[n] = MBConv(D_in, D, block.stride, expansion=1)


class LinePool(nn.Module):
    """Pairs of neighbours in the flattened picture, twice: (B, D, H, W) → (B, D, H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        line = F.max_pool1d(F.max_pool1d(x.flatten(2), 2), 2)
        return line.unflatten(2, (x.shape[2] // 2, x.shape[3] // 2))


def line_pool(net: nn.Module) -> None:
    """Attention's grid is halved as a line of tokens, not as a grid."""
    for block in of_kind(net, TransformerBlock):
        if block.stride > 1:
            block.pool = block.shortcut[0] = LinePool()


def pool_first(net: nn.Module) -> None:
    """Norm(Pool(x)) where the paper has Pool(Norm(x))."""
    for block in of_kind(net, TransformerBlock):
        block.norm, block.pool = block.pool, block.norm


def square_head(net: nn.Module) -> None:
    """A last pooling as high as the grid, both ways, and a reshape that makes the rest fit."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.forward_features(images)  # (B, D, h, w)
        x = F.avg_pool2d(x, x.shape[2], 1)
        return self.head(x.reshape(-1, x.shape[1]))

    net.forward = MethodType(forward, net)


def no_residual(net: nn.Module) -> None:
    """Transformer blocks that give their result and drop what came in."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.norm(x))
        grid = y.shape[2:]
        x = as_grid(self.attention(as_tokens(y), grid), *grid)
        return as_grid(self.mlp(as_tokens(self.mlp_norm(x))), *grid)

    for block in of_kind(net, TransformerBlock):
        block.forward = MethodType(forward, block)


def no_bias(net: nn.Module) -> None:
    """Attention that does not know where anything is."""
    for a in of_kind(net, MultiHeadAttention):
        a.relative_bias, a.relative_bias_table = "none", None


def one_bias(net: nn.Module) -> None:
    """One table for all heads."""
    for a in of_kind(net, MultiHeadAttention):
        table = a.relative_bias_table[:1]
        a.relative_bias_table = nn.Parameter(table.detach().clone())


def bias_once(net: nn.Module) -> None:
    """The biases of all pairs are looked up when the layer is made, and then kept."""
    for a in of_kind(net, MultiHeadAttention):
        B = a.bias().detach()
        a.bias = lambda grid=None, B=B: B


DEFECTS = {  # what it does: the defect, and the check that catches it
    "too few heads": (fixed_heads, "heads"),
    "narrow hidden layer": (hidden_from_input, "hidden"),
    "no bottleneck": (no_expansion, "expansion"),
    "pools along a line": (line_pool, "places"),
    "pool, then norm": (pool_first, "order"),
    "square head": (square_head, "shapes"),
    "no residuals": (no_residual, "residuals"),
    "no bias": (no_bias, "bias"),
    "one bias for all heads": (one_bias, "per head"),
    "bias looked up once": (bias_once, "gradient"),
}


def broken(name: str | None, size=16) -> CoAtNet:
    """The small network for images of a size, with one of `DEFECTS`, or sound (None)."""
    net = CoAtNet(replace(SMALL, image_size=size))
    if name is not None:
        DEFECTS[name][0](net)
    return net
