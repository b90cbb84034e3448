"""Checkpoints: whole or not there, no code in them; and the one that comes with the package."""

import hashlib
import json
import pickle
import resource
import signal
import subprocess
import sys

import pytest
import torch

from coatnet_mini.checkpoint import (
    digits_checkpoint,
    load_network,
    load_weights,
    replace_folder,
    save_network,
    save_tensors,
)
from coatnet_mini.data import digits, normalize
from coatnet_mini.model import CoAtNet, create_model
from coatnet_mini.train.checkpoint import (
    KEPT,
    last_run,
    optimizer_state,
    optimizer_tensors,
    read_tensors,
    save_run,
)


def tensors(value=1.0):
    return {"model": {"a": torch.full((4, 3), value), "b": torch.arange(5)}}


def test_runs_round_trip_and_only_the_last_stay(tmp_path):
    for step in (3, 6, 9, 12):
        save_run(tmp_path, step, tensors(step), {"note": [step, 0.1 + 0.2]})
    assert len(list(tmp_path.iterdir())) == KEPT == 2
    path, state = last_run(tmp_path)
    assert state["step"] == 12 and state["note"] == [12, 0.1 + 0.2]
    read = read_tensors(path / "model.safetensors")
    assert all(torch.equal(read[name], t) for name, t in tensors(12)["model"].items())
    assert last_run(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "state", "no state"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, harm):
    for step in (1, 2):
        save_run(tmp_path, step, tensors(), {})
    path = tmp_path / "step-00000002"
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    if harm == "truncate":
        file.write_bytes(data[:-8])
    elif harm == "flip":
        data[-1] ^= 1
        file.write_bytes(data)
    elif harm == "delete":
        file.unlink()
    elif harm == "state":
        (path / "state.json").write_text((path / "state.json").read_text()[:-20])
    else:
        (path / "state.json").unlink()
    said = []
    found, state = last_run(tmp_path, said.append)
    assert found.name == "step-00000001" and state["step"] == 1
    assert len(said) == 1 and "step-00000002 is damaged" in said[0]


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
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            save_tensors({"a": torch.zeros(100_000)}, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_loading_runs_no_code(tmp_path):
    """A pickle in the weights' place is refused, and what it would do is not done."""
    mark = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (mark.touch, ())

    model = create_model("coatnet_pico", 3, image_size=8)
    training = {"model": "coatnet_pico", "options": {"num_classes": 3, "image_size": 8}}
    save_network(tmp_path / "network", model.state_dict(), model.config, training)
    (tmp_path / "network" / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="cannot read"):
        load_network(tmp_path / "network")
    assert not mark.exists()


def test_optimizer_state_round_trips():
    state = {"a.weight": {"step": torch.tensor(3.0), "exp_avg": torch.rand(2)}}
    back = optimizer_state(optimizer_tensors(state))
    assert back.keys() == state.keys() and back["a.weight"].keys() == state["a.weight"].keys()
    assert torch.equal(back["a.weight"]["exp_avg"], state["a.weight"]["exp_avg"])


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
