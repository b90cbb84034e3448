"""What is measured inside a network is what the words say."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from coatnet_mini import load
from coatnet_mini.images import digit_images, normalize
from coatnet_mini.inside import (
    TEMPLATES,
    added,
    branches,
    distances,
    explained,
    half_distance,
    occlusion,
    silenced,
)
from coatnet_mini.studies import study


@pytest.fixture(scope="module")
def network():
    return load("digits")


@pytest.fixture(scope="module")
def images():
    return normalize(digit_images(24)[1].images[:12])


def test_distances_are_those_of_the_grid():
    far = distances(3, 4)
    assert far[0, 11] == pytest.approx(13**0.5)  # two rows and three columns
    for i, j in product(range(12), repeat=2):
        assert far[i, j] == pytest.approx(math.dist(divmod(i, 4), divmod(j, 4)))
    assert torch.equal(far, far.T) and not far.diagonal().any()


@pytest.mark.parametrize(("H", "W"), [(1, 5), (3, 4), (6, 6)])
def test_half_of_the_weight_lies_within(H, W):
    torch.manual_seed(0)
    weights = torch.randn(2, 3, H * W, H * W).softmax(-1)
    found, far = half_distance(weights, H, W), distances(H, W)
    for i in range(H * W):
        for r, row in zip(
            found[..., i].flatten(), weights[..., i, :].reshape(-1, H * W), strict=True
        ):
            assert row[far[i] <= r].sum() >= 0.5 - 1e-5
            assert row[far[i] < r].sum() < 0.5


def test_half_distances_at_the_ends():
    assert not half_distance(torch.eye(9), 3, 3).any()
    corner = torch.zeros(9, 9)
    corner[:, 8] = 1
    assert torch.equal(half_distance(corner, 3, 3), distances(3, 3)[:, 8])


def test_silencing_is_leaving_out_terms_of_the_sum(network, images):
    for name, branch in branches(network).items():
        seen = []
        handle = branch.last.register_forward_hook(
            lambda m, z, y, seen=seen: seen.append((z[0], y))
        )
        with torch.no_grad():
            network(images)
            with silenced(network, {name: [0, branch.parts - 1]}):
                network(images)
        handle.remove()
        (z, whole), (_, left) = seen
        kept = z.clone().movedim(1, -1) if z.ndim == 4 else z.clone()
        ends = kept[..., : branch.width], kept[..., -branch.width :]
        U, channels = branch.last.weight.flatten(1), -1 if z.ndim == 3 else 1
        gone = ends[0] @ U[:, : branch.width].T + ends[1] @ U[:, -branch.width :].T
        assert torch.allclose((whole - left).movedim(channels, -1), gone, atol=1e-4), name


def test_silence_ends_also_after_an_error(network, images):
    with torch.no_grad():
        before = network(images)
        with pytest.raises(KeyError), silenced(network, {"S9": [0]}):
            pass
        with pytest.raises(RuntimeError), silenced(network, {"S3.0": [0]}):
            raise RuntimeError
        assert torch.equal(network(images), before)


def test_parts_add_what_is_said(network, images):
    found = added(network, images)
    for name, branch in branches(network).items():
        U, seen = branch.last.weight.flatten(1), []
        handle = branch.last.register_forward_pre_hook(lambda m, z, seen=seen: seen.append(z[0]))
        with torch.no_grad():
            network(images)
        handle.remove()
        z = seen[0].flatten(2).mT if seen[0].ndim == 4 else seen[0]
        for part in (0, branch.parts // 2, branch.parts - 1):
            own = slice(part * branch.width, (part + 1) * branch.width)
            norm = (z[..., own] @ U[:, own].T).norm(dim=-1)
            assert torch.allclose(found[name][:, part].flatten(1), norm, atol=1e-4), name


def test_kernels_are_sums_of_the_templates():
    sobel = torch.tensor([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    kernels = torch.stack([torch.ones(3, 3), sobel, sobel + sobel.T, laplace])[:, None]
    shares = explained(kernels)
    assert torch.allclose(shares.sum(1), torch.ones(4).double())
    assert torch.allclose(shares[:3].max(1).values, torch.ones(3).double())
    assert shares.argmax(1).tolist() == [0, 1, 1, 3]


def test_each_template_is_of_one_family():
    """Nine templates, the products of a mean, a slope and a bend down and across."""
    steps = [torch.tensor(step) for step in ([1.0, 1, 1], [-1.0, 0, 1], [1.0, -2, 1])]
    families = {
        "blur": [(0, 0)],
        "edge": [(0, 1), (1, 0)],
        "line": [(0, 2), (2, 0), (1, 1)],
        "spot": [(1, 2), (2, 1), (2, 2)],
    }
    assert list(TEMPLATES) == list(families)
    for n, own in enumerate(families.values()):
        kernels = torch.stack([torch.outer(steps[r], steps[c]) for r, c in own])[:, None]
        assert torch.allclose(explained(kernels)[:, n], torch.ones(len(own)).double())
    mixed = torch.outer(steps[0], steps[0]) / 3 + 2 * torch.outer(steps[1], steps[1]) / 2
    assert explained(mixed[None, None])[0].tolist() == pytest.approx([0.2, 0, 0.8, 0])


def test_random_kernels_have_shares_of_1_2_3_and_3_ninths():
    torch.manual_seed(0)
    shares = explained(torch.randn(20_000, 1, 3, 3)).mean(0)
    assert torch.allclose(shares, torch.tensor([1, 2, 3, 3]).double() / 9, atol=0.005)


def test_occlusion_is_the_fall_for_each_patch():
    torch.manual_seed(0)
    images, weight = torch.rand(3, 1, 6, 8) * 2 - 1, torch.randn(6, 8)
    images[0, 0, :2, :2] = -1  # paper
    labels = torch.tensor([1, 0, 1])

    def network(x):  # two classes, whose scores are apart by one weighted sum
        d = (x[:, 0] * weight).sum((1, 2))
        return torch.stack([torch.zeros_like(d), d], 1)

    found = occlusion(network, images, labels, 2)
    assert found.shape == (3, 3, 4) and found[0, 0, 0] == 0
    for b, row, column in ((0, 1, 2), (1, 2, 3), (2, 0, 1)):
        covered = images[b : b + 1].clone()
        covered[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = -1
        logs = [network(x).log_softmax(1)[0, labels[b]] for x in (images[b : b + 1], covered)]
        assert found[b, row, column] == pytest.approx((logs[0] - logs[1]).item(), abs=1e-5)
    assert not occlusion(network, torch.full((1, 1, 6, 8), -1.0), labels[:1], 2).any()


def test_occlusion_covers_with_the_paper_it_is_told_in_any_number():
    """More patches than are tried at once; where there is paper already, none is tried."""
    images, tried = torch.full((2, 1, 9, 27), 0.5), []
    images[1, :, 3:6, 24:] = 0  # the last patch of the second row

    def network(x):
        tried.append(len(x))
        return torch.stack([torch.zeros(len(x)), x.sum((1, 2, 3))], 1)

    found = occlusion(network, images, torch.tensor([1, 1]), 3, paper=0.0)
    assert found.shape == (2, 3, 9) and found[1, 1, 8] == 0
    full = images.sum((1, 2, 3))
    fall = F.logsigmoid(full) - F.logsigmoid(full - 9 * 0.5)
    for b in range(2):
        others = found[b].flatten()[found[b].flatten() != 0]
        assert torch.allclose(others, fall[b].expand_as(others), atol=1e-6)
    assert sum(tried) == 2 + 53


def test_the_study_measures_what_it_names():
    runs = study("locality").runs
    for run in runs:
        for new, kind in product(("", "new_"), ("weights", "content", "table")):
            assert all(0 < run[f"{new}{kind}_{n}"] < 8 for n in (1, 2))
        assert 0 <= run["without_tables"] <= 1
