"""checks.py: what a configuration may hold, the same for Python, the command and config.json."""

import json
import time
from dataclasses import asdict

import pytest

from coatnet_mini import checks, create_model, list_models
from coatnet_mini.cost import cost
from coatnet_mini.models import MODELS
from tests.helpers import on_meta

NAN, INFINITY = float("nan"), float("inf")
S, T = ["S", 1, 8, 1], ["T", 1, 32]


def refused(name, message, **options):
    return pytest.param(name, options, message, id=f"{name} {str(options)[:50]}")


REFUSED = [
    refused("coatnet_pico", "stages is 1; it must be a sequence of stages", stages=1),
    refused("coatnet_pico", "stages is None; it must be a sequence", stages=None),
    refused("coatnet_pico", "stages is 'SCCTT'; it must be a sequence", stages="SCCTT"),
    refused("coatnet_pico", "stages has 1; a stage is", stages=[1]),
    refused("coatnet_pico", r"stages has \['S'\]; a stage is", stages=[["S"]]),
    refused("coatnet_pico", "stage kind is 1; choose from S ", stages=[[1, 1, 1], T]),
    refused("coatnet_pico", r"stage kind is \[\]; choose from S ", stages=[[[], 1, 1], T]),
    refused("coatnet_pico", "stage depth is True; it must be a pos", stages=[["S", True, 1], T]),
    refused("coatnet_pico", "Stage needs width", stages=[{"kind": "S", "depth": 1}, T]),
    refused("coatnet_pico", "unknown option 'n'; choose from kind, depth", stages=[{"n": 1}, T]),
    refused("coatnet_pico", "stages has 101 stages; at most 100", stages=[S] + [T] * 100),
    refused("coatnet_pico", "would have 1e[+]09 blocks", stages=[S, ["T", 999_999_999, 32]]),
    refused(
        "coatnet_pico",
        "stage depth is .*; it must be at most 1,000,000,000",
        stages=[S, ["T", 10**4000, 32]],
    ),
    refused(
        "coatnet_pico", "would have 9e[+]18 parameters", stages=[S, ["T", 1, 10**9]], head_dim=10**9
    ),
    refused(
        "coatnet_pico",
        "image size 32×32 does not fit",
        stages=[["S", 1, 8, 10**9]] + [["C", 1, 8, 10**9]] * 99,
    ),
    refused("coatnet_pico", "head_dim is 0; it must be a positive integer", head_dim=0),
    refused("coatnet_pico", "head_dim is 'abc'; it must be a positive integer", head_dim="abc"),
    refused("coatnet_pico", "head_dim is 32.0; it must be a positive integer", head_dim=32.0),
    refused("coatnet_pico", "se_ratio is nan; it must be at least 0 and at most 1", se_ratio=NAN),
    refused("coatnet_pico", "se_ratio is 'abc'; it must be", se_ratio="abc"),
    refused("coatnet_pico", "se_ratio is None; it must be", se_ratio=None),
    refused("coatnet_pico", "se_ratio is True; it must be", se_ratio=True),
    refused("coatnet_pico", "drop_path is 'x'; it must be at least 0 and below 1", drop_path="x"),
    refused("coatnet_pico", "drop_path is -inf; it must be", drop_path=-INFINITY),
    refused("coatnet_pico", r"pool is \[\]; choose from max, avg", pool=[]),
    refused("coatnet_pico", "init is 'zero'; choose from fan, normal", init="zero"),
    refused("coatnet_pico", "transformer_norm is 'x'; choose from batch", transformer_norm="x"),
    refused("coatnet_pico", "in_channels is 0; it must be a positive integer", in_channels=0),
    refused("coatnet_pico", "expansion is 0; it must be a positive integer", expansion=0),
    refused("vit_pico", "head_dim is 0; it must be a positive integer", head_dim=0),
    refused("vit_pico", "expansion is 0; it must be a positive integer", expansion=0),
    refused("vit_pico", "num_classes is 0; it must be a positive integer", num_classes=0),
    refused("vit_pico", "in_channels is 0; it must be a positive integer", in_channels=0),
    refused("vit_pico", "patch_size is 0; it must be a positive integer", patch_size=0),
    refused("vit_pico", "layer_norm_eps is 0; it must be above 0 and", layer_norm_eps=0),
    refused("ceit_pico", "last_leff is 'x'; it must be true or false", last_leff="x"),
    refused("ceit_pico", "i2t_batch_norm is None; it must be true", i2t_batch_norm=None),
    refused("coatnet_pico", "head is {}; choose from linear, tanh", head={}),
    refused("coatnet_pico", "relative_bias is None; choose from pre, post", relative_bias=None),
    refused("coatnet_pico", "conv_norm is 1; choose from batch, layer", conv_norm=1),
    refused("coatnet_pico", "would have 1.2e[+]11 parameters", expansion=1_000_000),
    refused("coatnet_pico", "num_classes is .*; it must be at most 1,0", num_classes=10**12),
    refused("coatnet_pico", "would have 1.9e[+]11 parameters", num_classes=10**9),
    refused("coatnet_pico", "batch_norm_eps is 'abc'; it must be above 0", batch_norm_eps="abc"),
    refused("coatnet_pico", "batch_norm_eps is 0; it must be above 0 and", batch_norm_eps=0),
    refused("coatnet_pico", "batch_norm_momentum is 2; it must be", batch_norm_momentum=2),
    refused("coatnet_pico", "layer_norm_eps is None; it must be above 0", layer_norm_eps=None),
    refused("coatnet_pico", "would have 1.9e[+]10 parameters", image_size=100_000),
    refused(
        "coatnet_pico",
        "would have .* activations; the limit is 1e[+]10",
        image_size=100_000,
        relative_bias="none",
    ),
    refused("coatnet_pico", "image_size is True; it must be a positive", image_size=True),
    refused("coatnet_pico", r"image_size is \[8, '8'\]; it must be", image_size=[8, "8"]),
    refused("coatnet_pico", r"image_size is \[32, 0\]; it must be", image_size=[32, 0]),
    refused("coatnet_pico", r"image_size is \[-32, 32\]; it must be", image_size=[-32, 32]),
    refused("vit_pico", "would have 1e[+]09 blocks; the limit is 1e[+]03", depth=1_000_000_000),
    refused("vit_pico", "image_size is .*; it must be a positive", image_size=10**4000),
    refused("vit_pico", "layer_norm_eps is nan; it must be above 0", layer_norm_eps=NAN),
    refused("vit_pico", "would have .* activations", image_size=10_000),
    refused("vit_pico", r"width is \[\[\[\[\[\[\[\.\.\.\]", width=[[[[[[[[[[]]]]]]]]]]),
    refused("ceit_pico", "would have 1e[+]09 blocks", depth=1_000_000_000),
    refused("ceit_pico", "lca is 'no'; it must be true or false", lca="no"),
    refused("ceit_pico", "leff_batch_norm is 1; it must be true or false", leff_batch_norm=1),
    refused("ceit_pico", "leff_kernel is True; it must be odd", leff_kernel=True),
    refused("ceit_pico", "leff_kernel is 1000001; it must be odd", leff_kernel=1_000_001),
    refused("ceit_pico", "i2t_convs has .*; a window is", i2t_convs=[[10**9 + 1, 1]]),
    refused("ceit_pico", "i2t_convs is .*, at most 10", i2t_convs=[[3, 1]] * 11),
    refused("ceit_pico", "patch_size is 'x'; it must be a positive", patch_size="x"),
    refused("ceit_pico", "would have .* parameters", i2t_channels=10**9),
]


