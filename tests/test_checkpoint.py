"""Checkpoints: whole or not there, no code in them; and the one that comes with the package."""

import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from coatnet_mini import checkpoint, create_model, load
from coatnet_mini.checkpoint import (
    SHIPPED,
    digest,
    find,
    flush,
    load_weights,
    read_training,
    replace_folder,
    save_json,
    save_network,
    save_tensors,
)
from coatnet_mini.images import digit_images, normalize
from coatnet_mini.train.checkpoint import KEPT, last_run, read_state, runs, save_run
from tests.helpers import shaken


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
    path.write_bytes(pickle.dumps(Trap(mark)))
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


def on_the_disk(monkeypatch):
    """The paths that are waited for, each with the mode in which it was opened."""
    waited, modes, opened = [], {}, os.open

    def remembered(path, flags, *mode, **options):
        handle = opened(path, flags, *mode, **options)
        modes[handle] = flags & os.O_ACCMODE
        return handle

    def fsync(handle):
        waited.append((Path(f"/proc/self/fd/{handle}").readlink().name, modes[handle]))

    monkeypatch.setattr(os, "open", remembered)
    monkeypatch.setattr(os, "fsync", fsync)
    return waited


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name_and_then_its_name(
    tmp_path, monkeypatch
):
    waited = on_the_disk(monkeypatch)
    target = tmp_path / "some" / "where" / "network"
    for text in ("old", "new"):
        replace_folder(target, lambda path, text=text: (path / "a").write_text(text))
        names = ["a", ".network.new", "where"]
        assert waited == [(name, os.O_RDONLY) for name in names]
        waited.clear()
    save_run(tmp_path, 1, state())
    assert [name for name, _ in waited] == ["unfinished.pt", tmp_path.name]


def test_no_file_is_left_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        flush(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_windows_waits_for_files_opened_to_write_and_for_no_folders(tmp_path, monkeypatch):
    waited = on_the_disk(monkeypatch)
    monkeypatch.setattr(checkpoint, "sys", SimpleNamespace(platform="win32"))
    (tmp_path / "a").write_text("")
    for path in (tmp_path, tmp_path / "a"):
        flush(path)
    assert waited == [("a", os.O_RDWR)]


def test_leftovers_of_a_run_that_died_are_cleared_away(tmp_path):
    for name in (".network.new", ".network.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").write_text("")
    replace_folder(tmp_path / "network", lambda path: (path / "a").write_text("new"))
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "network",
        "network/a",
    ]


def test_a_file_that_the_system_will_not_let_grow_is_an_os_error(tmp_path):
    """A real failing write: the limit on file sizes, as a stand-in for a full disk."""
    with small_files(10_000), pytest.raises(OSError):
        save_tensors({"a": torch.zeros(100_000)}, tmp_path / "a.safetensors")


# ---- Stored networks

SMALL = {  # one of each family, a few thousand parameters
    "coatnet_pico": dict(head="tanh", image_size=(8, 16)),
    "vit_pico": dict(width=12, depth=2, head_dim=4, image_size=(8, 16)),
    "ceit_pico": dict(width=12, depth=2, head_dim=4, image_size=(8, 16)),
}
FAMILIES = pytest.mark.parametrize("name", SMALL)


def stored(folder, name="vit_pico", **options):
    """A network in a folder, its weights nowhere what they start from."""
    model = shaken(create_model(name, 4, in_channels=1, **{**SMALL[name], **options})).float()
    save_network(folder, model.state_dict(), model.config)
    return model


@FAMILIES
def test_stored_networks_load_as_they_were(tmp_path, name):
    model = stored(tmp_path / "network", name)
    state = torch.get_rng_state()
    loaded = load(tmp_path / "network")
    assert torch.equal(torch.get_rng_state(), state)  # loading draws nothing
    assert type(loaded) is type(model) and loaded.config == model.config and not loaded.training
    weights = zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in weights)
    images = torch.randn(2, 1, 8, 16)
    assert torch.equal(loaded(images), model(images))
    loaded(images).sum().backward()  # and it can be trained on


