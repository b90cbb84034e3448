"""Is this a CoAtNet? A wing: `audit(network, like="coatnet_0")` says so, check by check.

It knows no class. It runs the network on two small images, keeps a tape of what is computed
(`tape`), finds on it the attentions, feed-forward networks and MBConvs (`anatomy`), and asks each
check; most of them change something, run again, and look at what comes out.

What it needs: a network of PyTorch operations, from images (B, C, H, W) in evaluation mode. Best
give the function that makes it from an image size: only then can it be asked for pictures that are
not square. Parameters that are constant, such as a table of zeros, get noise for the time of the
audit; the network itself is not changed. What runs inside one operation stays unseen, and what is
unseen is never passed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from coatnet_mini.audit import attention_checks as of_blocks
from coatnet_mini.audit import network_checks as of_network
from coatnet_mini.audit.report import Report, Result
from coatnet_mini.audit.subject import Subject
from coatnet_mini.coatnet import CoAtNetConfig
from coatnet_mini.probes import evaluating

__all__ = ["CHECKS", "Report", "Result", "audit"]

CHECKS = {  # name: the check, and why it matters
    "size": (of_network.size, "What is missing from the size is missing from the network."),
    "blocks": (of_network.blocks, "The depths of S1 to S4 are most of what a member's name says."),
    "stem": (
        of_network.stem,
        "Two 3×3 convolutions halve the picture: every block pays by it.",
    ),
    "stride": (of_network.stride, "Attention pays for positions twice: half the stride, 16 times."),
    "expansion": (
        of_network.expansion,
        "4 times the block's own width is what fits the paper's operation counts.",
    ),
    "first stride": (
        of_network.strides_in_mbconv,
        "Equation (5) strides at the first 1×1; elsewhere the block costs and reads more.",
    ),
    "gates": (of_network.squeeze, "The printed sizes include a gate in every MBConv."),
    "norms": (
        of_blocks.norms,
        "Appendix A.1: x ← x + Module(Norm(x)); a norm on the trunk would undo the shortcut.",
    ),
    "residuals": (
        of_network.residuals,
        "A block without a shortcut must relearn what came in.",
    ),
    "order": (
        of_blocks.order,
        "Equation (4) is Pool(Norm(x)): a maximum over raw channels is another one.",
    ),
    "pool": (
        of_blocks.pool,
        "Appendix A.1 says max pooling, on both branches; no parameter tells.",
    ),
    "places": (
        of_blocks.places,
        "The table knows offsets on a grid; tokens elsewhere get the bias of other pairs.",
    ),
    "heads": (of_blocks.heads, "D/32 heads of 32: fewer heads, and attention is too narrow."),
    "softmax": (of_blocks.softmax, "The weights of a query sum to one; those of a key need not."),
    "bias": (of_blocks.bias, "Without it the Transformer blocks do not know where anything is."),
    "per head": (of_blocks.per_head, "Appendix A.1: one table for each head."),
    "per layer": (of_blocks.per_layer, "Section 3: the layers do not share their tables."),
    "offsets": (
        of_blocks.offsets,
        "w depends on i − j alone: that is what makes the attention relative.",
    ),
    "gradient": (of_blocks.gradient, "A table without a gradient keeps its first, random values."),
    "hidden": (
        of_blocks.ffn,
        "4 times the block's output: this network has two thirds of the block's weights.",
    ),
    "activation": (of_network.activation, "The paper has GELU in both kinds of block."),
    "head": (of_network.head, "Figure 4: global pooling, then one fully connected layer."),
    "shapes": (of_network.shapes, "Two images must give two answers, whatever their shape."),
    "same twice": (of_network.same_twice, "In evaluation a network is a function of its images."),
}


def audit(
    network: nn.Module | Callable[[tuple[int, int]], nn.Module],
    like: str | CoAtNetConfig = "coatnet_0",
    size=None,
) -> Report:
    """All checks of a network; see the module for what it needs.

    Args:
        network: a module, or a function from (H, W) to one.
        like: what it is meant to be: a name of the paper's, or a configuration.
        size: (H, W) of the pictures to look with. By default, for a function, two by three
            positions at the last stage; for a module the size of `like`.

    Raises:
        ValueError: an unknown name, or a network that does not run at this size; one line.
    """
    subject = Subject(network, like, size)
    with evaluating(subject.model):
        try:
            _ = subject.anatomy
        except Exception as error:
            H, W = subject.size
            text = " ".join(str(error).split())
            raise ValueError(f"the network does not run on {H}×{W} images: {text}") from error
        results = []
        for name, (check, why) in CHECKS.items():
            status, found = check(subject)
            results.append(Result(name, status, found, why))
    return Report(tuple(results))
