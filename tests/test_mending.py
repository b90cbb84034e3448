"""The noisy roof: what each operator makes of it, and that the weights are what they claim."""

import math

import pytest
import torch
import torch.nn.functional as F

from coatnet_mini.images import photograph
from coatnet_mini.mending import (
    box_blur,
    distance_bias,
    gaussian_blur,
    likeness,
    mend,
    noisy_roof,
    patches,
    psnr,
    random_order,
    shuffle,
    unshuffle,
)
from coatnet_mini.weighted_sum import is_toeplitz, reach

GRID = (32, 32)


@pytest.fixture(scope="module")
def roof():
    return noisy_roof()


def test_the_roof_is_the_roof(roof):
    clean, noisy = roof
    assert clean.shape == noisy.shape == GRID
    assert (clean.min().item(), clean.max().item()) == pytest.approx((0.0998, 0.9329), abs=1e-3)
    assert (noisy - clean).std().item() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(noisy_roof(seed=0)[1], noisy)
    assert not torch.equal(noisy_roof(seed=1)[1], noisy)


def test_the_roof_is_means_of_nine_pixels_and_its_noise_is_drawn_by_seed(roof):
    clean, noisy = roof
    grey = photograph("china").mean(0)
    for row, column in ((0, 0), (5, 17), (31, 31)):
        y, x = 60 + 3 * row, 280 + 3 * column
        assert clean[row, column] == pytest.approx(grey[y : y + 3, x : x + 3].mean().item())
    noise = torch.randn(GRID, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(noisy - clean, 0.15 * noise, atol=1e-6)
    assert torch.equal(noisy_roof(noise=0)[1], clean)
    assert torch.allclose(noisy_roof(noise=0.3)[1] - clean, 0.3 * noise, atol=1e-6)


def test_decibels_are_of_the_mean_square():
    x = torch.tensor([[0.0, 0.2], [0.0, 0.0]])
    assert psnr(x, torch.zeros(2, 2)) == pytest.approx(20, abs=1e-4)  # the mean of squares is 0.01
    assert psnr(x + 0.5, x) == pytest.approx(-10 * math.log10(0.25), abs=1e-4)


def test_shuffled_place_i_holds_pixel_order_i():
    x, order = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([2, 0, 1, 5, 3, 4])
    assert shuffle(x, order).tolist() == [[3, 1, 2], [6, 4, 5]]
    assert unshuffle(shuffle(x, order), order).tolist() == x.tolist()
    assert sorted(random_order(50).tolist()) == list(range(50))


def test_sizes_unless_said_and_the_least():
    assert patches(torch.ones(3, 3)).shape == (9, 25)
    assert torch.equal(box_blur((4, 5)), box_blur((4, 5), 3))
    assert torch.equal(box_blur((3, 3), 1), torch.eye(9))
    for size in (0, -1, 2):
        with pytest.raises(ValueError, match="odd size, 1 or more"):
            patches(torch.ones(3, 3), size)
        with pytest.raises(ValueError, match="odd size, 1 or more"):
            box_blur((3, 3), size)


def test_near_helps_likeness_helps_more_and_both_help_most(roof):
    """The numbers of the first chapter, in decibels."""
    clean, noisy = roof
    features = patches(noisy)
    weights = {
        "box": box_blur(GRID),
        "gaussian": gaussian_blur(GRID, 1.1),
        "likeness": likeness(features, 0.6),
        "both": likeness(features, 0.7, distance_bias(GRID, 6.0)),
    }
    told = {name: psnr(mend(W, noisy), clean) for name, W in weights.items()}
    expected = {"box": 23.95, "gaussian": 24.73, "likeness": 26.59, "both": 27.06}
    assert psnr(noisy, clean) == pytest.approx(16.24, abs=0.02)
    assert told == pytest.approx(expected, abs=0.05)


def test_no_other_width_or_temperature_is_better_by_much(roof):
    """The comparison above is of each operator at its best."""
    clean, noisy = roof
    features, widths = patches(noisy), torch.arange(0.5, 3, 0.1).tolist()
    best = max(psnr(mend(gaussian_blur(GRID, s), noisy), clean) for s in widths)
    assert best == pytest.approx(24.73, abs=0.03)
    best = max(psnr(mend(likeness(features, t), noisy), clean) for t in (0.4, 0.5, 0.55, 0.65, 0.8))
    assert best == pytest.approx(26.6, abs=0.1)


def test_shuffled_pixels_ruin_what_trusts_place(roof):
    clean, noisy = roof
    order = random_order(clean.numel())
    assert torch.equal(order, random_order(clean.numel(), seed=0))
    mixed, features = shuffle(noisy, order), patches(shuffle(noisy, order))
    told = {
        "box": psnr(mend(box_blur(GRID), mixed), shuffle(clean, order)),
        "gaussian": psnr(mend(gaussian_blur(GRID, 1.1), mixed), shuffle(clean, order)),
        "likeness": psnr(mend(likeness(features, 0.4), mixed), shuffle(clean, order)),
    }
    assert told == pytest.approx({"box": 14.4, "gaussian": 15.0, "likeness": 18.7}, abs=0.1)


def test_features_that_travel_with_their_pixels_survive_any_shuffle(roof):
    _, noisy = roof
    order = random_order(noisy.numel(), seed=3)
    straight = mend(likeness(patches(noisy), 0.6), noisy)
    mixed = mend(likeness(patches(noisy)[order], 0.6), shuffle(noisy, order))
    assert torch.allclose(unshuffle(mixed, order), straight, atol=1e-5)
    assert torch.equal(unshuffle(shuffle(noisy, order), order), noisy)


def test_likeness_is_the_softmax_of_squared_distances():
    x = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = patches(x, 3)
    expected = (-torch.cdist(f, f).square() / 0.3).softmax(-1)
    assert torch.allclose(likeness(f, 0.3), expected, atol=1e-12)
    bias = distance_bias((5, 7), 2.0).double()
    pre = (-torch.cdist(f, f).square() / 0.3 + bias).softmax(-1)
    assert torch.allclose(likeness(f, 0.3, bias), pre, atol=1e-12)
    assert torch.allclose(likeness(f, 0.3, bias, "post"), expected + bias, atol=1e-12)
    assert torch.equal(likeness(f, 0.3, bias, "none"), likeness(f, 0.3))


def test_blurs_are_blurs():
    grid, x = (6, 9), torch.rand(6, 9, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(1, 1, 3, 3)
    count = F.conv2d(torch.ones(1, 1, *grid), ones, padding=1)
    box = F.conv2d(x[None, None], ones, padding=1) / count
    assert torch.allclose(mend(box_blur(grid), x), box[0, 0], atol=1e-6)
    assert reach(box_blur(grid, 5), grid) == 2
    W = gaussian_blur(grid, 1.5)
    assert torch.allclose(W.sum(-1), torch.ones(54))
    assert W[20, 21].item() / W[20, 20].item() == pytest.approx(math.exp(-1 / 4.5), rel=1e-5)
    assert is_toeplitz(distance_bias(grid, 1.5), grid) and not is_toeplitz(W, grid)


def test_an_endless_width_is_no_bias():
    assert torch.equal(distance_bias((3, 4), math.inf), torch.zeros(12, 12))


def test_patches_are_read_row_by_row_with_edges_that_go_on():
    x = torch.arange(12.0).view(3, 4)
    assert patches(x, 3)[5].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert patches(x, 3)[0].tolist() == [0, 0, 1, 0, 0, 1, 4, 4, 5]
    assert torch.equal(patches(x, 1)[:, 0], x.flatten())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: noisy_roof(noise=-1), "noise is -1; it must be 0 or more"),
        (lambda: patches(torch.ones(3, 3), 4), "size is 4; a patch around a pixel has an odd size"),
        (lambda: box_blur((3, 3), 2), "size is 2; a box around a pixel has an odd size"),
        (lambda: gaussian_blur((3, 3), 0), "width is 0; it must be above 0"),
        (lambda: likeness(torch.ones(3, 2), 0), "temperature is 0; it must be above 0"),
        (lambda: likeness(torch.ones(3, 2), 1, form="mid"), "choose from pre, post, none"),
        (lambda: psnr(torch.ones(2, 3), torch.ones(3, 2)), r"\(2, 3\) and \(3, 2\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
