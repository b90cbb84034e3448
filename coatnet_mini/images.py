"""Pictures: real ones that come with scikit-learn, and what networks expect of pixels.

Nothing is downloaded. `digits` and `photograph` are floats in 0..1, to look at and to measure
with; training sets are `Images`, uint8 in 0..255, which `normalize` makes a network's input.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from coatnet_mini.shapes import CLASSES, shapes

PHOTOGRAPHS = ("china", "flower")
MODES = {1: "L", 3: "RGB"}  # Pillow's names for images of one and of three channels


@dataclass
class Images:
    """Images (N, C, H, W) uint8, labels (N,) int64, and the classes' names."""

    images: Tensor
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


# ---- To look at ----------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 handwritten digits: images (1797, 8, 8) float32, ink 1 and paper 0; labels int64."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 16  # stored as 0 ... 16
    return images, torch.tensor(data.target, dtype=torch.int64)


def photograph(name: str = "china", height: int | None = None) -> Tensor:
    """A colour photograph, (3, H, W) float32 in 0..1.

    Args:
        name: "china" (a temple) or "flower", 427×640.
        height: rows of a smaller copy, antialiased, with the proportions kept; by default all.
    """
    from sklearn.datasets import load_sample_image

    if name not in PHOTOGRAPHS:
        raise ValueError(f'name must be "china" or "flower", got {name!r}')
    image = torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1) / 255  # (3, H, W)
    if height is None:
        return image
    if not 1 <= height <= image.shape[1]:
        raise ValueError(f"height must be 1 to {image.shape[1]} rows, got {height}")
    size = (height, round(height * image.shape[2] / image.shape[1]))
    small = F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)
    return small[0].clamp(0, 1)


def load_digits():
    import sklearn.datasets  # takes a second, which only those wait who read digits

    return sklearn.datasets.load_digits()


# ---- To train on ---------------------------------------------------------------------------------


def digit_images(image_size: int = 32) -> tuple[Images, Images]:
    """The same digits in grey, enlarged from 8×8 pixels: training and held-out set.

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
    data = load_digits()
    images = (data.images * (255 / 16)).round().astype(np.uint8)
    labels = data.target.astype(np.int64)
    classes = [str(name) for name in data.target_names]
    held_out = np.arange(len(images)) % 3 == 2
    return tuple((images[part], labels[part], classes) for part in (~held_out, held_out))


def shape_images(n: int, split: str = "train", seed: int = 0) -> Images:
    """`shapes.shapes` as `Images`: (n, 3, 32, 32), sixteen classes."""
    images, labels = shapes(n, split, seed)
    return Images(torch.from_numpy(images), torch.from_numpy(labels), CLASSES)


def normalize(images: Tensor) -> Tensor:
    """uint8 in 0..255 → float32 in −1..1, the input of every network of this package."""
    return images.float().div_(127.5).sub_(1)


# ---- To square pixels of one size ----------------------------------------------------------------


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


def fit_all(images: np.ndarray, size: int) -> Tensor:
    """Grey images (N, H, W) uint8 → (N, 1, size, size) uint8."""
    fitted = [fit(PIL.Image.fromarray(image), size, 1) for image in images]
    return torch.from_numpy(np.stack(fitted))
