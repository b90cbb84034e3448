"""fuse.py: the fused copy computes what the network computes, and a wrong fold is noticed."""

import pytest
import torch
from torch import nn

from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig
from coatnet_mini.cpu import fuse
from tests.helpers import difference


def network(**options):
    sizes = ((3, 2, 1, 1, 1), (4, 8, 8, 16, 16))
    config = CoAtNetConfig.from_layout(
        "CCTT", *sizes, head_dim=8, num_classes=5, image_size=64, **options
    )
    model = CoAtNet(config).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias", "table")):
            tensor.normal_(std=0.5)
        elif name.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("downsample", ["expand", "depthwise"])
@pytest.mark.parametrize("option", [{}, dict(se_ratio=0.0), dict(transformer_norm="batch")])
def test_fused_equals_the_network(downsample, option):
    model = network(downsample=downsample, **option).double()
    images = torch.randn(2, 3, 64, 64).double()
    assert difference(fuse.fuse(model)(images), model(images)) < 1e-10
    model, images = model.float(), images.float()
    with torch.inference_mode():  # oneDNN's fused kernels
        assert difference(fuse.fuse(model)(images), model(images)) < 1e-5


def test_no_batch_norm_is_left_and_the_original_is_untouched():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse.fuse(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not fused.training


def test_every_norm_and_mlp_is_one_step_with_its_neighbours():
    model, kinds = network(), (fuse.ConvGELU, fuse.LinearGELU)
    found = [type(module) for module in fuse.fuse(model).modules() if isinstance(module, kinds)]
    mbconvs, mlps = 3, 2
    assert found.count(fuse.ConvGELU) == 2 + 2 * mbconvs and found.count(fuse.LinearGELU) == mlps


def test_a_network_in_training_is_fused_for_evaluation():
    model, images = network().double(), torch.randn(2, 3, 64, 64).double()
    expected = model(images)
    model.train()
    fused = fuse.fuse(model)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in fused.modules())
    assert difference(fused(images), expected) < 1e-10


def test_a_network_with_layer_norms_keeps_them():
    model, images = network(conv_norm="layer"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(fuse.fuse(model)(images), model(images)) < 1e-5


def test_a_wrong_fold_shows(monkeypatch):
    def without_shift(norm):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return scale, norm.bias  # forgets the running mean

    model, images = network().double(), torch.randn(2, 3, 64, 64).double()
    monkeypatch.setattr(fuse, "scale_and_shift", without_shift)
    assert difference(fuse.fuse(model)(images), model(images)) > 1e-3


def test_fused_kernels_are_used_only_where_they_apply(monkeypatch):
    x = torch.randn(1, 3)
    with torch.no_grad():
        assert fuse.one_kernel(x)
        assert not fuse.one_kernel(x.double())
        assert not fuse.one_kernel(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not fuse.one_kernel(x)
    assert not fuse.one_kernel(x)


def test_fused_network_exports_and_has_gradients():
    model, images = network(), torch.randn(2, 3, 64, 64, requires_grad=True)
    fused = fuse.fuse(model)
    gradient = torch.autograd.grad(fused(images).sum(), images)[0]
    expected = torch.autograd.grad(model(images).sum(), images)[0]
    assert difference(gradient, expected) < 1e-4
    program = torch.export.export(fused, (images.detach(),))
    assert difference(program.module()(images), model(images)) < 1e-5
