"""All networks by name. No other module knows every family.

A family joins with its class in `FAMILIES` and its members in `MODELS`.
"""

from torch import nn

from coatnet_mini import ceit, coatnet, vit
from coatnet_mini.checks import configure

__all__ = ["FAMILIES", "MODELS", "create_model", "list_models"]

# By the name that a stored network's config.json gives.
FAMILIES = {"CoAtNet": coatnet.CoAtNet, "ViT": vit.ViT, "CeiT": ceit.CeiT}
# The class of each member, and what sets the member apart: fields of the class's `Config`.
MODELS = {
    **{name: (coatnet.CoAtNet, own) for name, own in coatnet.FAMILY.items()},
    **{name: (vit.ViT, own) for name, own in vit.FAMILY.items()},
    **{name: (ceit.CeiT, own) for name, own in ceit.FAMILY.items()},
}


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    return sorted(MODELS)


def create_model(
    name: str, num_classes: int = 1000, image_size=None, in_channels: int = 3, **overrides
) -> nn.Module:
    """A network by name, with new weights: images (B, in_channels, H, W) → (B, num_classes).

    Args:
        name: one of `list_models()`.
        image_size: an int or (H, W); by default the member's own, 224, or 32 for the small ones.
        overrides: fields of the member's configuration, for a CoAtNet those of `CoAtNetConfig`.

    Raises:
        ValueError: for unknown names and options, for values that do not fit together, and for
            networks above `checks.limits`; always one line.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(list_models())}")
    family, own = MODELS[name]
    if image_size is not None:
        overrides["image_size"] = image_size
    options = {**own, "num_classes": num_classes, "in_channels": in_channels, **overrides}
    return family(configure(family.Config, options))
