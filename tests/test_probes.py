"""The probes against loops written here, on small operators whose answer is known. float64."""

from functools import partial
from math import inf, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coatnet_mini import probes

pytestmark = pytest.mark.usefixtures("float64")
H, W, D = 6, 8, 3
ZERO = 1e-12


def images(b=2, d=D, h=H, w=W):
    return torch.randn(b, d, h, w)


def tokens_of(x):
    return x.flatten(2).mT


# The operators: each (B, D, H, W) → (B, D, h, w)


def depthwise(kernel, padding="circular"):
    """Depthwise cross-correlation with an odd k×k kernel (D, k, k)."""
    r = kernel.shape[-1] // 2
    mode = {"circular": "circular", "zeros": "constant"}[padding]
    return lambda x: F.conv2d(F.pad(x, (r,) * 4, mode=mode), kernel[:, None], groups=len(kernel))


def attention_matrix(x, bias=0.0):
    """(B, N, D) → softmax_j(x_i·x_j + bias_ij), (B, N, N)."""
    return torch.softmax(x @ x.mT + bias, dim=-1)


def attention(bias=0.0, position=0.0):
    def function(x):
        tokens = tokens_of(x) + position
        return (attention_matrix(tokens, bias) @ tokens).mT.unflatten(2, x.shape[-2:])

    return function


def relative_bias(h, w, torus):
    """bias[i, j] = table[offset of j from i], the offset modulo the grid on a torus."""
    table = torch.randn(2 * h - 1, 2 * w - 1)
    bias = torch.empty(h * w, h * w)
    for i in range(h * w):
        for j in range(h * w):
            dr, dc = i // w - j // w, i % w - j % w
            bias[i, j] = table[dr % h, dc % w] if torus else table[dr + h - 1, dc + w - 1]
    return bias


def position_dependent(x):
    return x * torch.linspace(-1, 1, x.shape[-1])


# The shift


def loop_translate(x, dy, dx, fill):
    y = torch.zeros_like(x)
    h, w = x.shape[-2:]
    for r in range(h):
        for c in range(w):
            if fill == "wrap" or (0 <= r - dy < h and 0 <= c - dx < w):
                y[..., r, c] = x[..., (r - dy) % h, (c - dx) % w]
    return y


@pytest.mark.parametrize("fill", ["wrap", "zeros"])
def test_translate_is_the_loop(fill):
    x = images(b=1, d=1)
    for dy in range(1 - H, H):
        for dx in range(1 - W, W):
            expected = loop_translate(x, dy, dx, fill)
            assert torch.equal(probes.translate(x, (dy, dx), fill=fill), expected)


def test_translate_moves_down_and_right():
    x = torch.zeros(1, 1, 4, 5)
    x[0, 0, 1, 2] = 1
    assert probes.translate(x, (2, -1))[0, 0, 3, 1] == 1
    assert probes.translate(x, 2)[0, 0, 1, 4] == 1
    assert probes.translate(x, 3, fill="zeros").sum() == 0


def test_translate_of_a_sequence_is_that_of_its_grid():
    x = images()
    moved = probes.translate(tokens_of(x), (1, -3), grid=(H, W))
    assert torch.equal(moved.mT.unflatten(2, (H, W)), probes.translate(x, (1, -3)))
    for fill in ("wrap", "zeros"):
        moved = probes.translate(tokens_of(x), (1, -3), grid=(H, W), fill=fill)
        alone = probes.translate(tokens_of(x)[0], (1, -3), grid=(H, W), fill=fill)
        assert torch.equal(alone, moved[0])


# The error, against loops


def loop_error(function, x, dy, dx, stride=1, margin=None, fill="wrap"):
    """(error, compared positions) of the definition, one position after the other."""
    y, moved = function(x), function(loop_translate(x, dy, dx, fill))
    h, w = y.shape[-2:]
    assert dy % stride == 0 and dx % stride == 0
    sy, sx = dy // stride, dx // stride
    above = below = 0.0
    compared = set()
    for r in range(h):
        for c in range(w):
            inside = [
                margin is None or margin <= p < n - margin
                for p, n in ((r, h), (c, w), (r - sy, h), (c - sx, w))
            ]
            if not all(inside):
                continue
            origin = y[..., (r - sy) % h, (c - sx) % w]
            above += (moved[..., r, c] - origin).square().sum().item()
            below += origin.square().sum().item()
            compared.add((r, c))
    return sqrt(above / below), compared


