"""CoAtNet: convolution and attention stacked vertically, and the family as one table.

A network is a tuple of stages, S0 to S4 in the paper's family: a stem, MBConv stages, Transformer
stages. The sizes are those of the paper's Tables 3, 11 and 12; what it leaves open is a field of
`CoAtNetConfig`, with the value of the lineage code (google-research/maxvit) as default where the
paper has none.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from coatnet_mini.attention import FORMS
from coatnet_mini.blocks import (
    DOWNSAMPLES,
    INITS,
    POOLS,
    ConvStem,
    LayerNorm2d,
    MBConv,
    TransformerBlock,
    init_weights,
)
from coatnet_mini.checks import (
    check_fraction,
    check_image_size,
    check_positive,
    check_size,
    configure,
    one_of,
    pair,
    short,
)
from coatnet_mini.classifier import ImageClassifier

__all__ = ["FAMILY", "CoAtNet", "CoAtNetConfig", "Stage"]

KINDS = {"S": "convolutional stem", "P": "patch stem", "C": "MBConv", "T": "Transformer"}
HEADS = ("linear", "tanh")
NORMS = ("batch", "layer")
MOST_STAGES = 100


# ---- What a CoAtNet is, as data ------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of one kind and width; the first of them strides.

    Args:
        kind: "S" convolutional stem, "P" patch stem (one stride×stride convolution), "C" MBConv,
            "T" relative-attention Transformer.
        depth: blocks. width: channels. stride: of the first block.

    Raises:
        ValueError: another kind, or a number that is no positive integer.
    """

    kind: str
    depth: int
    width: int
    stride: int = 2

    def __post_init__(self):
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            allowed = ", ".join(f"{kind} ({name})" for kind, name in KINDS.items())
            raise ValueError(f"stage kind is {short(self.kind)}; choose from {allowed}")
        check_positive("stage ", self, "depth", "width", "stride")
        if self.kind == "P" and self.depth != 1:
            raise ValueError(f"a patch stem is one convolution; its depth is {self.depth}, not 1")


