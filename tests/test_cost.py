"""cost.py against the multiply-adds of the paper's members, and against loops over layers."""

from dataclasses import FrozenInstanceError, fields
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from coatnet_mini import create_model
from coatnet_mini.blocks import TransformerBlock
from coatnet_mini.cost import Cost, cost, cost_table
from tests.helpers import on_meta

GMACS = {  # size: name: (stride in the expansion, in the depthwise convolution)
    224: {
        "coatnet_0": (4.141, 4.546),
        "coatnet_1": (8.238, 8.643),
        "coatnet_2": (15.501, 16.426),
        "coatnet_3": (34.370, 36.451),
        "coatnet_4": (60.23, 62.31),
        "coatnet_5": (142.2, 145.3),
    },
    384: {
        "coatnet_0": (13.051, 14.240),
        "coatnet_1": (26.603, 27.793),
        "coatnet_2": (48.745, 51.463),
        "coatnet_3": (105.79, 111.91),
        "coatnet_4": (186.50, 192.62),
        "coatnet_5": (433.6, 442.7),
    },
    512: {
        "coatnet_0": (25.050, 27.164),
        "coatnet_1": (52.315, 54.429),
        "coatnet_2": (93.350, 98.182),
        "coatnet_3": (198.11, 208.98),
        "coatnet_4": (351.46, 362.33),
        "coatnet_5": (804.0, 820.1),
    },
}
PAPER = {
    "coatnet_0": (4.2, 4.6),
    "coatnet_1": (8.4, 8.8),
    "coatnet_2": (15.7, 16.6),
    "coatnet_3": (34.7, None),
}  # Tables 4 and 9, 224 pixels


@pytest.mark.parametrize("size, name", [(s, n) for s in GMACS for n in GMACS[s]])
def test_multiply_adds_to_a_thousandth(size, name):
    for downsample, expected in zip(("expand", "depthwise"), GMACS[size][name], strict=True):
        row = cost(on_meta(name, image_size=size, downsample=downsample))[-1]
        assert row.multiply_adds / 1e9 == pytest.approx(expected, rel=1e-3)


def test_the_paper_counts_up_to_two_percent_more():
    """Its FLOPs are multiply-adds plus softmax and the like; both strides, Tables 4 and 9."""
    for name, printed in PAPER.items():
        for value, ours in zip(printed, GMACS[224][name], strict=True):
            if value is not None:
                assert -0.006 < value / ours - 1 < 0.021, (name, value, ours)


def test_coatnet_6_and_7_at_512():
    """1521G and 2586G in the paper; 3.7 % and 1.8 % more than multiply-adds."""
    for name, ours, paper in (("coatnet_6", 1465e9, 1521e9), ("coatnet_7", 2539e9, 2586e9)):
        row = cost(on_meta(name, image_size=512))[-1]
        assert row.multiply_adds == pytest.approx(ours, rel=1e-3)
        assert 1.01 < paper / row.multiply_adds < 1.045


def test_rows_are_the_stages_and_add_up():
    model = create_model("coatnet_pico", num_classes=10)
    rows = cost(model, batch=3)
    assert [row.name for row in rows] == [*model.config.stage_names, "head", "total"]
    measured = [field.name for field in fields(Cost)][2:]
    assert len(measured) == 5
    for field in measured:
        assert sum(getattr(row, field) for row in rows[:-1]) == getattr(rows[-1], field)
    for row, stage, grid in zip(rows, model.config.stages, model.config.grids, strict=False):
        assert row.output == (3, stage.width, *grid)
    single = cost(model)[-1]
    assert rows[-1].multiply_adds == 3 * single.multiply_adds
    assert rows[-1].activation_bytes == 3 * single.activation_bytes
    assert rows[-1].attention_bytes == 3 * single.attention_bytes


