"""Real pictures that come with scikit-learn, as float tensors in 0..1: nothing is downloaded."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

PHOTOGRAPHS = ("china", "flower")


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 handwritten digits: images (1797, 8, 8) float32, ink 1 and paper 0; labels int64."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32) / 16  # stored as 0 ... 16
    return images, torch.tensor(bunch.target, dtype=torch.int64)


def photograph(name: str = "china", height: int | None = None) -> Tensor:
    """A colour photograph, (3, H, W) float32 in 0..1: "china" (a temple) or "flower", 427×640.

    height: rows of a smaller copy, antialiased, with the proportions kept (default: full size).
    """
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
