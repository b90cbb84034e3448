"""attention.py against loops written here, in float64; each check is shown to fail on a mistake."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

from coatnet_mini.attention import (
    MultiHeadAttention,
    attention_weights,
    bias_matrix,
    relative_attention,
    relative_index,
    resize_table,
)
from tests.helpers import same

pytestmark = pytest.mark.usefixtures("float64")
GRIDS = [(1, 1), (1, 4), (3, 3), (4, 3), (2, 5)]


def layer(grid=(3, 4), form="pre", dim=8, out_dim=8, head_dim=4):
    attention = MultiHeadAttention(dim, out_dim, head_dim, grid, form)
    if form != "none":
        nn.init.normal_(attention.relative_bias_table)
    return attention


# The loops that specify -------------------------------------------------------------------


def bias_loop(table, H, W):
    """Appendix A.1 with 1-based subscripts, as printed: P[i − i' + H, j − j' + W]."""
    B = torch.zeros(len(table), H * W, H * W)
    for i in range(1, H + 1):
        for j in range(1, W + 1):
            for i2 in range(1, H + 1):
                for j2 in range(1, W + 1):
                    query, key = (i - 1) * W + j - 1, (i2 - 1) * W + j2 - 1
                    B[:, query, key] = table[:, i - i2 + H - 1, j - j2 + W - 1]
    return B


def bias_einsum(table, H, W):
    """The accelerator form of Appendix A.1: a one-hot product along the height, then the width."""
    pick = [
        F.one_hot(torch.arange(n)[:, None] - torch.arange(n) + n - 1, 2 * n - 1).to(table.dtype)
        for n in (H, W)
    ]
    rows = torch.einsum("hrs,ikr->hiks", table, pick[0])
    return torch.einsum("hiks,jls->hijkl", rows, pick[1]).reshape(len(table), H * W, H * W)


def attention_loop(x, w, form):
    """Equations (2) and (3), one number at a time. x (N, D), w (N, N) the bias of each pair."""
    N, D = x.shape
    y = torch.zeros(N, D)
    for i in range(N):
        dots = [sum(x[i, c] * x[j, c] for c in range(D)) for j in range(N)]
        before = [dots[j] + (w[i, j] if form == "pre" else 0) for j in range(N)]
        total = sum(math.exp(b) for b in before)
        for j in range(N):
            weight = math.exp(before[j]) / total + (w[i, j] if form == "post" else 0)
            y[i] += weight * x[j]
    return y


def multi_head_loop(attention, x):
    """The layer head by head and query by query, reading its parameters. x (B, N, D)."""
    heads, d = attention.heads, attention.head_dim
    y = torch.zeros(*x.shape[:2], heads * d)
    w = None
    if attention.relative_bias != "none":
        w = bias_loop(attention.relative_bias_table, *attention.grid)
    q, k, v = (
        x @ attention.qkv.weight[s].T + attention.qkv.bias[s]
        for s in (slice(n * heads * d, (n + 1) * heads * d) for n in range(3))
    )
    for b in range(len(x)):
        for h in range(heads):
            c = slice(h * d, (h + 1) * d)
            for i in range(x.shape[1]):
                logits = k[b, :, c] @ q[b, i, c] / math.sqrt(d)
                if attention.relative_bias == "pre":
                    logits = logits + w[h, i]
                weights = logits.exp() / logits.exp().sum()
                if attention.relative_bias == "post":
                    weights = weights + w[h, i]
                y[b, i, c] = weights @ v[b, :, c]
    return y @ attention.out.weight.T + attention.out.bias


# 1. The table and its index ---------------------------------------------------------------


@pytest.mark.parametrize("H, W", GRIDS)
def test_bias_matrix_is_the_loop_the_gather_and_the_einsum(H, W):
    table = torch.randn(3, 2 * H - 1, 2 * W - 1)
    B = bias_matrix(table, H, W)
    assert torch.equal(B, bias_loop(table, H, W))
    assert torch.equal(B, table.flatten(1)[:, relative_index(H, W)])
    assert same(B, bias_einsum(table, H, W))
    if H * W > 1:
        flipped = table.flip(1, 2)  # the table that a key-minus-query implementation would hold
        assert not same(bias_matrix(flipped, H, W), B)
        assert torch.equal(bias_matrix(flipped, H, W), B.transpose(1, 2))


def test_tables_of_any_leading_axes_are_spread_alike():
    tables = torch.randn(2, 3, 5, 7)
    B = bias_matrix(tables, 3, 4)
    assert B.shape == (2, 3, 12, 12)
    for n in range(2):
        assert torch.equal(B[n], bias_loop(tables[n], 3, 4))
    assert torch.equal(bias_matrix(tables[1, 2], 3, 4), B[1, 2])


def offsets_agree(B, H, W):
    """Every pair with the same two-dimensional offset has the same bias; other offsets differ."""
    seen = {}
    for i in range(H * W):
        for j in range(H * W):
            offset = (i // W - j // W, i % W - j % W)
            if seen.setdefault(offset, B[i, j].item()) != B[i, j].item():
                return False
    return len(set(seen.values())) == (2 * H - 1) * (2 * W - 1)


@pytest.mark.parametrize("H, W", GRIDS)
def test_bias_depends_on_the_offset_alone(H, W):
    table = torch.randn(2, 2 * H - 1, 2 * W - 1)
    for head in bias_matrix(table, H, W):
        assert offsets_agree(head, H, W)
    if min(H, W) > 1 and H != W:
        # Height and width confused, or rows of the table counted with the wrong length.
        confused = table[0].flatten()[relative_index(W, H)]
        assert not offsets_agree(confused, H, W)
        short = table[0].flatten()[(relative_index(H, W) - 1).clamp(min=0) % (4 * W)]
        assert not offsets_agree(short, H, W)


def test_index_of_the_smallest_grids():
    assert relative_index(1, 2).tolist() == [[1, 0], [2, 1]]
    assert relative_index(2, 1).tolist() == [[1, 0], [2, 1]]
    assert relative_index(2, 2)[0].tolist() == [4, 3, 1, 0]


# 2. Gradients, tables per head and layer, limits ------------------------------------------


def test_gradient_reaches_every_offset_of_every_head_and_layer():
    first, second = layer(), layer()
    assert first.relative_bias_table is not second.relative_bias_table
    second(first(torch.randn(2, 12, 8))).square().sum().backward()
    for attention in (first, second):
        assert attention.relative_bias_table.shape == (2, 5, 7)
        assert (attention.relative_bias_table.grad.abs() > 0).all()

    class IndexedOnce(MultiHeadAttention):
        """The public bug: the bias is looked up when the layer is built, not when it runs."""

        def bias(self, grid=None):
            return bias_matrix(self.relative_bias_table.detach(), *self.grid)

    broken = IndexedOnce(8, 8, 4, (3, 4), "pre")
    broken(torch.randn(2, 12, 8)).sum().backward()
    assert broken.relative_bias_table.grad is None


def test_each_head_has_its_own_table():
    attention, x = layer(), torch.randn(2, 12, 8)
    assert same(attention(x), multi_head_loop(attention, x))

    class Shared(MultiHeadAttention):
        def bias(self, grid=None):
            return super().bias(grid)[:1].expand(self.heads, -1, -1)

    broken = Shared(8, 8, 4, (3, 4), "pre")
    broken.load_state_dict(attention.state_dict())
    assert not same(broken(x), multi_head_loop(attention, x), 1e-3)


def test_zero_table_is_plain_attention():
    x, plain = torch.randn(2, 12, 8), layer(form="none")
    for form in ("pre", "post"):
        relative = MultiHeadAttention(8, 8, 4, (3, 4), form)
        relative.load_state_dict(plain.state_dict(), strict=False)
        assert relative.relative_bias_table.abs().max() == 0  # how a table starts
        assert same(relative(x), plain(x))
        nn.init.normal_(relative.relative_bias_table)
        assert not same(relative(x), plain(x), 1e-3)


def test_without_content_the_table_alone_is_a_global_convolution():
    H, W, D = 3, 4, 2
    table = torch.randn(1, 5, 7)
    x = torch.randn(H * W, D)
    w = bias_matrix(table, H, W)[0]
    y = attention_weights(torch.zeros(H * W, 1), bias=w) @ x
    # A true convolution with exp(P) over the same one of ones: the borders renormalise.
    kernel = table.exp().flip(1, 2).expand(D + 1, 1, 5, 7)
    ones = torch.cat([x, torch.ones(H * W, 1)], 1).T.reshape(1, D + 1, H, W)
    sums = F.conv2d(ones, kernel, padding=(H - 1, W - 1), groups=D + 1)[0].flatten(1).T
    assert same(y, sums[:, :D] / sums[:, D:])
    unflipped = F.conv2d(ones, kernel.flip(2, 3), padding=(2, 3), groups=D + 1)[0].flatten(1).T
    assert not same(y, unflipped[:, :D] / unflipped[:, D:], 1e-3)


# 3. Before and after the softmax ----------------------------------------------------------


@pytest.mark.parametrize("form", ["pre", "post", "none"])
def test_bare_form_is_the_equation(form):
    x, w = torch.randn(6, 3), torch.randn(6, 6)
    assert same(relative_attention(x, w, form), attention_loop(x, w, form))
    assert same(relative_attention(x, w), attention_loop(x, w, "pre"))  # unless told
    for other in {"pre", "post", "none"} - {form}:
        assert not same(relative_attention(x, w, other), attention_loop(x, w, form), 1e-3)


def test_rows_sum_to_one_before_and_not_after():
    x, w = torch.randn(6, 3), torch.randn(6, 6)
    ones = torch.ones(6)
    assert same(attention_weights(x, bias=w, form="pre").sum(-1), ones)
    assert same(attention_weights(x, bias=w, form="post").sum(-1), ones + w.sum(-1))
    assert not same(attention_weights(x, bias=w, form="post").sum(-1), ones, 1e-3)
    wrong_axis = (x @ x.T + w).softmax(0)
    assert not same(wrong_axis.sum(-1), ones, 1e-3)


def test_the_scale_is_on_the_content_and_not_on_the_bias():
    x, w = torch.randn(6, 3), torch.randn(6, 6)
    weights = attention_weights(x, bias=w, scale=0.25)
    assert same(weights, (x @ x.T / 4 + w).softmax(-1))
    assert not same(weights, ((x @ x.T + w) / 4).softmax(-1), 1e-3)


# The layer --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pre", "post", "none"])
@pytest.mark.parametrize("grid, dim, out_dim", [((3, 4), 8, 8), ((5, 1), 6, 12)])
def test_layer_is_the_loop(form, grid, dim, out_dim):
    attention = layer(grid, form, dim, out_dim)
    x = torch.randn(2, grid[0] * grid[1], dim)
    expected = multi_head_loop(attention, x)
    assert same(attention(x), expected)
    assert same(attention.forward_written_out(x), expected)

    class Interleaved(MultiHeadAttention):
        """Heads cut out of the wrong channels: the mistake of a wrong reshape."""

        def heads_of(self, x):
            qkv = self.qkv(x).unflatten(-1, (self.heads, 3, self.head_dim))
            return qkv.permute(3, 0, 2, 1, 4).unbind(0)

    broken = Interleaved(dim, out_dim, 4, grid, form)
    broken.load_state_dict(attention.state_dict())
    assert not same(broken(x), expected, 1e-3)


@pytest.mark.parametrize("form", ["pre", "post", "none"])
def test_fused_equals_written_out_in_float32(form):
    torch.set_default_dtype(torch.float32)
    attention = layer((7, 6), form, 64, 64, 32)
    x = torch.randn(2, 42, 64)
    for mode in (attention.eval(), attention.train()):
        assert same(mode(x), mode.forward_written_out(x), 1e-5)
        with torch.no_grad():
            assert same(mode(x), mode.forward_written_out(x), 1e-5)


@pytest.mark.parametrize("form", ["pre", "post", "none"])
def test_weights_are_those_of_forward(form):
    attention, x = layer(form=form), torch.randn(2, 12, 8)
    weights = attention.weights(x)
    assert weights.shape == (2, 2, 12, 12)
    v = attention.heads_of(x)[2]
    assert same(attention(x), attention.out((weights @ v).transpose(1, 2).flatten(2)))


def test_a_layer_has_heads_of_32_channels_as_wide_as_it_reads_and_no_bias_unless_told():
    attention = MultiHeadAttention(64)
    assert (attention.heads, attention.head_dim, attention.relative_bias) == (2, 32, "none")
    assert attention.out.out_features == 64
    assert attention.grid is None and attention.bias() is None


def test_plain_layer_is_pytorchs_own():
    attention, x = layer(form="none"), torch.randn(2, 12, 8)
    peer = nn.MultiheadAttention(8, 2, batch_first=True)
    peer.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }
    )
    y, weights = peer(x, x, x, average_attn_weights=False)
    assert same(attention(x), y)
    assert same(attention.weights(x), weights)


# The table as it is now -------------------------------------------------------------------


class Cached(MultiHeadAttention):
    """The mistake: the spread bias is kept, and what later happens to the table is not seen."""

    def bias(self, grid=None):
        if "kept" not in self.__dict__:
            self.__dict__["kept"] = super().bias(grid).detach()
        return self.kept


def edited_in_place(attention):
    with torch.no_grad():
        attention.relative_bias_table.add_(1.0).mul_(2.0)
    return attention


def edited_behind_the_version_counter(attention):
    attention.relative_bias_table.data.neg_()
    return attention


def replaced(attention):
    attention.relative_bias_table = nn.Parameter(torch.randn(2, 5, 7))
    return attention


def loaded(attention):
    attention.load_state_dict(layer().state_dict())
    return attention


def rounded_by_dtype_moves(attention):
    return attention.bfloat16().double()


def copied_then_edited(attention):
    return edited_in_place(copy.deepcopy(attention))


def pickled_then_edited(attention):
    return edited_in_place(pickle.loads(pickle.dumps(attention)))


def averaged(attention):
    average = AveragedModel(attention, use_buffers=True)
    for _ in range(2):
        average.update_parameters(edited_in_place(attention))
    return average.module


CHANGES = [
    edited_in_place,
    edited_behind_the_version_counter,
    replaced,
    loaded,
    rounded_by_dtype_moves,
    copied_then_edited,
    averaged,
]


@pytest.mark.parametrize("change", [*CHANGES, pickled_then_edited])
def test_no_logits_are_stale(change):
    attention, x = layer().eval(), torch.randn(2, 12, 8)
    with torch.no_grad():
        before = attention(x)
        changed = change(attention)
        assert same(changed(x), multi_head_loop(changed, x))
        assert not same(changed(x), before, 1e-6)


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_would_be_noticed(change):
    attention, x = Cached(8, 8, 4, (3, 4), "pre").eval(), torch.randn(2, 12, 8)
    attention.load_state_dict(layer().state_dict())
    with torch.no_grad():
        attention(x)
        changed = change(attention)
        assert not same(changed(x), multi_head_loop(changed, x), 1e-6)


def test_tables_given_for_one_call_count_for_that_call():
    attention, x = layer().eval(), torch.randn(2, 12, 8)
    table = torch.randn(2, 5, 7)
    with torch.no_grad():
        before = attention(x)
        given = functional_call(attention, {"relative_bias_table": table}, (x,))
        assert torch.equal(attention(x), before)
        attention.relative_bias_table.copy_(table)
        assert torch.equal(attention(x), given) and not same(given, before, 1e-3)


def test_a_state_dict_holds_the_table_and_nothing_spread():
    names = {"qkv.weight", "qkv.bias", "out.weight", "out.bias", "relative_bias_table"}
    assert set(layer().state_dict()) == names
    assert set(layer(form="none").state_dict()) == names - {"relative_bias_table"}


# 7. Other grids ---------------------------------------------------------------------------


def resize_loop(table, H, W):
    """Bilinear, half-pixel centres, edges clamped: one entry at a time."""
    heads, h, w = table.shape
    new = torch.zeros(heads, 2 * H - 1, 2 * W - 1)
    for r in range(2 * H - 1):
        for s in range(2 * W - 1):
            y = min(max((r + 0.5) * h / (2 * H - 1) - 0.5, 0), h - 1)
            x = min(max((s + 0.5) * w / (2 * W - 1) - 0.5, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            for a, p in ((y0, y0 + 1 - y), (y1, y - y0)):
                for b, q in ((x0, x0 + 1 - x), (x1, x - x0)):
                    new[:, r, s] += p * q * table[:, a, b]
    return new


@pytest.mark.parametrize("grid", [(3, 4), (5, 4), (6, 9), (2, 2), (1, 1)])
def test_resize_is_bilinear_and_keeps_the_zero_offset(grid):
    table = torch.randn(2, 5, 7)
    new = resize_table(table, *grid)
    assert same(new, resize_loop(table, *grid))
    assert same(new[:, grid[0] - 1, grid[1] - 1], table[:, 2, 3])
    size = new.shape[1:]
    for mode in ("nearest", "bicubic"):
        wrong = F.interpolate(table[None], size, mode=mode)[0]
        assert grid in [(3, 4), (1, 1)] or not same(wrong, resize_loop(table, *grid), 1e-3)


def test_a_table_may_have_any_odd_sides():
    for side in (1, 3, 5, 9, 15):
        table = torch.randn(2, side, 9)
        assert same(resize_table(table, 3, 4), resize_loop(table, 3, 4))


def test_resize_to_the_same_grid_changes_nothing():
    table = torch.randn(2, 5, 7)
    assert resize_table(table, 3, 4) is table


def test_a_checkpoint_of_another_grid_loads():
    small, large = layer((3, 4)), layer((6, 6))
    state = small.state_dict()
    large.load_state_dict(state)
    assert torch.equal(large.relative_bias_table, resize_table(small.relative_bias_table, 6, 6))
    assert state["relative_bias_table"].shape == (2, 5, 7)  # the caller's state is untouched
    x = torch.randn(2, 36, 8)
    assert same(large(x), small(x, (6, 6)))  # the same as reading the small table resized
    assert same(large(x), multi_head_loop(large, x))


def test_a_table_is_neither_invented_nor_dropped_when_a_state_is_loaded():
    with_table, without = layer(), layer(form="none")
    with pytest.raises(RuntimeError, match=r"Missing key.*relative_bias_table"):
        with_table.load_state_dict(without.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*relative_bias_table"):
        without.load_state_dict(with_table.state_dict())


def test_another_grid_at_run_time_reads_the_table_anew():
    attention, x = layer().eval(), torch.randn(2, 12, 8)
    with torch.no_grad():
        wide, tall = attention(x, (3, 4)), attention(x, (4, 3))
        assert not same(wide, tall, 1e-3)
        assert torch.equal(attention(x, (3, 4)), wide)


# Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: relative_index(0, 3), "0×3"),
        (lambda: relative_index(3, 0), "3×0"),
        (lambda: bias_matrix(torch.zeros(2, 5, 5), 3, 4), "5×7 offsets, got 5×5"),
        (lambda: resize_table(torch.zeros(2, 4, 7), 3, 3), r"odd sides, got \(2, 4, 7\)"),
        (lambda: resize_table(torch.zeros(2, 5, 6), 3, 3), r"odd sides, got \(2, 5, 6\)"),
        (lambda: resize_table(torch.zeros(5, 7), 3, 3), r"got \(5, 7\)"),
        (
            lambda: attention_weights(torch.zeros(2, 2), form="both"),
            "^form is 'both'; choose from pre",
        ),
        (lambda: MultiHeadAttention(8, 8, 4, (2, 2), "both"), "^relative_bias is 'both'; choose"),
        (lambda: MultiHeadAttention(8, 10, 4), "width 10 is not a multiple of head_dim 4"),
        (lambda: MultiHeadAttention(8, relative_bias="pre", head_dim=4), "needs a grid"),
        (
            lambda: layer(out_dim=16).load_state_dict(layer().state_dict()),
            "2 heads and this layer 4",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
