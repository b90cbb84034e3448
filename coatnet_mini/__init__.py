"""The companion package of the book on CoAtNet, in the order of the book.

weighted_sum    y = Wx: what convolution and attention have in common
convolution     depthwise convolution in four ways
attention       attention, relative attention, the bias table
mending         one job for all of them: a noisy picture
blocks          squeeze-and-excitation, MBConv, the Transformer block
coatnet         stages, the network, the family
vit, ceit       the relatives; `classifier` is what all three share
models          every network by name: `create_model`, `list_models`
checkpoint      networks in and out of folders: `load`; `export` writes ONNX and torch.export
cost, probes    what a network costs, and what it does: equivariance, reach, dependence
inside          what a trained network has learned, and what breaks without a part of it
published       the papers' results, each number with its table
images, shapes  the pictures; `plots` draws them, `book_map` the book
checks          what is wrong with an option, in one line

Six wings stand beside them: `explore` (the book's figures), `train` (the command), `studies` (what
was run with it, and came out), `cpu` (faster twins of the blocks), `audit` (is it a CoAtNet?) and
`exercises`. A wing may import the root; the root imports no wing.
"""

from importlib import import_module

EXPORTS = {"create_model": "models", "list_models": "models", "load": "checkpoint"}
__all__ = ["create_model", "list_models", "load"]


def __getattr__(name: str):
    # Late, so that whoever needs the figures' code only, as Sphinx does, waits for no torch.
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