@pytest.mark.parametrize("fill", ["wrap", "zeros"])
@pytest.mark.parametrize("margin", [None, 0, 1])
@pytest.mark.parametrize("shift", [(0, 2), (1, -3), (-2, 0), (3, 4)])
def test_error_and_map_are_the_loop(shift, margin, fill):
    function, x = attention(position=torch.randn(H * W, D)), images()
    in_loop = 0 if margin is None and fill == "zeros" else margin
    error, compared = loop_error(function, x, *shift, margin=in_loop, fill=fill)
    measured = probes.equivariance_error(function, x, shift, margin=margin, fill=fill)
    assert error > 0.1
    assert measured == pytest.approx(error, rel=1e-12)
    result = probes.equivariance_map(function, x, shift, margin=margin, fill=fill)
    assert {tuple(p) for p in (~result.isnan()).nonzero().tolist()} == compared
    assert result[~result.isnan()].square().mean().sqrt().item() == pytest.approx(measured)


@pytest.mark.parametrize("margin", [None, 0, 1])
@pytest.mark.parametrize("shift", [(0, 2), (2, -4), (-2, 0)])
def test_error_of_a_strided_operator_is_the_loop(shift, margin):
    def function(x):
        return F.avg_pool2d(position_dependent(x), 2)

    x = images(h=8, w=10)
    error, _ = loop_error(function, x, *shift, stride=2, margin=margin)
    measured = probes.equivariance_error(function, x, shift, margin=margin)
    assert measured == pytest.approx(error, rel=1e-12)
    if shift[1]:
        assert error > 0.1


def test_curve_is_the_errors_and_calls_f_of_x_once():
    calls = []

    def function(x):
        calls.append(x)
        return position_dependent(x)

    x, shifts = images(), [0, 1, (2, -1), 3]
    curve = probes.equivariance_curve(function, x, shifts)
    assert len(calls) == 1 + len(shifts)
    assert curve.tolist() == [probes.equivariance_error(function, x, s) for s in shifts]
    assert curve[0] == 0 and curve[1] > 0.1


def test_map_of_a_single_wrong_position():
    def function(x):  # ones, but for one dead output position
        mask = torch.ones(H, W)
        mask[2, 3] = 0
        return torch.ones_like(x) * mask

    expected = torch.zeros(H, W)
    expected[2, 3] = expected[3, 5] = sqrt(H * W / (H * W - 1))
    torch.testing.assert_close(probes.equivariance_map(function, images(), (1, 2)), expected)


# Eight operators, as chapter 4 measures them


SHIFTS = [(0, 1), (0, 3), (2, 0), (-1, 2)]


def errors(function, **options):
    return probes.equivariance_curve(function, images(), SHIFTS, **options)


def test_circular_convolution_is_equivariant_on_the_torus():
    assert errors(depthwise(torch.randn(D, 3, 3))).max() < ZERO


@pytest.mark.parametrize("broken", [position_dependent, lambda x: x.flip(-1), torch.cumsum])
def test_operators_that_are_not_equivariant_are_noticed(broken):
    function = partial(broken, dim=-1) if broken is torch.cumsum else broken
    curve = errors(function)
    assert curve[:2].min() > 0.3  # along the row
    if broken is not torch.cumsum:
        assert curve[2] < ZERO  # across it they do commute


def test_a_shift_in_the_wrong_direction_is_noticed(monkeypatch):
    function, x = depthwise(torch.randn(D, 3, 3)), images()
    assert probes.equivariance_error(function, x, (0, 2)) < ZERO
    right = probes.nearest  # by how much the output has moved
    monkeypatch.setattr(probes, "nearest", lambda shift, step: -right(shift, step))
    assert probes.equivariance_error(function, x, (0, 2)) > 0.5


