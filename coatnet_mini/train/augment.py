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
        self.changes = random_changes(recipe) if changes_anything(recipe) else None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / 255
        return images if self.changes is None else self.changes(images).clamp_(0, 1)


def changes_anything(recipe: Recipe) -> bool:
    """Whether the recipe asks for any random change; without one, kornia is not needed."""
    moves = recipe.rotate or recipe.translate or recipe.zoom
    return bool(recipe.crop_scale < 1 or recipe.flip or moves or recipe.rand_augment_layers)


def random_changes(recipe: Recipe) -> nn.Module:
    """The changes, in kornia's terms: (B, C, H, W) in 0..1 → (B, C, S, S)."""
    import kornia.augmentation as K
    from kornia.augmentation.auto import RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    steps: list[nn.Module] = []
    size = recipe.image_size
    if recipe.crop_scale < 1:
        steps.append(K.RandomResizedCrop((size, size), (recipe.crop_scale, 1.0)))
    if recipe.flip:
        steps.append(K.RandomHorizontalFlip())
    if recipe.rotate or recipe.translate or recipe.zoom:
        shift = (recipe.translate, recipe.translate)
        scale = (1 - recipe.zoom, 1 + recipe.zoom)
        steps.append(K.RandomAffine(recipe.rotate, shift, scale, p=1.0))
    if recipe.rand_augment_layers:
        colours = recipe.channels == 3
        policy = [op for op in default_policy if colours or op[0][0] not in COLOUR_ONLY]
        layers, magnitude = recipe.rand_augment_layers, recipe.rand_augment_magnitude
        steps.append(RandAugment(layers, magnitude, policy))
    return K.AugmentationSequential(*steps, data_keys=["input"])


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
