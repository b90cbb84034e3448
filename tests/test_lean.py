"""lean.py: values and gradients of the lean forms against the plain ones, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coatnet_mini.blocks import SqueezeExcitation
from coatnet_mini.cpu import lean


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Every tensor counts as large, and is worked on in several chunks with a remainder."""
    monkeypatch.setattr(lean, "LARGE", 0)
    monkeypatch.setattr(lean, "CHUNK", 35)


def channels_last(*shape):
    return torch.randn(*shape).double().contiguous(memory_format=torch.channels_last)


def gradients(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), leaves)]


def same(ours, expected, tolerance=1e-10):
    return all((a - b).abs().max() < tolerance for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_norm_gelu(memory):
    x = (3 * channels_last(3, 5, 4, 2) + 2).contiguous(memory_format=memory)
    weight, bias = torch.randn(5).double(), torch.randn(5).double()
    norms = [nn.BatchNorm2d(5, eps=1e-3, momentum=0.2).double() for _ in range(2)]

    def ours(x, weight, bias):
        norms[0].weight, norms[0].bias = nn.Parameter(weight), nn.Parameter(bias)
        norm = norms[0]
        statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
        return lean.BatchNormGELU.apply(x, weight, bias, *statistics)[0]

    def plain(x, weight, bias):
        norm = norms[1]
        y = F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, 0.2, 1e-3)
        return F.gelu(y)

    assert same(gradients(ours, x, weight, bias), gradients(plain, x, weight, bias))
    assert same(norms[0].buffers(), norms[1].buffers())
    assert not same(gradients(ours, x, weight, bias), gradients(plain, x, weight + 0.1, bias), 1e-3)


def test_norm_gelu_is_chosen_in_training_alone(monkeypatch):
    used = []
    apply = lean.BatchNormGELU.apply
    monkeypatch.setattr(lean.BatchNormGELU, "apply", lambda *a: used.append(1) or apply(*a))
    norm, act, x = nn.BatchNorm2d(5), nn.GELU(), channels_last(3, 5, 4, 2).float()
    plain = copy.deepcopy(norm)
    assert same([lean.norm_gelu(norm, act, x)], [act(plain(x))], 1e-6) and len(used) == 1
    assert same(norm.buffers(), plain.buffers(), 1e-6)  # the count of batches too
    with torch.no_grad():
        lean.norm_gelu(norm, act, x)
    lean.norm_gelu(norm.eval(), act, x)
    lean.norm_gelu(nn.SyncBatchNorm(5).eval(), act, x)
    lean.norm_gelu(nn.BatchNorm2d(5), act, x.to(torch.bfloat16))
    monkeypatch.setattr(lean, "LARGE", 10**9)
    lean.norm_gelu(nn.BatchNorm2d(5), act, x)
    assert len(used) == 1


def test_gated_projection():
    se, project = SqueezeExcitation(6, 3).double(), nn.Conv2d(6, 4, 1).double()
    x = channels_last(3, 6, 2, 5)
    parameters = [*se.parameters(), *project.parameters()]

    def both(function):
        y = gradients(lambda x: function(x), x)
        return [*y, *torch.autograd.grad(function(x).square().sum(), parameters)]

    expected = both(lambda x: project(se(x)))
    assert same(both(lambda x: lean.gated_projection(se, project, x)), expected)
    assert not same([project(x)], expected[:1], 1e-3)
    with torch.no_grad():
        assert torch.equal(lean.gated_projection(se, project, x), project(se(x)))
    assert torch.equal(lean.gated_projection(nn.Identity(), project, x), project(x))


def test_biased_attention():
    q, k, v = (torch.randn(2, 3, 5, 4).double() for _ in range(3))
    bias = torch.randn(3, 5, 5).double()

    def plain(q, k, v, bias):
        return (q @ k.transpose(-2, -1) * 0.3 + bias).softmax(-1) @ v

    def scaled_bias(q, k, v, bias):
        return ((q @ k.transpose(-2, -1) + bias) * 0.3).softmax(-1) @ v

    def ours(q, k, v, bias):
        return lean.biased_attention(q, k, v, bias, 0.3)

    tensors = (q, k, v, bias)
    assert same(gradients(ours, *tensors), gradients(plain, *tensors))
    assert not same(gradients(ours, *tensors), gradients(scaled_bias, *tensors), 1e-3)
    assert same([ours(*tensors)], [plain(*tensors)])  # no gradients: the fused kernel
