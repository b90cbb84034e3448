"""lean.py: values and gradients of the lean parts against the plain ones, in float64."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import MBConv, SqueezeExcitation
from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig
from coatnet_mini.cpu import lean as lean_module
from coatnet_mini.cpu.fuse import fuse
from coatnet_mini.cpu.lean import LEAN, BatchNormGELU, biased_attention, gated_projection, lean
from tests.helpers import same


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Every tensor counts as large, and is worked on in several chunks with a remainder."""
    monkeypatch.setattr(lean_module, "LARGE", 0)
    monkeypatch.setattr(lean_module, "CHUNK", 35)


def channels_last(*shape):
    return torch.randn(*shape).double().contiguous(memory_format=torch.channels_last)


def gradients(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), leaves)]


def all_same(ours, expected, tolerance=1e-10):
    return all(same(a, b, tolerance) for a, b in zip(ours, expected, strict=True))


def network(**options):
    sizes = ((3, 2, 1, 1, 1), (4, 8, 8, 16, 16))
    options = {"head_dim": 8, "num_classes": 5, "image_size": 64, **options}
    model = CoAtNet(CoAtNetConfig.from_layout("CCTT", *sizes, **options)).double()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def step(model, images):
    """Logits, gradients and buffers of one training step; draws are the same for every model."""
    torch.manual_seed(1)
    logits = model.train()(images)
    F.cross_entropy(logits, torch.arange(len(images))).backward()
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    return [logits, *found, *model.buffers()]


# The transform ----------------------------------------------------------------------------


OPTIONS = [
    dict(),
    dict(downsample="depthwise", drop_path=0.5, se_ratio=0.0),
    dict(relative_bias="post", conv_norm="layer"),
    dict(relative_bias="none", transformer_norm="batch"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_lean_network_is_the_plain_one(options):
    plain, images = network(**options), channels_last(3, 3, 64, 64)
    model = lean(copy.deepcopy(plain))
    kinds = {type(module) for module in model.modules()}
    assert kinds >= set(LEAN.values()) and not kinds & LEAN.keys()
    assert all_same(step(model, images), step(plain, images))
    with torch.no_grad():
        assert same(model.eval()(images), plain.eval()(images))  # statistics differ by rounding


def wrong_backward(ctx, grad, *_):
    """Without the two factors of GELU and of the BatchNorm."""
    return grad, *[torch.zeros(grad.shape[1]).to(grad)] * 2, None, None, None, None


def wrong_attention(q, k, v, bias, scale):
    return ((q @ k.transpose(-2, -1) + bias) * scale).softmax(-1) @ v


@pytest.mark.parametrize(
    "owner, name, wrong",
    [
        (BatchNormGELU, "backward", staticmethod(wrong_backward)),
        (lean_module, "gated_projection", lambda se, project, x: project(x)),
        (lean_module, "biased_attention", wrong_attention),
    ],
)
def test_a_wrong_part_shows(owner, name, wrong, monkeypatch):
    plain, images = network(), channels_last(3, 3, 64, 64)
    model = lean(copy.deepcopy(plain))
    monkeypatch.setattr(owner, name, wrong)
    ours, expected = step(model, images), step(plain, images)
    assert not all_same(ours, expected, 1e-3)


def test_lean_keeps_parameters_and_names_and_is_harmless_twice():
    model = network()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert lean(model) is model
    kinds = [type(module) for module in model.modules()]
    assert lean(model) is model and [type(module) for module in model.modules()] == kinds
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_state_dicts_copies_pickles_and_averages_go_both_ways():
    images = channels_last(3, 3, 64, 64)
    plain, model = network(), lean(network())
    assert not all_same(step(model, images)[:1], step(plain, images)[:1], 1e-3)
    for source, target in ((model, plain), (lean(network()), model), (network(), model)):
        target.load_state_dict(source.state_dict())
        assert all_same(step(target, images), step(source, images))
    expected = step(copy.deepcopy(model), images)
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), average.module):
        assert type(twin.stages["S1"][0]) is LEAN[MBConv]
        assert all_same(step(twin, images), expected)
    assert all_same(step(model, images), expected)  # the copies share nothing with it