def configuration(name, **options):
    """Of a member, without building it."""
    family, own = MODELS[name]
    return checks.configure(family.Config, {**own, **options})


@pytest.mark.parametrize("name, options, message", REFUSED)
def test_bad_options_are_refused_at_once_in_one_clear_line(name, options, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert time.process_time() - start < 1


def test_the_command_gives_the_same_answer(tmp_path, capsys):
    from coatnet_mini.train.__main__ import main

    for name, options, message in (
        ("coatnet_pico", "stages=1", "stages is 1; it must be a sequence of stages"),
        ("vit_pico", "depth=1000000000", "the network would have 1e+09 blocks; the limit is 1e+03"),
    ):
        arguments = ["digits", "--model", name, "--options", options, "--steps", "1"]
        assert main([*arguments, "--output", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


SOME = "coatnet_0 coatnet_pico coatnet_cccc vit_rel vit_tiny vit_pico ceit_tiny ceit_pico"


def matrices(model):
    """Parameters without biases, norms and LCA's vectors, which the estimates leave out."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if p.ndim > 1 and "layer_pos" not in name)


@pytest.mark.parametrize("name", SOME.split())
def test_estimates_are_close_without_building(name):
    model = on_meta(name)
    estimate, row = model.config.sizes(), cost(model)[-1]
    assert estimate["parameters"] == matrices(model) > 0.97 * row.parameters
    written = (row.activation_bytes + row.attention_bytes) / 4
    assert 0.98 < estimate["activations"] / written < 1.07


DEEPER = (["S", 2, 16, 1], ["C", 3, 32], ["C", 1, 64], ["T", 2, 96, 1], ["T", 4, 192])
FOLLOWED = {
    "coatnet_pico": [
        dict(stages=DEEPER),
        dict(se_ratio=0),
        dict(expansion=2),
        dict(downsample="depthwise"),
        dict(head="tanh"),
        dict(relative_bias="none", head_dim=8),
        dict(num_classes=10_000),
        dict(image_size=96),
    ],
    "vit_pico": [dict(depth=16), dict(patch_size=8), dict(image_size=96), dict(expansion=2)],
    "ceit_pico": [dict(depth=8), dict(lca=False), dict(leff_kernel=0), dict(i2t_channels=64)],
}


@pytest.mark.parametrize("name, option", [(n, o) for n, some in FOLLOWED.items() for o in some])
def test_estimates_follow_every_option(name, option):
    models = [on_meta(name, **changed) for changed in ({}, option)]
    before, after = (model.config.sizes() for model in models)
    rows = [cost(model)[-1] for model in models]
    written = [row.activation_bytes + row.attention_bytes for row in rows]
    assert after["parameters"] == matrices(models[1])
    ratio = after["activations"] / before["activations"]
    assert ratio == pytest.approx(written[1] / written[0], rel=0.05)
    assert after["parameters"] != before["parameters"] or abs(ratio - 1) > 0.05


def test_the_whole_family_is_within_the_limits_and_the_largest_near_them():
    configs = [configuration(name) for name in list_models()]  # each within them
    assert max(config.sizes()["parameters"] for config in configs) > checks.limits.parameters / 2
    sizes = configuration("coatnet_7", image_size=512).sizes()
    assert sizes["blocks"] == 60
    assert f"{sizes['parameters']:.1e}" == "2.4e+09" and f"{sizes['activations']:.1e}" == "2.9e+09"


def test_each_limit_is_named_with_the_remedy():
    said = {
        "blocks": "1e+03 blocks; the limit is 1e+03",
        "parameters": "3e+09 parameters; the limit is 3e+09",
        "activations": "1e+10 activations; the limit is 1e+10",
    }
    limits = {"blocks": 1000, "parameters": 3 * 10**9, "activations": 10**10}
    checks.check_size(**limits)
    for name, most in limits.items():
        with pytest.raises(ValueError) as error:
            checks.check_size(**{**limits, name: most + 1})
        remedy = f"which coatnet_mini.checks.limits.{name} raises"
        assert str(error.value) == f"the network would have {said[name]}, {remedy}"


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("one", [True, False])
def test_fractions_with_and_without_their_ends(zero, one):
    refused = [
        -1e-9,
        1 + 1e-9,
        NAN,
        INFINITY,
        "0.5",
        None,
        True,
        *[0] * (not zero),
        *[1] * (not one),
    ]
    for value in [1e-9, 0.5, 1 - 1e-9, *[0, 0.0] * zero, *[1, 1.0] * one]:
        checks.check_fraction("x", value, zero=zero, one=one)
    low, high = "at least" if zero else "above", "at most" if one else "below"
    for value in refused:
        with pytest.raises(ValueError, match=rf"^x is .*; it must be {low} 0 and {high} 1$"):
            checks.check_fraction("x", value, zero=zero, one=one)


def test_integers_are_up_to_a_thousand_million():
    class Options:
        depth = 10**9

    checks.check_positive("stage ", Options, "depth")
    Options.depth += 1
    with pytest.raises(ValueError, match=r"^stage depth is 1000000001; it must be at most 1,000,0"):
        checks.check_positive("stage ", Options, "depth")
    assert checks.pair(10**9) == (10**9, 10**9) and checks.pair([3, 5]) == (3, 5)
    for size in (10**9 + 1, 0, (1, 2, 3), (True, 4), 1.5, "ab"):
        with pytest.raises(
            ValueError, match=r"^image_size is .*; it must be a positive integer or"
        ):
            checks.pair(size)


def test_strides_must_divide_both_sides():
    checks.check_image_size((64, 96), 32)
    for size in ((64, 80), (80, 64), (0, 64), (64, 0)):
        said = f"^image size {size[0]}×{size[1]} does not fit: both sides must be multiples of 32$"
        with pytest.raises(ValueError, match=said):
            checks.check_image_size(size, 32)


def test_a_network_may_have_a_hundred_stages():
    stages = [["S", 1, 32, 1], *[["T", 1, 32, 1]] * 99]
    assert len(configuration("coatnet_pico", stages=stages, image_size=4).stages) == 100


def test_a_limit_can_be_raised_and_lowered(monkeypatch):
    monkeypatch.setattr(checks, "limits", checks.Limits(blocks=6))
    with pytest.raises(ValueError, match="7 blocks; the limit is 6, which coatnet_mini"):
        create_model("coatnet_pico")
    checks.limits.blocks = 7
    assert create_model("coatnet_pico")


@pytest.mark.parametrize("name", MODELS)
def test_configurations_survive_json(name):
    config = configuration(name)
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config
    assert hash(config)
