"""Chapter 12's loop on photographs: its cell for CIFAR-10 runs only where there is a GPU."""

import ast
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import torch

from coatnet_mini.models import create_model
from tests import ROOT

CELLS = {
    cell.id: cell.source
    for cell in nbformat.read(ROOT / "chapters" / "12_training.ipynb", as_version=4).cells
}


def functions(*names: str) -> dict:
    """What the chapter's imports and the functions of some cells define; nothing else is run."""
    found = {}
    exec(CELLS["ch12-imports"], found)
    for name in names:
        body = [part for part in ast.parse(CELLS[name]).body if isinstance(part, ast.FunctionDef)]
        exec(compile(ast.Module(body, []), name, "exec"), found)
    return found


class Part(dict):
    """A split of a data set as `datasets` has it: columns, and what they hold."""

    names = ("airplane", "automobile", "bird")
    features = {"label": SimpleNamespace(names=names)}  # noqa: RUF012


def some(n: int) -> Part:
    from PIL import Image

    pixels = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
    return Part(img=[Image.fromarray(image) for image in pixels], label=[k % 3 for k in range(n)])


def test_the_loop_takes_cifars_photographs(monkeypatch):
    hub = {"train": some(24), "test": some(6)}
    stub = SimpleNamespace(load_dataset=lambda name: {"uoft-cs/cifar10": hub}[name])
    monkeypatch.setitem(sys.modules, "datasets", stub)
    chapter = functions("ch12-rate", "ch12-changes", "ch12-learn", "ch12-cifar")
    train, test = chapter["cifar10"]()
    assert train.images.shape == (24, 3, 32, 32) and train.images.dtype == torch.uint8
    assert (train.images[5].permute(1, 2, 0).numpy() == np.asarray(hub["train"]["img"][5])).all()
    assert len(test) == 6 and test.classes == Part.names and test.labels.tolist()[:3] == [0, 1, 2]
    watched = []
    torch.manual_seed(0)
    net = create_model("coatnet_nano", 3, 32, drop_path=0.2)
    before = net.head.classifier.weight.detach().clone()
    average = chapter["learn"](
        net, train, test, 6, lambda *point: watched.append(point), batch=12, ema=0.5
    )
    assert [step for step, *_ in watched] == list(range(1, 13))
    assert np.isfinite(watched).all() and not average.training
    assert (average.head.classifier.weight - before).abs().max() > 1e-3


def test_colab_is_asked_for_a_gpu():
    chapter = nbformat.read(ROOT / "chapters" / "12_training.ipynb", as_version=4)
    assert chapter.metadata["accelerator"] == "GPU"
