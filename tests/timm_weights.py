"""timm's coatnet_N_224 and ours with the same weights: configuration, renaming, the head order."""

import torch
from torch import nn

from benchmarks.peers import load_timm
from coatnet_mini import create_model
from coatnet_mini.coatnet import CoAtNet

# What timm fixes where the paper leaves a choice, or where it departs from the paper.
TIMM_CHOICES = dict(
    downsample="depthwise", pool="avg", head="tanh", batch_norm_eps=1e-5, layer_norm_eps=1e-6
)
NAMES = (  # the first that a timm name ends with names the module within its block here
    ("pre_norm", "norm"),
    ("conv1_1x1", "expand"),
    ("conv2_kxk", "depthwise"),
    ("conv3_1x1", "project"),
    ("se.fc1", "se.reduce"),
    ("se.fc2", "se.expand"),
    ("shortcut.expand", "shortcut.1"),
    ("attn.qkv", "attention.qkv"),
    ("attn.proj", "attention.out"),
    ("attn.rel_pos", "attention"),
    ("mlp.fc1", "mlp.expand"),
    ("mlp.fc2", "mlp.project"),
    ("norm1.norm", "norm"),
)
OUTSIDE = {
    "stem.conv1": "stages.S0.0",
    "stem.norm1": "stages.S0.1",
    "stem.conv2": "stages.S0.3",
    "head.norm": "head.norm",
    "head.pre_logits.fc": "head.hidden",
    "head.fc": "head.classifier",
}


def create_pair(number: int, size: int = 224) -> tuple[nn.Module, CoAtNet]:
    """timm's coatnet_<number>_224 and ours, in evaluation mode, with equal weights.

    Every value is random, BatchNorm statistics and bias tables included, so that no zero or one
    that both start from can hide a difference.
    """
    peer = load_timm().create_model(f"coatnet_{number}_224", img_size=size).eval()
    generator = torch.Generator().manual_seed(number)
    for name, tensor in peer.state_dict().items():
        if name.endswith(("norm.bias", "running_mean", "bias_table", "fc1.bias", "fc2.bias")):
            tensor.normal_(std=0.2, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    with torch.device("meta"):  # no initial values: all are about to be replaced
        ours = create_model(f"coatnet_{number}", image_size=size, **TIMM_CHOICES).eval()
    ours.to_empty(device="cpu")
    ours.load_state_dict(convert(peer.state_dict(), ours))
    return peer, ours


def convert(state: dict, ours: CoAtNet) -> dict:
    """timm's state dict under our names and in our shapes; `ours` gives the shapes."""
    new, target = {}, ours.state_dict()
    for name, tensor in state.items():
        if name.endswith("relative_position_index"):
            continue
        path, _, leaf = name.rpartition(".")
        if leaf == "relative_position_bias_table":
            leaf, tensor = "relative_bias_table", tensor.T
        path = OUTSIDE.get(path) or inside(path, target)
        if path.endswith("attention.qkv"):
            tensor = heads_last(tensor, ours.config.head_dim)
        new[f"{path}.{leaf}"] = tensor.reshape(target[f"{path}.{leaf}"].shape)
    return new


def inside(path: str, target: dict) -> str:
    """Our path of a module of a block: "stages.<s>.blocks.<b>.<module>" → "stages.S<s+1>.<b>.…"."""
    _, stage, _, block, module = path.split(".", 4)
    prefix = f"stages.S{int(stage) + 1}.{block}."
    transformer = f"{prefix}attention.qkv.weight" in target
    if module == "norm1":
        return prefix + ("norm" if transformer else "expand_norm")
    if module == "norm2":
        return prefix + ("mlp_norm" if transformer else "depthwise_norm")
    return prefix + next(ours for timms, ours in NAMES if module.endswith(timms))


def heads_last(tensor: torch.Tensor, head_dim: int) -> torch.Tensor:
    """timm orders q, k, v within each head; here each of q, k, v holds all heads."""
    width = len(tensor) // 3
    parts = tensor.reshape(width // head_dim, 3, head_dim, -1)
    return parts.transpose(0, 1).reshape(tensor.shape)
