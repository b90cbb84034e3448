"""How to train: every choice as one field of one dataclass, and the presets.

The paper's values are those of its Table 10. What it leaves open is said at the field.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from math import inf, isfinite
from typing import Annotated, Literal, get_args, get_type_hints

PAPER_DROP_PATH = {"coatnet_0": 0.2, "coatnet_1": 0.3, "coatnet_2": 0.5, "coatnet_3": 0.7}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, or without one of these two."""

    low: float
    high: float = inf
    without: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value != self.without

    def __str__(self) -> str:
        text = f"{'above' if self.low == self.without else 'at least'} {self.low:,}"
        if self.high < inf:
            text += f" and {'below' if self.high == self.without else 'at most'} {self.high:,}"
        return text


Count = Annotated[int, Range(1, 10**9)]
Steps = Annotated[int, Range(0, 10**9)]
Amount = Annotated[float, Range(0)]
Part = Annotated[float, Range(0, 1, without=1)]
Angle = Annotated[float, Range(0, 180)]
Slope = Annotated[float, Range(0, 90, without=90)]
Side = Annotated[int, Range(1, 8192)]


@dataclass(frozen=True)
class Recipe:
    """Train a network of coatnet_mini on images, and keep what is needed to go on or to use it."""

    # ---- Data
    data: str = "digits"
    """digits, shapes, a folder of images (one folder a class) or of Parquet files, or the name of
    a data set on the Hugging Face hub."""
    data_config: str | None = None
    """Configuration of a hub data set that has several."""
    split_train: str = "train"
    """The split to train on."""
    split_test: str | None = None
    """The split held out; by default validation, test or valid, whichever there is."""
    holdout: Annotated[float, Range(0.0001, 0.9999)] = 0.1
    """Part of the data to hold out where there is one split only."""
    image_column: str | None = None
    """Column of the images; by default the first that holds images."""
    label_column: str | None = None
    """Column of the labels; by default label, labels, fine_label or the first of classes."""
    num_classes: Count | None = None
    """Number of classes, where the data do not say."""
    train_images: Count | None = None
    """Train on this many images only; for shapes, make this many (10,000 by default)."""
    streaming: bool = False
    """Read the data while training and store nothing; needs --steps."""
    shuffle_buffer: Count = 10_000
    """Images among which a stream is shuffled, in each process; twice as many are held, encoded."""
    strict: bool = False
    """Stop at an image that cannot be read; otherwise it is named, skipped and counted."""
    threads: Annotated[int, Range(1, 256)] = 4
    """Threads that decode images."""
    memory: Amount = 2.0
    """Hold decoded images in memory if they need no more than this many GB, per process."""

    # ---- Network
    model: str = "coatnet_pico"
    """A name of coatnet_mini.list_models()."""
    image_size: Side = 32
    """Height and width at which the network sees the images, in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey images, 3 for colours."""
    options: tuple[str, ...] = ()
    """Other fields of the network's configuration, such as relative_bias=none head=tanh."""
    init_from: str | None = None
    """Start from the weights in this folder; bias tables are resized, and for another number of
    classes the classifier is new."""

    # ---- Augmentation, of training images only
    crop_scale: Annotated[float, Range(0, 1, without=0)] = 1.0
    """Random crops have at least this part of the image's area (0.08 is usual); 1 for none."""
    flip: bool = False
    """Mirror every second image."""
    rotate: Angle = 0.0
    """Turn by up to this many degrees."""
    translate: Part = 0.0
    """Shift by up to this part of the side."""
    zoom: Part = 0.0
    """Enlarge or shrink by up to this part."""
    shear: Slope = 0.0
    """Slant by up to this many degrees, to the left or to the right."""
    rand_augment_layers: Annotated[int, Range(0, 100)] = 0
    """Operations of RandAugment in a row; 0 for none."""
    rand_augment_magnitude: Annotated[int, Range(1, 29)] = 15
    """Their strength, 1 to 29."""
    mixup: Amount = 0.0
    """MixUp's alpha; 0 for none."""
    crop_ratio: Annotated[float, Range(0.1, 1)] = 1.0
    """In evaluation, the part of the image's side that the centre crop keeps."""

    # ---- Optimization
    epochs: Annotated[float, Range(0, 10**6, without=0)] = 30
    """Passes over the training images."""
    steps: Count | None = None
    """Steps, in place of epochs."""
    batch_size: Count = 64
    """Images per step, over all processes and accumulated parts."""
    accumulate: Count = 1
    """Parts in which each process works off its share of a batch."""
    head_steps: Steps = 0
    """First steps in which the classifier alone learns, on a network that stays as it is."""
    lr: Annotated[float, Range(0, without=0)] = 1e-3
    """Peak learning rate of AdamW."""
    min_lr: Amount = 1e-5
    """Learning rate at the end of a cosine or linear schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate gets from the peak to the end."""
    warmup_steps: Steps = 0
    """Steps in which it rises to the peak, linearly."""
    weight_decay: Amount = 0.05
    """On the weights of linear layers and convolutions; never on norms, biases and bias tables."""
    clip_norm: Amount = 1.0
    """Largest norm of all gradients together; 0 for no limit."""
    label_smoothing: Part = 0.1
    """Part of the target that is spread over all classes."""
    drop_path: Part | None = None
    """Full rate of stochastic depth; by default the paper's for CoAtNet-0 to -3, else 0."""
    ema: Part = 0.0
    """Decay of the running average of the weights; 0 for none."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Of weights, order, augmentation and stochastic depth."""

    # ---- Machine
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision."""
    compile: bool = False
    """Compile the network."""

    # ---- Output
    output: str = "runs/{preset}"
    """Folder for checkpoints, metrics and the trained network."""
    resume: bool = False
    """Go on from the last whole checkpoint in the output folder, if there is one."""
    changed_data: bool = False
    """With resume: go on although the images are not those that the run was begun with."""
    checkpoint_every: Count = 500
    """Steps between checkpoints; the last two are kept."""
    evaluate_every: Steps = 0
    """Steps between evaluations; 0 for one at the end only."""
    log_every: Count = 10
    """Steps between lines in metrics.jsonl."""
    tensorboard: bool = True
    """Also write the metrics for TensorBoard."""
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the weights of the trained network as stored; the final accuracy is that of the
    stored weights."""

    def check(self) -> None:
        """Refuse values that no run could use, with a ValueError that says what is allowed."""
        for name, hint in get_type_hints(Recipe, include_extras=True).items():
            value, allowed = getattr(self, name), range_of(hint)
            if None not in (value, allowed) and not (value in allowed and isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be {allowed}")
        if self.streaming and self.data in ("digits", "shapes"):
            raise ValueError(f"streaming is for folders and the hub; {self.data} is made here")
        if self.streaming and self.train_images:
            raise ValueError("train_images cannot be told from a stream; use it without streaming")
        if self.streaming and self.steps is None:
            raise ValueError("streaming needs --steps: a stream does not tell how long an epoch is")
        if self.schedule != "constant" and self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr}, above the peak lr {self.lr}")
        for option in self.options:
            if "=" not in option:
                raise ValueError(f"option {option!r} is not of the form name=value")
            if (name := option.partition("=")[0]) in SET_BY:
                raise ValueError(f"option {option!r}: {name} is set by {SET_BY[name]}")

    def overrides(self) -> dict:
        """The options, read as JSON where they can be: {"head": "tanh", "se_ratio": 0}."""
        pairs = (option.partition("=")[::2] for option in self.options)
        return {name: parsed(value) for name, value in pairs}


# What the command gives the network itself, and from where.
SET_BY = {
    "num_classes": "the data",
    "image_size": "--image-size",
    "in_channels": "--channels",
    "drop_path": "--drop-path",
}


def parsed(text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def range_of(hint) -> Range | None:
    """The range that stands at a field's type, also where the field may be None."""
    kinds = (hint, *get_args(hint))
    extras = [extra for kind in kinds for extra in getattr(kind, "__metadata__", ())]
    return next((extra for extra in extras if isinstance(extra, Range)), None)


IMAGENET = Recipe(
    data="ILSVRC/imagenet-1k",
    model="coatnet_0",
    image_size=224,
    crop_scale=0.08,
    flip=True,
    rand_augment_layers=2,
    mixup=0.8,
    crop_ratio=0.875,
    epochs=300,
    batch_size=4096,
    warmup_steps=10_000,
    checkpoint_every=1000,
    evaluate_every=3125,
    log_every=50,
    precision="bf16",
    threads=16,
)
DIGITS = Recipe(
    image_size=24,
    channels=1,
    rotate=10,
    translate=0.08,
    zoom=0.1,
    lr=2e-3,
    warmup_steps=60,
    drop_path=0.1,
    ema=0.98,
)
SHAPES = Recipe(data="shapes", epochs=5, lr=2e-3, warmup_steps=100, drop_path=0.1)
CIFAR10 = Recipe(
    data="uoft-cs/cifar10",
    model="coatnet_nano",
    crop_scale=0.5,
    flip=True,
    rand_augment_layers=2,
    rand_augment_magnitude=10,
    mixup=0.2,
    epochs=60,
    batch_size=256,
    warmup_steps=500,
    drop_path=0.2,
    evaluate_every=1000,
)
FINETUNE = replace(
    IMAGENET,
    image_size=384,
    crop_ratio=1.0,
    epochs=30,
    batch_size=512,
    lr=5e-5,
    min_lr=5e-5,
    schedule="constant",
    warmup_steps=0,
    weight_decay=1e-8,
    ema=0.9999,
)
PRESETS = {
    "digits": DIGITS,
    "shapes": SHAPES,
    "cifar10": CIFAR10,
    "imagenet1k": IMAGENET,
    "finetune": FINETUNE,
}
ABOUT = {
    "digits": "scikit-learn's digits: no download, a minute or two on two cores (the default)",
    "shapes": "texture and relation, made on the spot, about three minutes on two cores",
    "cifar10": "CIFAR-10 from the Hugging Face hub",
    "imagenet1k": "the paper's pre-training at 224 pixels (Table 10), CoAtNet-0",
    "finetune": "the paper's fine-tuning at 384 pixels (Table 10); give it --init-from",
}
FREE = {  # fields that may change between a stop and the resumed run
    *(
        "resume",
        "changed_data",
        "output",
        "threads",
        "memory",
        "device",
        "compile",
        "accumulate",
        "strict",
    ),
    *("checkpoint_every", "log_every", "tensorboard"),
}


def drop_path_of(recipe: Recipe) -> float:
    return PAPER_DROP_PATH.get(recipe.model, 0.0) if recipe.drop_path is None else recipe.drop_path


def differences(old: dict, new: Recipe) -> list[str]:
    """What sets two recipes apart and would make a resumed run another one, in words."""
    now = asdict(new)
    names = [field.name for field in fields(Recipe) if field.name not in FREE]
    return [
        f"{name} was {old.get(name)!r} and is {now[name]!r}"
        for name in names
        if old.get(name) != now[name]
    ]
