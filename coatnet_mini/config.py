"""What a CoAtNet is, as data: a tuple of stages, and the choices that the paper leaves open."""

from dataclasses import dataclass, fields
from math import prod

from coatnet_mini.attention import FORMS
from coatnet_mini.blocks import DOWNSAMPLES, INITS, POOLS, one_of

KINDS = {"S": "convolutional stem", "P": "patch stem", "C": "MBConv", "T": "Transformer"}
HEADS = ("linear", "tanh")
NORMS = ("batch", "layer")


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of one kind and width; the first of them strides.

    kind: "S" convolutional stem, "P" patch stem (one stride×stride convolution), "C" MBConv,
    "T" relative-attention Transformer.
    """

    kind: str
    depth: int
    width: int
    stride: int = 2

    def __post_init__(self):
        if self.kind not in KINDS:
            allowed = ", ".join(f"{kind} ({name})" for kind, name in KINDS.items())
            raise ValueError(f"stage kind is {self.kind!r}; choose from {allowed}")
        for name in ("depth", "width", "stride"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"stage {name} is {value!r}; it must be a positive integer")
        if self.kind == "P" and self.depth != 1:
            raise ValueError(f"a patch stem is one convolution; its depth is {self.depth}, not 1")


@dataclass(frozen=True)
class CoAtNetConfig:
    """Every choice that defines a network; the defaults are the paper's where it states one.

    Args:
        stages: a stem and then blocks, S0 to S4 in the paper's family.
        head_dim: channels per attention head (paper: 32; 64 in CoAtNet-5, 128 in -6 and -7).
        num_classes, image_size ((H, W) or one int), in_channels: the task.
        expansion: of the MBConv and of the FFN (paper: always 4).
        se_ratio: squeezed width over block width (paper: 0.25); 0 for no squeeze-and-excitation.
        downsample: "expand" (paper) or "depthwise", see `MBConv`.
        pool: "max" (paper) or "avg" (lineage code), wherever a grid is halved by pooling.
        head: "linear" (the paper's figure) or "tanh" (lineage code: a hidden layer, whose
            parameters the paper's counts of 25M, 75M and 275M include).
        relative_bias: "pre" (paper), "post" or "none".
        conv_norm, transformer_norm: "batch" or "layer" (paper: batch and layer).
        drop_path: full rate of stochastic depth; block b of B drops with rate drop_path·b/B, as in
            the lineage code, which never reaches the full rate.
        batch_norm_eps, layer_norm_eps: not in the paper; these are the lineage code's.
        batch_norm_momentum: weight of a new batch in the running statistics. The lineage code has
            0.01, for runs of 10⁵ steps; 0.1 settles within the short runs of this book.
        init: "fan" or "normal", see `init_weights`.
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
        # Lists and dicts are what a configuration read from JSON holds.
        stages = (Stage(**s) if isinstance(s, dict) else s for s in self.stages)
        stages = tuple(s if isinstance(s, Stage) else Stage(*s) for s in stages)
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "image_size", pair(self.image_size))
        self.check_stages()
        self.check_options()

    def check_stages(self) -> None:
        if len(self.stages) < 2 or self.stages[0].kind not in "SP":
            raise ValueError("stages must be a stem (kind S or P) and then at least one of blocks, "
                             f"got kinds {self.layout!r}")  # fmt: skip
        for stage in self.stages[1:]:
            if stage.kind in "SP":
                raise ValueError(f"a stem can only come first, got kinds {self.layout!r}")
            if stage.kind == "T" and stage.width % self.head_dim:
                raise ValueError(f"width {stage.width} of a Transformer stage is not a multiple of "
                                 f"head_dim {self.head_dim}")  # fmt: skip
        check_image_size(self.image_size, self.total_stride)

    def check_options(self) -> None:
        one_of("downsample", self.downsample, DOWNSAMPLES)
        one_of("pool", self.pool, POOLS)
        one_of("head", self.head, HEADS)
        one_of("relative_bias", self.relative_bias, FORMS)
        one_of("init", self.init, INITS)
        one_of("conv_norm", self.conv_norm, NORMS)
        one_of("transformer_norm", self.transformer_norm, NORMS)
        check_positive(self, "head_dim", "num_classes", "in_channels", "expansion")
        check_drop_path(self.drop_path)
        if not 0 <= self.se_ratio <= 1:
            raise ValueError(f"se_ratio is {self.se_ratio}; it must lie between 0 and 1")

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

    @classmethod
    def from_layout(cls, layout: str, depths, widths, **options) -> "CoAtNetConfig":
        """A network of Section 2.2 of the paper from its layout.

        Args:
            layout: one letter per stage S1, S2, ..., C for MBConv and T for Transformer, such as
                "CCTT"; or "ViT_REL", a 16×16 patch stem and Transformer blocks at one resolution.
            depths, widths: of S0, S1, ...; for ViT_REL one number each (or a sequence of one).
        """
        depths, widths = as_tuple(depths), as_tuple(widths)
        vit = layout.lower() == "vit_rel"
        expected = 1 if vit else len(layout) + 1
        if not layout or not (vit or set(layout) <= {"C", "T"}):
            raise ValueError(f"layout is {layout!r}; use C and T, such as 'CCTT', or 'ViT_REL'")
        if len(depths) != expected or len(widths) != expected:
            raise ValueError(f"layout {layout!r} needs {expected} depths and widths (S0 first), "
                             f"got {len(depths)} and {len(widths)}")  # fmt: skip
        if vit:
            stages = (Stage("P", 1, widths[0], 16), Stage("T", depths[0], widths[0], 1))
        else:
            stages = tuple(map(Stage, "S" + layout, depths, widths))
        return cls(stages, **options)


def as_tuple(value) -> tuple:
    return (value,) if isinstance(value, int) else tuple(value)


def pair(size) -> tuple[int, int]:
    """(H, W) of an image size given as one int or as two."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size is {size!r}; it must be a positive integer or a pair (H, W)")
    return sides


def check_positive(config, *names: str) -> None:
    """Refuse fields that are not integers of 1 or more."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a positive integer")


def check_drop_path(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path is {rate}; it must be at least 0 and below 1")


def check_image_size(size: tuple[int, int], stride: int) -> None:
    """Refuse images that the strides of a network do not divide."""
    if size[0] % stride or size[1] % stride or not all(size):
        raise ValueError(f"image size {size[0]}×{size[1]} does not fit: both sides must be "
                         f"multiples of {stride}")  # fmt: skip


def check_options(cls, options: dict) -> None:
    """Refuse names that are no field of the configuration class `cls`."""
    allowed = [field.name for field in fields(cls)]
    for name in options:
        if name not in allowed:
            raise ValueError(f"unknown option {name!r}; choose from {', '.join(allowed)}")
