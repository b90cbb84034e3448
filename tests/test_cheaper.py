"""Cheaper attention: equal to the full one where both exist, and wrong in no silent way."""

import pytest
import torch
import torch.nn.functional as F

from coatnet_mini import cheaper
from coatnet_mini.attention import attention_weights, relative_attention
from coatnet_mini.weighted_sum import is_toeplitz

F64 = torch.float64


def qkv(*shape, seed=0, d_v=None):
    rng = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(*shape, generator=rng, dtype=F64) for _ in range(2))
    return q, k, torch.randn(*shape[:-1], d_v or shape[-1], generator=rng, dtype=F64)


@pytest.mark.parametrize("block", [1, 5, 24, 100])
def test_streamed_attention_is_attention(block):
    q, k, v = qkv(2, 3, 24, 8, d_v=5)
    y = cheaper.streamed_attention(q, k, v, block, scale=0.3)
    assert torch.allclose(y, F.scaled_dot_product_attention(q, k, v, scale=0.3), atol=1e-12)


def test_streamed_attention_has_no_scale_unless_told():
    q, k, v = qkv(150, 4)
    y = cheaper.streamed_attention(q, k, v)
    assert torch.allclose(y, attention_weights(q, k) @ v, atol=1e-12)


def test_streamed_attention_takes_large_scores():
    q, k, v = qkv(12, 4)
    y = cheaper.streamed_attention(1e3 * q, k, v, block=3)
    assert torch.allclose(y, attention_weights(1e3 * q, k) @ v, atol=1e-9)


@pytest.mark.parametrize(("grid", "size"), [((4, 6), 2), ((6, 9), 3), ((8, 8), 8), ((3, 4), 1)])
def test_windows_cut_are_windows_masked(grid, size):
    q, k, v = qkv(2, grid[0] * grid[1], 4, d_v=3)
    mask = cheaper.window_mask(grid, size).to(F64)
    expected = attention_weights(q, k, mask, scale=0.5) @ v
    y = cheaper.window_attention(q, k, v, grid, size, scale=0.5)
    assert torch.allclose(y, expected, atol=1e-12)


def test_one_window_is_full_attention():
    x = qkv(25, 3)[0]
    y = cheaper.window_attention(x, x, x, (5, 5), 5)
    assert torch.allclose(y, relative_attention(x), atol=1e-12)


def test_windows_of_a_grid_by_hand():
    assert cheaper.window_of((2, 6), 2).tolist() == [0, 0, 1, 1, 2, 2] * 2
    shifted = cheaper.window_of((4, 4), 2, shift=1).view(4, 4)
    rows = [[0, 1, 1, 2], [3, 4, 4, 5], [3, 4, 4, 5], [6, 7, 7, 8]]
    assert shifted.tolist() == rows


def test_a_shifted_window_is_swins_roll_and_mask():
    H = W = 8
    size, shift = 4, 2
    tag = torch.zeros(H, W)  # Swin's regions of the rolled grid
    for n, (a, b) in enumerate(
        (a, b)
        for a in (slice(0, -size), slice(-size, -shift), slice(-shift, None))
        for b in (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    ):
        tag[a, b] = n
    rolled = torch.arange(H * W).view(H, W).roll((-shift, -shift), (0, 1)).flatten()
    window = cheaper.window_of((H, W), size)
    together = (window[:, None] == window) & (tag.flatten()[:, None] == tag.flatten())
    mask = torch.empty(H * W, H * W, dtype=torch.bool)
    mask[rolled[:, None], rolled] = together
    assert torch.equal(mask, cheaper.window_mask((H, W), size, size - shift) == 0)


def test_a_window_is_no_bias_by_offset():
    allowed = (cheaper.window_mask((4, 6), 2) == 0).double()
    assert not is_toeplitz(allowed, (4, 6))


def test_linear_attention_is_its_matrix():
    q, k, v = qkv(2, 30, 4, d_v=3)
    a, b = cheaper.positive(q), cheaper.positive(k)
    A = a @ b.mT
    expected = A / A.sum(-1, keepdim=True) @ v
    assert torch.allclose(cheaper.linear_attention(q, k, v), expected, atol=1e-12)
    squares = cheaper.linear_attention(q, k, v, torch.square)
    A = q.square() @ k.square().mT
    assert torch.allclose(squares, A / A.sum(-1, keepdim=True) @ v, atol=1e-12)


def test_positive_is_positive_and_smooth_at_zero():
    x = torch.tensor([-20.0, -1.0, 0.0, 2.0], dtype=F64)
    assert torch.allclose(
        cheaper.positive(x)[1:],
        torch.tensor([-1.0, 0, 0], dtype=F64).exp() + torch.tensor([0, 0, 2.0], dtype=F64),
    )
    assert (cheaper.positive(x) > 0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: cheaper.streamed_attention(x, x, x, 0), "block is 0"),
        (lambda x: cheaper.window_attention(x, x, x, (3, 4), 2), "2×2 do not tile a grid of 3×4"),
        (lambda x: cheaper.window_attention(x, x, x, (4, 3), 2), "2×2 do not tile a grid of 4×3"),
        (lambda x: cheaper.window_mask((3, 4), 2, 2), "shifted by 0 to 1, not by 2"),
        (lambda x: cheaper.window_of((3, 4), 2, -1), "not by -1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(12, 2))
