"""Networks for other programs: `python -m coatnet_mini.export CHECKPOINT FILE`.

FILE ends in .onnx (ONNX) or .pt2 (torch.export). Each is opened again and its logits are compared
with the network's own before the file gets its name, so that what is there is right.
"""

import argparse
import copy
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.checkpoint import load

TOLERANCE = 1e-4  # of the logits, relative to the largest
ENDINGS = (".onnx", ".pt2")


def export(model: nn.Module, example: Tensor, path: Path) -> float:
    """Write a network in evaluation mode, for any batch size and the example's image size.

    Args:
        example: (B, C, H, W) float32, B at least 2.
        path: ends in ".onnx" or ".pt2".

    Returns:
        The largest difference of the written network's logits from the model's, over the largest
        logit, on the example and on part of it.

    Raises:
        ValueError: the path ends otherwise, or the difference is above `TOLERANCE`.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path.name!r} must end in {' or '.join(ENDINGS)}")
    write, read = (write_onnx, read_onnx) if path.suffix == ".onnx" else (write_pt2, read_pt2)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.new{path.suffix}")
    try:
        write(model.eval(), example, unfinished)
        difference = compare(model, read(unfinished), example)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the exported logits are off by {difference:.1e}; {TOLERANCE} is the most"
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))


def write_pt2(model: nn.Module, example: Tensor, path: Path) -> None:
    torch.export.save(program(model, example), path)


def read_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def write_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    traced = program(written_out(model), example)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries not needed
    names = dict(input_names=["images"], output_names=["logits"])
    exported = torch.onnx.export(traced, **names, dynamo=True, verbose=False)
    exported.save(path)


def written_out(model: nn.Module) -> nn.Module:
    """A copy without the fused attention operator, which the ONNX exporter does not take."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.forward = module.forward_written_out
    return model


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def compare(model: nn.Module, other: Callable[[Tensor], Tensor], example: Tensor) -> float:
    worst = []
    for images in (example, example[:1]):
        logits = model(images)
        worst.append((other(images) - logits).abs().max() / logits.abs().max())
    return torch.stack(worst).max().item()  # a NaN too, which Python's own max would pass over


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m coatnet_mini.export", description=__doc__)
    parser.add_argument("checkpoint", help="the folder of a stored network, or its name")
    parser.add_argument("file", type=Path, help="what to write: *.onnx or *.pt2")
    options = parser.parse_args(arguments)
    try:
        model = load(options.checkpoint)
        shape = (model.config.in_channels, *model.config.image_size)
        example = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        difference = export(model, example, options.file)
    except ModuleNotFoundError as error:
        hint = "pip install 'coatnet-mini[export]'"
        print(f"error: {error.name} is not installed; {hint}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    sides = ", ".join(map(str, shape))
    print(
        f"{options.file}: a {type(model).__name__} for images (batch, {sides}), its logits "
        f"within {difference:.1e} of the network's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