@dataclass(frozen=True)
class CoAtNetConfig:
    """Every choice that defines a network; the defaults are the paper's where it states one.

    Args:
        stages: a stem and then blocks, S0 to S4 in the paper's family.
        head_dim: channels per attention head (32 in Table 3; 64 in CoAtNet-5, 128 in -6 and -7).
        num_classes, image_size ((H, W) or one int), in_channels: the task.
        expansion: of the MBConv and of the FFN (paper: always 4).
        se_ratio: squeezed width over block width, 0 for no squeeze-and-excitation. The paper has
            0.25 and names no base; that of the block is the lineage's. Squeeze-and-excitation in
            every MBConv is our reading of the paper's parameter counts.
        downsample: "expand" (paper, equation 5) or "depthwise" (its Table 9), see `MBConv`.
        pool: "max" or "avg" (lineage), wherever a grid is halved by pooling. The paper says max
            of the Transformer block and does not name the pooling of the MBConv's shortcut.
        head: "linear", one layer as in the paper's Figure 4, or "tanh" (lineage): a hidden layer,
            whose parameters the paper's counts of 25M, 75M and 275M include.
        relative_bias: "pre" (paper), "post" or "none".
        conv_norm, transformer_norm: "batch" or "layer" (paper: batch and layer).
        drop_path: full rate of stochastic depth; block b of B drops with rate drop_path·b/B, as in
            the lineage code, which never reaches the full rate.
        batch_norm_eps, layer_norm_eps: the lineage's; the paper has none.
        batch_norm_momentum: weight of a new batch in the running statistics. The lineage has
            0.01, for runs of 10⁵ steps; 0.1 settles within the short runs of this book.
        init: "fan" or "normal" (lineage), see `init_weights`.

    Raises:
        ValueError: a value of another type or range, values that do not fit together, or a
            network above `checks.limits`; always one line.
    """

    stages: tuple[Stage, ...]
    head_dim: int = 32
    num_classes: int = 1000
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    expansion: int = 4
    se_ratio: float = 0.25
    downsample: str = "expand"
    pool: str = "max"
    head: str = "linear"
    relative_bias: str = "pre"
    conv_norm: str = "batch"
    transformer_norm: str = "layer"
    drop_path: float = 0.0
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.1
    layer_norm_eps: float = 1e-5
    init: str = "fan"

    def __post_init__(self):
        if not isinstance(self.stages, tuple | list):
            raise ValueError(f"stages is {short(self.stages)}; it must be a sequence of stages")
        if len(self.stages) > MOST_STAGES:
            raise ValueError(f"stages has {len(self.stages):,} stages; at most {MOST_STAGES}")
        object.__setattr__(self, "stages", tuple(map(as_stage, self.stages)))
        object.__setattr__(self, "image_size", pair(self.image_size))
        self.check_options()
        self.check_stages()
        check_size(**self.sizes())

    def check_options(self) -> None:
        check_positive("", self, "head_dim", "num_classes", "in_channels", "expansion")
        one_of("downsample", self.downsample, DOWNSAMPLES)
        one_of("pool", self.pool, POOLS)
        one_of("head", self.head, HEADS)
        one_of("relative_bias", self.relative_bias, FORMS)
        one_of("init", self.init, INITS)
        one_of("conv_norm", self.conv_norm, NORMS)
        one_of("transformer_norm", self.transformer_norm, NORMS)
        check_fraction("se_ratio", self.se_ratio)
        check_fraction("drop_path", self.drop_path, one=False)
        for name in ("batch_norm_eps", "batch_norm_momentum", "layer_norm_eps"):
            check_fraction(name, getattr(self, name), zero=False)

    def check_stages(self) -> None:
        kinds = short(self.layout)
        if len(self.stages) < 2 or self.stages[0].kind not in "SP":
            raise ValueError(
                f"stages must be a stem (kind S or P) and then at least one of blocks, "
                f"got kinds {kinds}"
            )
        for stage in self.stages[1:]:
            if stage.kind in "SP":
                raise ValueError(f"a stem can only come first, got kinds {kinds}")
            if stage.kind == "T" and stage.width % self.head_dim:
                raise ValueError(
                    f"width {stage.width} of a Transformer stage is not a multiple of "
                    f"head_dim {self.head_dim}"
                )
        check_image_size(self.image_size, self.total_stride)

    @property
    def layout(self) -> str:
        """The kinds of all stages in one string, such as "SCCTT"."""
        return "".join(stage.kind for stage in self.stages)

    @property
    def total_stride(self) -> int:
        """Input pixels per output position, along each side."""
        return prod(stage.stride for stage in self.stages)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(H, W) after each stage."""
        H, W = self.image_size
        grids = []
        for stage in self.stages:
            H, W = H // stage.stride, W // stage.stride
            grids.append((H, W))
        return grids

    @property
    def stage_names(self) -> list[str]:
        """S0, S1, ... by resolution, as in the paper; a second stage at one resolution adds a b."""
        names, level = [], -1
        for stage in self.stages:
            level += stage.stride > 1 or not names
            same = sum(name.startswith(f"S{level}") for name in names)
            names.append(f"S{level}" + ("" if not same else chr(ord("a") + same)))
        return names

    @property
    def drop_path_rates(self) -> list[list[float]]:
        """The rate of each block of each stage after the stem, drop_path·b/B for block b of B."""
        depths = [stage.depth for stage in self.stages[1:]]
        starts = [sum(depths[:n]) for n in range(len(depths))]
        return [
            [self.drop_path * (start + b) / sum(depths) for b in range(depth)]
            for start, depth in zip(starts, depths, strict=True)
        ]

    def sizes(self) -> dict[str, int]:
        """What the network would hold, from its layers' shapes: the three of `checks.Limits`.

        Weights are counted exactly; biases and norms, below 1 % of a network of the paper's, are
        not. No block is built.
        """
        last = self.stages[-1].width
        parameters = last * self.num_classes + (last * last if self.head == "tanh" else 0)
        activations, channels, before = 0, self.in_channels, prod(self.image_size)
        for stage, grid in zip(self.stages, self.grids, strict=True):
            first = self.block_sizes(stage, channels, before, grid)
            other = self.block_sizes(stage, stage.width, prod(grid), grid)
            parameters += first[0] + (stage.depth - 1) * other[0]
            activations += first[1] + (stage.depth - 1) * other[1]
            channels, before = stage.width, prod(grid)
        blocks = sum(stage.depth for stage in self.stages)
        return {"blocks": blocks, "parameters": parameters, "activations": activations}

    def block_sizes(self, stage: Stage, channels: int, before: int, grid) -> tuple[int, int]:
        """(parameters, activations) of a block of `stage`.

        Args:
            channels: it reads. before: positions it reads. grid: (H, W) of its output.
        """
        D, N, hidden = stage.width, prod(grid), self.expansion * stage.width
        shortcut = channels * D if channels != D else 0
        if stage.kind in "SP":
            side = 3 if stage.kind == "S" else stage.stride
            return channels * D * side**2, 3 * D * N
        if stage.kind == "C":
            squeezed = max(1, int(self.se_ratio * D)) if self.se_ratio else 0
            weights = shortcut + hidden * (channels + 9 + 2 * squeezed + D)
            expanded = N if self.downsample == "expand" else before
            return weights, channels * before + 3 * hidden * (expanded + N) + 2 * D * N
        heads = D // self.head_dim
        tables = (
            0 if self.relative_bias == "none" else heads * (2 * grid[0] - 1) * (2 * grid[1] - 1)
        )
        weights = shortcut + tables + 3 * channels * D + D * D + 2 * D * hidden
        return weights, channels * before + N * (7 * D + 2 * hidden) + heads * N * N

    @classmethod
    def from_layout(cls, layout: str, depths, widths, strides=None, **options) -> "CoAtNetConfig":
        """A network of Section 2.2 of the paper from its layout; see `stages_of`."""
        return configure(cls, {"stages": stages_of(layout, depths, widths, strides), **options})


def as_stage(value) -> Stage:
    """A stage, also from what JSON holds of it: its fields by name, or in their order."""
    if isinstance(value, Stage):
        return value
    if isinstance(value, dict):
        return configure(Stage, value)
    if isinstance(value, tuple | list) and len(value) in (3, 4):
        return Stage(*value)
    raise ValueError(f"stages has {short(value)}; a stage is (kind, depth, width, stride)")


def stages_of(layout: str, depths, widths, strides=None) -> tuple[Stage, ...]:
    """The stages of a layout.

    Args:
        layout: one letter per stage S1, S2, ..., C for MBConv and T for Transformer, such as
            "CCTT"; or "ViT_REL", a 16×16 patch stem and Transformer blocks at one resolution.
        depths, widths: of S0, S1, ...; for ViT_REL one number each (or a sequence of one).
        strides: of S0, S1, ..., by default 2 each; ViT_REL has its own.
    """
    if not isinstance(layout, str):
        raise ValueError(f"layout is {short(layout)}; use C and T, such as 'CCTT', or 'ViT_REL'")
    depths, widths = as_tuple("depths", depths), as_tuple("widths", widths)
    patches = layout.lower() == "vit_rel"
    expected = 1 if patches else len(layout) + 1
    if not layout or not (patches or set(layout) <= {"C", "T"}):
        raise ValueError(f"layout is {short(layout)}; use C and T, such as 'CCTT', or 'ViT_REL'")
    if len(depths) != expected or len(widths) != expected:
        raise ValueError(
            f"layout {layout!r} needs {expected} depths and widths (S0 first), "
            f"got {len(depths)} and {len(widths)}"
        )
    if patches:
        return (Stage("P", 1, widths[0], 16), Stage("T", depths[0], widths[0], 1))
    strides = (2,) * expected if strides is None else as_tuple("strides", strides)
    if len(strides) != expected:
        raise ValueError(f"layout {layout!r} needs {expected} strides, got {len(strides)}")
    return tuple(map(Stage, "S" + layout, depths, widths, strides))


def as_tuple(name: str, value) -> tuple:
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name} is {short(value)}; it must be a sequence of integers")
    return tuple(value)


# ---- The network ---------------------------------------------------------------------------------


class CoAtNet(ImageClassifier):
    """Images (B, C, H, W) → logits (B, classes).

    `stages` holds "S0" (the stem), "S1", "S2", ...; the last grid is averaged and classified, as
    in the paper's Figure 4. The LayerNorm between the two is the lineage's.
    """

    Config = CoAtNetConfig

    def __init__(self, config: CoAtNetConfig):
        super().__init__(config)
        names = config.stage_names
        self.stages = nn.ModuleDict({names[0]: make_stem(config)})
        for n, rates in enumerate(config.drop_path_rates, 1):
            self.stages[names[n]] = make_stage(config, n, rates)
        self.head = make_head(config)
        self.apply(partial(init_weights, scheme=config.init))
        # Convolutions and token views both run on channels-last memory without a copy.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        x = self.forward_features(images)  # (B, D, h, w)
        return self.head(x.mean((2, 3)))  # (B, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → the last stage's grid (B, D, H/stride, W/stride).

        H and W are any multiples of the total stride; at sizes other than `image_size` the bias
        tables are read resized.
        """
        self.check(images)
        x = images.contiguous(memory_format=torch.channels_last)
        for stage in self.stages.values():
            x = stage(x)
        return x


