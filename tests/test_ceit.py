"""ceit.py against loops and hand computation, in float64; then what ViT and CeiT share."""

import copy
import json
import math
import pickle
from dataclasses import asdict

import pytest
import torch
from torch import nn

from coatnet_mini import create_model, list_models
from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.ceit import (
    ABLATIONS,
    CeiT,
    CeiTConfig,
    ImageToTokens,
    LayerwiseClassAttention,
    LeFF,
    LeFFBlock,
)
from coatnet_mini.checkpoint import load, load_weights
from coatnet_mini.cost import cost
from coatnet_mini.cpu.fuse import fuse
from coatnet_mini.probes import equivariance_error, reached_share, receptive_field
from coatnet_mini.train.__main__ import main
from coatnet_mini.vit import ViT, ViTConfig
from tests.helpers import count, difference, on_meta, shaken

PARAMETERS = {  # channels of I2T: 32, 64
    "ceit_tiny": (6_253_832, 6_356_904),
    "ceit_small": (24_003_464, 24_204_840),
    "ceit_base": (94_007_432, 94_405_416),
}
GMACS = {  # size: name: (32 channels, 64 channels)
    224: {"ceit_tiny": (1.317, 1.395), "ceit_small": (4.662, 4.760), "ceit_base": (17.613, 17.749)},
    384: {"ceit_tiny": (4.873, 5.103), "ceit_small": (15.694, 15.980), "ceit_base": (55.70, 56.10)},
}
PAPER = {  # FLOPs that the paper prints, 224 and 384 pixels
    "ceit_tiny": {224: 1.2, 384: 3.6},
    "ceit_small": {224: 4.5, 384: 12.9},
}
TINY = dict(
    width=12, depth=3, head_dim=4, patch_size=8, num_classes=5, image_size=(32, 48), i2t_channels=6
)


def tiny(**options):
    return shaken(CeiT(CeiTConfig(**{**TINY, **options})))


def tiny_vit(**options):
    names = ("width", "depth", "head_dim", "patch_size", "num_classes", "image_size")
    return shaken(ViT(ViTConfig(**{**{name: TINY[name] for name in names}, **options})))


def images(*size, batch=2):
    return torch.randn(batch, 3, *(size or TINY["image_size"])).double()


# Counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_exact_integers(name):
    for channels, expected in zip((32, 64), PARAMETERS[name], strict=True):
        assert count(on_meta(name, i2t_channels=channels)) == expected
    assert count(on_meta(name)) == PARAMETERS[name][1]
    config = on_meta(name).config
    assert config.width // config.head_dim == {192: 3, 384: 6, 768: 12}[config.width]


def test_only_64_channels_give_the_published_sizes():
    for name, published in (("ceit_tiny", 6.4), ("ceit_small", 24.2), ("ceit_base", 94.4)):
        narrow, wide = (round(n / 1e6, 1) for n in PARAMETERS[name])
        assert wide == published != narrow


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_each_part_adds(name):
    model, D = on_meta(name), on_meta(name).config.width
    lca = count(model) - count(on_meta(name, lca=False))
    assert lca == count(model.lca) == 12 * D * D + 13 * D + 12 * D  # and a vector for each layer
    last = count(model) - count(on_meta(name, last_leff=False))
    assert last == {192: 307_008, 384: 1_203_840, 768: 4_766_976}[D]
    assert last == count(model.blocks[-1].mlp)
    depthwise = 4 * D * (9 + 1) + 2 * (4 * D + 4 * D + D)
    assert count(model) - count(on_meta(name, leff_kernel=0)) == 12 * depthwise
    assert count(on_meta(name, leff_kernel=5)) - count(model) == 12 * 4 * D * 16


@pytest.mark.parametrize("size, name", [(s, n) for s in GMACS for n in GMACS[s]])
def test_multiply_adds_to_a_thousandth(size, name):
    for channels, expected in zip((32, 64), GMACS[size][name], strict=True):
        row = cost(on_meta(name, image_size=size, i2t_channels=channels))[-1]
        assert row.multiply_adds / 1e9 == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size, name", [(s, n) for n in PAPER for s in PAPER[n]])
def test_the_paper_leaves_the_attention_products_out(size, name):
    row, printed = cost(on_meta(name), size)[-1], PAPER[name][size]
    without = (row.multiply_adds - row.attention_multiply_adds) / 1e9
    assert without == pytest.approx(printed, rel=0.025)
    assert row.multiply_adds / 1e9 > 1.05 * printed


def test_attention_products_by_hand():
    row = cost(on_meta("ceit_tiny"))[-1]
    blocks = 12 * 2 * 197 * 197 * 192
    lca = 2 * 1 * 12 * 192
    assert row.attention_multiply_adds == blocks + lca
    assert row.attention_bytes == 4 * 3 * (12 * 197 * 197 + 1 * 12)


# Image-to-Tokens --------------------------------------------------------------------------


def convolve(x, weight, stride, padding):
    """Cross-correlation of one image (C, H, W), one output at a time, without bias."""
    K, _, k, _ = weight.shape
    x = nn.functional.pad(x, (padding,) * 4)
    size = [(n - k) // stride + 1 for n in x.shape[1:]]
    y = torch.zeros(K, *size).double()
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row * stride, column * stride
            window = x[:, top : top + k, left : left + k]
            y[:, row, column] = (weight * window).sum((1, 2, 3))
    return y


def batch_norm(x, norm):
    """Evaluation mode, (D, ...)."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    mean, var, weight, bias = (
        t.reshape(shape) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def max_pool(x):
    """3×3 windows, stride 2, from one position outside."""
    D, H, W = x.shape
    y = torch.empty(D, -(-H // 2), -(-W // 2)).double()
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            top, left = max(0, 2 * row - 1), max(0, 2 * column - 1)
            y[:, row, column] = x[:, top : 2 * row + 2, left : 2 * column + 2].amax((1, 2))
    return y


@torch.no_grad()
def test_image_to_tokens_by_a_loop():
    i2t = shaken(ImageToTokens(2, 5, patch=2, channels=4))
    i2t.norm1.weight *= torch.tensor([1, -1, 1, -1])  # with these, BN and pool do not commute
    x = torch.randn(2, 2, 16, 24).double()
    tokens, expected, wrong = i2t(x), [], []
    for image in x:
        y = convolve(image, i2t.conv1.weight, 2, 3)
        bias = i2t.patches.bias[:, None, None]
        for order, rows in (
            (lambda y: max_pool(batch_norm(y, i2t.norm1)), expected),
            (lambda y: batch_norm(max_pool(y), i2t.norm1), wrong),
        ):
            rows.append(convolve(order(y), i2t.patches.weight, 2, 0) + bias)
    assert tokens.shape == (2, 5, 2, 3)
    assert difference(tokens, torch.stack(expected)) < 1e-12
    assert difference(tokens, torch.stack(wrong)) > 1e-2


@pytest.mark.parametrize("pool", [(2, 2), (3, 2), (5, 2), (7, 4)])
def test_the_pool_reads_beyond_the_border_by_half_its_side(pool):
    i2t = ImageToTokens(2, 5, 1, 4, ((3, 1),), pool)
    assert (i2t.pool.kernel_size, i2t.pool.stride, i2t.pool.padding) == (*pool, pool[0] // 2)


def test_image_to_tokens_of_two_convolutions_by_a_loop():
    i2t = shaken(ImageToTokens(2, 5, 2, 4, ((3, 2), (3, 2)), None, False))
    assert [name for name, _ in i2t.named_children()] == ["conv1", "conv2", "patches"]
    x = torch.randn(1, 2, 16, 16).double()
    y = convolve(convolve(x[0], i2t.conv1.weight, 2, 1), i2t.conv2.weight, 2, 1)
    y = convolve(y, i2t.patches.weight, 2, 0) + i2t.patches.bias[:, None, None]
    assert difference(i2t(x)[0], y) < 1e-12


# Locally-enhanced Feed-Forward ------------------------------------------------------------


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def leff_loop(x, leff, norm=batch_norm):
    """x (D, H, W), one position at a time."""
    D, H, W = x.shape
    k, hidden = leff.depthwise.kernel_size[0], len(leff.expand.weight)
    y = torch.empty(hidden, H, W).double()
    for row in range(H):
        for column in range(W):
            y[:, row, column] = leff.expand.weight @ x[:, row, column] + leff.expand.bias
    y = gelu(norm(y, leff.expand_norm))
    z = leff.depthwise.bias[:, None, None].expand(hidden, H, W).clone()
    for row in range(H):
        for column in range(W):
            for a in range(k):
                for b in range(k):
                    r, c = row + a - k // 2, column + b - k // 2
                    if 0 <= r < H and 0 <= c < W:
                        z[:, row, column] += leff.depthwise.weight[:, 0, a, b] * y[:, r, c]
    z = gelu(norm(z, leff.depthwise_norm))
    out = torch.empty(D, H, W).double()
    for row in range(H):
        for column in range(W):
            out[:, row, column] = leff.project.weight @ z[:, row, column] + leff.project.bias
    return norm(out, leff.project_norm)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("normalised", [True, False])
def test_leff_by_a_loop(kernel, normalised):
    leff = shaken(LeFF(3, 2, kernel, normalised))
    x = torch.randn(2, 3, 3, 4).double()
    norm = batch_norm if normalised else lambda x, _: x
    expected = torch.stack([leff_loop(image, leff, norm) for image in x])
    assert difference(leff(x), expected) < 1e-12
    assert difference(leff(x), gelu(expected)) > 1e-2  # the paper's printed formula
    turned = leff(x.mT).mT  # rows taken for columns
    if kernel > 1:
        assert difference(turned, expected) > 1e-2
    else:
        assert difference(turned, expected) < 1e-12
    parts = {name for name, _ in leff.named_modules() if name.endswith("norm")}
    assert parts == {"expand_norm", "depthwise_norm", "project_norm"}
    assert isinstance(leff.expand_norm, nn.BatchNorm2d) == normalised


def test_leff_with_batch_statistics():
    leff = shaken(LeFF(3, 2)).train()
    x = torch.randn(4, 3, 3, 4).double()
    y = leff(x)
    mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)
    assert difference(mean, leff.project_norm.bias) < 1e-12
    assert difference(std, leff.project_norm.weight.abs()) < 1e-3  # eps
    assert leff.expand_norm.num_batches_tracked == 1


@torch.no_grad()
def test_block_leads_the_class_token_past_leff():
    block = tiny().blocks[0]
    x = torch.randn(2, 7, 12).double()
    y = block(x, (2, 3))
    attended = x + block.attention(block.norm(x))
    assert torch.equal(y[:, :1], attended[:, :1] + block.mlp_norm(attended)[:, :1])
    grid = block.mlp_norm(attended)[:, 1:].mT.unflatten(2, (2, 3))
    patches = torch.stack([leff_loop(image, block.mlp) for image in grid]).flatten(2).mT
    assert difference(y[:, 1:], attended[:, 1:] + patches) < 1e-12
    # Neither the other grid of six patches nor a bypass of the token as it was will do.
    assert difference(block(x, (3, 2))[:, 1:], y[:, 1:]) > 1e-2
    assert difference(y[:, 0], attended[:, 0]) > 1e-2


# Layer-wise Class-token Attention ---------------------------------------------------------


def lca_by_hand(lca, class_tokens, last=-1):
    """One sample (L, D), the softmax and its sum written out."""
    normed = nn.functional.layer_norm
    x = class_tokens + lca.layer_positions
    n = normed(x, x.shape[1:], lca.norm.weight, lca.norm.bias, 1e-6)
    D, d = x.shape[1], lca.attention.head_dim
    q, k, v = (n @ lca.attention.qkv.weight.T + lca.attention.qkv.bias).split(D, -1)
    y = torch.zeros(D).double()
    for head in range(D // d):
        part = slice(head * d, (head + 1) * d)
        weights = [math.exp(q[last, part] @ k[l, part] / math.sqrt(d)) for l in range(len(x))]
        for l, w in enumerate(weights):
            y[part] += w / sum(weights) * v[l, part]
    y = x[last] + lca.attention.out.weight @ y + lca.attention.out.bias
    n = normed(y, y.shape, lca.mlp_norm.weight, lca.mlp_norm.bias, 1e-6)
    hidden = gelu(lca.mlp.expand.weight @ n + lca.mlp.expand.bias)
    return y + lca.mlp.project.weight @ hidden + lca.mlp.project.bias


@torch.no_grad()
def test_lca_by_hand():
    lca = shaken(LayerwiseClassAttention(8, layers=5, head_dim=4, expansion=2))
    x = torch.randn(3, 5, 8).double()
    expected = torch.stack([lca_by_hand(lca, tokens) for tokens in x])
    assert difference(lca(x), expected) < 1e-12
    first = torch.stack([lca_by_hand(lca, tokens, 0) for tokens in x])
    assert difference(lca(x), first) > 1e-2


@torch.no_grad()
def test_the_last_query_is_a_row_of_full_attention():
    lca = shaken(LayerwiseClassAttention(8, layers=5, head_dim=4))
    full = MultiHeadAttention(8, head_dim=4).double()
    full.load_state_dict(lca.attention.state_dict())
    x = torch.randn(3, 5, 8).double()
    assert difference(lca.attention(x), full(x)[:, -1:]) < 1e-12
    assert difference(lca.attention(x), full(x)[:, :1]) > 1e-2
    assert difference(lca.attention.weights(x), full.weights(x)[:, :, -1:]) < 1e-12
    assert difference(lca.attention.forward_written_out(x), lca.attention(x)) < 1e-12


def test_lca_reads_every_layer_and_its_cost_is_linear_in_their_number():
    lca = shaken(LayerwiseClassAttention(8, layers=5, head_dim=4))
    x = torch.randn(2, 5, 8).double().requires_grad_()
    lca(x).square().sum().backward()
    assert (x.grad.abs().amax((0, 2)) > 0).all()
    costs = [cost(on_meta("ceit_tiny", depth=depth)) for depth in (4, 8, 12)]
    rows = [next(row for row in rows if row.name == "lca") for rows in costs]
    four, eight, twelve = (row.multiply_adds for row in rows)
    assert twelve - eight == eight - four > 0
    assert rows[0].output == (1, 192)


def test_without_lca_the_head_reads_the_last_class_token():
    model, x = tiny(lca=False), images()
    class_tokens = model.encode(x)[1]
    assert difference(model(x), model.head(class_tokens[:, -1])) < 1e-12
    assert difference(model(x), model.head(class_tokens[:, -2])) > 1e-2
    with_lca = tiny()
    class_tokens = with_lca.encode(x)[1]
    assert difference(with_lca(x), with_lca.head(with_lca.lca(class_tokens))) < 1e-12
    assert difference(with_lca(x), with_lca.head(class_tokens[:, -1])) > 1e-2


# The last LeFF ----------------------------------------------------------------------------


@pytest.mark.parametrize("lca", [True, False])
def test_the_last_leff_receives_no_gradient_and_nothing_else_is_dead(lca):
    model = tiny(lca=lca).train()
    model(images(batch=3)).square().sum().backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == {f"blocks.2.mlp.{n}" for n, _ in model.blocks[2].mlp.named_parameters()}


def test_features_do_give_the_last_leff_a_gradient():
    model = tiny().train()
    model.forward_features(images()).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.blocks[2].mlp.parameters())


def test_an_mlp_in_its_place_is_not_dead():
    model = tiny(leff_kernel=0).train()
    model(images()).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_dropping_the_last_leff_leaves_the_logits_as_they_are(training):
    model, short, x = tiny(), tiny(last_leff=False), images(batch=4)
    missing, unexpected = short.load_state_dict(model.state_dict(), strict=False)
    assert not missing and {name.rsplit(".", 2)[0] for name in unexpected} <= {
        "blocks.2.mlp",
        "blocks.2",
    }
    assert difference(short.train(training)(x), model.train(training)(x)) < 1e-12
    short.train(training)(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in short.parameters())
    assert difference(short.forward_features(x), model.forward_features(x)) > 1e-2
    block, tokens = short.eval().blocks[2], torch.randn(2, 25, 12).double()
    attended = tokens + block.attention(block.norm(tokens))  # all go the way of the class token
    assert difference(block(tokens, (4, 6)), attended + block.mlp_norm(attended)) < 1e-12
    # Dropping another one is no such matter.
    broken = copy.deepcopy(model)
    broken.blocks[1].mlp = nn.Identity()
    assert difference(broken(x), model(x)) > 1e-4


# Switches ---------------------------------------------------------------------------------


def test_all_three_off_is_a_vit_weight_for_weight():
    vit, bare = tiny_vit(), tiny(**ABLATIONS["DeiT"])
    bare.load_state_dict(vit.state_dict())
    assert difference(bare(images(40, 24)), vit(images(40, 24))) > 1e-3  # other images
    x = images()
    assert difference(bare(x), vit(x)) < 1e-12
    assert difference(bare.forward_features(x), vit.forward_features(x)) < 1e-12
    for name in ("tiny", "small", "base"):
        bare = on_meta(f"ceit_{name}", **ABLATIONS["DeiT"])
        assert count(bare) == count(on_meta(f"vit_{name}"))


I2T_SHAPES = {  # the convolution's weights in each row of the paper's table
    "I2T k7s4": [(64, 3, 7, 7)],
    "I2T k5s4": [(64, 3, 5, 5)],
    "I2T k3s2 k3s2": [(64, 3, 3, 3), (64, 64, 3, 3)],
    "I2T k7s2 pool": [(32, 3, 7, 7)],
    "I2T k7s2 BN pool": [(32, 3, 7, 7)],
}


@pytest.mark.parametrize("row", ABLATIONS)
def test_rows_of_the_ablations_are_configurations(row):
    model, deit = on_meta("ceit_tiny", **ABLATIONS[row]), count(on_meta("vit_tiny"))
    convs = [tuple(m.weight.shape) for m in model.stem.modules() if isinstance(m, nn.Conv2d)]
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert norms == {"I2T k7s2 BN pool": 1, "LeFF 3×3 BN": 36, "LeFF 5×5 BN": 36}.get(row, 0)
    assert any(isinstance(m, nn.MaxPool2d) for m in model.modules()) == row.endswith("pool")
    assert hasattr(model, "lca") == (row == "LCA")
    if row.startswith("I2T"):
        assert convs[:-1] == I2T_SHAPES[row]
        assert convs[-1] == (192, I2T_SHAPES[row][0][0], 4, 4)
    else:
        assert convs == [(192, 3, 16, 16)]
    if row.startswith("LeFF"):
        side = int(row[5])
        expected = (768, 1, side, side)
        assert {tuple(b.mlp.depthwise.weight.shape) for b in model.blocks} == {expected}
        extra = 12 * (768 * (side * side + 1) + (2 * (768 + 768 + 192) if norms else 0))
        assert count(model) == deit + extra
    else:
        assert not any(isinstance(block, LeFFBlock) for block in model.blocks)
    x = torch.empty(2, 3, 224, 256, device="meta")
    assert model.forward_features(x).shape == (2, 192, 14, 16)


@pytest.mark.parametrize("row", ABLATIONS)
def test_rows_of_the_ablations_learn_at_32_pixels(row):
    small = dict(width=16, head_dim=8, depth=2, num_classes=5)
    model = create_model("ceit_pico", **small, **{**ABLATIONS[row], "i2t_channels": 4})
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert all(n.startswith("blocks.1.mlp") for n in dead)
    assert bool(dead) == row.startswith("LeFF")


# Sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [224, 256, 384, (224, 320), (160, 96)])
def test_published_members_at_many_sizes(size):
    H, W = (size, size) if isinstance(size, int) else size
    for model in (on_meta("ceit_tiny", image_size=size), on_meta("ceit_tiny")):
        x = torch.empty(2, 3, H, W, device="meta")
        assert model(x).shape == (2, 1000)
        assert model.forward_features(x).shape == (2, 192, H // 16, W // 16)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (64, 16), (40, 40)])
def test_other_sizes_read_the_positions_resized(size):
    model, x = tiny(), images(*size, batch=3)
    fitted = tiny(image_size=size)
    fitted.load_state_dict(model.state_dict())
    assert fitted.embedding.positions.shape == (12, size[0] // 8, size[1] // 8)
    assert difference(model(x), fitted(x)) < 1e-12
    assert difference(model(x), torch.cat([model(image[None]) for image in x])) < 1e-12


# Both families: everything that the package does with a network ----------------------------

MEMBERS = sorted([*PARAMETERS, "ceit_pico", "vit_tiny", "vit_small", "vit_base", "vit_pico"])
BOTH = pytest.mark.parametrize("make", [tiny, tiny_vit])


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_listed_built_and_costed(name):
    assert name in list_models()
    model = on_meta(name, num_classes=7, in_channels=1)
    rows = cost(model)
    depth = model.config.depth
    lca = ["lca"] if name.startswith("ceit") else []
    assert [row.name for row in rows] == [
        "stem",
        "embedding",
        *(f"blocks.{n}" for n in range(depth)),
        *lca,
        "head",
        "total",
    ]
    for field in ("parameters", "multiply_adds", "attention_multiply_adds", "attention_bytes"):
        assert sum(getattr(row, field) for row in rows[:-1]) == getattr(rows[-1], field)
    assert rows[-1].parameters == count(model)
    assert rows[-1].output == (1, 7)
    H, W = model.config.grid
    assert rows[0].output == (1, model.config.width, H, W)


def test_small_members_are_near_coatnet_pico():
    """Every weight of a ViT acts on 65 tokens, so that its two ratios lie on either side of 1."""
    reference = cost(create_model("coatnet_pico", num_classes=10))[-1]
    ratios = {"vit_pico": (0.751, 1.301), "ceit_pico": (0.871, 1.167)}
    for name, (parameters, multiply_adds) in ratios.items():
        row = cost(create_model(name, num_classes=10))[-1]
        assert row.parameters / reference.parameters == pytest.approx(parameters, abs=2e-3)
        assert row.multiply_adds / reference.multiply_adds == pytest.approx(multiply_adds, abs=2e-3)


@pytest.mark.parametrize("name", ["vit_pico", "ceit_pico"])
def test_small_members_take_a_step(name):
    model = create_model(name, num_classes=10)
    x = torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(x), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.forward_features(x).shape == (4, model.config.width, 8, 8)


@BOTH
def test_probes_take_networks_and_features(make):
    model, x = make(), images(batch=1)
    assert reached_share(receptive_field(model, x)) == 1
    assert reached_share(receptive_field(model.forward_features, x, (0, 0))) == 1
    # Learned positions tell a shifted image from the original; without them a shift by whole
    # patches on a torus only reorders the tokens of a ViT. The padding of CeiT's convolutions
    # tells it still.
    assert equivariance_error(model.forward_features, x, (8, 8)) > 0.05
    nn.init.zeros_(model.embedding.positions)
    error = equivariance_error(model.forward_features, x, (8, 8))
    assert (error < 1e-12) == (make is tiny_vit)


@BOTH
def test_attention_maps_are_the_weights_of_the_forward_pass(make):
    model, x = make(), images(32, 64)
    maps = model.attention_maps(x)
    expected = {f"blocks.{n}": (2, 3, 33, 33) for n in range(3)}
    if make is tiny:
        expected["lca"] = (2, 3, 1, 3)
    assert {name: tuple(m.shape) for name, m in maps.items()} == expected
    assert all((m.sum(-1) - 1).abs().max() < 1e-12 for m in maps.values())
    tokens = model.embedding(model.stem(x))
    for n, block in enumerate(model.blocks):
        assert difference(maps[f"blocks.{n}"], block.attention.weights(block.norm(tokens))) < 1e-12
        tokens = block(tokens, (4, 8))
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="image size 30×30"):
        model.attention_maps(images(30, 30))
    assert not any(m._forward_pre_hooks for m in model.modules())


@BOTH
def test_replace_head_keeps_the_rest(make):
    model, x = make(), images()
    before = model.encode(x)[1]
    model.replace_head(9)
    assert model(x).shape == (2, 9) and model.config.num_classes == 9
    assert model.head.classifier.weight.dtype == torch.float64
    assert torch.equal(model.encode(x)[1], before)


def test_a_configuration_is_that_of_the_official_code_unless_told():
    assert asdict(CeiTConfig(width=192)) == {
        **asdict(ViTConfig(width=192)),
        **dict(i2t_channels=64, i2t_convs=((7, 2),), i2t_pool=(3, 2), i2t_batch_norm=True),
        **dict(leff_kernel=3, leff_batch_norm=True, lca=True, last_leff=True),
    }
    assert asdict(on_meta("ceit_pico").config) == {
        **asdict(CeiTConfig(width=192)),
        **dict(width=96, depth=4, head_dim=32, patch_size=4, image_size=(32, 32)),
        **dict(i2t_channels=16, i2t_convs=((3, 1),)),
    }


def test_parts_are_those_of_the_network_unless_told():
    stem = ImageToTokens(3, 192)
    assert str(stem) == str(on_meta("ceit_tiny").stem)
    leff = LeFF(192)
    assert str(leff) == str(on_meta("ceit_tiny").blocks[0].mlp)
    lca = LayerwiseClassAttention(192, 12)
    assert str(lca) == str(on_meta("ceit_tiny").lca)
    assert count(lca) == count(on_meta("ceit_tiny").lca) and lca.attention.heads == 3
    assert not lca.layer_positions.any()  # at first


def test_options_reach_every_part():
    options = dict(layer_norm_eps=0.02, expansion=2, drop_path=0.3, leff_kernel=5)
    model = CeiT(CeiTConfig(**TINY, **options, leff_batch_norm=False))
    norms = [module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms == [0.02] * (2 * 3 + 2 + 1)
    assert [block.drop_path.rate for block in model.blocks] == [0, 0.15, 0.3]
    assert model.lca.mlp.expand.out_features == 24 and model.lca.attention.head_dim == 4
    for block in model.blocks:
        assert block.attention.head_dim == 4 and block.mlp.expand.out_features == 24
        assert block.mlp.depthwise.kernel_size == (5, 5)
        assert isinstance(block.mlp.expand_norm, nn.Identity)


def test_windows_and_their_number_have_bounds():
    for options in (
        dict(i2t_convs=((999, 1),), patch_size=16),
        dict(i2t_convs=((1, 1),) * 10, i2t_pool=None),
        dict(i2t_convs=((3, 999),), i2t_pool=None, patch_size=999, image_size=999),
        dict(leff_kernel=999, depth=1),
    ):
        CeiTConfig(**{"width": 64, "i2t_channels": 1, **options})
    for options in (
        dict(i2t_convs=((1001, 1),)),
        dict(i2t_convs=((3, 1000),), patch_size=1000, image_size=1000),
        dict(i2t_convs=((-3, 1),)),
        dict(i2t_convs=((3, 1, 1),)),
        dict(i2t_pool=(2, 2)),
        dict(i2t_convs=((1, 1),) * 11, i2t_pool=None),
        dict(leff_kernel=1001),
    ):
        with pytest.raises(ValueError, match=r"(i2t_convs|i2t_pool|leff_kernel) (is|has) "):
            CeiTConfig(**{"width": 64, "i2t_channels": 1, **options})


def test_pixels_of_a_feature_are_the_product_of_all_strides():
    def stride(**options):
        return CeiTConfig(**{"width": 64, "patch_size": 36, "image_size": 72, **options}).i2t_stride

    assert stride() == 4
    assert stride(i2t_convs=((3, 3), (5, 2))) == 12
    assert stride(i2t_convs=((3, 3), (5, 2)), i2t_pool=None) == 6
    assert stride(i2t_convs=()) == 1  # nor is there a pool


def test_config_survives_json():
    config = CeiTConfig(**{**TINY, "i2t_convs": [[3, 2], [3, 2]], "i2t_pool": None})
    assert config.i2t_convs == ((3, 2), (3, 2)) and hash(config)
    assert CeiTConfig(**json.loads(json.dumps(vars(config)))) == config


@BOTH
def test_copies_and_pickles_compute_the_same(make):
    model, x = make(), images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


@BOTH
def test_low_precision(make):
    model, x = make(), images(48, 48)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        model.float()(x.float()).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - expected).norm() < 0.1 * expected.norm()


@BOTH
def test_fused_copies_compute_the_same(make):
    model, x = make().float(), images().float()
    with torch.no_grad():
        assert difference(fuse(model)(x), model(x)) < 1e-4


@BOTH
def test_no_graph_breaks(make):
    model, x = make(), images(40, 48)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert difference(compiled(x), model(x)) < 1e-9


@BOTH
def test_export(make):
    model, x = make(), images()
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(model, (x,), dynamic_shapes=(batch,))
    more = images(batch=3)
    assert difference(program.module()(more), model(more)) < 1e-9


# Bad input --------------------------------------------------------------------------------


def bad(message, **options):
    return pytest.param(lambda: create_model("ceit_tiny", **options), message, id=message[:30])


@pytest.mark.parametrize(
    "call, message",
    [
        bad("unknown option 'heads'; choose from width, ", heads=3),
        bad("i2t_channels is 0; it must be a positive integer", i2t_channels=0),
        bad(r"i2t_convs has \(4, 2\); a window is \(kernel, stride\)", i2t_convs=((4, 2),)),
        bad(r"i2t_convs has 7; a window is \(kernel, stride\)", i2t_convs=(7, 2)),
        bad("i2t_convs has None; a window is", i2t_convs=(None,)),
        bad("i2t_convs is None; it must be a sequence of", i2t_convs=None),
        bad(r"i2t_pool has \(3, 0\); a window is \(kernel, stride\)", i2t_pool=(3, 0)),
        bad("patch_size 16 is not a multiple of the stride 6", i2t_convs=((7, 3),)),
        bad("leff_kernel is 2; it must be odd, or 0", leff_kernel=2),
        bad("leff_kernel is -1; it must be odd, or 0", leff_kernel=-1),
        bad("leff_kernel is '3'; it must be odd, or 0", leff_kernel="3"),
        bad("last_leff is False, but .* no LeFF to drop", last_leff=False, leff_kernel=0),
        bad("image size 230×230 .* multiples of 16", image_size=230),
        bad("width 192 .* multiple of head_dim 50", head_dim=50),
        pytest.param(lambda: tiny()(images(32, 44)), "32×44 .* multiples of 8", id="size"),
        pytest.param(lambda: tiny()(images()[0]), r"\(batch, 3, height, width\)", id="rank"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# The training command ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_pico", "ceit_pico"])
def test_training_starts_from_a_checkpoint_of_another_size(name, tmp_path):
    small = dict(width=16, head_dim=8, depth=2)
    options = [f"{key}={value}" for key, value in small.items()]
    arguments = ["--model", name, "--options", *options, "--steps", "2", "--batch-size", "4"]
    assert main(["digits", *arguments, "--output", str(tmp_path)]) == 0
    folder = tmp_path / "network"
    options = dict(in_channels=1, num_classes=10, image_size=(24, 40))
    model = create_model(name, **small, **options)
    assert load_weights(model, folder)
    old = load(folder)
    assert model.embedding.positions.shape == (16, 6, 10) != old.embedding.positions.shape
    x = torch.randn(2, 1, 24, 40)
    assert torch.allclose(model.eval()(x), old(x), atol=1e-5)
