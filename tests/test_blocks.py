"""blocks.py against loops and formulas written here, in float64, with mistakes that must show."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import (
    MLP,
    ConvStem,
    LayerNorm2d,
    MBConv,
    SqueezeExcitation,
    StochasticDepth,
    TransformerBlock,
    as_grid,
    as_tokens,
    init_weights,
    make_pool,
)
from tests.helpers import same

pytestmark = pytest.mark.usefixtures("float64")


def shake(module):
    """Random values everywhere, so that no identity or zero hides a mistake."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.5)
            if name.endswith(("running_var", "norm.weight")):
                tensor.abs_().add_(0.5)
    return module


# The loops that specify -------------------------------------------------------------------


def pool_loop(x, kind, s):
    B, D, H, W = x.shape
    y = torch.empty(B, D, H // s, W // s)
    for i in range(H // s):
        for j in range(W // s):
            window = x[:, :, s * i : s * i + s, s * j : s * j + s].flatten(2)
            y[:, :, i, j] = window.amax(-1) if kind == "max" else window.mean(-1)
    return y


def layer_norm_loop(x, norm):
    y = torch.empty_like(x)
    for b in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                v = x[b, :, i, j]
                v = (v - v.mean()) / (v.var(unbiased=False) + norm.eps).sqrt()
                y[b, :, i, j] = v * norm.weight + norm.bias
    return y


def batch_norm_loop(x, norm):
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        mean, var = norm.running_mean[c], norm.running_var[c]
        if norm.training:
            mean, var = x[:, c].mean(), x[:, c].var(unbiased=False)
        y[:, c] = (x[:, c] - mean) / (var + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
    return y


def depthwise_loop(x, kernel, stride):
    """A 3×3 depthwise convolution with zeros beyond the border, one output at a time."""
    B, D, H, W = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    y = torch.empty(B, D, (H + stride - 1) // stride, (W + stride - 1) // stride)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            window = padded[:, :, stride * i : stride * i + 3, stride * j : stride * j + 3]
            y[:, :, i, j] = (window * kernel[:, 0]).sum((2, 3))
    return y


def pointwise(x, conv):
    y = torch.einsum("bchw,dc->bdhw", x, conv.weight[:, :, 0, 0])
    return y if conv.bias is None else y + conv.bias[:, None, None]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def shortcut_by_hand(block, x, kind):
    x = pool_loop(x, kind, block.stride) if block.stride > 1 else x
    convs = [m for m in block.shortcut if isinstance(m, nn.Conv2d)]
    return pointwise(x, convs[0]) if convs else x


def mbconv_by_hand(block, x, downsample, kind):
    norm = batch_norm_loop if isinstance(block.norm, nn.BatchNorm2d) else layer_norm_loop
    s = block.stride
    y = norm(x, block.norm)
    if downsample == "expand":
        y = y[:, :, ::s, ::s]
    y = gelu(norm(pointwise(y, block.expand), block.expand_norm))
    y = depthwise_loop(y, block.depthwise.weight, s if downsample == "depthwise" else 1)
    y = gelu(norm(y, block.depthwise_norm))
    mean = y.mean((2, 3))
    z = mean @ block.se.reduce.weight.T + block.se.reduce.bias
    z = z / (1 + torch.exp(-z))
    z = z @ block.se.expand.weight.T + block.se.expand.bias
    y = y / (1 + torch.exp(-z))[:, :, None, None]
    return shortcut_by_hand(block, x, kind) + pointwise(y, block.project)


def transformer_by_hand(block, x, kind):
    pooled = layer_norm_loop(x, block.norm)
    if block.stride > 1:
        pooled = pool_loop(pooled, kind, block.stride)
    B, _, H, W = pooled.shape
    tokens = torch.stack([pooled[:, :, n // W, n % W] for n in range(H * W)], 1)
    y = block.attention.forward_written_out(tokens, (H, W))  # tested in test_attention.py
    x = shortcut_by_hand(block, x, kind) + y.transpose(1, 2).reshape(B, -1, H, W)
    y = layer_norm_loop(x, block.mlp_norm).permute(0, 2, 3, 1)
    y = gelu(y @ block.mlp.expand.weight.T + block.mlp.expand.bias)
    y = y @ block.mlp.project.weight.T + block.mlp.project.bias
    return x + y.permute(0, 3, 1, 2)


# 4. Transformer blocks --------------------------------------------------------------------


class PooledFirst(TransformerBlock):
    """The public mistake: Attention(Norm(Pool(x)))."""

    def forward(self, x):
        y = self.norm(self.pool(x))
        grid = y.shape[2:]
        x = self.shortcut(x) + as_grid(self.attention(as_tokens(y), grid), *grid)
        return x + as_grid(self.mlp(as_tokens(self.mlp_norm(x))), *grid)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dim, out_dim, stride", [(6, 8, 2), (8, 8, 2), (8, 8, 1), (6, 8, 1)])
def test_transformer_block_is_equation_4(kind, dim, out_dim, stride):
    arguments = (dim, out_dim, (2, 3), stride, 4, 4, "pre", kind)
    block = shake(TransformerBlock(*arguments))
    x = torch.randn(2, dim, 2 * stride, 3 * stride)
    expected = transformer_by_hand(block, x, kind)
    assert same(block(x), expected)
    assert len(block.shortcut) == 1 + (dim != out_dim)  # a projection only where widths change
    if stride == 2:
        broken = PooledFirst(*arguments)
        broken.load_state_dict(block.state_dict())
        assert not same(broken(x), expected, 1e-3)
        other = TransformerBlock(*arguments[:-1], "avg" if kind == "max" else "max")
        other.load_state_dict(block.state_dict())
        assert not same(other(x), expected, 1e-3)


# MBConv -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, partial(LayerNorm2d, eps=0.1)])
@pytest.mark.parametrize("downsample", ["expand", "depthwise"])
@pytest.mark.parametrize("dim, out_dim, stride", [(3, 4, 2), (4, 4, 2), (4, 4, 1)])
def test_mbconv_is_equation_5(norm, downsample, dim, out_dim, stride):
    options = dict(downsample=downsample, norm=norm)
    block = shake(MBConv(dim, out_dim, stride, **options))
    x = torch.randn(2, dim, 4, 6)
    for mode in (block.eval(), block.train()):
        expected = mbconv_by_hand(block, x, downsample, "max")
        assert same(mode(x), expected)
    assert block.expand.out_channels == 4 * out_dim  # not 4·dim
    assert block.se.reduce.out_features == out_dim // 4  # not a quarter of the hidden width
    if stride == 2:
        options["downsample"] = "depthwise" if downsample == "expand" else "expand"
        broken = MBConv(dim, out_dim, stride, **options)
        broken.load_state_dict(block.state_dict())
        assert not same(broken(x), expected, 1e-3)


def test_blocks_are_the_papers_unless_told():
    """And the eps of their norms the lineage's."""
    block = MBConv(4, 8)
    norms = [block.norm, block.expand_norm, block.depthwise_norm]
    assert all(type(norm) is nn.BatchNorm2d and norm.eps == 1e-3 for norm in norms)
    assert block.stride == 1 and block.expand.out_channels == 32
    assert block.se.reduce.out_features == 2
    pools = MBConv(4, 4, 2).shortcut, TransformerBlock(32, 32, (2, 2), 2).shortcut
    assert all(type(shortcut[0]) is nn.MaxPool2d for shortcut in pools)
    assert MBConv(4, 4, 2).expand.stride == (2, 2)  # equation (5)
    block = TransformerBlock(64, 64, (2, 2))
    assert all(type(n) is LayerNorm2d and n.eps == 1e-5 for n in (block.norm, block.mlp_norm))
    assert (block.stride, block.attention.heads, block.attention.relative_bias) == (1, 2, "pre")
    assert block.mlp.expand.out_features == MLP(64).expand.out_features == 256
    assert block.drop_path.rate == MBConv(4, 4).drop_path.rate == 0
    assert type(ConvStem(3, 4)[1]) is nn.BatchNorm2d and ConvStem(3, 4)[1].eps == 1e-3


def test_one_channel_at_least_is_squeezed():
    sizes = [MBConv(4, 4, se_ratio=ratio).se.reduce.out_features for ratio in (0.1, 0.5, 1.0)]
    assert sizes == [1, 2, 4]


def test_nothing_is_pooled_at_stride_one():
    assert all(type(make_pool(kind, 1)) is nn.Identity for kind in ("max", "avg"))
    assert [make_pool(kind, 3).kernel_size for kind in ("max", "avg")] == [3, 3]


def test_only_what_no_norm_follows_has_a_bias():
    block = MBConv(4, 8)
    convolutions = {name for name, m in block.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions == {"shortcut.1", "expand", "depthwise", "project"}
    biases = {name for name in convolutions if block.get_submodule(name).bias is not None}
    assert biases == {"shortcut.1", "project"}
    assert all(m.bias is None for m in ConvStem(3, 4, depth=3) if isinstance(m, nn.Conv2d))


def test_a_stem_strides_once():
    stem = ConvStem(3, 4, 4, 3)
    convolutions = [m for m in stem if isinstance(m, nn.Conv2d)]
    assert [m.stride for m in convolutions] == [(4, 4), (1, 1), (1, 1)]
    assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) for m in convolutions)
    assert [type(m) for m in stem][1:3] == [nn.BatchNorm2d, nn.GELU] and len(stem) == 7


def test_residual_options():
    without = MBConv(4, 8, se_ratio=0)
    assert isinstance(without.se, nn.Identity)
    assert MBConv(4, 8, expansion=2).expand.out_channels == 16


# 5. What a strided block reads ------------------------------------------------------------


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def share_read(block, x):
    """The share of input positions in the gradient of the residual branch."""
    x = x.clone().requires_grad_()
    block.eval().shortcut = nn.Sequential(block.shortcut, Zero())
    block(x).sum().backward()
    return (x.grad.abs().sum((0, 1)) > 0).double().mean().item()


def test_the_stride_of_equation_5_reads_a_quarter():
    x = torch.randn(1, 4, 8, 8)
    assert share_read(MBConv(4, 4, 2, downsample="expand", se_ratio=0), x) == 0.25
    assert share_read(MBConv(4, 4, 2, downsample="depthwise", se_ratio=0), x) == 1.0
    # The gate reads means of what the strided convolution wrote: still the same quarter.
    assert share_read(MBConv(4, 4, 2, downsample="expand"), x) == 0.25


# 9. Raster order, translation -------------------------------------------------------------


def test_tokens_are_in_raster_order_and_come_back():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    for memory in (torch.contiguous_format, torch.channels_last):
        tokens = as_tokens(x.contiguous(memory_format=memory))
        for n in range(12):
            assert torch.equal(tokens[0, n], x[0, :, n // 4, n % 4])
        assert torch.equal(as_grid(tokens, 3, 4), x)
        assert not torch.equal(as_grid(tokens, 4, 3).transpose(2, 3), x)
    grid = x.contiguous(memory_format=torch.channels_last)
    assert as_tokens(grid).data_ptr() == grid.data_ptr()  # a view


def shift_error(block, x, shift):
    moved = block(x.roll((shift, shift), (2, 3)))
    back = moved.roll((-shift // block.stride,) * 2, (2, 3))
    inner = (..., slice(2, -2), slice(2, -2))
    return (back - block(x))[inner].abs().max().item()


def test_mbconv_commutes_with_shifts_by_its_stride():
    x = torch.zeros(1, 4, 16, 16)
    x[:, :, 6:10, 6:10] = torch.randn(1, 4, 4, 4)
    for stride in (1, 2):
        block = shake(MBConv(4, 4, stride, se_ratio=0)).eval()
        assert shift_error(block, x, stride) < 1e-10
    assert shift_error(block, x, 1) > 1e-3  # a shift that the stride does not divide: aliasing


# 10. Stochastic depth ---------------------------------------------------------------------


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    drop, x = StochasticDepth(0.3), torch.randn(4000, 2, 1, 3)
    y = drop(x)
    kept = (y != 0).flatten(1)
    assert torch.equal(kept.all(1), kept.any(1))
    assert same(y[kept[:, 0]], x[kept[:, 0]] / 0.7)
    assert abs(kept[:, 0].double().mean().item() - 0.7) < 0.03  # 4 standard deviations
    assert abs((y / x).mean().item() - 1) < 0.05
    assert torch.equal(drop.eval()(x), x)
    per_element = F.dropout(x, 0.3)
    kept = (per_element != 0).flatten(1)
    assert not torch.equal(kept.all(1), kept.any(1))


def test_nothing_is_drawn_or_divided_at_rate_zero():
    drop, x = StochasticDepth(0.0), torch.randn(3, 2)
    before = torch.get_rng_state()
    assert drop(x) is x and torch.equal(torch.get_rng_state(), before)
    assert str(StochasticDepth(0.25)) == "StochasticDepth(rate=0.25)"


def test_each_residual_of_a_transformer_block_draws_on_its_own():
    block = shake(TransformerBlock(4, 4, (1, 1), head_dim=4, drop_path=0.5))
    x = torch.randn(1, 4, 1, 1).repeat(400, 1, 1, 1)
    kinds = {tuple(row) for row in block(x).detach().flatten(1).numpy().round(6).tolist()}
    assert len(kinds) == 4  # both, either, none

    class OneDraw(TransformerBlock):
        def forward(self, x):
            y = as_tokens(self.pool(self.norm(x)))
            y = x + as_grid(self.attention(y, (1, 1)), 1, 1)
            y = y + as_grid(self.mlp(as_tokens(self.mlp_norm(y))), 1, 1)
            return x + self.drop_path(y - x)

    broken = OneDraw(4, 4, (1, 1), head_dim=4, drop_path=0.5)
    broken.load_state_dict(block.state_dict())
    kinds = {tuple(row) for row in broken(x).detach().flatten(1).numpy().round(6).tolist()}
    assert len(kinds) == 2


# Parts ------------------------------------------------------------------------------------


def test_layer_norm_2d_is_the_loop():
    norm, x = shake(LayerNorm2d(5)), torch.randn(2, 5, 3, 4)
    assert same(norm(x), layer_norm_loop(x, norm))
    assert not same(F.layer_norm(x, x.shape[1:]), layer_norm_loop(x, norm), 1e-3)


def test_stem_has_no_norm_after_its_last_convolution():
    stem = shake(ConvStem(3, 4)).eval()
    x = torch.randn(1, 3, 8, 6)
    y = F.conv2d(x, stem[0].weight, stride=2, padding=1)
    y = F.conv2d(gelu(batch_norm_loop(y, stem[1])), stem[3].weight, padding=1)
    assert same(stem(x), y) and y.shape == (1, 4, 4, 3)
    assert not same(stem(x), gelu(y), 1e-3)


def test_mlp_is_wide_by_its_own_width():
    mlp = MLP(6, 4)
    assert mlp.expand.out_features == 24
    assert mlp(torch.randn(2, 7, 6)).shape == (2, 7, 6)


def test_squeeze_excitation_gates_by_the_whole_map():
    se, x = shake(SqueezeExcitation(4, 2)), torch.randn(1, 4, 3, 3)
    gates = (se(x) / x).flatten(2)
    assert same(gates, gates[:, :, :1].expand(-1, -1, 9))
    changed = x.clone()
    changed[0, 0, 2, 2] += 5.0
    assert not same(se(changed)[:, :, 0, 0], se(x)[:, :, 0, 0], 1e-6)


@pytest.mark.parametrize("scheme", ["fan", "normal"])
def test_initialisation_has_the_documented_scale(scheme):
    dense, depthwise = nn.Conv2d(64, 64, 3), nn.Conv2d(512, 512, 3, groups=512)
    linear = nn.Linear(300, 500)
    expected = {"fan": ((2 / 576) ** 0.5, (2 / 9) ** 0.5, (2 / 800) ** 0.5), "normal": (0.02,) * 3}
    for module, std in zip((dense, depthwise, linear), expected[scheme], strict=True):
        init_weights(module, scheme)
        assert abs(module.weight.std().item() / std - 1) < 0.05
        assert module.bias.abs().max() == 0


def test_tables_start_small_and_other_layers_as_they_are():
    attention = MultiHeadAttention(8, 8, 4, (30, 40), "pre")
    init_weights(attention)
    assert abs(attention.relative_bias_table.std().item() / 0.02 - 1) < 0.05
    init_weights(MultiHeadAttention(8, head_dim=4))  # without a table
    norm = nn.LayerNorm(4)
    init_weights(norm)
    assert norm.weight.tolist() == [1] * 4


def test_initialisation_is_by_the_fan_unless_told():
    linear = nn.Linear(300, 500)
    init_weights(linear)
    assert abs(linear.weight.std().item() / (2 / 800) ** 0.5 - 1) < 0.05


# Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: MBConv(4, 4, 2)(torch.zeros(1, 4, 3, 4)), "3×4 grid .* multiples of 2"),
        (lambda: MBConv(4, 4, 2)(torch.zeros(1, 4, 4, 5)), "4×5 grid .* multiples of 2"),
        (
            lambda: TransformerBlock(4, 4, (1, 1), 2, 4)(torch.zeros(1, 4, 3, 2)),
            "3×2 grid .* multiples of 2",
        ),
        (lambda: MBConv(4, 4, downsample="pool"), "downsample is 'pool'; choose from expand"),
        (lambda: make_pool("mean", 2), "pool is 'mean'; choose from max, avg"),
        (lambda: StochasticDepth(1.0), "drop_path is 1.0; it must be at least 0 and below 1"),
        (lambda: init_weights(nn.Linear(1, 1), "zeros"), "init is 'zeros'; choose from fan"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
