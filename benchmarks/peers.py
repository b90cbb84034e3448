"""timm, which the network is checked and timed against; never imported by the package.

timm imports torchvision, whose published wheel is built for another torch than a CPU-only one.
The two are installed without their dependencies into `.peers` (git-ignored), and the compiled
operators that torchvision's Python part looks up by name are declared, so that it can be
imported without them. No CoAtNet calls one. Where timm is installed, as on a machine with a GPU
and a torchvision of its own, that one is taken.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

PEERS = Path(__file__).resolve().parent.parent / ".peers"
OPERATORS = ("nms", "qnms")
_library = None  # a torch.library.Library withdraws its operators when it is garbage-collected


def load_timm():
    """The module timm, as it is installed or from `.peers`.

    Raises:
        RuntimeError: it is not installed, and `.peers` has not been built.
    """
    global _library
    if _library is None and find_spec("timm"):
        import timm

        return timm
    if not (PEERS / "timm").is_dir():
        raise RuntimeError(f"timm is not in {PEERS.name}/: build it with `make .peers/.stamp`")
    if _library is None:
        sys.path.append(str(PEERS))  # at the end: nothing that is installed may be shadowed
        _library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm
