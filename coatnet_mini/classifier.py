"""What the networks of all families share: the head that is replaced, maps, checks, loading."""

from dataclasses import fields, replace

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import init_weights
from coatnet_mini.config import check_image_size


class ImageClassifier(nn.Module, PyTorchModelHubMixin, library_name="coatnet_mini"):
    """Images (B, C, H, W) → logits (B, classes).

    A family adds its parts, `forward` and `forward_features`. Its `config` is a frozen dataclass
    with num_classes, image_size, in_channels, init and total_stride; its last part, `head`, ends
    in the linear layer `classifier`.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.total_stride = config, config.total_stride

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The weights of every attention layer: {"S3.0": (B, heads, N, N), ...}, in order."""
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
        self.config = self._hub_mixin_config = replace(self.config, num_classes=num_classes)
        old = self.head.classifier
        new = nn.Linear(old.in_features, num_classes).to(old.weight)
        init_weights(new, self.config.init)
        self.head.classifier = new

    def check(self, images: Tensor) -> None:
        channels = self.config.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be (batch, {channels}, height, width), "
                             f"got {tuple(images.shape)}")  # fmt: skip
        check_image_size((images.shape[2], images.shape[3]), self.total_stride)

    @classmethod
    def _from_pretrained(cls, *, config=None, strict=True, **options):
        # Fields of the configuration may be overridden: from_pretrained(folder, image_size=384).
        if config is None:
            raise FileNotFoundError(f"no config.json beside the weights in {options['model_id']}")
        names = {field.name for field in fields(config)} & options.keys()
        config = replace(config, **{name: options.pop(name) for name in names})
        return super()._from_pretrained(config=config, strict=strict, **options)
