"""What each check of the audit says, line by line, of networks that differ in one thing."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.audit import CHECKS, Report, Result
from coatnet_mini.audit.anatomy import Anatomy
from coatnet_mini.audit.attention_checks import cell, inside, position, positions_of, touched
from coatnet_mini.audit.defects import DEFECTS, SMALL, of_kind
from coatnet_mini.audit.network_checks import listed
from coatnet_mini.audit.subject import Subject
from coatnet_mini.blocks import MLP, MBConv, TransformerBlock, as_grid, as_tokens
from coatnet_mini.coatnet import CoAtNet, Stage
from coatnet_mini.probes import evaluating
from tests.test_audit import Foreign, Gives, small


def stages(**changes):
    """The small network's stages with other values for single ones: S3={"depth": 1}."""
    found = list(SMALL.stages)
    for name, values in changes.items():
        n = int(name.removeprefix("S"))
        found[n] = replace(found[n], **values)
    return {"stages": tuple(found)}


# ---- Changes -----------------------------------------------------------------------------------


def in_block(kind, n, **parts):
    """Other parts in the n-th block of a kind; each is made from the one that it replaces."""

    def change(net):
        block = of_kind(net, kind)[n]
        for name, part in parts.items():
            setattr(block, name, part(getattr(block, name)))

    return change


def mbconv(n, **parts):
    return in_block(MBConv, n, **parts)


def transformer(n, **parts):
    return in_block(TransformerBlock, n, **parts)


def attention(n, forward):
    """Another way to attend in the n-th layer: of scores and values."""

    def change(net):
        a = of_kind(net, MultiHeadAttention)[n]

        def changed(x, grid=None):
            q, k, v = a.heads_of(x)
            y = forward(q @ k.mT * a.head_dim**-0.5 + a.bias(grid), v)
            return a.out(y.transpose(1, 2).flatten(2))

        a.forward = changed

    return change


def gone(old):
    return nn.Identity()


def then(*more):
    """What was there, and something after it."""
    return lambda old: nn.Sequential(old, *more)


