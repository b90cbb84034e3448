"""Four forms of depthwise convolution against PyTorch's `nn.Conv2d`, values and gradients."""

import pytest
import torch
from torch import nn

from coatnet_mini.convolution import (
    depthwise_conv2d,
    depthwise_loop,
    depthwise_matrix,
    depthwise_unfold,
)

FORMS = [depthwise_loop, depthwise_unfold, depthwise_matrix, depthwise_conv2d]


def library(x, weight, padding, stride, dilation):
    """`nn.Conv2d` with one group per channel and its own padding, the independent reference."""
    D, k_h, k_w = weight.shape
    border = 0 if padding == "none" else (dilation * (k_h // 2), dilation * (k_w // 2))
    mode = "circular" if padding == "circular" else "zeros"
    layer = nn.Conv2d(
        D, D, (k_h, k_w), stride, border, dilation, groups=D, bias=False, padding_mode=mode
    )
    layer.weight = nn.Parameter(weight[:, None])
    return layer.to(x.dtype)(x).detach()


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("padding", ["zero", "circular", "none"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize(("k_h", "k_w"), [(3, 3), (1, 5)])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_every_form_is_the_librarys(form, padding, stride, dilation, k_h, k_w, dtype, gap):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 9, 10, dtype=dtype)
    weight = torch.randn(3, k_h, k_w, dtype=dtype)
    y = form(x, weight, padding=padding, stride=stride, dilation=dilation)
    expected = library(x, weight, padding, stride, dilation)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    assert float((y - expected).abs().max()) <= gap


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_gradients_agree(form):
    torch.manual_seed(2)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(form(x, weight).square().sum(), (x, weight))
    theirs = torch.autograd.grad(depthwise_conv2d(x, weight).square().sum(), (x, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_formulas_kernel_is_the_flipped_one():
    """Σ_j w_{i−j} ⊙ x_j, written out by offset i − j, needs conv2d's weight flipped."""
    torch.manual_seed(3)
    H, W, r = 4, 5, 1
    x = torch.randn(1, 2, H, W, dtype=torch.float64)
    w = torch.randn(2, 3, 3, dtype=torch.float64)  # w[:, o_h + r, o_w + r] is w_o with o = i − j
    y = torch.zeros_like(x)
    for i in [(a, b) for a in range(H) for b in range(W)]:
        for j in [(a, b) for a in range(H) for b in range(W)]:
            o = (i[0] - j[0], i[1] - j[1])
            if max(map(abs, o)) <= r:
                y[0, :, *i] += w[:, o[0] + r, o[1] + r] * x[0, :, *j]
    torch.testing.assert_close(depthwise_conv2d(x, w.flip(-2, -1)), y)
    assert not torch.allclose(depthwise_conv2d(x, w), y)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("padding", ["zero", "circular", "none"])
def test_every_form_takes_an_empty_batch(form, padding):
    y = form(torch.zeros(0, 2, 5, 6), torch.zeros(2, 3, 3), padding=padding, stride=2)
    assert y.shape == library(torch.zeros(0, 2, 5, 6), torch.zeros(2, 3, 3), padding, 2, 1).shape


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((1, 2, 5, 5), (3, 3, 3), {}, "with the same D, 1 or more, got shapes"),
        ((2, 5, 5), (2, 3, 3), {}, r"x must be \(B, D, H, W\)"),
        ((1, 0, 5, 5), (0, 3, 3), {}, "with the same D, 1 or more, got shapes"),
        ((1, 2, 5, 5), (2, 2, 2), {}, "zero padding needs an odd kernel size, got 2"),
        ((1, 2, 5, 5), (2, 0, 3), {}, "kernel size must be a whole number, 1 or more, got 0"),
        ((1, 2, 5, 5), (2, 3, 3), {"padding": "reflect"}, "padding must be"),
        ((1, 2, 5, 5), (2, 7, 7), {"padding": "none"}, "spanning 7 does not fit an axis of 5"),
        ((1, 2, 2, 5), (2, 3, 3), {"padding": "circular", "dilation": 3}, "more than once"),
        ((1, 2, 5, 5), (2, 3, 3), {"stride": 0}, "stride must be a whole number, 1 or more"),
        ((1, 2, 5, 5), (2, 3, 3), {"stride": 1.5}, "stride must be a whole number, 1 or more"),
        ((1, 2, 5, 5), (2, 3, 3), {"stride": (2, 2)}, "stride must be a whole number, 1 or more"),
        ((1, 2, 5, 5), (2, 3, 3), {"dilation": 1.5}, "dilation must be a whole number, 1 or"),
    ],
)
def test_every_form_names_the_fault(form, x, weight, options, message):
    with pytest.raises(ValueError, match=message) as error:
        form(torch.zeros(x), torch.zeros(weight), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_every_form_wants_floating_tensors_of_one_dtype(form):
    x, weight = torch.zeros(1, 2, 5, 5), torch.zeros(2, 3, 3)
    with pytest.raises(ValueError, match=r"got torch\.float32 and torch\.float64"):
        form(x, weight.double())
    with pytest.raises(ValueError, match=r"floating and of one dtype, got torch\.int64"):
        form(x.long(), weight.long())
    with pytest.raises(TypeError, match="weight must be a torch tensor, got ndarray"):
        form(x, weight.numpy())
