"""A copy of a network for inference, with its BatchNorms folded into the convolutions beside them.

In evaluation a BatchNorm is a fixed scale and shift per channel, which a convolution before it,
or a 1×1 convolution right after it, can carry in its own weights: the outputs are the same, and
one pass over the activations fewer is made. GELU then directly follows its convolution.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.blocks import MLP, ConvStem, MBConv

CPU_DTYPES = (torch.float32, torch.bfloat16)


class ConvGELU(nn.Conv2d):
    """GELU(Conv(x)), in one kernel on a CPU without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if not one_kernel(x):
            return F.gelu(super().forward(x))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *geometry, "gelu", [], "none"
        )


class LinearGELU(nn.Linear):
    """GELU(Linear(x)), in one kernel on a CPU without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if not one_kernel(x):
            return F.gelu(super().forward(x))
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")


def one_kernel(x: Tensor) -> bool:
    """Whether oneDNN's fused operators take x; a compiler makes its own choice."""
    if x.device.type != "cpu" or x.dtype not in CPU_DTYPES or x.numel() == 0:
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


@torch.no_grad()
def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode that computes the same with fewer operations.

    Folds every BatchNorm of the stem and of the MBConv blocks; a network with other norms keeps
    those. The copy is for inference alone: it has no BatchNorms left to train.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MBConv) and isinstance(module.norm, nn.BatchNorm2d):
            fuse_mbconv(module)
        elif isinstance(module, ConvStem):
            fuse_stem(module)
        elif isinstance(module, MLP):
            fuse_mlp(module)
    return model.eval().to(memory_format=torch.channels_last)


def fuse_mbconv(block: MBConv) -> None:
    scale, shift = scale_and_shift(block.norm)
    bias = block.expand.weight.flatten(1) @ shift  # (hidden,); a 1×1 kernel has no borders
    block.expand.weight.mul_(scale[:, None, None])
    block.expand = with_gelu(block.expand, block.expand_norm, bias)
    block.depthwise = with_gelu(block.depthwise, block.depthwise_norm)
    block.norm, block.expand_norm, block.depthwise_norm = (nn.Identity() for _ in range(3))
    block.act = nn.Identity()


def fuse_stem(stem: ConvStem) -> None:
    for n in range(0, len(stem) - 1, 3):  # convolution, norm, GELU
        if isinstance(stem[n + 1], nn.BatchNorm2d):
            stem[n] = with_gelu(stem[n], stem[n + 1])
            stem[n + 1], stem[n + 2] = nn.Identity(), nn.Identity()


def fuse_mlp(mlp: MLP) -> None:
    expand = LinearGELU(mlp.expand.in_features, mlp.expand.out_features).to(mlp.expand.weight)
    expand.load_state_dict(mlp.expand.state_dict())
    mlp.expand, mlp.act = expand, nn.Identity()


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BatchNorm(x) = scale·x + shift in evaluation, both (D,)."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def with_gelu(conv: nn.Conv2d, norm: nn.BatchNorm2d, bias: Tensor | None = None) -> ConvGELU:
    """GELU(norm(conv(x) + bias)) in one layer."""
    scale, shift = scale_and_shift(norm)
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    new = ConvGELU(conv.in_channels, conv.out_channels, *geometry).to(conv.weight)
    new.weight.copy_(conv.weight * scale[:, None, None, None])
    new.bias.copy_(shift if bias is None else shift + bias * scale)
    return new
