"""lean.py: values and gradients of the lean twins against the plain blocks, in float64."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import ConvStem, MBConv, SqueezeExcitation
from coatnet_mini.cpu import lean as lean_module
from coatnet_mini.cpu.fuse import fuse
from coatnet_mini.cpu.lean import TWINS, BatchNormGELU, gated_projection, lean, norm_gelu
from coatnet_mini.model import CoAtNet, CoAtNetConfig


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Every tensor counts as large, and is worked on in several chunks with a remainder."""
    torch.manual_seed(0)
    monkeypatch.setattr(lean_module, "LARGE", 0)
    monkeypatch.setattr(lean_module, "CHUNK", 35)


def channels_last(*shape):
    return torch.randn(*shape).double().contiguous(memory_format=torch.channels_last)


def gradients(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), leaves)]


def same(ours, expected, tolerance=1e-10):
    return all((a - b).abs().max() < tolerance for a, b in zip(ours, expected, strict=True))


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
    dict(batch_norm_momentum=None),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_lean_network_is_the_plain_one(options):
    plain, images = network(**options), channels_last(3, 3, 64, 64)
    model = lean(copy.deepcopy(plain))
    kinds = {type(module) for module in model.modules()}
    assert kinds >= set(TWINS.values()) and not kinds & TWINS.keys()
    assert same(step(model, images), step(plain, images))
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
        assert torch.equal(model.eval()(images), plain.eval()(images))


def wrong_gelu(ctx, grad, *_):
    return grad, None, None, None, None, None, None


def wrong_attention(q, k, v, bias, scale):
    return ((q @ k.transpose(-2, -1) + bias) * scale).softmax(-1) @ v


@pytest.mark.parametrize(
    "owner, name, wrong",
    [
        (BatchNormGELU, "backward", staticmethod(wrong_gelu)),
        (lean_module, "gated_projection", lambda se, project, x: project(x)),
        (lean_module, "biased_attention", wrong_attention),
    ],
)
def test_a_wrong_twin_shows(owner, name, wrong, monkeypatch):
    plain, images = network(), channels_last(3, 3, 64, 64)
    model = lean(copy.deepcopy(plain))
    monkeypatch.setattr(owner, name, wrong)
    ours, expected = step(model, images), step(plain, images)
    worst = [0 if a is None else (a - b).abs().max() for a, b in zip(ours, expected, strict=True)]
    assert max(worst) > 1e-3


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
    assert not same(step(model, images)[:1], step(plain, images)[:1], 1e-3)
    for source, target in ((model, plain), (lean(network()), model), (network(), model)):
        target.load_state_dict(source.state_dict())
        assert same(step(target, images), step(source, images))
    expected = step(copy.deepcopy(model), images)
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), average.module):
        assert type(twin.stages["S1"][0]) is TWINS[MBConv]
        assert same(step(twin, images), expected)
    assert same(step(model, images), expected)  # the copies share nothing with it


def test_a_lean_network_can_be_fused():
    images = channels_last(3, 3, 64, 64)
    plain = network().eval()
    expected = gradients(plain, images)
    assert same(gradients(fuse(lean(copy.deepcopy(plain))), images), expected)
    with torch.no_grad():
        fused = fuse(lean(copy.deepcopy(plain)).float())
        assert same([fused(images.float())], [plain(images).float()], 1e-4)


def test_the_twins_act_in_eager_training_on_a_cpu_alone(monkeypatch):
    used = []

    def counting(function):
        return lambda *arguments: used.append(1) or function(*arguments)

    for name in ("norm_gelu", "gated_projection", "biased_attention"):
        monkeypatch.setattr(lean_module, name, counting(getattr(lean_module, name)))
    model, images = lean(network()), channels_last(2, 3, 64, 64)
    with torch.no_grad():
        model(images)
    torch.compile(model, backend="aot_eager", fullgraph=True)(images)
    low = copy.deepcopy(model).bfloat16()
    low(images.bfloat16())
    model.to("meta")(images.to("meta"))
    assert not used
    network_of_twins = lean(network())
    with torch.autocast("cpu", torch.bfloat16):
        network_of_twins.float()(images.float()).float().sum().backward()
    used.clear()
    step(lean(network()), images)
    blocks = 3  # MBConv, each with two norms and one gate; the stem has two norms, S3 and S4 a bias
    assert len(used) == 3 * blocks + 2 + 2
    assert {type(m) for m in lean(network()).modules()} >= {TWINS[ConvStem]}


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

    assert same(gradients(ours, x, weight, bias), gradients(plain, x, weight, bias))
    assert same(norms[0].buffers(), norms[1].buffers())
    assert not same(gradients(ours, x, weight, bias), gradients(plain, x, weight + 0.1, bias), 1e-3)