def make_stem(config: CoAtNetConfig) -> nn.Module:
    stage, channels = config.stages[0], config.in_channels
    if stage.kind == "P":
        return nn.Sequential(nn.Conv2d(channels, stage.width, stage.stride, stage.stride))
    norm = norm_of(config, config.conv_norm)
    return ConvStem(channels, stage.width, stage.stride, stage.depth, norm)


def norm_of(config: CoAtNetConfig, kind: str) -> partial:
    """What makes a "batch" or "layer" normalisation of (B, width, H, W) from a width."""
    if kind == "layer":
        return partial(LayerNorm2d, eps=config.layer_norm_eps)
    momentum = config.batch_norm_momentum
    return partial(nn.BatchNorm2d, eps=config.batch_norm_eps, momentum=momentum)


def make_stage(config: CoAtNetConfig, n: int, rates: list[float]) -> nn.Sequential:
    """The blocks of stage n, one for each rate of stochastic depth."""
    stage, grid, dim = config.stages[n], config.grids[n], config.stages[n - 1].width
    norm = norm_of(config, config.conv_norm if stage.kind == "C" else config.transformer_norm)
    shared = dict(expansion=config.expansion, pool=config.pool, norm=norm)
    if stage.kind == "C":
        make = partial(MBConv, se_ratio=config.se_ratio, downsample=config.downsample, **shared)
    else:
        bias = config.relative_bias
        make = partial(
            TransformerBlock, grid=grid, head_dim=config.head_dim, relative_bias=bias, **shared
        )
    first = make(dim, stage.width, stride=stage.stride, drop_path=rates[0])
    rest = [make(stage.width, stage.width, drop_path=rate) for rate in rates[1:]]
    return nn.Sequential(first, *rest)


