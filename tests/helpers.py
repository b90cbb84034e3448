"""What several test modules share: how far two tensors are apart, networks, contrast."""

import numpy as np
import torch
from torch import nn

from coatnet_mini import create_model


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference of two tensors, which must have one shape."""
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> bool:
    return a.shape == b.shape and difference(a, b) < tolerance


def on_meta(name: str, **options) -> nn.Module:
    """The named network without memory for its weights, to be counted."""
    with torch.device("meta"):
        return create_model(name, **options)


def count(module: nn.Module, name: str = "") -> int:
    """The parameters whose name ends in `name`."""
    return sum(p.numel() for n, p in module.named_parameters() if n.endswith(name))


def shaken(model: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, no zero or one left of what tensors start from."""
    model = model.double().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model


def luminance(rgb) -> np.ndarray:
    """WCAG's relative luminance of colours (..., 3) in 0..1."""
    rgb = np.asarray(rgb)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other) -> np.ndarray:
    """WCAG's contrast of two colours, 1 to 21."""
    low, high = np.sort([luminance(one), luminance(other)], axis=0)
    return (high + 0.05) / (low + 0.05)