@pytest.mark.parametrize("fill", ["wrap", "zeros"])
def test_zero_padding_is_equivariant_only_away_from_the_border(fill):
    function, x = depthwise(torch.randn(D, 3, 3), "zeros"), images()
    for shift in SHIFTS:
        assert probes.equivariance_error(function, x, shift, fill=fill, margin=1) < ZERO
        assert probes.equivariance_error(function, x, shift, fill=fill, margin=0) > 0.05


def test_the_map_shows_the_border_and_the_seam_it_has_moved_to():
    function = depthwise(torch.randn(D, 3, 3), "zeros")
    wrong = probes.equivariance_map(function, images(), (0, 3)) > ZERO
    expected = torch.zeros(H, W, dtype=torch.bool)
    expected[:, [0, 2, 3, 7]] = True
    assert torch.equal(wrong, expected)


def test_attention_without_position_is_equivariant_to_any_roll():
    assert errors(attention()).max() < ZERO
    # With zeros entering, every output reads other content than before.
    assert errors(attention(), fill="zeros").min() > 1e-3


def test_absolute_position_breaks_equivariance():
    assert errors(attention(position=torch.randn(H * W, D))).min() > 0.1


def test_relative_bias_is_equivariant_on_the_torus_only():
    assert errors(attention(relative_bias(H, W, torus=True))).max() < ZERO
    assert errors(attention(relative_bias(H, W, torus=False))).min() > 0.01


@pytest.mark.parametrize("options", [{}, {"margin": 1}, {"fill": "zeros"}])
def test_sequences_measure_as_images_do(options):
    x, position = images(), torch.randn(H * W, D)

    def on_tokens(t):
        return attention_matrix(t + position) @ (t + position)

    expected = probes.equivariance_error(attention(position=position), x, (1, 2), **options)
    measure = partial(probes.equivariance_error, on_tokens, shift=(1, 2), grid=(H, W), **options)
    assert measure(tokens_of(x)) == pytest.approx(expected)
    assert measure(tokens_of(x)[0]) == pytest.approx(measure(tokens_of(x)[:1]))
    draw = partial(probes.equivariance_map, on_tokens, shift=(1, 2), grid=(H, W), **options)
    torch.testing.assert_close(draw(tokens_of(x)[0]), draw(tokens_of(x)[:1]), equal_nan=True)


# Stride


def test_stride_two_is_equivariant_for_even_shifts_only():
    kernel = torch.randn(D, 1, 3, 3)

    def strided(x):
        return F.conv2d(F.pad(x, (1,) * 4, mode="circular"), kernel, stride=2, groups=D)

    for function in (strided, partial(F.max_pool2d, kernel_size=2)):
        curve = probes.equivariance_curve(function, images(), range(-4, 5))
        assert curve[::2].max() < ZERO
        assert curve[1::2].min() > 0.3

    def dense_max_pool(x):
        return F.max_pool2d(F.pad(x, (1,) * 4, mode="circular"), 3, stride=1)

    assert errors(dense_max_pool).max() < ZERO  # without the stride nothing is lost


@pytest.mark.parametrize(
    "shift, whole",
    [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (-1, 0), (-2, 0), (-3, -1), (-6, -1)],
)
def test_fractional_shifts_use_the_nearest_whole_one_halves_towards_zero(shift, whole):
    x = torch.randn(1, 1, 1, 12)
    y, moved = x[..., ::4], loop_translate(x, 0, shift, "wrap")[..., ::4]
    error = (moved - loop_translate(y, 0, whole, "wrap")).norm() / y.norm()
    measured = probes.equivariance_error(lambda x: x[..., ::4], x, shift)
    assert measured == pytest.approx(error.item(), abs=ZERO)


def test_cropping_leaves_out_cells_that_hold_an_entered_pixel():
    pool = partial(F.avg_pool2d, kernel_size=2)
    compared = ~probes.equivariance_map(pool, images(), (0, 1), margin=0).isnan()
    assert compared.all(0).tolist() == [False, True, True, True]
    compared = ~probes.equivariance_map(pool, images(), (-3, 0), margin=0).isnan()
    assert compared.all(1).tolist() == [True, False, False]


