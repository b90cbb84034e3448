"""What the networks of all families share: the head that is replaced, attention maps, checks."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import init_weights
from coatnet_mini.checks import check_image_size


class ImageClassifier(nn.Module):
    """Images (B, C, H, W) → logits (B, classes).

    A family adds its parts, `forward` and `forward_features`, and names its `Config`: a frozen
    dataclass with num_classes, image_size, in_channels, init and total_stride, which checks its
    values. The last part, `head`, ends in the linear layer `classifier`.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.total_stride = config, config.total_stride

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The weights of every attention layer for images (B, C, H, W), in order.

        Returns:
            {"S3.0": (B, heads, N, N), ...}, in the type of the images.
        """
        maps = {}

        def keep(attention: MultiHeadAttention, inputs: tuple, named: dict) -> None:
            name = paths[attention].removeprefix("stages.").removesuffix(".attention")
            maps[name] = attention.weights(*inputs, **named)

        paths = {m: path for path, m in self.named_modules() if isinstance(m, MultiHeadAttention)}
        handles = [a.register_forward_pre_hook(keep, with_kwargs=True) for a in paths]
        try:
            self(images)
        finally:
            for handle in handles:
                handle.remove()
        return maps

    def replace_head(self, num_classes: int) -> None:
        """A new, untrained classifier for another label set; everything before it stays."""
        self.config = replace(self.config, num_classes=num_classes)
        old = self.head.classifier
        new = nn.Linear(old.in_features, num_classes).to(old.weight)
        init_weights(new, self.config.init)
        self.head.classifier = new

    def check(self, images: Tensor) -> None:
        """Refuse images of another rank, number of channels, or size that no stride divides."""
        channels = self.config.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"images must be (batch, {channels}, height, width), got {tuple(images.shape)}"
            )
        check_image_size((images.shape[2], images.shape[3]), self.total_stride)
