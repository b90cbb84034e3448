"""The audit passes what is sound, names what is not, and passes nothing that it could not see."""

import runpy
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import load_timm
from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.audit import CHECKS, audit
from coatnet_mini.audit.__main__ import main, maker, meant
from coatnet_mini.audit.defects import DEFECTS, SMALL, broken, of_kind
from coatnet_mini.audit.report import PASSED, UNKNOWN
from coatnet_mini.blocks import MBConv, TransformerBlock, as_grid, as_tokens
from coatnet_mini.coatnet import FAMILY, CoAtNet, CoAtNetConfig
from coatnet_mini.exercises.ch17 import SUSPICIONS, guilty, suspect

OF_A_BIAS = {"per head", "per layer", "offsets", "gradient"}


def small(*changes, **options):
    """What makes the small network for an image size, changed."""

    def make(size):
        torch.manual_seed(0)
        net = CoAtNet(replace(SMALL, image_size=size, **options))
        for change in changes:
            change(net)
        return net

    return make


# ---- ours --------------------------------------------------------------------------------------


def small_kin(name: str) -> CoAtNetConfig:
    """A member's layout and strides, with few narrow blocks and a few channels each."""
    config = CoAtNetConfig(**FAMILY[name])
    stages = tuple(
        replace(s, depth=min(s.depth, 2), width=16 * (n + 1)) for n, s in enumerate(config.stages)
    )
    return replace(config, stages=stages, head_dim=16, num_classes=10, image_size=(64, 96))


@pytest.mark.parametrize("name", FAMILY)
def test_ours_fail_nothing(name):
    torch.manual_seed(0)
    kin = small_kin(name)
    report = audit(lambda size: CoAtNet(replace(kin, image_size=size)), kin)
    assert not report.failed, report
    unseen = {"size"}
    if "T" not in kin.layout:
        unseen = set(CHECKS) - set(report.passed)
        assert {"bias", "heads", "softmax", "order", "pool", "places"} <= unseen
    elif kin.layout[0] == "P":
        unseen |= {"stem", "expansion", "first stride", "gates", "order", "pool"}
    assert set(report.unknown) == unseen


OF_COATNET_0 = """\
+ size         24.45M parameters, printed 25M (-2%)
+ blocks       5 depthwise and 7 attention layers, meant 5 and 7
+ stem         3×3 stride 2 to 64, 3×3 stride 1 to 64
+ stride       32 pixels a side for each of the last positions, meant 32
+ expansion    depthwise over block width: 5 × 4
+ first stride the first 1×1 strides in 2, meant 2
+ gates        a gate of its channels in 5 of 5 MBConv
+ norms        one before each of 19 branches
+ residuals    the image arrives past attention, feed-forward, MBConv
+ order        the pool comes first in 0 of 2
+ pool         averages in 0 of 4 places
+ places       raster order into and out of 7 layers
+ heads        5 × 12 of 32, 2 × 24 of 32
+ softmax      every row of weights sums to 1
+ bias         added before the softmax in 7 of 7 layers
+ per head     heads share one bias in 0 of 7 layers
+ per layer    0 of 11 pairs of layers share their bias
+ offsets      one for each offset, on 4×6, 2×3
+ gradient     none reaches a parameter in 0 of 7 layers
+ hidden       hidden over block width: 7 × 4
+ activation   GELU in 12 of 12 hidden layers
+ head         one matrix after the last grid
+ shapes       64×96 kept, 64×128 kept
+ same twice   the same twice
24 passed, 0 failed, 0 cannot tell"""


def test_coatnet_0_passes_everything():
    torch.manual_seed(0)
    report = audit(
        lambda size: CoAtNet(CoAtNetConfig(**{**FAMILY["coatnet_0"], "image_size": size}))
    )
    assert report.passed == list(CHECKS)
    assert str(report) == OF_COATNET_0


@pytest.mark.parametrize("options", [{"image_size": (16, 16)}, {"image_size": (8, 16)}])
def test_a_module_is_audited_at_its_own_size(options):
    torch.manual_seed(0)
    size = options["image_size"]
    net = CoAtNet(replace(SMALL, **options)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = audit(net, SMALL, size)
    assert report.unknown == ["size"] and not report.failed
    assert ("no oblong grid" in report["offsets"].found) == (size[0] == size[1])
    assert all(m.training for m in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_table_of_zeros_is_a_table():
    def zero(net):
        for a in of_kind(net, MultiHeadAttention):
            nn.init.zeros_(a.relative_bias_table)

    assert audit(small(zero), SMALL).unknown == ["size"]


def test_attention_written_out_is_seen_like_the_fused():
    def write_out(net):
        for a in of_kind(net, MultiHeadAttention):
            a.forward = a.forward_written_out

    for network in (small(write_out), small(write_out)(16)):  # a head of 16 on 16 positions too
        report = audit(network, SMALL)
        assert report.unknown == ["size"] and not report.failed


# ---- timm's ------------------------------------------------------------------------------------


def test_timms_documented_departures_and_nothing_else():
    torch.manual_seed(0)
    report = audit(lambda size: load_timm().create_model("coatnet_0_224", img_size=size))
    assert report.failed == ["first stride", "pool", "head"]
    assert not report.unknown


def test_our_network_with_timms_choices_is_reported_alike():
    choices = dict(downsample="depthwise", pool="avg", head="tanh")
    assert audit(small(**choices), SMALL).failed == ["first stride", "pool", "head"]


# ---- defects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFECTS)
def test_each_public_defect_fails_its_check_alone(name):
    torch.manual_seed(0)
    report = audit(lambda size: broken(name, size), SMALL)
    assert report.failed == [DEFECTS[name][1]]
    unseen = {"no bias": OF_A_BIAS, "too few heads": {"per head"}, "no residuals": {"pool"}}
    assert set(report.unknown) == {"size"} | unseen.get(name, set())


def test_every_defect_gives_the_right_shape():
    images = torch.randn(2, 1, 16, 16)
    for name in DEFECTS:
        net = broken(name)
        assert net(images).shape == (2, 10)
        assert [A.shape[2] for A in net.attention_maps(images).values()] == [64, 64, 16, 16]


def attention(forward):
    def change(net):
        for a in of_kind(net, MultiHeadAttention):
            a.forward = forward.__get__(a)

    return change


def blocks(kind, forward):
    def change(net):
        for block in of_kind(net, kind):
            block.forward = forward.__get__(block)

    return change


@attention
def over_queries(self, x, grid=None):
    q, k, v = self.heads_of(x)
    scores = q @ k.mT * self.head_dim**-0.5 + self.bias(grid)
    return self.out((scores.softmax(-2) @ v).transpose(1, 2).flatten(2))


@attention
def drops_in_evaluation(self, x, grid=None):
    q, k, v = self.heads_of(x)
    scores = q @ k.mT * self.head_dim**-0.5 + self.bias(grid)
    y = F.dropout(scores.softmax(-1) @ v, 0.1)  # trains by default
    return self.out(y.transpose(1, 2).flatten(2))


@attention
def columns_first(self, x, grid=None):
    H, W = grid
    turned = x.unflatten(1, (H, W)).transpose(1, 2).flatten(1, 2)
    q, k, v = self.heads_of(turned)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(grid)[None])
    y = self.out(y.transpose(1, 2).flatten(2))
    return y.unflatten(1, (W, H)).transpose(1, 2).flatten(1, 2)


def after_the_sum(self, x):
    y = self.pool(x)
    grid = y.shape[2:]
    x = self.shortcut(x) + as_grid(self.attention(as_tokens(y), grid), *grid)
    if self.stride == 1:
        x = self.norm(x) if x.shape[1] == self.norm.normalized_shape[0] else x
    x = x + as_grid(self.mlp(as_tokens(x)), *grid)
    return self.mlp_norm(x)


def shared(net):
    for stage in net.stages.values():
        layers = of_kind(stage, MultiHeadAttention)
        for a in layers:
            a.relative_bias_table = layers[0].relative_bias_table


def distances(net):
    """A table of distances: the same bias to the left and to the right."""
    for a in of_kind(net, MultiHeadAttention):
        bias = a.bias

        def even(grid=None, bias=bias):
            return bias(grid) + bias(grid).mT

        a.bias = even


def of_places(net):
    """A bias for each pair instead of each offset."""
    for a in of_kind(net, MultiHeadAttention):
        N = a.bias().shape[-1]
        a.table = nn.Parameter(torch.randn(a.heads, N, N))
        a.bias = lambda grid=None, a=a: a.table


def relu(net):
    for block in of_kind(net, TransformerBlock):
        block.mlp.act = nn.ReLU()


def ungated(net):
    for block in of_kind(net, MBConv):
        block.se = nn.Identity()


def norm_after_projection(net):
    for block in of_kind(net, MBConv):
        width = block.project.out_channels
        block.project = nn.Sequential(block.project, nn.BatchNorm2d(width))


def no_norm(net):
    for block in of_kind(net, TransformerBlock):
        block.mlp_norm = nn.Identity()


def mixes_the_batch(net):
    forward = net.forward
    net.forward = lambda x: forward(x - x.mean(0, keepdim=True) / 2)


def lets_the_batch_grow(net):
    def forward(images):
        x = net.forward_features(images)
        side = x.shape[2]
        return net.head(x[..., :side].mean((2, 3)).repeat(1 + (x.shape[3] > side), 1))

    net.forward = forward


OTHERS = {
    "softmax over queries": (over_queries, "softmax"),
    "dropout in evaluation": (drops_in_evaluation, None),
    "columns first": (columns_first, "places"),
    "shared tables": (shared, "per layer"),
    "distances": (distances, "offsets"),
    "a bias for each pair": (of_places, "offsets"),
    "ReLU": (relu, "activation"),
    "no gate": (ungated, "gates"),
    "norm after the projection": (norm_after_projection, "norms"),
    "no norm before the feed-forward": (no_norm, "norms"),
    "a batch that mixes": (mixes_the_batch, "shapes"),
    "a batch that grows": (lets_the_batch_grow, "shapes"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_mistakes_fail_one_check(name):
    change, caught_by = OTHERS[name]
    failed = audit(small(change), SMALL).failed
    if caught_by is None:  # what is random spoils every comparison of two runs
        assert "same twice" in failed
    else:
        assert failed == [caught_by]


OPTIONS = {
    "pool": dict(pool="avg"),
    "first stride": dict(downsample="depthwise"),
    "head": dict(head="tanh"),
    "gates": dict(se_ratio=0.0),
    "bias": dict(relative_bias="none"),
    "expansion": dict(stages=SMALL.stages, expansion=2),
}


@pytest.mark.parametrize("check", OPTIONS)
def test_options_fail_their_checks(check):
    failed = audit(small(**OPTIONS[check]), SMALL).failed
    assert set(failed) == {check} | ({"hidden"} if check == "expansion" else set())


def test_sizes_and_depths_that_are_not_meant():
    stages = (*SMALL.stages[:2], replace(SMALL.stages[2], depth=1), SMALL.stages[3])
    assert audit(small(stages=stages), SMALL).failed == ["blocks"]
    stages = (SMALL.stages[0], *SMALL.stages[1:3], replace(SMALL.stages[3], stride=1))
    assert audit(small(stages=stages), SMALL).failed == ["stride"]
    stages = (replace(SMALL.stages[0], width=4), *SMALL.stages[1:])
    assert audit(small(stages=stages), SMALL).failed == ["stem"]
    report = audit(small(in_channels=3, num_classes=5), replace(SMALL, in_channels=3))
    assert not report.failed  # another task is no defect


def test_a_count_is_held_to_the_printed_one():
    def narrow(size):
        return CoAtNet(CoAtNetConfig(**{**FAMILY["coatnet_0"], "expansion": 3, "image_size": size}))

    torch.manual_seed(0)
    assert audit(narrow)["size"].status == "failed"


def test_the_post_form_has_no_bias_before_the_softmax():
    assert "bias" in audit(small(relative_bias="post"), SMALL).failed


# ---- what it cannot see ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil", [lambda out: out[:1], lambda out: out[:, :3], lambda out: out * torch.nan]
)
def test_a_wider_image_gets_as_many_finite_scores(spoil):
    def make(size):
        net = small()(size)
        net.register_forward_hook(
            lambda net, images, out: spoil(out) if images[0].shape[3] > size[1] else out
        )
        return net

    report = audit(make, SMALL)
    assert report.failed == ["shapes"] and "8×16: 2 images in" in report["shapes"].found


class Foreign(nn.Module):
    """Nothing that an audit of a CoAtNet could look at."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 10)

    def forward(self, images):
        return self.last(images.mean((2, 3)))


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images):
        return self.what(images)


@pytest.mark.parametrize("network", [Foreign(), Gives(lambda x: x.mean((2, 3)))])
def test_what_is_not_there_is_never_passed(network):
    report = audit(network, SMALL)
    is_a_layer = isinstance(network, Foreign)
    assert report.passed == ["head", "shapes", "same twice"][not is_a_layer :]
    assert report.failed == ["blocks", "stem", *([] if is_a_layer else ["head"])]


def runs_on_squares(size):
    def check(net, images):
        if images[0].shape[2] != images[0].shape[3]:
            raise ValueError("squares only")

    net = small()(size)
    net.register_forward_pre_hook(check)
    return net


def test_a_network_for_squares_only_is_audited_on_squares():
    def squares(size):
        if size[0] != size[1]:
            raise ValueError("squares only")
        return small()(size)

    report = audit(squares, SMALL)
    assert not report.failed
    assert report["shapes"].found == "not made for 8×12, 8×8 kept, 8×12 kept"
    assert (
        audit(runs_on_squares, SMALL)["shapes"].found == "not made for 8×12, 8×8 kept, 8×12 refused"
    )
    report = audit(squares, SMALL, (8, 16))
    assert report["shapes"].found == "not made for 8×16, 16×16 kept, 16×20 kept"


def test_a_network_for_one_size_says_which_it_refuses():
    def only(size):
        def check(net, images):
            if images[0].shape[2:] != size:
                raise ValueError(f"made for {size}")

        net = small()(size)
        net.register_forward_pre_hook(check)
        return net

    assert audit(only, SMALL)["shapes"].found == "8×12 kept, 8×16 refused"


def test_a_classifier_of_two_layers_is_no_feed_forward():
    def change(net):
        hidden = nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)
        net.head = nn.Sequential(*hidden, nn.Linear(64, 10))

    plain, report = audit(small(), SMALL), audit(small(change), SMALL)
    assert report.failed == ["head"] and report["head"].found == "3 matrices after the last grid"
    assert report["hidden"] == plain["hidden"] and report["activation"] == plain["activation"]


class Reshaped(nn.Module):
    """Max pooling that no operation is named after."""

    def forward(self, x):
        B, D, H, W = x.shape
        return x.view(B, D, H // 2, 2, W // 2, 2).amax((3, 5))


def one_pool_unseen(net):
    for block in of_kind(net, TransformerBlock):
        if block.stride > 1:
            block.shortcut[0] = Reshaped()


def one_hidden_layer_unseen(net):
    mlp = of_kind(net, TransformerBlock)[0].mlp
    mlp.forward = lambda x: mlp.project(mlp.act(mlp.expand(x)) @ torch.eye(128))


HALF_SEEN = {"pool": one_pool_unseen, "hidden": one_hidden_layer_unseen}


@pytest.mark.parametrize("check", HALF_SEEN)
def test_what_is_half_seen_is_not_passed(check):
    assert audit(small(HALF_SEEN[check]), SMALL)[check].status == UNKNOWN


@pytest.mark.parametrize(
    ("network", "like", "size", "words"),
    [
        (Foreign(), "none", None, "unknown network 'none'"),
        (Foreign(), 5, None, "unknown network 5"),
        ("coatnet_0", SMALL, None, "a module, or a function"),
        (lambda size: None, SMALL, None, "gives None, not a module"),
        (nn.Linear(3, 3), SMALL, None, "does not run on 16×16 images"),
        (Gives(lambda x: {}["a"]), SMALL, None, "does not run on 16×16 images"),
        (Gives(lambda x: (x, x)), SMALL, None, "a tuple, not a tensor"),
        (Foreign(), SMALL, (1, 2, 3), "a pair"),
        (Foreign(), SMALL, 4, "one position at the last stage"),
    ],
)
def test_errors_are_one_line(network, like, size, words):
    with pytest.raises(ValueError, match=words) as error:
        audit(network, like, size)
    assert "\n" not in str(error.value)


def test_the_report_reads():
    report = audit(small(relu), SMALL)
    text = str(report)
    assert max(map(len, text.splitlines())) <= 76
    assert report["activation"].why.split()[0] in text
    assert text.splitlines()[-1] == "22 passed, 1 failed, 1 cannot tell"
    assert report["size"].status == UNKNOWN and report["pool"].status == PASSED
    assert [r.check for r in report.results] == list(CHECKS)


# ---- the command -------------------------------------------------------------------------------


def test_the_command(capsys, monkeypatch):
    assert main(["coatnet_pico"]) == 0
    assert "0 failed" in capsys.readouterr().out
    assert main(["vit_pico", "--like", "coatnet_pico"]) == 1
    assert "✗ blocks " in capsys.readouterr().out
    assert main(["nothing"]) == 2
    assert main(["ceit_tiny", "--like", "nothing"]) == 2
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["timm:coatnet_0_224"]) == 2
    words = capsys.readouterr().err.splitlines()
    assert [line[:14] for line in words] == ["error: cannot ", "error: unknown", "error: timm is"]
    assert words[0].endswith("what 'nothing' is meant to be: say it with --like")


def test_the_command_makes_timms_networks_for_a_size(monkeypatch):
    timm = SimpleNamespace(create_model=lambda *name, **options: (name, options))
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert maker("timm:coatnet_0_224", "coatnet_0")((64, 96)) == (
        ("coatnet_0_224",),
        {"img_size": (64, 96)},
    )


def test_the_command_ends_with_its_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["audit", "nothing"])
    monkeypatch.delitem(sys.modules, "coatnet_mini.audit.__main__")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("coatnet_mini.audit", run_name="__main__")
    assert end.value.code == 2


def test_the_name_says_what_is_meant():
    assert meant("timm:coatnet_0_224") == "coatnet_0"
    assert meant("timm:coatnet_rmlp_2_rw_224") == "coatnet_2"
    assert meant("coatnet_pico") == "coatnet_pico"
    for name in ("timm:coatnet_nano_rw_224", "coatnet_8", "coatnet_12"):
        with pytest.raises(ValueError, match="--like"):
            meant(name)


# ---- the exercise ------------------------------------------------------------------------------


def test_the_suspect_has_its_three_mistakes():
    torch.manual_seed(0)
    assert audit(suspect, SMALL).failed == ["per layer", "offsets"]
    assert audit(suspect(), SMALL).failed == ["per layer"]
    assert sum(map(guilty, SUSPICIONS)) == 3
