"""What the parts of a trained network do: measured, left out, covered.

    Where weights lie        distances, half_distance
    What a part adds         branches, silenced, added
    What a kernel is         TEMPLATES, explained
    What the network needs   occlusion

A *branch* is what a block adds to its shortcut by looking at other positions: attention, or the
depthwise convolution and what follows it. Its last layer multiplies what its *parts* have found,
the heads of an attention or the channels of a depthwise convolution, by a matrix each, and adds
them up: y = x + Σ_h U_h z_h. So a part can be left out without touching the others.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.blocks import MBConv, TransformerBlock

# ---- Where weights lie ---------------------------------------------------------------------------


def distances(H: int, W: int) -> Tensor:
    """From each position of an H×W grid to each, in positions: (H·W, H·W) float64."""
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    y, x = rows.flatten().double(), columns.flatten().double()
    return ((y[:, None] - y).square() + (x[:, None] - x).square()).sqrt()


def half_distance(weights: Tensor, H: int, W: int) -> Tensor:
    """The least r within which at least half of a row's weight lies: (..., N, N) → (..., N)."""
    far, order = distances(H, W).sort(dim=-1)
    within = weights.double().gather(-1, order.expand(weights.shape)).cumsum(-1)
    half = within[..., -1:] / 2
    first = (within < half - 1e-6).sum(-1, keepdim=True)  # the tolerance is for rounded sums
    return far.expand(weights.shape).gather(-1, first)[..., 0]


# ---- What a part adds ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """The last layer of a branch, and the `parts` that it adds up, `width` channels each."""

    last: nn.Module
    parts: int
    width: int


def branches(network: nn.Module) -> dict[str, Branch]:
    """{"S1.0": Branch} for every MBConv (parts: channels) and every attention (parts: heads)."""
    found = {}
    for path, block in network.named_modules():
        name = path.removeprefix("stages.")
        if isinstance(block, MBConv):
            found[name] = Branch(block.project, block.project.in_channels, 1)
        elif isinstance(block, TransformerBlock):
            layer = block.attention
            found[name] = Branch(layer.out, layer.heads, layer.head_dim)
    return found


@contextmanager
def silenced(network: nn.Module, parts: dict[str, Iterable[int]]):
    """Inside it, these parts of these branches add nothing: {"S3.0": [1]}, say."""
    handles, found = [], branches(network)
    for name, silent in parts.items():
        branch = found[name]
        keep = torch.ones(branch.parts)
        keep[list(silent)] = 0
        keep = keep.repeat_interleave(branch.width)

        def leave_out(last, inputs, keep=keep):
            (z,) = inputs  # (B, N, D) tokens, or a grid (B, D, H, W)
            return (z * (keep if z.ndim == 3 else keep[:, None, None]),)

        handles.append(branch.last.register_forward_pre_hook(leave_out))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def added(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """How much each part adds, and where: {"S1.0": (B, parts, H, W)}, the norm of U_h z_h."""
    found, made, handles = branches(network), {}, []
    for name, branch in found.items():

        def keep(last, inputs, name=name):
            z = inputs[0]
            made[name] = z.flatten(2).mT if z.ndim == 4 else z  # (B, N, D)

        handles.append(branch.last.register_forward_pre_hook(keep))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: norms(found[name], z.double()) for name, z in made.items()}


def norms(branch: Branch, z: Tensor) -> Tensor:
    """z (B, N, parts·width) → (B, parts, H, W) on a square grid."""
    U = branch.last.weight.double().flatten(1).unflatten(1, (branch.parts, branch.width))
    z = z.unflatten(2, (branch.parts, branch.width))
    gram = torch.einsum("opv,opw->pvw", U, U)  # ‖U z‖² = zᵀ (UᵀU) z, without U z itself
    squares = torch.einsum("bnpv,pvw,bnpw->bpn", z, gram, z).clamp(min=0)
    side = round(z.shape[1] ** 0.5)
    return squares.sqrt().unflatten(2, (side, side)).float()


# ---- What a kernel is ----------------------------------------------------------------------------

STEPS = torch.tensor([[1.0, 1, 1], [-1, 0, 1], [1, -2, 1]], dtype=torch.float64)
STEPS = STEPS / STEPS.norm(dim=1, keepdim=True)  # mean, slope and bend of three in a row
TEMPLATES = {  # (rows, columns) of each 3×3 template; all nine are orthonormal
    "blur": [(0, 0)],
    "edge": [(0, 1), (1, 0)],
    "line": [(0, 2), (2, 0), (1, 1)],
    "spot": [(1, 2), (2, 1), (2, 2)],  # and what else is finer than a line
}


def explained(kernels: Tensor) -> Tensor:
    """Shares of 3×3 kernels (D, 1, 3, 3) that each family of `TEMPLATES` explains: (D, 4).

    A kernel is a sum of the nine templates; its square is the sum of the squares of their amounts.
    """
    amounts = torch.einsum("ry,cx,dyx->drc", STEPS, STEPS, kernels.double().flatten(0, 1))
    squares = [sum(amounts[:, r, c].square() for r, c in own) for own in TEMPLATES.values()]
    shares = torch.stack(squares, 1)
    return shares / shares.sum(1, keepdim=True)


# ---- What the network needs ----------------------------------------------------------------------


@torch.no_grad()
def occlusion(network: Callable, images: Tensor, labels: Tensor, side: int, paper: float = -1.0):
    """How much log p(label) falls when a patch of side×side pixels is covered with paper.

    Args:
        network: images (B, C, H, W) → logits (B, classes). labels: (B,).

    Returns:
        (B, H/side, W/side); 0 where a patch is paper already, which is not tried.
    """
    H, W = images.shape[2:]
    columns = W // side
    ink = F.unfold((images - paper).abs(), side, stride=side).sum(1)  # (B, patches)
    of, at = ink.nonzero(as_tuple=True)
    covered = images[of].clone()
    for image, n in zip(covered, at.tolist(), strict=True):
        row, column = n // columns * side, n % columns * side
        image[:, row : row + side, column : column + side] = paper

    def log_share(images, labels):
        return network(images).log_softmax(1).gather(1, labels[:, None])[:, 0]

    falls, before = torch.zeros_like(ink), log_share(images, labels)
    for part in torch.arange(len(of)).split(64):
        own = of[part]
        falls[own, at[part]] = before[own] - log_share(covered[part], labels[own])
    return falls.unflatten(1, (H // side, columns))
