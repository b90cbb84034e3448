"""The pictures that chapters use: shapes, ranges, and that a smaller copy keeps proportions."""

import pytest
import torch

from coatnet_mini.images import digits, photograph


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
