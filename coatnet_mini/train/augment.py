"""Augmentation of training images: whole batches, on the device, with kornia."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.train.recipe import Recipe

COLOUR_ONLY = {"color"}  # RandAugment's saturation has no meaning for grey images


class Augment(nn.Module):
    """The random changes that a recipe asks for: (B, C, H, W) uint8 → (B, C, S, S) in 0..1.

    kornia draws the operations of RandAugment once a batch and their strength once an image; its
    magnitude runs from 1 to 29, and its list of operations is kornia's. All random numbers come
    from torch's default generator.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.changes = random_changes(recipe)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / 255
        return images if self.changes is None else self.changes(images).clamp_(0, 1)


def random_changes(recipe: Recipe) -> nn.Module | None:
    """The changes, in kornia's terms, (B, C, H, W) in 0..1 → (B, C, S, S); None if there are none.

    kornia is imported only where there is one.
    """
    asked = {
        crop: recipe.crop_scale < 1,
        flip: recipe.flip,
        move: recipe.rotate or recipe.translate or recipe.zoom or recipe.shear,
        rand_augment: recipe.rand_augment_layers,
    }
    steps = [make(recipe) for make, wanted in asked.items() if wanted]
    if not steps:
        return None
    from kornia.augmentation import AugmentationSequential

    return AugmentationSequential(*steps, data_keys=["input"])


def crop(recipe: Recipe) -> nn.Module:
    from kornia.augmentation import RandomResizedCrop

    return RandomResizedCrop((recipe.image_size, recipe.image_size), (recipe.crop_scale, 1.0))


def flip(recipe: Recipe) -> nn.Module:
    from kornia.augmentation import RandomHorizontalFlip

    return RandomHorizontalFlip()


def move(recipe: Recipe) -> nn.Module:
    from kornia.augmentation import RandomAffine

    shift = (recipe.translate, recipe.translate)
    size = (1 - recipe.zoom, 1 + recipe.zoom)
    return RandomAffine(recipe.rotate, shift, size, recipe.shear or None, p=1.0)


def rand_augment(recipe: Recipe) -> nn.Module:
    from kornia.augmentation.auto import RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    colours = recipe.channels == 3
    policy = [op for op in default_policy if colours or op[0][0] not in COLOUR_ONLY]
    return RandAugment(recipe.rand_augment_layers, recipe.rand_augment_magnitude, policy)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B,) int64 → (B, classes) float32"""
    return F.one_hot(labels, classes).float()


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """λx + (1 − λ)x′ for images and targets alike, λ ~ Beta(α, α), x′ another image of the batch.

    One λ for the batch, as in the MixUp paper's code. (kornia draws λ uniformly.)

    Args:
        images: (B, C, H, W).
        targets: (B, classes).
        alpha: above 0.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    other = torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)
