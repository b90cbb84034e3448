"""What a network costs, part by part: parameters, multiply-adds, bytes of activations.

Everything is measured by running the network on the meta device, where tensors have shapes and no
memory, so that the largest member costs nothing to look at.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.checks import pair


@dataclass(frozen=True)
class Cost:
    """The cost of one part of a network; all but `parameters` for one forward pass of a batch.

    Args:
        name, output: the part, and the shape that it returns.
        parameters: trainable ones.
        multiply_adds: of convolutions and matrix products, q·k and A·v included; of norms, softmax
            and activations not. The FLOPs that the CoAtNet paper prints are 1 to 4 % higher.
        activation_bytes: written by the part's layers; the sums of residuals and the product with
            a gate, which compiled code does not store, are left out.
        attention_bytes: the attention matrices, heads·N² each, were they written out; fused
            attention does not store them.
        attention_multiply_adds: those of q·k and A·v; the FLOPs printed for CeiT-T and CeiT-S fit
            only without them.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    attention_bytes: int
    attention_multiply_adds: int = 0


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The children of a model, lists and dictionaries of modules taken apart, in order."""
    parts = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict):
            parts.update(child.items())
        elif isinstance(child, nn.ModuleList):
            parts.update({f"{name}.{n}": module for n, module in enumerate(child)})
        else:
            parts[name] = child
    return parts


def cost(model: nn.Module, image_size=None, batch: int = 1) -> list[Cost]:
    """The cost of each part of a model (for a CoAtNet S0, S1, ..., head), then the total.

    Args:
        model: any network with a `config` that has `in_channels` and `image_size`, on any device.
        image_size: an int or (H, W), by default the model's own.

    Raises:
        ValueError: the strides do not divide the size.
    """
    size = pair(model.config.image_size if image_size is None else image_size)
    parts, was_training = parts_of(model), model.training
    try:
        with watch(parts) as seen, FlopCounterMode(display=False) as counter, torch.no_grad():
            run_on_meta(model.eval(), (batch, model.config.in_channels, *size))
    finally:
        model.train(was_training)
    counts = {
        path.removeprefix(f"{type(model).__name__}."): sum(operations.values()) // 2
        for path, operations in counter.get_flop_counts().items()
    }
    paths = {module: path for path, module in model.named_modules()}
    rows = []
    for name, part in parts.items():
        s = seen[name]
        counted = (parameters(part), counts.get(paths[part], 0))
        rows.append(Cost(name, s.output, *counted, s.written, s.attended, s.products))
    return [*rows, total(model, rows, counter.get_total_flops() // 2)]


def run_on_meta(model: nn.Module, shape: tuple[int, ...]) -> None:
    """One forward pass with the shapes of the model's tensors and none of their values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors}
    dtype = next(t.dtype for t in on_meta.values() if t.is_floating_point())
    functional_call(model, on_meta, (torch.empty(shape, device="meta", dtype=dtype),))


@dataclass
class Seen:
    """What the hooks of `watch` saw in one part."""

    output: tuple[int, ...] = ()
    written: int = 0
    attended: int = 0
    products: int = 0

    def layer(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, MultiHeadAttention):
            B, N, _ = inputs[0].shape
            entries = B * module.heads * output.shape[1] * N  # queries times keys
            self.attended += entries * output.itemsize
            self.products += 2 * entries * module.head_dim
        elif output is not inputs[0] and not any(module.children()):
            self.written += output.nbytes

    def part(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.output = tuple(output.shape)


@contextmanager
def watch(parts: dict[str, nn.Module]):
    """Record what flows through each part while the context is open: {name: Seen}."""
    seen = {name: Seen() for name in parts}
    handles = []
    for name, part in parts.items():
        handles.append(part.register_forward_hook(seen[name].part))
        handles += [m.register_forward_hook(seen[name].layer) for m in part.modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def total(model: nn.Module, rows: list[Cost], multiply_adds: int) -> Cost:
    return Cost(
        "total",
        rows[-1].output,
        parameters(model),  # not the sum of the rows: a class token belongs to no part
        multiply_adds,
        sum(row.activation_bytes for row in rows),
        sum(row.attention_bytes for row in rows),
        sum(row.attention_multiply_adds for row in rows),
    )


def cost_table(rows: list[Cost]) -> str:
    """The rows of `cost` as a Markdown table, in millions and megabytes (10⁶ bytes)."""
    columns = {
        "parameters (M)": "parameters",
        "multiply-adds (M)": "multiply_adds",
        "activations (MB)": "activation_bytes",
        "attention (MB)": "attention_bytes",
    }
    lines = [["part", "output", *columns], ["---", "---"] + ["---:"] * len(columns)]
    for row in rows:
        millions = [getattr(row, field) / 1e6 for field in columns.values()]
        output = "×".join(map(str, row.output[1:]))
        lines.append([row.name, output, *(f"{value:,.2f}" for value in millions)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