class Does(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def no_shortcut(old):
    return Does(lambda x: torch.zeros(1))


def counted(learned, frozen=0):
    net = nn.Module()
    with torch.device("meta"):
        net.learned = nn.Parameter(torch.empty(learned))
        net.frozen = nn.Parameter(torch.empty(frozen), requires_grad=False)
    return net


def oblong_kernel(net):
    net.stages["S0"][0] = nn.Conv2d(1, 8, (3, 5), 1, (1, 2))


def narrow(n):
    def change(net):
        stage = net.stages["S1"]
        stage[n] = MBConv(stage[n].expand.in_channels, 16, stage[n].stride, expansion=2)

    return change


def pools_before_the_expansion(net):
    block = of_kind(net, MBConv)[0]
    block.expand.stride = (1, 1)
    block.norm = nn.Sequential(block.norm, nn.MaxPool2d(2))


def gate_of_fewer_channels(net):
    block = of_kind(net, MBConv)[0]
    block.se = nn.Identity()
    block.project = nn.Sequential(block.project, nn.Conv2d(16, 16, 1), nn.Sigmoid())


def no_second_shortcut(net):
    block = of_kind(net, TransformerBlock)[1]
    attend, grown = block.attention, block.shortcut

    def forward(x):
        y = attend(as_tokens(block.norm(x)), x.shape[2:])
        x = grown(x) + as_grid(y, *x.shape[2:])
        return as_grid(block.mlp(as_tokens(block.mlp_norm(x))), *x.shape[2:])

    block.forward = forward


def pools_first(n):
    def change(net):
        block = of_kind(net, TransformerBlock)[n]
        block.norm, block.pool = block.pool, block.norm

    return change


def average_on_the_shortcut(net):
    of_kind(net, TransformerBlock)[2].shortcut[0] = nn.AvgPool2d(2)


def averages_along_a_line(net):
    def pool(x):
        line = F.avg_pool1d(x.flatten(2), 4)
        return line.unflatten(2, (x.shape[2] // 2, x.shape[3] // 2))

    block = of_kind(net, TransformerBlock)[2]
    block.pool = block.shortcut[0] = Does(pool)


def over_queries(scores, v):
    return scores.softmax(-2) @ v


def twice(scores, v):
    return 2 * scores.softmax(-1) @ v


def summed(scores, v):
    return (scores.softmax(-1)[..., None] * v[:, :, None]).sum(3)


def by_name(scores, v):
    return torch.matmul(scores.softmax(-1), other=v)


def written_out(scores, v):
    return scores.softmax(-1) @ v


def one_unbiased(net):
    a = of_kind(net, MultiHeadAttention)[1]
    a.relative_bias, a.relative_bias_table = "none", None


def tables(change):
    """Another table of biases for each layer, made of its own: (heads, 2H−1, 2W−1)."""

    def changed(net):
        for n, a in enumerate(of_kind(net, MultiHeadAttention)):
            table = change(n, a.relative_bias_table.detach())
            a.relative_bias_table = nn.Parameter(table.clone())

    return changed


def biases(n, change):
    def changed(net):
        a = of_kind(net, MultiHeadAttention)[n]
        bias = a.bias
        a.bias = lambda grid=None: change(bias(grid))

    return changed


def one_table_in_the_last(net):
    tables(lambda n, table: table[:1].expand_as(table) if n == 3 else table)(net)


def two_heads_share(net):
    tables(lambda n, table: torch.cat([table[:1], table[:1], table[2:]]))(net)


def one_bias_for_two(net):
    """The last two layers add the same biases, computed once for both."""
    first, second = of_kind(net, MultiHeadAttention)[2:]
    bias, made = first.bias, []

    def make(grid=None):
        made[:] = [bias(grid).sin()]
        return made[0]

    first.bias, second.bias = make, lambda grid=None: made[0]


def headless(net):
    net.forward = lambda images: net.forward_features(images)


def as_tokens_only(net):
    net.forward = lambda images: net.forward_features(images).flatten(2)


def mean_only(net):
    net.forward = lambda images: net.forward_features(images).mean((2, 3))


def every_other_time(net):
    forward, calls = net.forward, []

    def changed(images):
        calls.append(1)
        return forward(images) * (2 if len(calls) % 2 else 3)

    net.forward = changed


def nearly_alone(net):
    forward = net.forward
    net.forward = lambda x: forward(x) + 0.01 * forward(x).mean(0, keepdim=True)


def one_position_more(net):
    """Attention over the grid and one position besides."""
    for a in of_kind(net, MultiHeadAttention):

        def changed(x, grid=None, a=a):
            q, k, v = (F.pad(t, (0, 0, 1, 0)) for t in a.heads_of(x))
            mask = F.pad(a.bias(grid), (1, 0, 1, 0))[None]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, :, 1:]
            return a.out(y.transpose(1, 2).flatten(2))

        a.forward = changed


def values_first(scores, v):
    return (v.mT @ scores.softmax(-1).mT).mT


def hard(old):
    return Does(
        lambda x: x * F.hardsigmoid(old.expand(old.reduce(x.mean((2, 3)))))[..., None, None]
    )


def in_place(old):
    return Does(lambda x: x * old.expand(old.reduce(x.mean((2, 3)))).sigmoid_()[..., None, None])


def channels_last(net):
    """The last blocks on (B, h, w, D), as other networks keep it."""

    def turned(block):
        attend, norm, mlp_norm, mlp = block.attention, block.norm, block.mlp_norm, block.mlp

        def forward(x):
            x = x.permute(0, 2, 3, 1)
            y = norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            grid = y.shape[1:3]
            x = x + attend(y.flatten(1, 2), grid).unflatten(1, grid)
            y = mlp_norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return (x + mlp(y)).permute(0, 3, 1, 2)

        block.forward = forward

    for block in of_kind(net, TransformerBlock)[1::2]:
        turned(block)


def bare(images):
    """Attention among the pixels themselves."""
    x = images.flatten(2).mT
    return F.scaled_dot_product_attention(x, x, x)


def attends(x):
    q = F.linear(x, torch.eye(x.shape[-1]))
    return F.linear(F.scaled_dot_product_attention(q, q, q), torch.eye(x.shape[-1]))


def after_a_class_token(images):
    x = F.pad(images.flatten(2).mT, (0, 0, 1, 0)) + 1
    return x[:, 1:] + attends(x[:, 1:])


def one_answer(images):
    x = images.flatten(2).mT + 1
    return (x.flatten(1) + attends(x).flatten(1)).mean(1)


MIXED = "an image's answer depends on the others in its batch"
NOT_MEANT = "not as many attention layers as meant, or their width was not seen"
AT_ONCE = "without its result nothing arrives:"
HALVED_TWICE = replace(SMALL, **stages(S2={"stride": 2}))
PATCHES = replace(SMALL, stages=(Stage("P", 1, 8, 2), *SMALL.stages[2:]))
CONVOLUTIONS = replace(SMALL, stages=SMALL.stages[:2], image_size=8)
NORMED = then(nn.LayerNorm(64))

LINES = [  # what is said, of which network; what it is meant to be and the image size, if not usual
    ("? size         nothing is printed for a network of these sizes", small()),
    ("✗ size         24.24M parameters, printed 25M (-3%)", counted(24_240_000), "coatnet_0"),
    ("+ size         24.26M parameters, printed 25M (-3%)", counted(24_260_000), "coatnet_0"),
    ("+ size         25.74M parameters, printed 25M (+3%)", counted(25_740_000), "coatnet_0"),
    ("✗ size         25.76M parameters, printed 25M (+3%)", counted(25_760_000), "coatnet_0"),
    ("+ size         25.00M parameters, printed 25M (+0%)", counted(25_000_000, 9**9), "coatnet_0"),
    ("+ blocks       2 depthwise and 4 attention layers, meant 2 and 4", small()),
    (
        "✗ blocks       1 depthwise and 4 attention layers, meant 2 and 4",
        small(**stages(S1={"depth": 1})),
    ),
    (
        "✗ blocks       2 depthwise and 5 attention layers, meant 2 and 4",
        small(**stages(S3={"depth": 3})),
    ),
    ("+ stem         3×3 stride 1 to 8, 3×3 stride 1 to 8", small()),
    (
        "✗ stem         3×3 stride 2 to 8, 3×3 stride 1 to 8",
        small(**stages(S0={"stride": 2})),
        SMALL,
        (16, 24),
    ),
    (
        "✗ stem         3×3 stride 1 to 8, 1×1 stride 2 to 64",
        small(**stages(S0={"depth": 1})),
    ),
    (
        "✗ stem         3×3 stride 1 to 4, 3×3 stride 1 to 4",
        small(**stages(S0={"width": 4})),
    ),
    ("✗ stem         3×5 stride 1 to 8, 3×3 stride 1 to 8", small(oblong_kernel)),
    ("? stem         the network is meant to have a patch stem", small(), PATCHES),
    ("✗ stem         no convolutions", Foreign()),
    ("+ stride       4 pixels a side for each of the last positions, meant 4", small()),
    (
        "+ stride       4 pixels a side for each of the last positions, meant 4",
        small(),
        SMALL,
        (4, 8),
    ),
    (
        "✗ stride       2 pixels a side for each of the last positions, meant 4",
        small(**stages(S3={"stride": 1})),
    ),
    ("? stride       no layer with more than one position", Foreign()),
    ("+ expansion    depthwise over block width: 2 × 4", small()),
    ("✗ expansion    depthwise over block width: 4, 2", small(narrow(1))),
    ("✗ expansion    depthwise over block width: 2 × 2", small(narrow(0), narrow(1))),
    ("✗ expansion    depthwise over block width: 2 × 1", small(DEFECTS["no bottleneck"][0])),
    ("? expansion    no MBConv, or not as many as meant", small(**stages(S1={"depth": 1}))),
    ("? expansion    no MBConv, or not as many as meant", Foreign(), PATCHES),
    ("+ first stride the first 1×1 strides in 1, meant 1", small()),
    (
        "✗ first stride the depthwise convolution strides (the paper's Table 9)",
        small(downsample="depthwise"),
    ),
    ("✗ first stride the first 1×1 strides in 0, meant 1", small(pools_before_the_expansion)),
    (
        "? first stride no MBConv, or none that is meant to stride",
        small(),
        replace(SMALL, **stages(S1={"stride": 1})),
    ),
    ("? first stride no MBConv, or none that is meant to stride", Foreign()),
    ("✗ gates        a gate of its channels in 1 of 2 MBConv", small(mbconv(0, se=gone))),
    ("✗ gates        a gate of its channels in 1 of 2 MBConv", small(mbconv(1, se=gone))),
    ("✗ gates        a gate of its channels in 1 of 2 MBConv", small(mbconv(0, se=hard))),
    ("✗ gates        a gate of its channels in 1 of 2 MBConv", small(gate_of_fewer_channels)),
    (
        "+ gates        a gate of its channels in 2 of 2 MBConv",
        small(mbconv(0, se=in_place), mbconv(1, se=in_place)),
    ),
    ("+ gates        a gate of its channels in 1 of 1 MBConv", small(**stages(S1={"depth": 1}))),
    ("? gates        no MBConv", Foreign()),
    ("+ norms        one before each of 10 branches", small()),
    (
        "+ norms        one before each of 10 branches",
        small(
            in_block(MultiHeadAttention, 3, out=lambda old: nn.Sequential(nn.LayerNorm(64), old))
        ),
    ),
    ("✗ norms        none before feed-forward", small(transformer(0, mlp_norm=gone))),
    ("✗ norms        none before attention", small(transformer(1, norm=gone))),
    ("✗ norms        none before MBConv", small(mbconv(1, norm=gone))),
    ("✗ norms        one after MBConv", small(mbconv(1, project=then(nn.BatchNorm2d(16))))),
    (
        "✗ norms        2 × one after feed-forward",
        small(transformer(2, mlp=NORMED), transformer(3, mlp=NORMED)),
    ),
    ("✗ norms        one after attention", small(in_block(MultiHeadAttention, 3, out=NORMED))),
    (
        "✗ norms        one on the shortcut past MBConv",
        small(mbconv(0, shortcut=then(nn.BatchNorm2d(16)))),
    ),
    (
        "✗ norms        one on the shortcut past attention",
        small(transformer(2, shortcut=then(nn.GroupNorm(1, 64)))),
    ),
    ("? norms        not every branch was seen", small(attention(0, summed))),
    ("? norms        no attention was seen", Foreign()),
    ("+ residuals    the image arrives past attention, feed-forward, MBConv", small()),
    (f"✗ residuals    {AT_ONCE} attention (1 of 4)", small(transformer(1, shortcut=no_shortcut))),
    (
        f"✗ residuals    {AT_ONCE} attention (2 of 4), MBConv (1 of 2)",
        small(
            *(transformer(n, shortcut=no_shortcut) for n in (0, 3)),
            mbconv(0, shortcut=no_shortcut),
        ),
    ),
    (f"✗ residuals    {AT_ONCE} feed-forward (1 of 4)", small(no_second_shortcut)),
    ("+ residuals    the image arrives past MBConv", CoAtNet(CONVOLUTIONS), CONVOLUTIONS),
    ("? residuals    no branch to leave out", Foreign()),
    ("+ order        the pool comes first in 0 of 1", small()),
    ("✗ order        the pool comes first in 1 of 1", small(pools_first(2))),
    (
        "✗ order        the pool comes first in 1 of 2",
        small(pools_first(2), **stages(S2={"stride": 2})),
        HALVED_TWICE,
    ),
    (
        "? order        a norm and a pool before 1 attentions, not as many as meant",
        small(),
        HALVED_TWICE,
    ),
    (
        "? order        a norm and a pool before 0 attentions, not as many as meant",
        small(transformer(2, norm=gone)),
    ),
    ("✗ pool         averages in 2 of 2 places", small(pool="avg")),
    ("+ pool         averages in 0 of 2 places", small()),
    ("✗ pool         averages in 1 of 2 places", small(average_on_the_shortcut)),
    ("+ pool         averages in 0 of 4 places", small(DEFECTS["pools along a line"][0])),
    ("✗ pool         averages in 2 of 2 places", small(averages_along_a_line)),
    ("? pool         pooling in 2 places, meant 4", small(), HALVED_TWICE),
    (
        "? pool         pooling in 0 places, meant 0",
        small(**stages(S3={"stride": 1})),
        replace(SMALL, **stages(S3={"stride": 1})),
    ),
    ("+ places       raster order into and out of 4 layers", small()),
    ("+ places       raster order into and out of 4 layers", small(channels_last)),
    ("+ places       raster order into and out of 4 layers", small(attention(0, values_first))),
    (
        "✗ places       on the way in, on 4×6",
        small(transformer(1, norm=then(Does(lambda x: x.roll(1, 3))))),
    ),
    (
        "✗ places       on the way out, on 2×3",
        small(in_block(MultiHeadAttention, 3, out=then(Does(lambda y: y.roll(1, 1))))),
    ),
    ("✗ places       on the way in, on 2×3", small(DEFECTS["pools along a line"][0])),
    ("? places       not every attention was seen between two grids", small(attention(0, summed))),
    ("? places       not every attention was seen between two grids", Gives(bare)),
    ("? places       not every attention was seen between two grids", Gives(after_a_class_token)),
    ("? places       not every attention was seen between two grids", Gives(one_answer)),
    ("? places       not every attention was seen between two grids", small(one_position_more)),
    (
        "✗ heads        4 × 1 of 16; meant 2 × 2 of 16, 2 × 4 of 16",
        small(DEFECTS["too few heads"][0]),
    ),
    (
        "✗ heads        2 × 4 of 8, 2 × 8 of 8; meant 2 × 2 of 16, 2 × 4 of 16",
        small(head_dim=8),
    ),
    ("+ heads        2 × 2 of 16, 2 × 4 of 16", small(attention(0, written_out))),
    (f"? heads        {NOT_MEANT}", small(attention(0, summed))),
    (f"? heads        {NOT_MEANT}", small(**stages(S3={"depth": 1}))),
    ("✗ softmax      rows sum to 1 ± 0.25", small(attention(3, over_queries))),
    ("✗ softmax      rows sum to 1 ± 1", small(attention(0, twice))),
    ("+ softmax      every row of weights sums to 1", small(attention(0, written_out))),
    ("+ softmax      every row of weights sums to 1", small(attention(0, values_first))),
    ("? softmax      what the weights multiply was not seen", small(attention(0, summed))),
    ("? softmax      what the weights multiply was not seen", small(attention(0, by_name))),
    ("+ bias         added before the softmax in 4 of 4 layers", small()),
    ("✗ bias         added before the softmax in 3 of 4 layers", small(one_unbiased)),
    ("? bias         no attention was seen", Foreign()),
    ("+ per head     heads share one bias in 0 of 4 layers", small()),
    ("✗ per head     heads share one bias in 1 of 4 layers", small(one_table_in_the_last)),
    ("✗ per head     heads share one bias in 2 of 4 layers", small(two_heads_share)),
    ("? per head     no layer with more than one head", small(DEFECTS["too few heads"][0])),
    ("? per head     no bias was seen", small(relative_bias="none")),
    ("+ per layer    0 of 2 pairs of layers share their bias", small()),
    ("✗ per layer    1 of 2 pairs of layers share their bias", small(one_bias_for_two)),
    (
        "+ per layer    0 of 2 pairs of layers share their bias",
        small(**stages(S3={"stride": 1})),
    ),
    (
        "? per layer    no two layers on one grid",
        small(**stages(S2={"depth": 1}, S3={"depth": 1})),
    ),
    ("+ offsets      one for each offset, on 4×6, 2×3", small()),
    (
        "+ offsets      one for each offset, on 4×4, 2×2; no oblong grid was seen",
        small(),
        SMALL,
        8,
    ),
    ("+ offsets      one for each offset, on 2×6", small(), SMALL, (4, 12)),
    ("? offsets      no grid with two rows and two columns", small(one_position_more)),
    ("✗ offsets      77 offsets share 39 biases on 4×6", small(biases(0, lambda B: B + B.mT))),
    ("✗ offsets      15 offsets share 8 biases on 2×3", small(biases(3, lambda B: B + B.mT))),
    (
        "✗ offsets      pairs of one offset differ on 4×6",
        small(biases(1, lambda B: B * torch.linspace(1, 2, B.shape[-1]))),
    ),
    ("+ gradient     none reaches a parameter in 0 of 4 layers", small()),
    ("+ gradient     none reaches a parameter in 0 of 4 layers", small(one_bias_for_two)),
    (
        "✗ gradient     none reaches a parameter in 1 of 4 layers",
        small(biases(2, lambda B: B.detach())),
    ),
    (
        "✗ gradient     none reaches a parameter in 1 of 4 layers",
        small(biases(2, lambda B: B.detach() + 0 * B)),
    ),
    ("+ hidden       hidden over block width: 4 × 4", small()),
    (
        "✗ hidden       hidden over block width: 3 × 4, 2",
        small(transformer(3, mlp=lambda old: type(old)(64, 2))),
    ),
    (
        "✗ hidden       hidden over block width: 2, 4, 2, 4",
        small(DEFECTS["narrow hidden layer"][0]),
    ),
    (
        "? hidden       3 of the form D → hidden → D, meant 4",
        small(transformer(3, mlp=gone)),
    ),
    ("? hidden       no attention was seen", Foreign()),
    ("+ activation   GELU in 6 of 6 hidden layers", small()),
    (
        "✗ activation   GELU in 5 of 6 hidden layers",
        small(in_block(MLP, 1, act=lambda old: nn.ReLU())),
    ),
    (
        "✗ activation   GELU in 4 of 6 hidden layers",
        small(*(mbconv(n, act=lambda old: nn.SiLU()) for n in (0, 1))),
    ),
    (
        "? activation   GELU in 5 hidden layers, not as many as meant",
        small(transformer(3, mlp=gone)),
    ),
    ("? activation   no hidden layer", Foreign()),
    ("+ head         one matrix after the last grid", small(), SMALL, (4, 8)),
    ("+ head         one matrix after the last grid", Foreign()),
    ("✗ head         2 matrices after the last grid", small(head="tanh")),
    ("✗ head         no matrix after the last grid", small(mean_only)),
    ("✗ head         no classifier: the output has the shape (2, 64, 2, 3)", small(headless)),
    ("+ shapes       8×12 kept, 8×16 kept", small()),
    ("+ shapes       8×12 kept, 8×16 kept", small(headless)),
    ("+ shapes       8×12 kept, 8×16 kept", small(as_tokens_only)),
    (f"✗ shapes       {MIXED}", small(nearly_alone)),
    ("✗ shapes       8×12: 2 images in, 4 answers out", small(DEFECTS["square head"][0])),
    ("+ same twice   the same twice", small()),
    ("✗ same twice   two runs in evaluation mode differ by 50%", small(every_other_time)),
]


@pytest.mark.parametrize(
    ("line", "network", "meant"), [(a, b, c) for a, b, *c in LINES], ids=[a for a, *_ in LINES]
)
def test_a_check_says_what_it_found(line, network, meant):
    check = line[2:14].strip()
    subject = Subject(network, *(meant or [SMALL]))
    with evaluating(subject.model):
        status, found = CHECKS[check][0](subject)
    assert str(Result(check, status, found, "")) == line


def test_every_check_is_asked():
    said = {(line[2:14].strip(), line[0]) for line, *_ in LINES}
    assert {check for check, _ in said} == set(CHECKS)
    for answer in "+✗":
        assert {check for check, mark in said if mark == answer} == set(CHECKS)


def over(kind):
    """A norm of each position's channels, or another that can stand in its place."""
    norms = {
        "layer": lambda x: F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1),
        "rms": lambda x: F.rms_norm(x, x.shape[1:]),
        "batch": lambda x: F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
        "group": lambda x: F.group_norm(x, 1),
        "instance": F.instance_norm,
    }
    return lambda old: Does(norms[kind])


@pytest.mark.parametrize("kind", ["layer", "rms", "batch", "group", "instance"])
def test_a_norm_is_a_norm_of_any_kind(kind):
    line = "+ norms        one before each of 10 branches"
    network = small(transformer(0, mlp_norm=over(kind)), mbconv(0, norm=over(kind)))
    test_a_check_says_what_it_found(line, network, [])


# ---- Where a position is -----------------------------------------------------------------------


H, W, D = 4, 6, 5
FORMS = {  # of a grid of (h, w) positions of D channels, two images
    "(B, D, h, w)": lambda x: x,
    "(B, h, w, D)": lambda x: x.permute(0, 2, 3, 1),
    "(B, N, D)": lambda x: x.flatten(2).mT,
}


def looking_at(h, w) -> Anatomy:
    return Anatomy(nn.Flatten(), torch.randn(2, 1, h, w))


@pytest.mark.parametrize("form", FORMS)
def test_a_grid_is_known_in_three_forms(form):
    x = torch.randn(2, D, H, W)
    t = FORMS[form](x)
    assert positions_of(t, looking_at(2 * H, 2 * W)) == (H, W)
    for r, c in ((0, 0), (1, 5), (3, 2)):
        assert torch.equal(cell(t, (H, W), r, c), x[0, :, r, c])


@pytest.mark.parametrize(
    "shape", [(2, 5, 6, 4), (2, 23, 5), (2, 24), (2, 5, 3, 8), (2, 1, 5, 4, 6)]
)
def test_other_shapes_are_no_grid(shape):
    assert positions_of(torch.ones(shape), looking_at(2 * H, 2 * W)) is None


@pytest.mark.parametrize("form", FORMS)
def test_what_was_read_is_known_by_the_gradient(form):
    x = FORMS[form](torch.randn(2, D, H, W)).requires_grad_()
    read = F.layer_norm(torch.cat([cell(x, (H, W), 1, 5), cell(x, (H, W), 3, 0)[:2]]), (D + 2,))
    found = touched(read, x, (H, W))  # of a sum alone the gradient would be zero
    assert found.nonzero().tolist() == [[1, 5], [3, 0]] and found.shape == (H, W)
    assert not touched(0 * cell(x, (H, W), 0, 0), x, (H, W)).any()
    assert touched(torch.ones(3, requires_grad=True).exp(), x, (H, W)) is None


@pytest.mark.parametrize("shape", [(2, 3, 24, 5), (2, 3, 5, 24), (6, 24, 40), (6, 24, 24)])
def test_positions_of_queries_come_first_or_last(shape):
    t = torch.randn(shape, requires_grad=True)
    first = t.flatten(0, -3)[0]
    seventh = position(t, 24, 7)
    assert torch.equal(seventh, first[7] if shape[-2] == 24 else first[:, 7])
    found = touched(seventh / 1000, t, 24)
    assert found.nonzero().tolist() == [[7]] and found.shape == (24,)


WINDOWS = [  # what was read, of the position (1, 2); with a step of 2 its window is 2, 3 by 4, 5
    (1, [(1, 2)], True),
    (1, [(1, 3)], False),
    (1, [(1, 1)], False),
    (1, [(0, 2)], False),
    (1, [(1, 2), (2, 2)], False),
    (1, [], False),
    (2, [(2, 4), (3, 5)], True),
    (2, [(1, 3), (4, 6)], True),  # a wide pool reads one further
    (2, [(0, 4), (2, 4)], False),
    (2, [(3, 4), (5, 4)], False),
    (2, [(2, 2), (2, 4)], False),
    (2, [(2, 5), (2, 7)], False),
]


@pytest.mark.parametrize(("step", "places", "right"), WINDOWS)
def test_a_position_reads_its_own_window(step, places, right):
    reached = torch.zeros(8, 12, dtype=torch.bool)
    for r, c in places:
        reached[r, c] = True
    assert inside(reached, (1, 2), step) == right


# ---- The report --------------------------------------------------------------------------------


def test_equal_neighbours_are_listed_once():
    assert listed(["4", "4", "3"]) == "2 × 4, 3" and listed(w for w in "aba") == "a, b, a"
    assert listed([]) == ""


WHY = "It matters, and this is why: " + "because " * 12 + "of that."
REPORT = """\
+ size         as meant
✗ first stride found, found, found, found, found, found, found, found,
               found, found, found, found,
               It matters, and this is why: because because because because
               because because because because because because because
               because of that.
? per head     not seen
+ head         one
2 passed, 1 failed, 1 cannot tell"""


def test_a_report_has_a_line_for_each_check_and_why_a_failed_one_matters():
    report = Report(
        (
            Result("size", "passed", "as meant", WHY),
            Result("first stride", "failed", "found, " * 12, WHY),
            Result("per head", "cannot tell", "not seen", WHY),
            Result("head", "passed", "one", WHY),
        )
    )
    assert str(report) == repr(report) == REPORT
    assert report.passed == ["size", "head"] and report["head"].found == "one"
    assert report.failed == ["first stride"] and report.unknown == ["per head"]