def test_a_lean_network_can_be_fused():
    images = channels_last(3, 3, 64, 64)
    plain = network().eval()
    expected = gradients(plain, images)
    assert all_same(gradients(fuse(lean(copy.deepcopy(plain))), images), expected)
    with torch.no_grad():
        fused = fuse(lean(copy.deepcopy(plain)).float())
        assert all_same([fused(images.float())], [plain(images).float()], 1e-4)


def test_the_lean_parts_act_in_eager_training_on_a_cpu_alone(monkeypatch):
    used = []

    def counted(function):
        return lambda *arguments: used.append(1) or function(*arguments)

    for name in ("norm_gelu", "gated_projection", "biased_attention"):
        monkeypatch.setattr(lean_module, name, counted(getattr(lean_module, name)))
    images = channels_last(2, 3, 64, 64)
    with torch.no_grad():
        lean(network())(images)
    with torch.autocast("cpu", torch.bfloat16):
        lean(network()).float()(images.float())
    lean(network()).bfloat16()(images.bfloat16())
    lean(network()).to("meta")(images.to("meta"))
    for part in (MBConv(4, 4), MultiHeadAttention(4, 4, 4, (2, 2), "pre")):
        x = torch.randn(2, 4, 4, 4) if isinstance(part, MBConv) else torch.randn(2, 4, 4)
        torch.compile(lean(part), backend="aot_eager", fullgraph=True)(x)
    assert not used
    lean(network())(images)
    mbconvs, attentions = 3, 2
    assert len(used) == (2 + 1) * mbconvs + attentions


def test_a_small_tensor_a_frozen_norm_and_a_frozen_table_take_the_plain_way(monkeypatch):
    plain, images = network(), channels_last(3, 3, 64, 64)
    model = lean(copy.deepcopy(plain))
    for each in (model, plain):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
            elif isinstance(module, MultiHeadAttention):
                module.relative_bias_table.requires_grad_(False)
    used = []
    monkeypatch.setattr(BatchNormGELU, "apply", lambda *_: used.append("norm"))
    monkeypatch.setattr(lean_module, "biased_attention", lambda *_: used.append("attention"))
    assert all_same([model(images)], [plain(images)])
    monkeypatch.setattr(lean_module, "LARGE", 10**9)
    lean(network(relative_bias="none"))(images)
    assert not used


# The parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_gelu(memory):
    x = (3 * channels_last(3, 5, 4, 2) + 2).contiguous(memory_format=memory)
    weight, bias = torch.randn(5).double(), torch.randn(5).double()
    norms = [nn.BatchNorm2d(5, eps=1e-3, momentum=0.2).double() for _ in range(2)]

    def ours(x, weight, bias):
        norm = norms[0]
        statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
        return BatchNormGELU.apply(x, weight, bias, *statistics)[0]

    def plain(x, weight, bias):
        norm = norms[1]
        y = F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, 0.2, 1e-3)
        return F.gelu(y)

    found = gradients(ours, x, weight, bias)
    assert all_same(found, gradients(plain, x, weight, bias))
    assert all_same(norms[0].buffers(), norms[1].buffers())
    assert not all_same(found, gradients(plain, x, weight + 0.1, bias), 1e-3)


def test_gated_projection():
    se, project = SqueezeExcitation(6, 3).double(), nn.Conv2d(6, 4, 1).double()
    x = channels_last(3, 6, 2, 5)
    parameters = [*se.parameters(), *project.parameters()]

    def both(function):
        y = gradients(function, x)
        return [*y, *torch.autograd.grad(function(x).square().sum(), parameters)]

    expected = both(lambda x: project(se(x)))
    assert all_same(both(lambda x: gated_projection(se, project, x)), expected)
    assert not same(project(x), expected[0], 1e-3)
    assert torch.equal(gated_projection(nn.Identity(), project, x), project(x))


def test_biased_attention():
    q, k, v = (torch.randn(2, 3, 5, 4).double() for _ in range(3))
    tensors = (q, k, v, torch.randn(3, 5, 5).double())

    def plain(q, k, v, bias):
        return (q @ k.transpose(-2, -1) * 0.3 + bias).softmax(-1) @ v

    def ours(q, k, v, bias):
        return biased_attention(q, k, v, bias, 0.3)

    def wrong(q, k, v, bias):
        return wrong_attention(q, k, v, bias, 0.3)

    assert all_same(gradients(ours, *tensors), gradients(plain, *tensors))
    assert not all_same(gradients(wrong, *tensors), gradients(plain, *tensors), 1e-3)
