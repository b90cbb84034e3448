"""Export: the written file gives the network's logits, for any batch; wrong ones are not kept."""

import runpy
import warnings
from dataclasses import asdict

import onnxruntime
import pytest
import torch

from coatnet_mini import create_model, export
from coatnet_mini.checkpoint import save_network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    options = dict(num_classes=3, image_size=8, in_channels=1)
    model = create_model("coatnet_pico", **options)
    for module in model.modules():  # statistics that differ from those of a new network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folder = tmp_path_factory.mktemp("network") / "network"
    training = {"model": "coatnet_pico", "options": options}
    save_network(folder, model.state_dict(), model.config, training)
    assert asdict(model.config)["num_classes"] == 3
    return folder, model.eval()


@pytest.mark.parametrize("ending", export.ENDINGS)
def test_exported_logits_are_the_networks(checkpoint, tmp_path, capsys, ending):
    folder, model = checkpoint
    path = tmp_path / f"digits{ending}"
    assert export.main([str(folder), str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: a CoAtNet for images (batch, 1, 8, 8), its logits within ")
    assert float(out.split(" within ")[1].split(" of the network")[0]) < export.TOLERANCE
    read = export.read_onnx if ending == ".onnx" else export.read_pt2
    if ending == ".onnx":
        session = onnxruntime.InferenceSession(path)
        ends = [
            [end.name for end in ends] for ends in (session.get_inputs(), session.get_outputs())
        ]
        assert ends == [["images"], ["logits"]]
    for batch in (1, 7):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            assert torch.allclose(read(path)(images), model(images), atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_with_other_logits_is_not_kept(checkpoint, tmp_path, monkeypatch):
    _, model = checkpoint
    path = tmp_path / "network.pt2"
    path.write_text("kept")
    monkeypatch.setattr(export, "write_pt2", lambda model, example, path: path.write_text("new"))
    monkeypatch.setattr(export, "read_pt2", lambda path: lambda images: model(images) + 0.1)
    with pytest.raises(ValueError, match="the exported logits are off by"):
        export.export(model, torch.randn(2, 1, 8, 8), path)
    assert path.read_text() == "kept" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_difference_is_the_largest_over_the_largest_logit_for_any_batch():
    def model(images):
        return images.sum(1)

    def other(images):  # wrong by 0.5 for one image, by 1 for a single one
        y = model(images)
        y[0, 0, 0] += 0.5 if len(images) > 1 else 1
        return y

    images = torch.linspace(-4, 2, 2 * 3).reshape(2, 1, 1, 3)
    assert export.compare(model, other, images) == 1 / 4
    assert export.compare(model, other, images.flip(0)) == 1 / 2  # the second image is small
    assert export.compare(model, model, images) == 0


@pytest.mark.parametrize("off, kept", [(0.9e-4, True), (1.1e-4, False), (torch.nan, False)])
def test_logits_may_be_off_by_a_ten_thousandth_of_the_largest(
    checkpoint, tmp_path, monkeypatch, off, kept
):
    model, path = checkpoint[1], tmp_path / "a" / "b" / "network.pt2"

    def read(path):
        return lambda images: model(images) + off * model(images).abs().max()

    monkeypatch.setattr(export, "write_pt2", lambda model, example, path: path.write_text("new"))
    monkeypatch.setattr(export, "read_pt2", read)
    images = torch.randn(2, 1, 8, 8)
    if kept:
        assert export.export(model.train(), images, path) == pytest.approx(off, rel=0.01)
        assert path.read_text() == "new" and not model.training
    else:
        with pytest.raises(
            ValueError, match=r"^the exported logits are off by .*; 0.0001 is the m"
        ):
            export.export(model, images, path)
        assert list(path.parent.iterdir()) == []


def test_what_is_not_installed_is_named_with_the_remedy(checkpoint, tmp_path, monkeypatch, capsys):
    def without(*_):
        raise ModuleNotFoundError("no", name="onnxscript")

    monkeypatch.setattr(export, "write_onnx", without)
    assert export.main([str(checkpoint[0]), str(tmp_path / "a.onnx")]) == 1
    said = "error: onnxscript is not installed; pip install 'coatnet-mini[export]'\n"
    assert capsys.readouterr().err == said


def test_the_module_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["export", "nowhere", "a.onnx"])
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has been imported before
        runpy.run_module("coatnet_mini.export", run_name="__main__")
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: 'nowhere' is no folder, nor the name of a ")
    with pytest.raises(SystemExit):
        export.main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m coatnet_mini.export [-h] checkpoint file")
    assert "FILE ends in .onnx (ONNX) or .pt2 (torch.export)." in text


def test_bad_input_in_one_line(checkpoint, tmp_path, capsys):
    folder, _ = checkpoint
    for arguments, message in (
        ([str(folder), str(tmp_path / "a.tflite")], "'a.tflite' must end in .onnx or .pt2"),
        ([str(tmp_path / "nowhere"), "a.onnx"], "is no folder, nor the name"),
    ):
        assert export.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
