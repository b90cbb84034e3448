"""Chapter 11's network in one cell: short, counted as the package is, and timm's if edited."""

import json
import math
from dataclasses import astuple
from functools import partial

import pytest
import torch
from torch import nn

from coatnet_mini.coatnet import FAMILY
from coatnet_mini.cost import cost
from tests import CHAPTERS
from tests.helpers import difference, on_meta
from tests.timm_weights import create_pair

MEMBERS = [f"coatnet_{n}" for n in range(8)]
EDITS = {  # what timm has in other ways, line by line
    "(nn.BatchNorm2d, eps=1e-3)": "(nn.BatchNorm2d, eps=1e-5)",
    "[nn.MaxPool2d(stride)]": "[nn.AvgPool2d(stride)]",
    "nn.Conv2d(D_in, h, 1, stride, bias=False)": "nn.Conv2d(D_in, h, 1, bias=False)",
    "nn.Conv2d(h, h, 3, 1, 1,": "nn.Conv2d(h, h, 3, stride, 1,",
    "nn.LayerNorm(D_in), nn.MaxPool2d(stride)": "nn.LayerNorm(D_in), nn.AvgPool2d(stride)",
    "nn.LayerNorm(D), nn.Linear(D, classes))": (
        "nn.LayerNorm(D), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, classes))"
    ),
    "nn.LayerNorm(D": "partial(nn.LayerNorm, eps=1e-6)(D",
}


def cell(name: str) -> str:
    chapter = next(path for path in CHAPTERS if path.name.startswith("11_"))
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return "".join(next(c["source"] for c in cells if c["id"] == f"ch11-{name}"))


def names(source: str) -> dict:
    """What a cell's code defines, given nothing but the imports of the chapter."""
    found = {"math": math, "partial": partial, "torch": torch, "nn": nn}
    exec(source, found)
    return found


def stages(name: str) -> list[tuple]:
    return [astuple(stage) for stage in FAMILY[name]["stages"]]


def test_the_network_is_one_cell_of_at_most_80_lines():
    assert len(cell("network").splitlines()) <= 80
    assert names(cell("stages"))["COATNET_0"] == stages("coatnet_0")


def test_edited_cell_gives_timms_logits():
    peer, ours = create_pair(0)
    source = cell("network")
    for old, new in EDITS.items():
        assert old in source
        source = source.replace(old, new)
    mine = names(source)["coatnet"](stages("coatnet_0"), 32).eval()
    mine.load_state_dict(dict(zip(mine.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        logits = peer(images)
        assert logits.std() > 0.1
        assert difference(mine(images), logits) < 1e-4


@pytest.mark.parametrize("left_out", EDITS)
def test_every_edit_is_needed(left_out):
    """Without one of them the weights do not fit, or the logits are others."""
    _, ours = create_pair(0, 64)
    source = cell("network")
    for old, new in EDITS.items():
        if old != left_out:
            source = source.replace(old, new)
    with torch.device("meta"):
        shapes = {
            k: v.shape
            for k, v in names(source)["coatnet"](stages("coatnet_0"), 32, 64).state_dict().items()
        }
    if [tuple(s) for s in shapes.values()] != [tuple(v.shape) for v in ours.state_dict().values()]:
        return
    mine = names(source)["coatnet"](stages("coatnet_0"), 32, 64).eval()
    mine.load_state_dict(dict(zip(mine.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        try:
            logits = mine(images)
        except RuntimeError:  # the two branches come out in different sizes
            return
        assert difference(logits, ours(images)) > 1e-6


@pytest.mark.parametrize("name", MEMBERS)
def test_bill_is_the_packages_to_the_last_parameter_and_multiply_add(name):
    options = FAMILY[name]
    for side in (224, 384):
        rows = names(cell("price"))["bill"](stages(name), options.get("head_dim", 32), side)
        package = cost(on_meta(name, image_size=side))[:-1]
        assert rows == [(row.parameters, row.multiply_adds) for row in package]
