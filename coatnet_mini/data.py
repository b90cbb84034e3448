"""Pictures as tensors: the digits that come with scikit-learn, and what networks expect of pixels.

The training command's other data, folders and hub data sets, are opened in `sources.py`.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from coatnet_mini.shapes import CLASSES, shapes

MODES = {1: "L", 3: "RGB"}  # Pillow's names for images of one and of three channels


@dataclass
class Images:
    """Images (N, C, H, W) uint8, labels (N,) int64, and the classes' names."""

    images: Tensor
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def normalize(images: Tensor) -> Tensor:
    """uint8 in 0..255 → float32 in −1..1, the input of every network of this package."""
    return images.float().div_(127.5).sub_(1)


def digits(image_size: int = 32) -> tuple[Images, Images]:
    """scikit-learn's 1797 digits, 8×8 pixels of 17 greys, enlarged: training and held-out set.

    Every third image is held out (599), so each writer's digits are in both sets.

    Returns:
        Two `Images` of one channel, image_size × image_size.
    """
    return tuple(
        Images(fit_all(images, image_size), torch.from_numpy(labels), classes)
        for images, labels, classes in raw_digits()
    )


def raw_digits() -> tuple:
    """(images (N, 8, 8) uint8, labels (N,) int64, classes) of the training and held-out set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images * (255 / 16)).round().astype(np.uint8)
    held_out = np.arange(len(images)) % 3 == 2
    classes = [str(name) for name in data.target_names]
    return tuple((images[part], data.target[part].astype(np.int64), classes)
                 for part in (~held_out, held_out))  # fmt: skip


def shape_images(n: int, split: str = "train", seed: int = 0) -> Images:
    """`shapes.shapes` as `Images`: (n, 3, 32, 32), sixteen classes."""
    images, labels = shapes(n, split, seed)
    return Images(torch.from_numpy(images), torch.from_numpy(labels), CLASSES)


def fit_all(images: np.ndarray, size: int) -> Tensor:
    """Grey images (N, H, W) uint8 → (N, 1, size, size) uint8."""
    fitted = [fit(PIL.Image.fromarray(image), size, 1) for image in images]
    return torch.from_numpy(np.stack(fitted))


def decode(data: bytes, size: int, channels: int) -> np.ndarray:
    """An encoded image (PNG, JPEG, ...) → (channels, size, size) uint8."""
    with PIL.Image.open(BytesIO(data)) as image:
        if image.format == "JPEG":
            image.draft(None, (size, size))  # the decoder skips detail that the resize would drop
        return fit(image, size, channels)


def fit(image: PIL.Image.Image, size: int, channels: int) -> np.ndarray:
    """The centre square of an image, resized: (channels, size, size) uint8."""
    image = image.convert(MODES[channels])
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size != (size, size):
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), PIL.Image.Resampling.BICUBIC, box)
    pixels = np.asarray(image)
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))