def test_valid_and_odd_convolutions_need_their_stride():
    x, kernel = images(), torch.randn(D, 1, 3, 3)

    def valid(x):
        return F.conv2d(x, kernel, groups=D)

    with pytest.raises(ValueError, match="cannot tell the stride from 6×8 to 4×6: pass stride="):
        probes.equivariance_error(valid, x, 1)
    with pytest.raises(ValueError, match="does not tile the 6×8 torus: pass margin="):
        probes.equivariance_error(valid, x, 1, stride=1)
    assert probes.equivariance_error(valid, x, (1, -2), stride=1, margin=0) < ZERO

    def odd(x):
        return F.conv2d(x, kernel, groups=D, stride=2, padding=1)

    assert probes.equivariance_error(odd, images(h=9, w=11), (2, 4), stride=2, margin=1) < ZERO


def test_the_stride_of_a_sequence_is_told_from_its_length():
    """On grids that are far from square, of which a tenth of a side would be another stride."""

    def pooled(size, stride):
        def pool(tokens):
            return F.avg_pool2d(tokens.mT.unflatten(2, size), stride).flatten(2).mT

        return probes.equivariance_map(pool, torch.randn(1, size[0] * size[1], 2), 0, grid=size)

    for size, stride in (((3, 27), 3), ((27, 3), 3), ((4, 20), 4), ((20, 4), 2)):
        assert pooled(size, stride).shape == (size[0] // stride, size[1] // stride)


def test_strided_sequences():
    def pool(tokens):
        return F.avg_pool2d(tokens.mT.unflatten(2, (H, W)), 2).flatten(2).mT

    tokens = torch.randn(2, H * W, D)
    curve = probes.equivariance_curve(pool, tokens, range(5), grid=(H, W))
    assert curve[::2].max() < ZERO and curve[1::2].min() > 0.1
    assert probes.equivariance_error(pool, tokens, 2, grid=(H, W), stride=2) < ZERO
    picture = probes.receptive_field(pool, tokens, (1, 2), grid=(H, W))
    assert picture.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


@pytest.mark.parametrize("keepdim", [False, True])
def test_pooled_outputs_measure_invariance(keepdim):
    def pool(x):
        return x.mean((-2, -1), keepdim=keepdim)

    assert errors(pool).max() < ZERO
    assert errors(pool, fill="zeros").min() > 0.05  # what has left is missing
    assert errors(lambda x: pool(position_dependent(x)))[:2].min() > 0.1
    assert probes.equivariance_map(pool, images(), 1).shape == (1, 1)
    tokens = torch.randn(2, H * W, D)
    measure = partial(probes.equivariance_error, x=tokens, shift=1, grid=(H, W))
    assert measure(lambda t: t.mean(-2, keepdim=keepdim)) < ZERO


def test_zero_outputs_are_defined():
    x = images()
    assert probes.equivariance_error(torch.zeros_like, x, 1) == 0
    assert torch.equal(probes.equivariance_map(torch.zeros_like, x, 1), torch.zeros(H, W))
    assert probes.equivariance_error(lambda z: z - x, x, 1) == inf


# Receptive field


def loop_jacobian_norm(function, x, row, column):
    """sqrt(mean_b Σ_dc (∂y[b, d, i] / ∂x[b, c, j])²) by central differences."""
    step, total = 1e-5, torch.zeros(x.shape[-2:])
    for b, c, r, s in torch.ones_like(x).nonzero().tolist():
        e = torch.zeros_like(x)
        e[b, c, r, s] = step
        slope = (function(x + e) - function(x - e))[b, :, row, column] / (2 * step)
        total[r, s] += slope.square().sum()
    return (total / len(x)).sqrt()


def test_receptive_field_is_the_finite_difference():
    x = images(d=2, h=4, w=5)
    for function in (attention(relative_bias(4, 5, torus=False)), lambda x: F.gelu(x).cumsum(-1)):
        expected = loop_jacobian_norm(function, x, 1, 3)
        picture = probes.receptive_field(function, x, (1, 3))
        torch.testing.assert_close(picture, expected, rtol=1e-6, atol=1e-8)
        assert torch.equal(picture, probes.receptive_field(function, x, 1 * 5 + 3))
        elsewhere = probes.receptive_field(function, x, (3, 1))
        assert (elsewhere - expected).norm() > 0.1 * expected.norm()


def test_receptive_field_of_a_convolution_is_its_kernel():
    kernel = torch.randn(D, 3, 3)
    expected = torch.zeros(H, W)
    expected[1:4, 3:6] = kernel.square().sum(0).sqrt()
    picture = probes.receptive_field(depthwise(kernel), images(), (2, 4))
    torch.testing.assert_close(picture, expected)

    def on_tokens(t):
        return tokens_of(depthwise(kernel)(t.mT.unflatten(2, (H, W))))

    picture = probes.receptive_field(on_tokens, tokens_of(images()), (2, 4), grid=(H, W))
    torch.testing.assert_close(picture, expected)


def test_a_single_sequence_has_the_field_of_its_grid():
    function, x = attention(relative_bias(H, W, torus=False)), images(b=1)

    def on_tokens(t):
        return tokens_of(function(t.mT.unflatten(-1, (H, W))[None]))[0]

    picture = probes.receptive_field(on_tokens, tokens_of(x)[0], (1, 2), grid=(H, W))
    torch.testing.assert_close(picture, probes.receptive_field(function, x, (1, 2)))


def test_many_channels_are_estimated_without_bias():
    x, mix = images(b=1, d=8), torch.randn(64, 8, 3, 3)
    measure = partial(probes.receptive_field, partial(F.conv2d, weight=mix, padding=1), x)
    exact = measure(directions=64)
    estimates = torch.stack([measure(directions=8, seed=s) for s in range(60)])
    assert not torch.allclose(estimates[0], estimates[1])
    assert torch.equal(estimates[3], measure(directions=8, seed=3))
    assert torch.equal(estimates[0], measure(directions=8))
    inside = exact > 0
    assert inside.sum() == 9
    mean = estimates.square().mean(0).sqrt()
    torch.testing.assert_close(mean[inside], exact[inside], rtol=0.05, atol=0)
    assert (mean[~inside] == 0).all()


def test_as_many_channels_as_directions_are_exact():
    x = images(b=1, d=2)
    for channels, exact in ((16, True), (17, False)):
        function = partial(F.conv2d, weight=torch.randn(channels, 2, 3, 3), padding=1)
        pictures = [probes.receptive_field(function, x, seed=seed) for seed in (0, 1)]
        assert torch.equal(*pictures) == exact
    for entries, exact in ((64, True), (65, False)):
        weights = partial(F.linear, weight=torch.randn(entries, 3))
        found = {probes.weight_dependence(weights, torch.randn(3), seed=seed) for seed in (0, 1)}
        assert (len(found) == 1) == exact


def test_the_default_position_on_a_coarser_grid_is_its_centre():
    """Of 7 rows and 6 columns at stride 2 there are 4×3 outputs: the middle is (2, 1)."""
    picture = torch.zeros(7, 6)
    picture[3, 5] = 1
    assert probes.mass_radius(picture, stride=2) == 2.5  # from (4.5, 2.5)
    assert probes.mass_radius(picture, stride=(2, 3)) == 1.5  # 4×2 outputs, from (4.5, 4)


def test_summaries_of_a_receptive_field():
    x = images(h=9, w=11)
    layers = [nn.Conv2d(D, D, 3, padding=1, padding_mode="circular") for _ in range(2)]
    picture = probes.receptive_field(nn.Sequential(*layers), x)
    assert probes.mass_radius(picture, share=1) == 2
    assert probes.reached_share(picture) == 25 / 99
    assert probes.reached_share(probes.receptive_field(attention(), x)) == 1
    pool = probes.receptive_field(partial(F.avg_pool2d, kernel_size=2), images(), (1, 2))
    assert probes.mass_radius(pool, 1, position=(1, 2), stride=2) == 0.5


def test_mass_radius_and_reached_share_by_hand():
    box = torch.zeros(9, 11)
    box[2:7, 3:8] = 1  # around the centre, 1 of 25, 9 of 25, 25 of 25
    radii = [probes.mass_radius(box, share) for share in (0.01, 0.04, 0.05, 0.36, 0.37, 1)]
    assert radii == [0, 0, 1, 1, 2, 2]
    assert probes.mass_radius(0.1 * box, 0.36) == 1  # 9 × 0.1 < 0.36 × 2.5 when rounded
    assert probes.mass_radius(box, 1, position=(2, 3)) == 4
    assert probes.mass_radius(torch.tensor([[1.0, 0, 0, 0]])) == 2  # all of it is the farthest
    blank, faint = torch.zeros(3, 3), torch.tensor([[1.0, 1e-9]])
    assert probes.mass_radius(blank) == 0 and probes.reached_share(blank) == 0
    assert probes.reached_share(faint) == 0.5
    assert probes.reached_share(1e-8 * faint) == 0.5
    assert probes.reached_share(faint, tolerance=0) == 1
    for value, reached in ((0.9e-6, 0.5), (1.1e-6, 1)):  # a millionth of the largest unless told
        assert probes.reached_share(torch.tensor([[2.0, 2 * value]])) == reached


def test_the_default_position_is_the_centre():
    function, x = attention(relative_bias(H, W, torus=False)), images()
    picture = probes.receptive_field(function, x)
    assert torch.equal(picture, probes.receptive_field(function, x, (3, 4)))
    assert not torch.equal(picture, probes.receptive_field(function, x, (0, 0)))


def test_pooled_output_reaches_everything():
    picture = probes.receptive_field(lambda x: x.mean((-2, -1)), images())
    torch.testing.assert_close(picture, torch.full((H, W), sqrt(D) / (H * W)))


# Dependence of the weights on the input


def test_weights_of_a_convolution_ignore_the_input():
    conv = nn.Conv2d(D, D, 3, groups=D)
    x = images()
    assert probes.weight_dependence(lambda x: conv.weight, x) == 0
    assert probes.weight_dependence(lambda x: conv.weight.detach(), x) == 0
    assert probes.weight_dependence(lambda x: conv.weight + 0 * x.sum(), x) == 0
    assert probes.weight_dependence(lambda x: conv.weight + 1e-3 * x.sum(), x) > 1e-3


def test_weight_dependence_of_attention_is_the_loop():
    x = torch.randn(5, 2)  # N, D
    jacobian = torch.zeros(25, 10)
    for k in range(10):
        e = torch.zeros(10)
        e[k] = 1e-5
        difference = attention_matrix(x + e.view(5, 2)) - attention_matrix(x - e.view(5, 2))
        jacobian[:, k] = difference.flatten() / 2e-5
    measured = probes.weight_dependence(attention_matrix, x)
    assert measured == pytest.approx(jacobian.norm().item(), rel=1e-7)
    assert measured > 0.1
    estimates = [
        probes.weight_dependence(attention_matrix, x, directions=12, seed=s) ** 2
        for s in range(100)
    ]
    assert len(set(estimates)) > 90
    assert probes.weight_dependence(attention_matrix, x, directions=12) ** 2 == estimates[0]
    assert sum(estimates) / 100 == pytest.approx(measured**2, rel=0.1)


def test_one_direction_is_enough_to_estimate_by():
    x = images(b=1)
    assert probes.receptive_field(lambda x: x, x, directions=1).count_nonzero() == 1
    assert probes.weight_dependence(lambda x: x, x, directions=1) > 0


def test_weight_dependence_of_a_linear_map():
    a = torch.randn(4, 6)
    measured = probes.weight_dependence(lambda x: a @ x, torch.randn(6))
    assert measured == pytest.approx(a.norm().item())


# The caller's state


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(D, 4, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(4, D, 1),
        )

    def forward_features(self, x, scale=1.0):
        return scale * self.body(x)

    def forward(self, x):
        return (self.forward_features(x),)  # no tensor: the probes must refuse it


PROBES = [
    partial(probes.equivariance_map, shift=1),
    probes.receptive_field,
    probes.weight_dependence,
]
BINDINGS = [
    lambda m: m.body,
    lambda m: m.forward_features,
    lambda m: partial(m.forward_features, scale=2.0),
]


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("bind", BINDINGS)
def test_modules_are_measured_in_eval_mode_and_left_as_they_were(probe, bind):
    model, x = Features().train(), images()
    model.body[1].eval()  # a mixed state
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before, random = x.clone(), torch.get_rng_state()
    measured = probe(bind(model), x=x) if probe is PROBES[0] else probe(bind(model), x)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)  # no dropout was drawn
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, before) and not x.requires_grad
    model.eval()
    again = probe(bind(model), x=x) if probe is PROBES[0] else probe(bind(model), x)
    assert torch.equal(torch.as_tensor(measured), torch.as_tensor(again))


