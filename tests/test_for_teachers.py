"""The numbers in the answers of the page for teachers, each computed here."""

import re
from statistics import NormalDist

import torch
from torch import nn
from torch.nn import functional as F

from coatnet_mini import create_model
from coatnet_mini.attention import MultiHeadAttention, relative_index, resize_table
from coatnet_mini.cost import parameters
from tests import ROOT

QUESTION = re.compile(
    r"^\*\*(\d+)\.\*\* (.*?)<summary>Answer</summary>(.*?)</details>", re.M | re.S
)
PAGE = (ROOT / "book" / "for_teachers.md").read_text(encoding="utf-8")
ANSWERS = {int(n): answer.replace("{,}", ",") for n, _, answer in QUESTION.findall(PAGE)}


def test_every_figure_that_a_lesson_shows_is_in_its_chapters():
    lessons = PAGE.partition("## Ten lessons")[2].partition("\n## ")[0]
    found = re.findall(r"\(chapters? ([\d and to]+)\)\.(.*)", lessons)
    assert len(found) == 10
    for chapters, text in found:
        numbers = [int(n) for n in re.findall(r"\d+", chapters)]
        shown = "".join(
            path.read_text(encoding="utf-8")
            for n in range(numbers[0], numbers[-1] + 1)
            for path in (ROOT / "chapters").glob(f"{n:02}_*.ipynb")
        )
        for title in re.findall(r"(?<!\*)\*([A-Z][^*?]+)\*(?!\*)", text):
            assert f'"{title}"' in shown.replace('\\"', '"'), title


def test_questions_are_numbered_without_a_gap():
    assert list(ANSWERS) == list(range(1, 12))


def test_depthwise_convolution_of_192_channels():
    layer = nn.Conv2d(192, 192, 3, padding=1, groups=192, bias=False)
    dense = nn.Conv2d(192, 192, 3, padding=1, bias=False)
    assert f"{parameters(layer):,}$ weights" in ANSWERS[1]
    assert f"{parameters(layer) * 28 * 28:,} multiplications" in ANSWERS[1]
    assert f"{parameters(dense) // parameters(layer)} times as much" in ANSWERS[1]


def test_conv1d_uses_the_flipped_kernel():
    x, k = torch.randn(1, 1, 9), torch.randn(1, 1, 3)
    y = F.conv1d(x, k)[0, 0]
    i = 4
    expected = sum(k[0, 0, 1 + d] * x[0, 0, i + d] for d in (-1, 0, 1))
    assert torch.isclose(y[i - 1], expected)


def test_three_equal_scores_before_and_after_the_softmax():
    biases = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    scores = torch.zeros(3, dtype=torch.float64)
    assert torch.allclose((scores + biases).softmax(0) * 8, torch.tensor([1.0, 2.0, 5.0]).double())
    assert f"{(scores.softmax(0) + biases).sum():.2f}" in ANSWERS[4]


def test_table_of_14_by_14():
    index = relative_index(14, 14)
    assert f"= {index.max() + 1}$ numbers" in ANSWERS[5]
    assert f"{index.numel():,}$ entries" in ANSWERS[5]


def test_stride_in_the_1_by_1_reads_a_quarter():
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    for kernel, share in ((1, 0.25), (3, 1.0)):
        y = F.conv2d(x, torch.ones(1, 1, kernel, kernel), stride=2, padding=kernel // 2)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert (grad != 0).float().mean() == share
    assert "One in four" in ANSWERS[7] and "four times" in ANSWERS[7]


def test_memory_of_one_head():
    large, small = (torch.empty(side**2, side**2, device="meta").nbytes for side in (56, 14))
    assert f"{large / 1e6:.1f} MB" in ANSWERS[8] and f"{small / 1e6:.3f} MB" in ANSWERS[8]
    assert f"{large // small} times less" in ANSWERS[8]


def test_runs_needed_to_see_a_third_of_a_point():
    needed = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    assert f"{needed:.2f}" in ANSWERS[9]
    assert f"\\approx {2 * (needed * 0.4 / 0.3) ** 2:.0f}$" in ANSWERS[9]


def test_a_table_resized_from_224_to_384_keeps_its_middle():
    table = torch.randn(1, 27, 27)
    larger = resize_table(table, 24, 24)
    assert f"{larger.shape[-1]}×{larger.shape[-2]}" in ANSWERS[10]
    assert torch.equal(larger[0, 23, 23], table[0, 13, 13])


def test_widths_of_coatnet_0():
    with torch.device("meta"):
        model = create_model("coatnet_0")
    attentions = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    widths = sorted({layer.heads * layer.head_dim for layer in attentions})
    assert f"256 in place of {widths[0]} and {widths[1]}" in ANSWERS[11]
    assert len(widths) == 2 and round(parameters(model) / 1e6) in (24, 25)
