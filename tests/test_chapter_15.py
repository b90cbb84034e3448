"""Chapter 15 on timm's published CoAtNet-0: its cell runs where there is timm, and says so else."""

import ast
import importlib.util
import socket
from contextlib import nullcontext

import nbformat
import torch

from benchmarks.peers import load_timm
from tests import ROOT

CELLS = {
    cell.id: cell.source
    for cell in nbformat.read(ROOT / "chapters" / "15_inside.ipynb", as_version=4).cells
}


def functions() -> dict:
    """What the chapter's imports and the functions of two cells define; nothing else is run."""
    found = {}
    exec(CELLS["ch15-imports"], found)
    for name in ("ch15-why", "ch15-large"):
        body = [part for part in ast.parse(CELLS[name]).body if isinstance(part, ast.FunctionDef)]
        exec(compile(ast.Module(body, []), name, "exec"), found)
    return found


def test_without_timm_or_network_it_is_one_line(monkeypatch):
    chapter = functions()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chapter["published"]() == "needs timm (pip install timm) and the network"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)

    def refuse(address, timeout):
        assert timeout <= 5
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert "does not answer" in chapter["published"]()


def test_it_measures_the_published_network(monkeypatch, tmp_path, capsys):
    """Random weights in a file, through timm's own loading code, under the published name."""
    timm = load_timm()
    name = "coatnet_0_rw_224.sw_in1k"
    assert timm.models.get_pretrained_cfg(name).hf_hub_id  # the hub holds it
    torch.manual_seed(1)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model(name.split(".")[0]).state_dict(), file)
    create, asked = timm.create_model, []

    def from_file(name, pretrained=False, **options):
        if pretrained:
            asked.append(name)
            options["pretrained_cfg_overlay"] = {"file": str(file)}
        return create(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", from_file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    closing = nullcontext()
    closing.close = lambda: None
    monkeypatch.setattr(socket, "create_connection", lambda *_: closing)
    chapter = functions()
    trained, fresh = chapter["published"]()
    assert asked == [name] and not trained.training
    stored = torch.load(file)
    assert all(torch.equal(v, stored[k]) for k, v in trained.state_dict().items())

    def few_patches(net, x, said, side, paper):
        assert paper == 0  # grey
        return torch.rand(len(x), 224 // side, 224 // side)

    first, leave_out = next(iter(chapter["attentions"](trained))), chapter["scores_without"]

    def in_one_layer(net, x, name, h):  # the others are like it, and take as long
        return leave_out(net, x, name, h) if name == first else torch.ones(len(x), 1000)

    chapter |= {"occlusion": few_patches, "scores_without": in_one_layer}
    chapter["look_inside"](trained, fresh)
    text = capsys.readouterr().out
    heads = [layer.num_heads for layer in chapter["attentions"](trained).values()]
    assert len(heads) == 9 and all(f"head 1 of {n} silenced" in text for n in heads)
    assert text.count("attention with occlusion") == 9


def test_a_silent_head_is_a_term_less():
    """Of timm's attention: the layer's output moves by that head's part of its last matrix."""
    timm, chapter = load_timm(), functions()
    torch.manual_seed(0)
    net = timm.create_model("coatnet_0_rw_224", img_size=64).eval()
    (name, layer), *_ = chapter["attentions"](net).items()
    layer.fused_attn = False
    x, d = torch.randn(1, 3, 64, 64), layer.dim_head
    seen = []
    layer.proj.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0], y)))
    with torch.no_grad():
        net(x)
        chapter["scores_without"](net, x, name, 1)
    (z, whole), (_, left) = seen
    gone = torch.einsum("oc,bchw->bohw", layer.proj.weight[:, d : 2 * d, 0, 0], z[:, d : 2 * d])
    assert torch.allclose(whole - left, gone, atol=1e-5)


def test_maps_are_those_that_the_fused_layer_uses():
    timm, chapter = load_timm(), functions()
    torch.manual_seed(0)
    net = timm.create_model("coatnet_0_rw_224", img_size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        maps = chapter["maps_of"](net, x)
        assert torch.allclose(net(x), before, atol=1e-4)
    for A in maps.values():
        assert torch.allclose(A.sum(-1), torch.ones(()), atol=1e-5)