def test_running_statistics_stay_when_every_part_was_training():
    model, x = Features().train(), images()
    probes.receptive_field(model.forward_features, x)
    probes.equivariance_error(model.body, x, 1)
    assert model.body[1].num_batches_tracked == 0
    assert all(m.training for m in model.modules())


def test_a_lambda_is_called_as_it_is():
    model, x = Features().train(), images()
    assert probes.equivariance_error(model.forward_features, x, 1) < ZERO
    assert probes.equivariance_error(lambda x: model.forward_features(x), x, 1) > 0.1  # dropout


def test_modes_come_back_after_an_error():
    model = Features().train()
    model.body[3].eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(ValueError, match="must return a tensor, not tuple"):
        probes.equivariance_error(model, images(), 1)
    assert [m.training for m in model.modules()] == modes


def test_functions_may_work_in_place():
    x = images()
    before = x.clone()
    assert probes.equivariance_error(torch.Tensor.exp_, x, 1) == 0
    assert probes.receptive_field(torch.Tensor.exp_, x).count_nonzero() == 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_inside_the_callers_no_grad(context):
    kernel, x, tokens = torch.randn(D, 3, 3), images(), torch.randn(5, 2)
    picture = probes.receptive_field(depthwise(kernel), x)
    dependence = probes.weight_dependence(attention_matrix, tokens)
    with context():
        assert torch.equal(probes.receptive_field(depthwise(kernel), x), picture)
        assert probes.weight_dependence(attention_matrix, tokens) == dependence
        assert probes.equivariance_error(depthwise(kernel), x, 1) < ZERO


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_lower_precision(dtype, limit):
    function = depthwise(torch.randn(D, 3, 3, dtype=dtype))
    result = probes.equivariance_map(function, images().to(dtype), 2)
    assert result.dtype == torch.float64 and result.max() < limit
    picture = probes.receptive_field(function, images().to(dtype))
    assert picture.dtype == torch.float64 and probes.reached_share(picture) == 9 / (H * W)


