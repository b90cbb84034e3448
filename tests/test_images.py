"""The pictures that chapters use: shapes, ranges, and that a smaller copy keeps proportions."""

import io

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image

from coatnet_mini.images import decode, digit_images, digits, fit, photograph


def test_digits_are_all_there_in_zero_to_one():
    images, labels = digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == torch.float32
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    assert labels.shape == (1797,)
    assert set(labels.tolist()) == set(range(10))


def test_photographs_are_colour_in_zero_to_one_and_shrink_in_proportion():
    full = photograph("china")
    assert full.shape == (3, 427, 640)
    small = photograph("flower", height=64)
    assert small.shape == (3, 64, 96)
    assert small.dtype == torch.float32
    assert 0 <= float(small.min()) < float(small.max()) <= 1
    assert photograph("china", 100).mean() == pytest.approx(float(full.mean()), abs=2e-3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="got 'cat'"):
        photograph("cat")
    with pytest.raises(ValueError, match="1 to 427 rows, got 500"):
        photograph("china", height=500)


def test_pictures_are_scikit_learns():
    images, labels = digits()
    source = load_digits()
    assert np.array_equal(images.numpy() * 16, source.images)
    assert labels.dtype == torch.int64 and labels.tolist() == source.target.tolist()
    for name in ("china", "flower"):
        expected = load_sample_image(f"{name}.jpg").transpose(2, 0, 1) / 255
        assert np.allclose(photograph(name).numpy(), expected, atol=1e-6)
    assert torch.equal(photograph(), photograph("china"))
    assert digit_images()[0].images.shape == (1198, 1, 32, 32)


def test_a_smaller_copy_is_as_pillow_makes_it():
    photo = PIL.Image.fromarray(load_sample_image("flower.jpg"))
    expected = np.asarray(photo.resize((96, 64), PIL.Image.Resampling.BILINEAR))
    gap = photograph("flower", 64).numpy() * 255 - expected.transpose(2, 0, 1)
    assert np.abs(gap).max() < 1.01
    assert photograph("china", 1).shape == (3, 1, 1) and photograph("china", 427).shape[2] == 640
    for height in (0, 428):
        with pytest.raises(ValueError, match=f"1 to 427 rows, got {height}"):
            photograph(height=height)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(12, 7), (7, 12), (9, 9), (8, 8)])
def test_fit_is_the_centre_square_resized(width, height, channels):
    """To half a pixel, where what is cut off is odd."""
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    picture_of = picture.convert("L" if channels == 1 else "RGB")
    expected = np.asarray(picture_of.resize((8, 8), PIL.Image.Resampling.BICUBIC, box))
    found = fit(picture, 8, channels)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.array_equal(found, expected.reshape(8, 8, channels).transpose(2, 0, 1))


def test_a_jpeg_is_decoded_no_finer_than_it_is_needed():
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(file, "JPEG")
    drafted = PIL.Image.open(io.BytesIO(file.getvalue()))
    drafted.draft(None, (24, 24))
    assert drafted.size == (32, 32)
    assert np.array_equal(decode(file.getvalue(), 24, 3), fit(drafted, 24, 3))