@FAMILIES
def test_stored_networks_load_at_another_size(tmp_path, name):
    model = stored(tmp_path, name)
    resized, wide = load(str(tmp_path), image_size=(8, 24)), torch.randn(2, 1, 8, 24)
    assert resized.config.image_size == (8, 24)
    assert torch.allclose(resized(wide), model(wide), atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(tmp_path, kind):
    model = stored(tmp_path)
    half = {name: tensor.to(kind) for name, tensor in model.state_dict().items()}
    save_network(tmp_path, half, model.config)
    loaded = load(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(p, half[name].float()) for name, p in loaded.named_parameters())


def test_the_configuration_alone_says_what_is_built(tmp_path):
    stored(tmp_path)
    save_json({"model": "coatnet_7", "options": {"num_classes": 10**9}}, tmp_path / "training.json")
    assert load(tmp_path).config.num_classes == 4
    (tmp_path / "training.json").unlink()
    assert load(tmp_path).config.num_classes == 4


@FAMILIES
def test_files_that_do_not_name_the_family(tmp_path, name):
    model = stored(tmp_path, name)
    edit(tmp_path, lambda fields: fields.pop("family"))
    assert type(load(tmp_path)) is type(model)


def test_another_number_of_classes_starts_anew(tmp_path):
    stored(tmp_path)
    model = create_model("vit_pico", 7, in_channels=1, **SMALL["vit_pico"])
    before = model.head.classifier.weight.clone()
    assert not load_weights(model, tmp_path)
    assert torch.equal(model.head.classifier.weight, before)
    assert torch.equal(model.stem.weight, load(tmp_path).stem.weight)


def edit(folder, change):
    """Let `change` edit what config.json holds."""
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    save_json(fields, folder / "config.json")


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def written(text):
    return lambda folder: (folder / "config.json").write_text(text)


def fields(**values):
    return lambda folder: edit(folder, lambda found: found.update(values))


def weights(**values):
    def change(found):
        found.update({name.replace("__", "."): value for name, value in values.items()})

    return lambda folder: edit_weights(folder, change)


def pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


@pytest.mark.parametrize(
    "harm, message",
    [
        (written("["), "cannot read .*config.json: "),
        (written("[" * 10**5), "cannot read .*config.json: "),
        (written('{"stages": ' + "[" * 10**6), "cannot read .*config.json: "),
        (written("[1, 2]"), "config.json: not a JSON object"),
        (written('{"a": ' + "9" * 10**4 + "}"), "cannot read .*config.json: "),
        (written(" " * (10**7 + 1)), "config.json: more than 10,000,000 bytes"),
        (written("{}"), "family in .* is None; choose from CoAtNet, ViT, CeiT"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "cannot read .*config.json"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (pipe("config.json"), "config.json: no such file"),
        (pipe("model.safetensors"), "model.safetensors: no such file"),
        (fields(family="os.system"), "family in .* is 'os.system'; choose from CoAtNet"),
        (fields(family=["ViT"]), r"family in .* is \['ViT'\]; choose from CoAtNet"),
        (fields(family="CeiT", i2t_convs=[[[]]]), r"i2t_convs has \[\[\]\]; a window is"),
        (fields(family="CoAtNet"), "unknown option 'width'; choose from stages"),
        (fields(width=None), "width is None; it must be a positive integer"),
        (fields(width={"a": 1}), "width is {'a': 1}; it must be a positive integer"),
        (fields(num_classes=10**9), "the network would have 1.2e[+]10 parameters; the limit is"),
        (fields(num_classes=10**7), r"classifier.weight is \(4, 12\)|not for 10000000 classes"),
        (fields(depth=10**9), "the network would have 1e[+]09 blocks; the limit is 1e[+]03"),
        (fields(depth=11), "blocks.10.attention.out.bias is missing there"),
        (fields(nonsense=1), "unknown option 'nonsense'; choose from width"),
        (lambda folder: edit(folder, lambda f: f.pop("width")), "ViTConfig needs width"),
        (weights(stem__bias=torch.zeros(())), r"stem.bias is \(\) there and \(12,\) here"),
        (weights(stem__bias=torch.zeros(12, dtype=torch.int64)), "stem.bias is an integer tensor"),
        (weights(stem__bias=torch.zeros(12, dtype=torch.bool)), "stem.bias is an integer tensor"),
        (weights(embedding__positions=torch.zeros(())), r"positions is \(\) there"),
        (weights(embedding__positions=torch.zeros(12, 0, 3)), r"positions is \(12, 0, 3\) there"),
        (weights(embedding__positions=torch.zeros(2, 4, 4)), r"positions is \(2, 4, 4\) there"),
        (weights(head__classifier__bias=torch.zeros(())), r"classifier.bias is \(\) there"),
        (weights(head__classifier__bias=torch.zeros(9)), "are not for 4 classes"),
        (weights(os__system=torch.zeros(1)), "os.system is not in this network"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99), "cannot read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot read"),
    ],
)
def test_a_folder_that_is_no_network_is_one_clear_line(tmp_path, harm, message):
    stored(tmp_path)
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_configuration_of_ten_million_bytes_is_read(tmp_path):
    model = stored(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().ljust(10**7))
    assert load(tmp_path).config == model.config


@pytest.mark.parametrize(
    "name, shape", [("head.classifier.weight", (3, 11)), ("head.norm.weight", (13,))]
)
def test_nothing_but_the_number_of_classes_may_differ(tmp_path, name, shape):
    stored(tmp_path)
    edit_weights(tmp_path, lambda found: found.update({name: torch.zeros(shape)}))
    model = create_model("vit_pico", 7, in_channels=1, **SMALL["vit_pico"])
    with pytest.raises(ValueError, match=f"do not fit: {name} is "):
        load_weights(model, tmp_path)


def test_bias_tables_that_cannot_be_resized(tmp_path):
    stored(tmp_path, "coatnet_pico")
    name = "stages.S2b.0.attention.relative_bias_table"
    for shape in ((3, 4, 5), (2, 3, 5), (15,), (3, 0, 5)):  # of 3 heads, 3×7 offsets
        edit_weights(tmp_path, lambda found, shape=shape: found.update({name: torch.zeros(shape)}))
        with pytest.raises(ValueError, match=rf"{name} is \({shape[0]}, ?.*\) there and \(3, "):
            load(tmp_path)


def test_a_pickle_in_the_weights_place_is_not_run(tmp_path):
    mark = tmp_path / "executed"
    stored(tmp_path / "network")
    (tmp_path / "network" / "model.safetensors").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match="cannot read"):
        load(tmp_path / "network")
    assert not mark.exists()