# Bad input


def identity(x):
    return x


def zero_at_centre(x):
    x = x.abs() + 1
    x[0, 0, H // 2, W // 2] = 0
    return x


error = partial(probes.equivariance_error, identity)
field = partial(probes.receptive_field, identity)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: error(x, (0, 8)), r"shift \(0, 8\) is too large for 6×8"),
        (lambda x: error(x, (-6, 0)), r"shift \(-6, 0\) is too large"),
        (lambda x: error(x, 1.5), "shift is 1.5; allowed"),
        (lambda x: error(x, (1, 2, 3)), r"shift is \(1, 2, 3\); allowed"),
        (lambda x: probes.equivariance_curve(identity, x, [1, 9]), "too large"),
        (lambda x: error(x[0], 1), r"x has shape \(3, 6, 8\); allowed"),
        (lambda x: field(x[0]), r"x has shape \(3, 6, 8\); allowed"),
        (lambda x: error(x, 1, grid=(2, 4)), r"grid \(2, 4\) needs \(..., 8, D\)"),
        (lambda x: error(x.long(), 1), "floating point"),
        (lambda x: probes.weight_dependence(identity, x.long()), "floating point"),
        (lambda x: probes.equivariance_error(torch.log, -x.abs(), 1), "not finite"),
        (lambda x: probes.receptive_field(torch.log, -x.abs()), "not finite"),
        (
            lambda x: probes.receptive_field(torch.sqrt, 0 * x),
            "gradient of the function is not fin",
        ),
        (
            lambda x: probes.receptive_field(torch.sqrt, zero_at_centre(x)),
            "gradient of the function is not fin",  # at one number of many
        ),
        (
            lambda x: probes.equivariance_error(lambda x: (x,), x, 1),
            "must return a tensor, not tuple",
        ),
        (
            lambda x: probes.equivariance_error(lambda x: x.sum(1), x, 1),
            r"the output has shape \(2, 6, 8\); allowed: \(B, D, h, w\) or \(B, K\)$",
        ),
        (
            lambda x: probes.equivariance_error(lambda t: t[0, 0], tokens_of(x), 1, grid=(6, 8)),
            r"the output has shape \(3,\); allowed: \(\.\.\., n, D\) or \(\.\.\., K\)$",
        ),
        (lambda x: error(x, 1, fill="mirror"), "fill is 'mirror'; allowed"),
        (lambda x: probes.translate(x, 1, fill="mirror"), "fill is 'mirror'; allowed"),
        (lambda x: error(x, 1, margin=-1), "margin is -1; allowed"),
        (lambda x: error(x, 4, margin=2), r"shift \(0, 4\) and margin 2 leave nothing to compare"),
        (lambda x: error(x, -7, margin=2), r"shift \(0, -7\) and margin 2 leave nothing to com"),
        (lambda x: error(x, 1, stride=0), "stride is 0; allowed"),
        (lambda x: field(x, (6, 0)), r"position is \(6, 0\); allowed"),
        (lambda x: field(x, 48), "position is 48; allowed"),
        (lambda x: field(x, directions=0), "directions is 0; allowed"),
        (lambda x: field(x, directions=2.0), "directions is 2.0; allowed"),
        (lambda x: probes.weight_dependence(identity, x, directions=0), "directions is 0; allo"),
        (lambda x: probes.receptive_field(torch.Tensor.detach, x), "carries no gradient"),
        (lambda x: probes.weight_dependence(lambda x: x.argmax(-1), x), "carries no gradient"),
        (
            lambda x: probes.equivariance_error(lambda z: z if z.equal(x) else z[..., :4], x, 1),
            r"function gave \(2, 3, 6, 8\) for x and \(2, 3, 6, 4\) for Tx",
        ),
        (lambda x: probes.mass_radius(x[0].abs()), "picture must be"),
        (lambda x: probes.mass_radius(x[0, 0].abs() * inf), "picture must be"),
        (lambda x: probes.mass_radius(x[0, 0]), "picture must be"),
        (lambda x: probes.mass_radius(x[0, 0].abs(), 1.5), "share is 1.5; allowed"),
        (lambda x: probes.mass_radius(x[0, 0].abs(), 0), "share is 0; allowed"),
        (lambda x: probes.mass_radius(x[0, 0].abs(), stride=0), "stride is 0; allowed"),
        (lambda x: probes.mass_radius(x[0, 0].abs(), position=(0, 8)), r"position is \(0, 8\); al"),
        (lambda x: probes.reached_share(x[0, 0].abs(), 1), "tolerance is 1; allowed"),
        (lambda x: error(x, 1, margin=1.5), "margin is 1.5; allowed"),
        (lambda x: error(x, 1, stride=(2, 2, 2)), r"stride is \(2, 2, 2\); allowed"),
        (lambda x: error(x, 1, grid="a"), "grid is 'a'; allowed"),
        (lambda x: error(x, 1, grid=(-6, -8)), r"grid is \(-6, -8\); allowed"),
        (lambda x: probes.reached_share(x[0, 0].abs(), 2), "tolerance is 2; allowed"),
        (
            lambda x: probes.equivariance_error(lambda t: t[:, 1:], tokens_of(x), 1, grid=(6, 8)),
            "47 positions, but 6×8 at stride 1×1 has 48",
        ),
        (
            lambda x: probes.equivariance_error(
                lambda t: t.repeat(1, 2, 1), tokens_of(x), 1, grid=(6, 8)
            ),
            "has 96 positions, but 6×8 at stride 1×1 has 48",
        ),
        (
            lambda x: probes.equivariance_error(lambda t: t[:, :0], tokens_of(x), 1, grid=(6, 8)),
            "has 0 positions, but 6×8 at stride 6×6 has 2",
        ),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(images())
    assert "\n" not in str(caught.value)
