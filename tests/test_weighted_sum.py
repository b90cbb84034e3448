"""The shared form: checked against explicit loops and PyTorch's own operators, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coatnet_mini.weighted_sum import (
    attention_matrix,
    convolution_matrix,
    describe,
    is_toeplitz,
    offsets,
    reach,
    weighted_sum,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_weighted_sum_is_the_double_sum():
    W, x = torch.randn(4, 5), torch.randn(5, 3)
    y = torch.zeros(4, 3)
    for i in range(4):
        for j in range(5):
            y[i] += W[i, j] * x[j]
    torch.testing.assert_close(weighted_sum(W, x), y)


def test_weighted_sum_per_channel_uses_each_channels_own_matrix():
    W, x = torch.randn(3, 4, 5), torch.randn(2, 5, 3)
    y = weighted_sum(W, x, per_channel=True)
    for d in range(3):
        torch.testing.assert_close(y[..., d], x[..., d] @ W[d].T)


def test_weighted_sum_broadcasts_over_batch_and_heads():
    W, x = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(weighted_sum(W, x)[1, 2], W[1, 2] @ x[1, 2])
    torch.testing.assert_close(weighted_sum(W[0, 0], x)[1, 2], W[0, 0] @ x[1, 2])


@pytest.mark.parametrize(
    ("W", "x", "per_channel", "message"),
    [
        ((4, 4), (4,), False, r"x \(..., N, D\), got shapes \(4, 4\) and \(4,\)"),
        ((4, 5), (4, 2), False, "W weighs 5 positions, but x has 4"),
        ((4, 4), (4, 2), True, r"W must be \(..., D, M, N\)"),
        ((3, 4, 4), (4, 2), True, "matrices for 3 channels, but x has 2"),
        ((2, 4, 4), (3, 4, 2), False, r"leading axes \(2,\) of W and \(3,\) of x do not"),
        ((2, 2, 4, 4), (3, 4, 2), True, r"leading axes \(2,\) of W and \(3,\) of x do not"),
    ],
)
def test_weighted_sum_names_the_fault(W, x, per_channel, message):
    with pytest.raises(ValueError, match=message) as error:
        weighted_sum(torch.zeros(W), torch.zeros(x), per_channel=per_channel)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["zero", "circular", "none"])
@pytest.mark.parametrize(("k_h", "k_w"), [(3, 3), (1, 5), (5, 3)])
def test_convolution_matrix_is_conv2d(padding, stride, dilation, k_h, k_w):
    H, W = 10, 9
    x, weight = torch.randn(2, 1, H, W), torch.randn(k_h, k_w)
    rows, columns = (0, 0) if padding == "none" else (dilation * (k // 2) for k in (k_h, k_w))
    mode = "circular" if padding == "circular" else "constant"
    padded = F.pad(x, (columns, columns, rows, rows), mode=mode)
    y = F.conv2d(padded, weight[None, None], stride=stride, dilation=dilation)
    matrix = convolution_matrix(weight, (H, W), padding=padding, stride=stride, dilation=dilation)
    torch.testing.assert_close(weighted_sum(matrix, x.flatten(2).mT), y.flatten(2).mT)


def test_convolution_matrix_on_a_line_is_conv1d_and_flipped_is_numpy_convolve():
    x, weight = torch.randn(11), torch.randn(5)
    W = convolution_matrix(weight, 11)
    torch.testing.assert_close(W @ x, F.conv1d(x[None, None], weight[None, None], padding=2)[0, 0])
    flipped = convolution_matrix(weight.flip(0), 11)
    np.testing.assert_allclose(flipped @ x, np.convolve(x, weight, mode="same"), atol=1e-12)


def test_convolution_matrix_without_padding_takes_even_kernels():
    x, weight = torch.randn(7), torch.randn(4)
    W = convolution_matrix(weight, 7, padding="none")
    assert W.shape == (4, 7)
    torch.testing.assert_close(W @ x, F.conv1d(x[None, None], weight[None, None])[0, 0])


def test_a_kernel_may_be_as_long_as_its_line_and_reach_round_a_circle_once():
    weight, x = torch.randn(4), torch.randn(4)
    assert torch.equal(convolution_matrix(weight, 4, padding="none"), weight[None])
    W = convolution_matrix(weight[:3], 3, padding="circular", dilation=3)
    torch.testing.assert_close(W, weight[:3].sum() * torch.eye(3))
    W = convolution_matrix(weight[:3], 4, padding="circular", dilation=3)
    expected = weight[1] * x + weight[0] * x.roll(3) + weight[2] * x.roll(-3)
    torch.testing.assert_close(W @ x, expected)


def test_convolution_matrix_keeps_leading_axes_and_dtype():
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float32)
    W = convolution_matrix(weight, (4, 5))
    assert W.shape == (2, 3, 20, 20)
    assert W.dtype == torch.float32
    assert torch.equal(W[1, 2], convolution_matrix(weight[1, 2], (4, 5)))


@pytest.mark.parametrize(
    ("shape", "size", "options", "message"),
    [
        ((3, 3), (4, 4), {"padding": "same"}, '"zero", "circular" or "none", got \'same\''),
        ((2, 3), (4, 4), {}, "zero padding needs an odd kernel size, got 2"),
        ((3,), 4, {"stride": 0}, "stride must be a whole number, 1 or more, got 0"),
        ((3,), 4, {"dilation": 0}, "dilation must be a whole number, 1 or more, got 0"),
        ((3,), 4, {"padding": "none", "dilation": 2}, "a kernel spanning 5 does not fit an axis"),
        ((3,), (4, 4), {}, r"got size \(4, 4\) and a weight of shape \(3,\)"),
        ((3,), 6, {"stride": 1.5}, "stride must be a whole number, 1 or more, got 1.5"),
        ((3,), 6, {"stride": (2, 2)}, r"stride must be a whole number, 1 or more, got \(2, 2\)"),
        ((3,), 6, {"dilation": 1.5}, "dilation must be a whole number, 1 or more, got 1.5"),
        ((0,), 6, {}, "kernel size must be a whole number, 1 or more, got 0"),
        ((5,), 4, {"padding": "none"}, "a kernel spanning 5 does not fit an axis of 4 with"),
        ((3,), 2, {"padding": "circular", "dilation": 3}, "circular padding of 3 wraps more than"),
        ((0,), 6, {"padding": "none"}, "kernel size must be a whole number, 1 or more, got 0"),
        ((3,), -4, {}, "size must be a whole number, 1 or more, got -4"),
        ((3,), 4.0, {}, "size must be a whole number, 1 or more, got 4.0"),
        ((3, 3), (4, 0), {}, "size must be a whole number, 1 or more, got 0"),
        ((3, 3, 3), (4, 4, 4), {}, r"size must be n or \(H, W\), got \(4, 4, 4\)"),
        ((3,), (), {}, r"size must be n or \(H, W\), got \(\)"),
        ((3,), 3, {"padding": "circular", "dilation": 4}, "circular padding of 4 wraps more"),
    ],
)
def test_convolution_matrix_names_the_fault(shape, size, options, message):
    with pytest.raises(ValueError, match=message) as error:
        convolution_matrix(torch.zeros(shape), size, **options)
    assert "\n" not in str(error.value)


def test_sizes_and_steps_may_be_numpy_integers():
    weight, two = torch.randn(3), np.int64(2)
    W = convolution_matrix(weight, np.int64(6), stride=two, dilation=two)
    assert torch.equal(W, convolution_matrix(weight, 6, stride=2, dilation=2))
    assert torch.equal(offsets(two), offsets((2,)))


def test_attention_matrix_is_scaled_dot_product_attention_with_scale_one():
    x = torch.randn(2, 6, 4)
    A = attention_matrix(x)
    torch.testing.assert_close(A.sum(-1), torch.ones(2, 6))
    y = F.scaled_dot_product_attention(x, x, x, scale=1.0)
    torch.testing.assert_close(weighted_sum(A, x), y)


def test_offsets_follow_the_row_major_order():
    assert offsets(3)[..., 0].tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]
    grid = offsets((2, 3))
    assert grid.shape == (6, 6, 2)
    assert grid[4, 2].tolist() == [1, -1]  # (1, 1) − (0, 2)


def test_toeplitz_on_a_line_and_on_a_grid():
    W = convolution_matrix(torch.randn(3, 3), (4, 6))
    assert is_toeplitz(W, (4, 6))
    assert not is_toeplitz(W)  # the flat index does not know where a row of the grid ends
    assert not is_toeplitz(W, (6, 4))
    W[7, 8] += 1e-3
    assert not is_toeplitz(W, (4, 6))
    assert is_toeplitz(W, (4, 6), tolerance=1e-2)
    assert is_toeplitz(torch.tensor([[1.0, 2, 3], [4, 1, 2], [5, 4, 1]]))
    assert not is_toeplitz(torch.eye(3).flip(0))


def test_toeplitz_tolerance_is_a_fraction_of_the_largest_weight():
    W = convolution_matrix(torch.randn(3), 6)
    W[2, 2] *= 1 + 1e-9
    assert all(is_toeplitz(scale * W) for scale in (1e-9, 1.0, 1e9))
    W[2, 2] *= 1.01
    assert not any(is_toeplitz(scale * W) for scale in (1e-9, 1.0, 1e9))
    W[2, 2] = W[3, 3]
    largest = W.abs().max()
    for part, equal in ((0.9e-6, True), (1.1e-6, False)):  # a millionth unless told
        changed = W.clone()
        changed[5, 1] += part * largest
        assert is_toeplitz(changed) == equal
    assert is_toeplitz(torch.zeros(3, 3))
    assert is_toeplitz(torch.eye(3) > 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_inspectors_take_matrices_of_a_gpu():
    W = convolution_matrix(torch.randn(3, 3), (4, 5)).cuda()
    assert is_toeplitz(W, (4, 5))
    assert reach(W, (4, 5)) == 1


@pytest.mark.parametrize("i, j", [(1, 4), (4, 1)])
def test_reach_looks_to_both_sides(i, j):
    W = torch.zeros(6, 6)
    W[i, j] = -1.0
    assert reach(W) == 3
    assert reach(W, (2, 3)) == 1  # a row apart, and no column


def test_reach_counts_rows_or_columns():
    assert reach(torch.eye(5)) == 0
    assert reach(torch.zeros(5, 5)) == 0
    assert reach(convolution_matrix(torch.ones(5), 9)) == 2
    W = convolution_matrix(torch.ones(3, 5), (6, 7))
    assert reach(W, (6, 7)) == 2
    assert reach(convolution_matrix(torch.ones(3), 9, padding="circular")) == 8


def test_describe_tells_static_from_adaptive():
    x, other = torch.randn(5, 2), torch.randn(5, 2)
    kernel = convolution_matrix(torch.tensor([-1.0, 0.5, 1.0]), 5)
    static = describe(lambda x: kernel, x, other)
    assert static == {
        "reach": 1,
        "same rule": True,
        "row sums": (-0.5, 1.5),
        "negative weights": True,
        "depends on x": False,
    }
    adaptive = describe(attention_matrix, x, other)
    assert adaptive["depends on x"] and not adaptive["negative weights"]
    assert not describe(lambda x: torch.eye(5), x, other)["negative weights"]
    assert adaptive["reach"] == 4
    assert not adaptive["same rule"]
    assert adaptive["row sums"] == pytest.approx((1.0, 1.0))


SQUARE = r"W must be \(N, N\) with N of 1 or more, got shape"


@pytest.mark.parametrize("inspect", [is_toeplitz, reach], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("W", "size", "message"),
    [
        (torch.zeros(5, 5), (2, 3), r"W must be \(6, 6\) for size \(2, 3\), got shape \(5, 5\)"),
        (torch.zeros(4, 5), None, SQUARE),
        (torch.zeros(0, 0), None, SQUARE),
        (torch.tensor(1.0), None, SQUARE),
        (torch.eye(8), (2, 2, 2), r"size must be n or \(H, W\), got \(2, 2, 2\)"),
        (torch.eye(4), (2, -2), "size must be a whole number, 1 or more, got -2"),
        (torch.eye(4).to(torch.complex64), None, "W must be dense and real, got"),
        (torch.eye(4).to_sparse(), None, "W must be dense and real, got torch.sparse_coo"),
    ],
)
def test_inspectors_name_the_fault(inspect, W, size, message):
    with pytest.raises(ValueError, match=message) as error:
        inspect(W, size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weighted_sum(np.eye(3), torch.ones(3, 1)), "W must be a torch tensor, got ndarr"),
        (lambda: convolution_matrix(np.ones(3), 6), "weight must be a torch tensor, got ndarray"),
        (lambda: attention_matrix([[1.0]]), "x must be a torch tensor, got list"),
        (lambda: is_toeplitz(np.eye(3)), "W must be a torch tensor, got ndarray"),
        (lambda: reach(np.eye(3)), "W must be a torch tensor, got ndarray"),
    ],
)
def test_what_is_no_tensor_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weighted_sum(torch.eye(3), torch.ones(3, 1).float()), "W and x must be floating"),
        (lambda: weighted_sum(torch.eye(3).long(), torch.ones(3, 1).long()), "must be floating"),
        (lambda: attention_matrix(torch.ones(3, 1).long()), "x must be floating, got torch.int64"),
        (lambda: attention_matrix(torch.ones(3)), r"x must be \(..., N, D\), got shape \(3,\)"),
        (lambda: attention_matrix(torch.ones(3, 1).long()), "^x must be floating, got torch.int64"),
        (
            lambda: describe(attention_matrix, torch.ones(3, 1), torch.ones(3, 1).float()),
            "^x and other must be floating and of one dtype, got torch.float64 and torch.float32",
        ),
        (
            lambda: describe(attention_matrix, torch.ones(3, 1), torch.ones(2, 1)),
            "two different inputs of the same shape",
        ),
        (lambda: offsets(0), "size must be a whole number, 1 or more, got 0"),
        (lambda: offsets(()), r"size must be n or \(H, W\), got \(\)"),
        (lambda: describe(attention_matrix, *torch.ones(2, 3, 1)), "two different inputs"),
    ],
)
def test_other_faults_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
