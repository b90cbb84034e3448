"""References of the exercises of chapters 3 and 4, against PyTorch's operators and the probes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from coatnet_mini.attention import MultiHeadAttention, attention_weights
from coatnet_mini.convolution import depthwise_conv2d
from coatnet_mini.exercises import find
from coatnet_mini.probes import equivariance_error, translate


def answers(number):
    exercise = find(number)
    for case in exercise.cases(torch.Generator().manual_seed(1)):
        yield case, exercise.reference(**case)


def test_3_1_is_attention_at_extreme_temperatures():
    for case, (cold, hot) in answers("3.1"):
        x = case["x"]
        assert torch.allclose(attention_weights(x, scale=1e7), cold, atol=1e-6)
        assert torch.allclose(attention_weights(x, scale=1e-9), hot, atol=1e-6)


def test_3_2_is_a_shift_that_repeats_the_first():
    for case, y in answers("3.2"):
        padded = F.pad(case["x"].T[None], (1, 0), mode="replicate")[0].T
        assert torch.equal(y, padded[:-1])


def test_3_3_sums_to_one_and_keeps_ratios():
    for case, A in answers("3.3"):
        S = case["S"]
        assert torch.allclose(A.sum(1), torch.ones(len(S), dtype=S.dtype))
        assert torch.allclose(A, (S - S.logsumexp(1, keepdim=True)).exp())


def test_3_4_is_what_pytorch_counts():
    for case, (parameters, multiply_adds, entries) in answers("3.4"):
        N, D, heads = case.values()
        with torch.device("meta"):
            layer = MultiHeadAttention(D, head_dim=D // heads)
            x = torch.empty(1, N, D)
        with FlopCounterMode(display=False) as counter:
            layer.forward_written_out(x)
        # written out, queries, keys and values are computed twice
        once = counter.get_total_flops() - 2 * 3 * N * D * D
        assert once == 2 * multiply_adds
        assert sum(p.numel() for p in layer.parameters()) == parameters
        assert layer.weights(x).numel() == entries


def test_4_1_commutes_with_rolls():
    for case, y in answers("4.1"):
        x, weight = case.values()

        def f(z, weight=weight):
            return find("4.1").reference(z, weight)

        assert equivariance_error(f, x, (1, 2)) < 1e-12
        r = weight.shape[-1] // 2
        zeros = depthwise_conv2d(x, weight)
        assert torch.allclose(y[..., r:-r, r:-r], zeros[..., r:-r, r:-r])


def test_4_2_is_the_change_of_the_mean():
    for case, change in answers("4.2"):
        x, s = case.values()
        moved = translate(x, s, fill="zeros")
        assert torch.allclose(moved.mean((2, 3)) - x.mean((2, 3)), change)


def test_4_3_is_what_the_probe_measures():
    for case, shifts in answers("4.3"):
        strides, n = case.values()
        torch.manual_seed(0)
        weights = torch.randn(len(strides), 1, 1, 3, dtype=torch.float64)

        def f(z, weights=weights, strides=strides):
            for weight, t in zip(weights, strides, strict=True):
                ring = F.pad(z[:, :, 0], (1, 1), mode="circular")
                z = F.conv1d(ring, weight, stride=t)[:, :, None]
            return z

        x = torch.randn(1, 1, 1, n, dtype=torch.float64)
        step = torch.tensor(strides).prod().item()
        exact = [s for s in range(n) if equivariance_error(f, x, s, stride=(1, step)) < 1e-12]
        assert exact == shifts


@pytest.mark.parametrize("shift", [0, 2])
def test_4_4_is_what_moving_a_window_shows(shift):
    kernels, dilations, width = (3, 5), (2, 1), 17
    torch.manual_seed(0)
    scene = torch.randn(1, 1, 1, width + shift, dtype=torch.float64)
    weights = [torch.randn(1, 1, k, dtype=torch.float64) for k in kernels]

    def f(z):
        for weight, d in zip(weights, dilations, strict=True):
            z = depthwise_conv2d(z, weight, dilation=d)
        return z

    before, after = f(scene[..., shift:]), f(scene[..., :width])
    same = (after[..., shift:] - before[..., : width - shift]).abs()[0, 0, 0] < 1e-12
    reach = 3 + 1
    inside = same[reach : width - shift - reach]
    count = find("4.4").reference(width, kernels, dilations, shift)
    assert inside.all() and len(inside) == count
    if shift:
        assert not same[reach - 1] and not same[width - shift - reach]