def test_no_memory_is_taken_for_what_the_weights_do_not_hold(tmp_path):
    """A configuration within the limits, 8 GB in float32, beside the weights of a small network."""
    stored(tmp_path)
    edit(tmp_path, lambda found: found.update(width=12_000, depth=1))
    code = (
        "import resource, sys\n"
        "from coatnet_mini import load\n"
        "import coatnet_mini.models, safetensors.torch\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    load(sys.argv[1])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 200_000, grown\n"  # kilobytes
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "do not fit: blocks.0.attention.out.bias is (12,) there and (12000,) here" in done.stdout


def test_networks_by_name(tmp_path, monkeypatch):
    assert find("digits") == SHIPPED / "digits"
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "digits")  # a folder of that name comes first
    assert type(load("digits")).__name__ == "ViT"
    for where in ("nowhere", "a/b/c", "../x", "~nosuchuser/x", "a\0b", ""):
        with pytest.raises(ValueError, match="is no folder, nor the name of a stored network: dig"):
            find(where or "nothing")


def test_networks_on_the_hub(tmp_path, monkeypatch):
    stored(tmp_path)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        if name == "ada/nothing":
            raise OSError("404: no such repository\nand more")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("ada/engine").config.num_classes == 4
    assert asked == [("ada/engine", ["config.json", "model.safetensors", "training.json"])]
    with pytest.raises(ValueError, match="nor a network on the Hugging Face hub: 404: no such r"):
        load("ada/nothing")


# ---- The network in the repository


def test_shipped_network_is_as_accurate_as_it_says():
    model, training = load("digits"), read_training("digits")
    train, test = digit_images(model.config.image_size[0])
    results = training["results"]
    with torch.no_grad():
        logits = model(normalize(test.images))
    assert (logits.argmax(1) == test.labels).double().mean().item() == results["accuracy"] >= 0.99
    loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
    assert loss == pytest.approx(results["test_loss"], abs=1e-4)
    assert (results["train_images"], results["test_images"]) == (len(train), len(test))
    assert training["command"].startswith("python -m coatnet_mini.train")
    assert training["recipe"]["seed"] == 0 and training["versions"]["scikit-learn"]
    assert training["classes"] == train.classes
    pixels = test.images.numpy().tobytes() + test.labels.numpy().tobytes()
    assert training["data_sha256"]["test"] == hashlib.sha256(pixels).hexdigest()
    assert sum(path.stat().st_size for path in find("digits").iterdir()) <= 2_000_000


def test_shipped_files_are_as_they_would_be_written_today(tmp_path):
    for name in ("config.json", "training.json"):
        text = (find("digits") / name).read_text()
        save_json(json.loads(text), tmp_path / name)
        assert (tmp_path / name).read_text() == text
    save_network(tmp_path / "again", load("digits").state_dict(), load("digits").config)
    assert (tmp_path / "again" / "config.json").read_text() == (
        find("digits") / "config.json"
    ).read_text()
    assert (tmp_path / "again" / "training.json").read_text() == "{}\n"


def test_shipped_network_needs_only_the_package_itself():
    """The book loads it without the extra `train`."""
    extra = ["accelerate", "datasets", "kornia", "tyro", "tensorboard", "huggingface_hub"]
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({extra}))\n"
        "from coatnet_mini import load\n"
        "from coatnet_mini.images import digit_images, normalize, shape_images\n"
        "load('digits')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_network_is_part_of_the_installed_package():
    import tomllib
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    patterns = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = patterns["tool"]["setuptools"]["package-data"]["coatnet_mini"]
    for path in find("digits").iterdir():
        relative = path.relative_to(root / "coatnet_mini")
        assert any(relative.match(pattern) for pattern in patterns), relative
    assert json.loads((find("digits") / "config.json").read_text())["num_classes"] == 10
