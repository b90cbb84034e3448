"""Export: the written file gives the network's logits, for any batch; wrong ones are not kept."""

from dataclasses import asdict

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
    assert "(batch, 1, 8, 8)" in capsys.readouterr().out
    read = export.read_onnx if ending == ".onnx" else export.read_pt2
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


def test_bad_input_in_one_line(checkpoint, tmp_path, capsys):
    folder, _ = checkpoint
    for arguments, message in (
        ([str(folder), str(tmp_path / "a.tflite")], "'a.tflite' must end in .onnx or .pt2"),
        ([str(tmp_path / "nowhere"), "a.onnx"], "is no folder, nor the name"),
    ):
        assert export.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