def make_head(config: CoAtNetConfig) -> nn.Sequential:
    """Norm, for "tanh" a hidden layer, and the classifier: (B, D) → (B, classes)."""
    dim = config.stages[-1].width
    layers = OrderedDict(norm=nn.LayerNorm(dim, config.layer_norm_eps))
    if config.head == "tanh":
        layers.update(hidden=nn.Linear(dim, dim), tanh=nn.Tanh())
    layers.update(classifier=nn.Linear(dim, config.num_classes))
    return nn.Sequential(layers)


# ---- The family ----------------------------------------------------------------------------------


def member(layout: str, depths, widths, strides=None, **own) -> dict:
    """A member's fields of `CoAtNetConfig`: its stages, and what it does not share."""
    return {"stages": stages_of(layout, depths, widths, strides), **own}


HUGE = dict(head_dim=128, strides=(2, 2, 2, 2, 1, 2))  # S3 is MBConv, which strides, then T
SMALL = dict(image_size=32, strides=(1, 2, 2, 1, 2))  # attention over 8×8 and 4×4 positions

FAMILY = {
    # Table 3 of the paper; depths and widths of S0 to S4.
    "coatnet_0": member("CCTT", (2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
    "coatnet_1": member("CCTT", (2, 2, 6, 14, 2), (64, 96, 192, 384, 768)),
    "coatnet_2": member("CCTT", (2, 2, 6, 14, 2), (128, 128, 256, 512, 1024)),
    "coatnet_3": member("CCTT", (2, 2, 6, 14, 2), (192, 192, 384, 768, 1536)),
    "coatnet_4": member("CCTT", (2, 2, 12, 28, 2), (192, 192, 384, 768, 1536)),
    # Table 11.
    "coatnet_5": member("CCTT", (2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), head_dim=64),
    # Table 12. As printed, S4 of -6 is 2048 wide and the count 1.35B; 3072, as in -7, would give
    # the 1.47B that the paper reports.
    "coatnet_6": member("CCCTT", (2, 2, 4, 8, 42, 2), (192, 192, 384, 768, 1536, 2048), **HUGE),
    "coatnet_7": member("CCCTT", (2, 2, 4, 8, 42, 2), (192, 256, 512, 1024, 2048, 3072), **HUGE),
    # Section 2.2 leaves the sizes of its layouts open; ours have CoAtNet-0's parameters and cost.
    "coatnet_cccc": member("CCCC", (2, 2, 5, 7, 2), (64, 96, 192, 384, 768)),
    "coatnet_ccct": member("CCCT", (2, 2, 5, 6, 2), (64, 96, 192, 384, 768)),
    "coatnet_cctt": member("CCTT", (2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
    "coatnet_cttt": member("CTTT", (2, 2, 2, 5, 2), (64, 96, 192, 384, 768)),
    "vit_rel": member("ViT_REL", 12, 384),
    # Ours, for 32×32 images and a CPU.
    "coatnet_pico": member("CCTT", (2, 1, 1, 2, 1), (16, 32, 64, 96, 192), **SMALL),
    "coatnet_nano": member("CCTT", (2, 1, 2, 3, 1), (24, 48, 96, 160, 320), **SMALL),
}