def test_stage_costs_by_hand():
    """Every convolution, matrix product and attention of each stage, from layer shapes alone."""
    model = create_model("coatnet_pico", num_classes=10)
    rows = {row.name: row for row in cost(model)}
    for (name, stage), (H, W) in zip(model.stages.items(), model.config.grids, strict=True):
        N = H * W
        expected = attention = products = 0
        for block_number, block in enumerate(stage):
            for path, module in block.named_modules():
                first = block_number == 0 and name != "S0"
                before = first and path == "expand" and module.stride == (1, 1)
                positions = 4 * N if before and block.stride == 2 else N
                if isinstance(module, nn.Conv2d):
                    expected += positions * module.weight.numel()
                elif isinstance(module, nn.Linear):
                    expected += (1 if path.startswith("se.") else N) * module.weight.numel()
                elif hasattr(module, "head_dim"):
                    products += 2 * N * N * module.heads * module.head_dim
                    attention += 4 * module.heads * N * N
        assert rows[name].multiply_adds == expected + products, name
        assert rows[name].attention_multiply_adds == products
        assert rows[name].attention_bytes == attention
    assert rows["head"].multiply_adds == model.head.classifier.weight.numel()


def test_activation_bytes_of_a_stem():
    model = create_model("coatnet_pico")
    assert cost(model)[0].activation_bytes == 4 * (4 * 16 * 32 * 32)  # conv, norm, GELU, conv
    assert cost(model.bfloat16())[0].activation_bytes == 2 * (4 * 16 * 32 * 32)


def test_activation_bytes_of_a_block_that_does_not_stride():
    """What passes a layer unchanged, as the pooling of stride 1 does, is not written again."""

    class OneBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(in_channels=8, image_size=(4, 6))
            self.block = TransformerBlock(8, 8, grid=(4, 6), head_dim=4)

        def forward(self, x):
            return self.block(x)

    row = cost(OneBlock())[0]
    widths = {"norm": 8, "qkv": 24, "out": 8, "mlp_norm": 8, "expand": 32, "act": 32, "project": 8}
    assert row.activation_bytes == 4 * 24 * sum(widths.values())
    assert row.attention_bytes == 4 * 2 * 24**2


def test_a_cost_cannot_be_changed_and_needs_no_attention():
    row = Cost("S0", (1, 4, 8, 8), 1, 2, 3, 4)
    assert row.attention_multiply_adds == 0
    with pytest.raises(FrozenInstanceError):
        row.parameters = 5


def test_looking_leaves_the_model_as_it_was():
    model = create_model("coatnet_pico").train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost(model)
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="image size 30×30"):
        cost(model, 30)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_model_in_evaluation_stays_there_and_frozen_parameters_are_not_counted():
    model = create_model("coatnet_pico", num_classes=10).eval()
    before = cost(model)
    assert not model.training
    for parameter in model.stages["S3"].parameters():
        parameter.requires_grad_(False)
    after = cost(model)
    assert (after[4].name, after[4].parameters, after[4].multiply_adds) == (
        "S3",
        0,
        before[4].multiply_adds,
    )
    assert after[-1].parameters == before[-1].parameters - before[4].parameters


def test_the_whole_table_of_a_network():
    assert (
        cost_table(cost(on_meta("coatnet_pico", num_classes=10)))
        == """\
| part | output | parameters (M) | multiply-adds (M) | activations (MB) | attention (MB) |
| --- | --- | ---: | ---: | ---: | ---: |
| S0 | 16×32×32 | 0.00 | 2.80 | 0.26 | 0.00 |
| S1 | 32×16×16 | 0.01 | 2.00 | 0.93 | 0.00 |
| S2 | 64×8×8 | 0.04 | 1.86 | 0.47 | 0.00 |
| S2b | 96×8×8 | 0.22 | 15.53 | 0.75 | 0.10 |
| S3 | 192×4×4 | 0.41 | 6.59 | 0.22 | 0.01 |
| head | 10 | 0.00 | 0.00 | 0.00 | 0.00 |
| total | 10 | 0.68 | 28.78 | 2.64 | 0.10 |"""
    )


def test_table():
    rows = [Cost("S0", (1, 4, 8, 8), 1_234_567, 89_000_000, 4_000_000, 0)]
    assert cost_table(rows).splitlines()[2] == "| S0 | 4×8×8 | 1.23 | 89.00 | 4.00 | 0.00 |"
