"""Checkpoints: whole or not there, no code in them; and the one that comes with the package."""

import hashlib
import json
import pickle
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from coatnet_mini.checkpoint import (
    digest,
    digits_checkpoint,
    load_network,
    load_weights,
    replace_folder,
    save_network,
    save_tensors,
)
from coatnet_mini.data import digits, normalize
from coatnet_mini.model import CoAtNet, create_model
from coatnet_mini.train.checkpoint import KEPT, last_run, read_state, runs, save_run


def state(value=1.0):
    averages = {"exp_avg": torch.full((4, 3), value), "step": torch.tensor(value)}
    return {"model": {"a": torch.arange(5)}, "optimizer": [averages], "note": (value, None, "é")}


def same(a, b) -> bool:
    """Equal, tensors in their values, types and layout in memory."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and (a.dtype, a.stride()) == (b.dtype, b.stride())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_runs_round_trip_and_only_the_last_stay(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (3, 6, 9, 12):
        save_run(folder, step, state(0.1 + step))
    assert [path.name[:13] for path in runs(folder)] == ["step-00000009", "step-00000012"]
    assert len(list(folder.iterdir())) == KEPT == 2
    path, read = last_run(folder)
    assert path == runs(folder)[-1] and same(read, state(12.1))
    image = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    save_run(folder, 12, {"a": image})  # in place of the other one of that step
    assert [path.name[:13] for path in runs(folder)] == ["step-00000009", "step-00000012"]
    assert same(last_run(folder)[1], {"a": image})
    assert last_run(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "other", "name"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, harm):
    first, last = (save_run(tmp_path, step, state(step)) for step in (1, 2))
    data = bytearray(last.read_bytes())
    if harm == "truncate":
        last.write_bytes(data[:-8])
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        last.write_bytes(data)
    elif harm == "empty":
        last.write_bytes(b"")
    elif harm == "other":
        last.write_bytes(first.read_bytes())
    else:
        last = last.rename(tmp_path / "step-00000002.pt")
    said = []
    found, read = last_run(tmp_path, said.append)
    assert found == first and same(read, state(1))
    assert len(said) == 1 and f"{last.name} is damaged" in said[0]


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path):
    """On a disk with no room, as the limit on file sizes plays it: what was there, is there."""
    path = save_run(tmp_path, 1, state())
    with small_files(10_000), pytest.raises(OSError):
        save_run(tmp_path, 2, {"a": torch.zeros(100_000)})
    assert list(tmp_path.iterdir()) == [path] and same(read_state(path), state())


def test_reading_a_checkpoint_runs_no_code(tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "file"
    path.write_bytes(pickled_trap(mark))
    last = path.rename(tmp_path / f"step-00000001-{digest(path)[:16]}.pt")
    said = []
    assert last_run(tmp_path, said.append) is None
    torch.save({"step": Trap(mark)}, path)
    last = path.rename(tmp_path / f"step-00000001-{digest(path)[:16]}.pt")
    with pytest.raises(ValueError, match="Weights only load failed"):
        read_state(last)
    assert len(said) == 1 and not mark.exists()


class Trap:
    """What touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (self.mark.touch, ())


def pickled_trap(mark) -> bytes:
    return pickle.dumps(Trap(mark))


@contextmanager
def small_files(size):
    """No file can grow beyond a size: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "network"
    replace_folder(target, lambda path: (path / "a").write_text("old"))

    def fails(path):
        (path / "a").write_text("new")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        replace_folder(target, fails)
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["network"]
    replace_folder(target, lambda path: (path / "a").write_text("new"))
    assert (target / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["network"]


def test_a_file_that_the_system_will_not_let_grow_is_an_os_error(tmp_path):
    """A real failing write: the limit on file sizes, as a stand-in for a full disk."""
    with small_files(10_000), pytest.raises(OSError):
        save_tensors({"a": torch.zeros(100_000)}, tmp_path / "a.safetensors")


def test_loading_runs_no_code(tmp_path):
    """A pickle in the weights' place is refused, and what it would do is not done."""
    mark = tmp_path / "executed"
    model = create_model("coatnet_pico", 3, image_size=8)
    training = {"model": "coatnet_pico", "options": {"num_classes": 3, "image_size": 8}}
    save_network(tmp_path / "network", model.state_dict(), model.config, training)
    (tmp_path / "network" / "model.safetensors").write_bytes(pickled_trap(mark))
    with pytest.raises(ValueError, match="cannot read"):
        load_network(tmp_path / "network")
    assert not mark.exists()


def test_saved_networks_load_as_they_were(tmp_path):
    options = {"num_classes": 4, "image_size": [8, 16], "in_channels": 1, "head": "tanh"}
    model = create_model("coatnet_pico", **options).eval()
    training = {"model": "coatnet_pico", "options": options}
    save_network(tmp_path / "network", model.state_dict(), model.config, training)
    images = torch.randn(2, 1, 8, 16)
    for loaded in (load_network(tmp_path / "network")[0],
                   CoAtNet.from_pretrained(tmp_path / "network").eval()):  # fmt: skip
        with torch.no_grad():
            assert torch.equal(loaded(images), model(images))
    other = create_model("coatnet_pico", 4, 8, 1)
    with pytest.raises(ValueError, match=r"does not fit: head.hidden.bias is not in this network"):
        load_weights(other, tmp_path / "network")


# ---- The network in the repository


def test_shipped_network_is_as_accurate_as_it_says():
    folder = digits_checkpoint()
    model, training = load_network(folder)
    train, test = digits(training["options"]["image_size"])
    results = training["results"]
    with torch.no_grad():
        logits = model(normalize(test.images))
    assert (logits.argmax(1) == test.labels).double().mean().item() == results["accuracy"] >= 0.985
    loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
    assert loss == pytest.approx(results["test_loss"], abs=1e-4)
    assert (results["train_images"], results["test_images"]) == (len(train), len(test))
    assert training["command"].startswith("python -m coatnet_mini.train")
    assert training["recipe"]["seed"] == 0 and training["versions"]["scikit-learn"]
    assert training["classes"] == train.classes
    pixels = test.images.numpy().tobytes() + test.labels.numpy().tobytes()
    assert training["data_sha256"]["test"] == hashlib.sha256(pixels).hexdigest()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000_000


def test_shipped_network_needs_only_the_package_itself():
    """The book loads it without the extra `train`."""
    code = ("import sys\n"
            "for name in ('accelerate', 'datasets', 'kornia', 'tyro', 'tensorboard'):\n"
            "    sys.modules[name] = None\n"
            "from coatnet_mini.checkpoint import digits_checkpoint, load_network\n"
            "from coatnet_mini.data import digits, normalize, shape_images\n"
            "model, _ = load_network(digits_checkpoint())\n")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_network_is_part_of_the_installed_package():
    import tomllib
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    patterns = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = patterns["tool"]["setuptools"]["package-data"]["coatnet_mini"]
    for path in digits_checkpoint().iterdir():
        relative = path.relative_to(root / "coatnet_mini")
        assert any(relative.match(pattern) for pattern in patterns), relative
    assert json.loads((digits_checkpoint() / "config.json").read_text())["num_classes"] == 10
