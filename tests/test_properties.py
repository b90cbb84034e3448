"""What must hold for every network, over random sizes, heads, batches and options."""

import copy
import pickle

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coatnet_mini.attention import MultiHeadAttention, bias_matrix, relative_index, resize_table
from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig
from coatnet_mini.cpu.fuse import fuse

OPTIONS = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def configs(draw):
    """Small networks of every layout, with every option drawn."""
    layout = draw(st.sampled_from(["CC", "CT", "TT", "TC"]))
    head_dim = draw(st.sampled_from([2, 4]))
    widths = [head_dim * draw(st.integers(1, 3)) for _ in range(3)]
    depths = [2, draw(st.integers(1, 2)), 1]
    sides = [8 * draw(st.integers(1, 3)) for _ in range(2)]
    return CoAtNetConfig.from_layout(
        layout,
        depths,
        widths,
        head_dim=head_dim,
        num_classes=draw(st.integers(1, 4)),
        image_size=tuple(sides),
        in_channels=draw(st.integers(1, 3)),
        expansion=draw(st.integers(1, 4)),
        se_ratio=draw(st.sampled_from([0.0, 0.25, 1.0])),
        downsample=draw(st.sampled_from(["expand", "depthwise"])),
        pool=draw(st.sampled_from(["max", "avg"])),
        head=draw(st.sampled_from(["linear", "tanh"])),
        relative_bias=draw(st.sampled_from(["pre", "post", "none"])),
        conv_norm=draw(st.sampled_from(["batch", "layer"])),
        transformer_norm=draw(st.sampled_from(["batch", "layer"])),
        drop_path=draw(st.sampled_from([0.0, 0.5])),
    )


def build(config, batch):
    """A network with statistics of its own and a batch of images for it."""
    torch.manual_seed(0)
    model = CoAtNet(config)
    images = torch.randn(batch, config.in_channels, *config.image_size)
    model(torch.randn(4, *images.shape[1:]))  # running statistics
    return model.eval(), images


@OPTIONS
@given(configs(), st.integers(1, 3))
def test_evaluation(config, batch):
    """Shape, finite values, determinism, no dependence on the rest of the batch."""
    model, images = build(config, batch)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (batch, config.num_classes) and logits.isfinite().all()
        assert torch.equal(model(images), logits)
        alone = torch.cat([model(image[None]) for image in images])
        assert torch.allclose(alone, logits, atol=1e-5)
        assert torch.allclose(fuse(model)(images), logits, atol=1e-5)
        for name, weights in model.attention_maps(images).items():
            stage, n = name.split(".")
            assert weights.shape[1] == model.stages[stage][int(n)].attention.heads


@OPTIONS
@given(configs())
def test_a_training_step_reaches_every_parameter(config):
    model, images = build(config, 3)
    model.train()(images).square().sum().backward()
    dropped = config.drop_path > 0
    for name, p in model.named_parameters():
        assert dropped or p.grad is not None, name
        assert p.grad is None or p.grad.isfinite().all(), name


@OPTIONS
@given(configs())
def test_copies(config):
    """State dict, pickle and deepcopy give networks that compute the same and share nothing."""
    model, images = build(config, 2)
    other = CoAtNet(config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = model(images)
        for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images), logits)
            next(twin.parameters()).add_(1.0)
        assert torch.equal(model(images), logits)


@OPTIONS
@given(configs(), st.sampled_from([torch.float16, torch.bfloat16]))
def test_reduced_precision(config, dtype):
    """Autocast, and a network that is itself bfloat16, stay near float32 and train."""
    model, images = build(config, 2)
    with torch.no_grad():
        logits = model(images)
        with torch.autocast("cpu", dtype):
            near = model(images).float()
        assert near.isfinite().all()
        scale = 1 + logits.abs().max()
        assert (near - logits).abs().max() < 0.1 * scale
    model.train()
    with torch.autocast("cpu", dtype):
        loss = model(images).float().square().sum()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)


@OPTIONS
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_bias_matrix_is_a_gather(H, W, heads, seed):
    table = torch.randn(heads, 2 * H - 1, 2 * W - 1, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(bias_matrix(table, H, W), table.flatten(1)[:, relative_index(H, W)])
    constant = torch.full_like(table, 0.7)
    assert torch.allclose(resize_table(constant, W, H), torch.tensor(0.7))


@OPTIONS
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(["pre", "post", "none"]),
)
def test_fused_attention_is_the_written_out_form(H, W, heads, form):
    torch.manual_seed(0)
    attention = MultiHeadAttention(6, 4 * heads, 4, (H, W), form)
    if form != "none":
        torch.nn.init.normal_(attention.relative_bias_table)
    x = torch.randn(2, H * W, 6)
    for mode in (attention.train(), attention.eval()):
        assert torch.allclose(mode(x), mode.forward_written_out(x), atol=1e-5)
