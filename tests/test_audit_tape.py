"""What the audit sees: the operations of a network on a tape, and the parts that they make."""

from types import MethodType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coatnet_mini.audit.anatomy import Anatomy, gap, replay
from coatnet_mini.audit.tape import Tape, state_of

# ---- One operation -----------------------------------------------------------------------------


def conv(*shape, **options):
    """A convolution of 4×8 positions with random weights of a shape."""
    weight = torch.randn(shape)
    x = torch.randn(2, shape[1] * options.get("groups", 1), 4, 8)
    return F.conv2d(x, weight=weight, **options)


MATRICES = {  # the operation: linear?, depthwise?, kernel, stride, channels in and out, positions
    "linear": (lambda: nn.Linear(3, 5)(torch.ones(2, 6, 3)), (True, False, (), 1, (3, 5), 6)),
    "linear, by name": (
        lambda: F.linear(torch.ones(1, 3), weight=torch.ones(5, 3)),
        (True, False, (), 1, (3, 5), 1),
    ),
    "1×1": (lambda: conv(5, 3, 1, 1), (True, False, (1, 1), 1, (3, 5), 32)),
    "1×1, stride 2": (
        lambda: conv(5, 3, 1, 1, stride=2),
        (True, False, (1, 1), 2, (3, 5), 8),
    ),
    "1×1 in groups": (
        lambda: conv(4, 3, 1, 1, groups=2),
        (False, False, (1, 1), 1, (6, 4), 32),
    ),
    "1×3": (lambda: conv(5, 3, 1, 3), (False, False, (1, 3), 1, (3, 5), 24)),
    "wider steps along one side": (
        lambda: conv(5, 3, 2, 2, stride=(1, 2)),
        (False, False, (2, 2), 2, (3, 5), 12),
    ),
    "depthwise": (
        lambda: nn.Conv2d(6, 6, 3, 2, 1, groups=6)(torch.ones(2, 6, 4, 8)),
        (False, True, (3, 3), 2, (6, 6), 8),
    ),
    "depthwise, two kernels each": (
        lambda: conv(12, 1, 3, 3, groups=6),
        (False, True, (3, 3), 1, (6, 12), 12),
    ),
    "depthwise, two channels": (
        lambda: conv(2, 1, 1, 1, groups=2),
        (False, True, (1, 1), 1, (2, 2), 32),
    ),
    "one channel": (lambda: conv(1, 1, 3, 3), (False, False, (3, 3), 1, (1, 1), 12)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_layer_is_read_off_its_operation(name):
    operation, expected = MATRICES[name]
    with Tape() as tape:
        operation()
    e = tape.events[-1]
    found = (e.is_linear, e.is_depthwise, e.kernel, e.stride, e.widths, e.positions)
    assert found == expected
    assert e.is_conv == ("linear" not in name)


def test_an_argument_is_found_however_it_was_passed():
    a, b, c = torch.randn(3, 2)
    with Tape() as tape:
        torch.addcmul(a, b, c)
        torch.addcmul(a, tensor1=b, tensor2=c, value=3)
        torch.cat([a, b])
    for e in tape.events[:2]:
        assert e.given(0, "input") is a and e.given(1, "tensor1") is b
        assert [id(t) for t in e.tensors] == [id(a), id(b), id(c)]
    assert [e.given(3, "value", 1) for e in tape.events[:2]] == [1, 3]
    assert tape.events[0].given(3, "value") is None
    assert [id(t) for t in tape.events[2].tensors] == [id(a), id(b)]


# ---- The tape ----------------------------------------------------------------------------------


def test_the_tape_has_every_operation_that_gives_a_tensor():
    x = torch.ones(2)
    with Tape() as tape:
        y = x + x.numel()
        y += 1
        z = torch.add(y, y, alpha=2)
    assert [(e.place, e.name) for e in tape.events] == [(0, "add"), (1, "add_"), (2, "add")]
    assert [e.kwargs for e in tape.events] == [{}, {}, {"alpha": 2}]
    assert tape.events[0].args == (x, 2) and tape.events[2].out is z
    assert z.tolist() == [12.0, 12.0]


def test_single_operations_can_be_changed():
    def network(x):
        return (x + 1) * 2, (x + 3).chunk(2)[1]

    x = torch.tensor([4.0, 7.0])
    with Tape(before={1: lambda args, kwargs: ((args[0], 5), kwargs)}):
        assert [t.tolist() for t in network(x)] == [[25.0, 40.0], [10.0]]
    with Tape(after={0: torch.zeros_like, 3: lambda pair: (pair[0], -pair[1])}) as tape:
        assert [t.tolist() for t in network(x)] == [[0.0, 0.0], [-10.0]]
    assert tape.events[0].out.tolist() == [0.0, 0.0]
    assert tape.maker(tape.events[3].out[1]).place == 3  # what was changed is known


def test_the_tape_tells_who_made_a_tensor():
    x = torch.ones(2)
    with Tape() as tape:
        y = x * 2
        y += 1
        z = torch.cat([y, x])
        fresh = torch.zeros(2) - x
    assert tape.maker(x) is None
    assert tape.maker(y).name == "add_" and tape.maker(y, 1).name == "mul"
    assert tape.maker(y, 0) is None
    assert [e.name for e in tape.back(z)] == ["cat", "add_", "mul"]
    assert [e.name for e in tape.back(fresh)] == ["sub", "zeros"]


def test_the_tape_tells_who_uses_what_came_of_an_operation():
    x = torch.ones(4)
    with Tape() as tape:
        (a, b), c = x.chunk(2), x * 3
        d, e, f = b + 1, c * 2, a - 1
        g = d * f
    later = list(tape.after_event(tape.events[0]))
    assert [u.name for u, _ in later] == ["add", "sub", "mul"]
    names = {id(t): n for n, t in dict(a=a, b=b, c=c, d=d, e=e, f=f, g=g).items()}
    assert [{names[t] for t in live} for _, live in later] == [set("ab"), set("abd"), set("abdf")]


def test_what_is_constant_gets_a_little_noise_once_and_for_all():
    net = nn.Module()
    net.table = nn.Parameter(torch.full((2,), 3.0, dtype=torch.float64))
    net.zeros = nn.Parameter(torch.zeros(40, 50))
    net.drawn = nn.Parameter(torch.tensor([1.0, 2.0]))
    net.one = nn.Parameter(torch.zeros(1))
    net.none = nn.Parameter(torch.zeros(0))
    net.whole = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    net.register_buffer("mask", torch.ones(3))
    own, state = dict(net.state_dict()), state_of(net)
    assert set(state) == set(own)
    assert not any(t.requires_grad for t in state.values())
    noise = {name: state[name] - own[name] for name in own if len(own[name])}
    assert {name for name, t in noise.items() if t.any()} == {"table", "zeros"}
    assert 0 < noise["zeros"].abs().max() < 1 and noise["table"].abs().max() < 1
    assert state["table"].dtype == torch.float64
    assert all(torch.equal(t, state[name]) for name, t in state_of(net).items())


# ---- The parts of a network --------------------------------------------------------------------


def seen(forward, size=(4, 6), **layers) -> Anatomy:
    """What the audit sees of a network for images of 8 channels."""
    torch.manual_seed(0)
    net = nn.Module()
    for name, layer in layers.items():
        setattr(net, name, layer)
    net.forward = MethodType(forward, net)
    return Anatomy(net.eval(), torch.randn(2, 8, *size))


def tokens(x):
    return x.flatten(2).mT  # (B, N, 8)


def in_heads(x):
    return tokens(x).unflatten(2, (4, 2)).transpose(1, 2)  # (B, 4, N, 2)


def weights(q, bias=0):
    return (q @ q.mT / 2 + bias).softmax(-1)


def in_one_head(net, x):
    return weights(tokens(x)) @ tokens(x)


def in_four_heads(net, x):
    return F.dropout(weights(in_heads(x)), 0.1, False) @ in_heads(x)


def heads_in_the_batch(net, x):
    q = in_heads(x).flatten(0, 1)
    return torch.bmm(torch.bmm(q, q.mT).softmax(-1), q)


def with_baddbmm(net, x):
    q = in_heads(x).flatten(0, 1)
    return torch.softmax(torch.baddbmm(torch.zeros(24, 24), q, q.mT), -1).bmm(q)


def with_einsum(net, x):
    q = in_heads(x)
    w = torch.einsum("bhid,bhjd->bhij", q, q).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", w, q)


def values_first(net, x):
    return tokens(x).mT @ weights(tokens(x)).mT


def fused(net, x):
    q = in_heads(x)
    return F.scaled_dot_product_attention(q, q, q)


def fused_by_name(net, x):
    q = tokens(x)
    return F.scaled_dot_product_attention(q, key=q, value=q[..., :3])


def of_two_positions(net, x):
    return weights(tokens(x)[:, :2]) @ tokens(x)[:, :2]


def of_the_weights_alone(net, x):
    w = weights(tokens(x))
    return w @ w


def summed_without_a_product(net, x):
    return (weights(tokens(x))[..., None] * tokens(x)[:, None]).sum(2)


ATTENTIONS = {  # its positions, heads, channels of a head (0: not seen), and whether it is fused
    in_one_head: (24, 1, 8, False),
    in_four_heads: (24, 4, 2, False),
    heads_in_the_batch: (24, 4, 2, False),
    with_baddbmm: (24, 4, 2, False),
    with_einsum: (24, 4, 2, False),
    values_first: (24, 1, 8, False),
    fused: (24, 4, 2, True),
    fused_by_name: (24, 1, 3, True),
    of_two_positions: (2, 1, 8, False),
    of_the_weights_alone: (24, 1, 0, False),
    summed_without_a_product: (24, 1, 0, False),
}


@pytest.mark.parametrize("forward", ATTENTIONS, ids=lambda forward: forward.__name__)
def test_an_attention_is_seen_however_it_is_written(forward):
    found = seen(forward).attentions
    assert [(a.N, a.heads, a.head_dim, a.fused) for a in found] == [ATTENTIONS[forward]]
    assert (found[0].value is None) == (found[0].head_dim == 0)


def of_one_position(net, x):
    return weights(tokens(x)[:, :1]) @ tokens(x)[:, :1]


def of_fewer_keys(net, x):
    k = tokens(x)[:, ::2]
    return (tokens(x) @ k.mT).softmax(-1) @ k


def fused_of_fewer_keys(net, x):
    k = tokens(x)[:, ::2]
    return F.scaled_dot_product_attention(tokens(x), k, k)


def of_images(net, x):
    y = x.mean((2, 3))
    return (y @ y.T).softmax(-1) @ y


def without_scores(net, x):
    x = tokens(x)[:, :8]
    return x.softmax(-1) @ x


def of_a_constant(net, x):
    table = torch.ones(1, 24, 8)
    return weights(table) @ tokens(x)


NO_ATTENTIONS = [
    of_one_position,
    of_fewer_keys,
    fused_of_fewer_keys,
    of_images,
    without_scores,
    of_a_constant,
]


@pytest.mark.parametrize("forward", NO_ATTENTIONS, ids=lambda forward: forward.__name__)
def test_other_weights_are_no_attention_among_positions(forward):
    assert seen(forward).attentions == []


def feed_forward(between=F.gelu, inner=32, outer=8, first=8):
    """Two matrices, with something between them."""

    def forward(net, x):
        return net.project(between(net.expand(tokens(x)[..., :first])))

    return dict(forward=forward, expand=nn.Linear(first, inner), project=nn.Linear(inner, outer))


def of_one_by_ones(net, x):
    return net.project(net.expand(x).relu())


def at_positions(count):
    def forward(net, x):
        return net.project(net.expand(tokens(x)[:, :count]).relu())

    return forward


BOTH = dict(expand=nn.Linear(8, 16), project=nn.Linear(16, 8))
ATTENDED = feed_forward(lambda t: F.scaled_dot_product_attention(t, t, t))
FFNS = {  # the network, and what is between its two matrices
    "as in the paper": (feed_forward(), ["gelu"]),
    "in two steps": (feed_forward(lambda t: t.sigmoid() * 2), ["sigmoid", "mul"]),
    "as 1×1 convolutions": (
        dict(forward=of_one_by_ones, expand=nn.Conv2d(8, 9, 1), project=nn.Conv2d(9, 8, 1)),
        ["relu"],
    ),
    "on two positions": (dict(forward=at_positions(2), **BOTH), ["relu"]),
    "on one": (dict(forward=at_positions(1), **BOTH), None),
    "as wide inside": (feed_forward(inner=8), None),
    "narrow inside": (feed_forward(inner=4), None),
    "to another width": (feed_forward(outer=16), None),
    "a matrix more": (feed_forward(nn.Linear(32, 32)), None),
    "a product between": (feed_forward(lambda t: t @ torch.eye(32)), None),
    "a sum between": (feed_forward(lambda t: t + 1), None),
    "attention between": (ATTENDED, None),
}


@pytest.mark.parametrize("name", FFNS)
def test_a_feed_forward_network_is_two_matrices_with_no_product_between(name):
    network, between = FFNS[name]
    found = [[e.name for e in f.between[::-1]] for f in seen(**network).ffns]
    assert found == ([] if between is None else [between])


def after_one_by_one(net, x):
    return net.depthwise(net.norm(net.expand(x)).relu())


def after_a_sum(net, x):
    return net.depthwise((net.expand(x) + 1).relu())


def at_once(net, x):
    return net.depthwise(x)


DEPTHWISE = nn.Conv2d(8, 8, 3, groups=8)
MBCONVS = {  # the network, whether its expansion is seen, and what is between (newest first)
    after_one_by_one: (nn.Conv2d(8, 8, 1), True, ["relu", "batch_norm"]),
    after_a_sum: (nn.Conv2d(8, 8, 1), False, ["relu"]),
    at_once: (None, False, []),
}


@pytest.mark.parametrize("forward", MBCONVS, ids=lambda forward: forward.__name__)
def test_a_depthwise_convolution_is_an_mbconv_with_its_expansion(forward):
    expand, is_seen, between = MBCONVS[forward]
    (m,) = seen(forward, expand=expand, depthwise=DEPTHWISE, norm=nn.BatchNorm2d(8)).mbconvs
    assert (m.expand is not None) == is_seen and m.depthwise.is_depthwise
    assert [e.name for e in m.between] == between


def test_a_wide_convolution_is_no_expansion():
    layers = dict(expand=nn.Conv2d(8, 8, 3), depthwise=DEPTHWISE, norm=nn.Identity())
    (m,) = seen(after_one_by_one, size=(6, 6), **layers).mbconvs
    assert m.expand is None and [e.name for e in m.between] == ["relu"]


def a_block(net, x):
    """Norm, attention, an offset and a norm; what came in is pooled and multiplied."""
    x = x + 1
    y = F.max_pool2d(F.layer_norm(x, x.shape[1:]), 2)
    q = net.q(tokens(y))
    keys = tokens(F.max_pool2d(x, 2))
    y = net.out(F.scaled_dot_product_attention(q, keys, keys)) + net.offset
    skip = tokens(net.shortcut(F.avg_pool2d(x, 2)))
    return net.joined(skip, F.layer_norm(y, (8,)))


def part(branch) -> dict:
    names = {k: [e.name for e in getattr(branch, k)] for k in ("way_in", "way_out", "skip")}
    return names | {"norms": len(branch.norms), "pools": len(branch.pools)}


@pytest.mark.parametrize("joined", [torch.add, torch.Tensor.add_, lambda a, b: b.add_(a)])
def test_a_branch_is_what_happens_between_leaving_the_trunk_and_coming_back(joined):
    layers = dict(q=nn.Linear(8, 8), out=nn.Linear(8, 8), shortcut=nn.Conv2d(8, 8, 1))
    anatomy = seen(a_block, joined=joined, offset=nn.Parameter(torch.randn(8)), **layers)
    (a,) = anatomy.attentions
    assert part(a.branch) == {
        "way_in": ["layer_norm", "max_pool2d", "flatten", "__get__"],
        "way_out": ["linear", "add", "layer_norm"],  # a parameter is no shortcut
        "skip": ["__get__", "flatten", "conv2d", "avg_pool2d"],
        "norms": 1,
        "pools": 1,
    }
    assert anatomy.tape.maker(a.branch.trunk).name == "add"
    assert a.branch.join is anatomy.tape.events[-1]


def without_a_shortcut(net, x):
    y = F.scaled_dot_product_attention(*[net.q(tokens(x))] * 3)
    return net.project(F.gelu(net.expand(net.out(y)))) + tokens(x)


def test_a_branch_ends_where_the_next_begins():
    layers = dict(q=nn.Linear(8, 8), out=nn.Linear(8, 8), **BOTH)
    anatomy = seen(without_a_shortcut, **layers)
    attention, ffn = anatomy.attentions[0].branch, anatomy.ffns[0].branch
    assert [e.name for e in attention.way_out] == ["linear", "linear", "gelu"]
    assert attention.join is None and attention.skip == []
    assert ffn.join is anatomy.tape.events[-1] and ffn.way_out == ffn.way_in == []
    assert anatomy.tape.maker(ffn.trunk) is attention.way_out[0]


def test_a_shortcut_begins_at_a_wide_convolution():
    def forward(net, x):
        x = net.wide(x)
        return F.max_pool2d(x, 2) + net.depthwise(F.max_pool2d(x, 2))

    wide = nn.Conv2d(8, 8, 3, padding=1)
    (m,) = seen(forward, wide=wide, depthwise=nn.Conv2d(8, 8, 3, 1, 1, groups=8)).mbconvs
    assert [e.name for e in m.branch.skip] == ["max_pool2d"]


def test_the_grid_of_some_positions_is_the_picture_made_coarser():
    def grid(net, x):
        return x

    anatomy = seen(grid, (8, 12))
    found = {N: anatomy.grid(N) for N in range(200) if anatomy.grid(N) is not None}
    assert found == {96: (8, 12), 24: (4, 6), 6: (2, 3)}


MASKS = {  # of (2 images, 4 heads) on 24 positions: the shape of a mask, and of what it repeats
    "one for all": (24, 24),
    "a key's own": (1, 1, 1, 24),
    "one for each head": (4, 24, 24),
    "one for each head, of a batch": (1, 4, 24, 24),
    "one for each image": (2, 1, 24, 24),
    "one for each image and head": (2, 4, 24, 24),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_bias_is_what_is_added_before_the_softmax(name):
    mask = torch.randn(MASKS[name])

    def fused(net, x):
        return F.scaled_dot_product_attention(*[in_heads(x)] * 3, attn_mask=mask)

    def fused_by_place(net, x):
        return F.scaled_dot_product_attention(*[in_heads(x)] * 3, mask)

    def written_out(net, x):
        return weights(in_heads(x), mask) @ in_heads(x)

    expected = mask.double().expand(2, 4, 24, 24)[0]
    for forward in (fused, fused_by_place, written_out):
        anatomy = seen(forward)
        ((layer, B),) = anatomy.biases
        assert layer is anatomy.attentions[0] and torch.equal(B, expected)


def test_nothing_and_a_constant_are_no_bias():
    def constant(net, x):
        return weights(in_heads(x), 0.1) @ in_heads(x)

    def allowed(net, x):
        q, mask = in_heads(x), torch.ones(24, 24, dtype=torch.bool)
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    assert [seen(forward).biases for forward in (fused, in_four_heads, constant, allowed)] == [
        []
    ] * 4


def test_whether_the_image_arrives_without_a_branch():
    def one_way(net, x):
        return net.late(net.early(tokens(x))).mean(1)

    def two_ways(net, x):
        return tokens(x).mean(1) + one_way(net, x)

    layers = dict(early=nn.Linear(8, 8), late=nn.Linear(8, 8))
    for forward, arrives in ((one_way, False), (two_ways, True)):
        anatomy = seen(forward, **layers)
        assert replay(anatomy, []) and len(anatomy.matrices) == 2
        assert [replay(anatomy, [e]) for e in anatomy.matrices] == [arrives] * 2


def test_chance_is_left_as_it_was():
    def drops(net, x):
        return F.dropout(tokens(x), 0.5)

    anatomy, chance = seen(drops), torch.get_rng_state()
    one, two = (anatomy.output(anatomy.images) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_two_results_differ_by_more_than_rounding(scale):
    one = scale * torch.tensor([2.0, -4.0, 1.0])
    assert gap(one, one) == gap(one, one * (1 + 1e-6)) == 0
    assert gap(one, one + scale * torch.tensor([0.0, 0.0, -1.0])) == pytest.approx(0.25)
    assert not gap(one, one * torch.nan) <= 1
