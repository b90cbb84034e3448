"""Accuracy and loss of a network on held-out images, over all processes."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from coatnet_mini.images import normalize
from coatnet_mini.train.loading import IGNORED, Loader

BATCH = 256  # images, per process


@torch.no_grad()
def evaluate(
    net: nn.Module, loader: Loader, image_size: int, accelerator: Accelerator
) -> dict[str, float]:
    """{"accuracy", "test_loss"} on the images that can be read; no augmentation.

    Raises:
        ValueError: none can be read.
    """
    if accelerator.num_processes > 1:  # each has its own running statistics; the first's count
        for buffer in net.buffers():
            broadcast(buffer)
    net.eval()
    totals = torch.zeros(3, device=accelerator.device)
    batches = loader.evaluate(BATCH, accelerator.process_index, accelerator.num_processes)
    for images, labels in batches:
        images = centre(images, image_size).to(accelerator.device)
        with accelerator.autocast():
            logits = net(normalize(images)).float()
        totals += counts(logits, labels.to(accelerator.device)).to(totals)
    right, loss, n = accelerator.reduce(totals, "sum").tolist()
    if not n:
        raise ValueError("none of the held-out images can be read")
    return {"accuracy": right / n, "test_loss": loss / n}


def counts(logits: Tensor, labels: Tensor) -> Tensor:
    """(images told right, sum of their losses, images), without those that could not be read."""
    right = (logits.argmax(1) == labels).sum()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return torch.stack([right, loss, (labels != IGNORED).sum()])


def centre(images: Tensor, size: int) -> Tensor:
    """The centre of images (B, C, S, S), size × size."""
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]
