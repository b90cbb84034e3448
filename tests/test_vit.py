"""vit.py against timm, loops and hand computation; each check is shown to fail on a mistake."""

import copy
import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import load_timm
from coatnet_mini import create_model
from coatnet_mini.blocks import StochasticDepth, as_tokens
from coatnet_mini.vit import (
    EncoderBlock,
    TokenEmbedding,
    ViT,
    ViTConfig,
    make_block,
    resize_positions,
)
from tests.helpers import count, difference, on_meta, shaken

PARAMETERS = {"vit_tiny": 5_717_416, "vit_small": 22_050_664, "vit_base": 86_567_656}
TIMM = {"vit_tiny": "deit_tiny", "vit_small": "deit_small", "vit_base": "deit_base"}
NAMES = {
    "patch_embed.proj": "stem",
    "norm1": "norm",
    "norm2": "mlp_norm",
    "attn": "attention",
    "attn.proj": "attention.out",
    "fc1": "expand",
    "fc2": "project",
    "norm": "head.norm",
    "head": "head.classifier",
}
TINY = dict(width=12, depth=3, head_dim=4, patch_size=8, num_classes=5, image_size=(32, 48))


def tiny(**options):
    return shaken(ViT(ViTConfig(**{**TINY, **options})))


# Equality with timm -----------------------------------------------------------------------


def convert(state, grid):
    """timm's state dict under our names and in our shapes."""
    new = {"embedding.class_token": state["cls_token"][0, 0]}
    new["embedding.class_position"] = state["pos_embed"][0, 0]
    new["embedding.positions"] = state["pos_embed"][0, 1:].T.unflatten(1, grid)
    for name, tensor in state.items():
        if name in ("cls_token", "pos_embed"):
            continue
        path, _, leaf = name.rpartition(".")
        if path.startswith("blocks."):
            block, inside = path.split(".", 2)[1:]
            ours = NAMES.get(inside) or ".".join(NAMES.get(p, p) for p in inside.split("."))
            path = f"blocks.{block}.{ours}"
        else:
            path = NAMES[path]
        new[f"{path}.{leaf}"] = tensor
    return new


@pytest.mark.parametrize("name", ["vit_tiny", "vit_small"])
def test_logits_equal_timms(name):
    with torch.device("meta"):  # timm's own initial weights take seconds to draw
        peer = load_timm().create_model(f"{TIMM[name]}_patch16_224")
    peer = peer.to_empty(device="cpu").eval()
    for n, p in peer.named_parameters():
        spread = p.shape[-1] ** -0.5 if n.endswith("weight") and p.ndim == 2 else 0.2
        nn.init.normal_(p, mean=float("norm" in n and n.endswith("weight")), std=spread)
    ours = on_meta(name).eval()
    ours.load_state_dict(convert(peer.state_dict(), (14, 14)), assign=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = peer(images)
        assert expected.std() > 0.1  # logits that say something
        assert difference(ours(images), expected) < 1e-5 * expected.abs().max()


def small_pair():
    options = dict(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=3, num_classes=5)
    peer = shaken(load_timm().models.VisionTransformer(**options))
    ours = ViT(ViTConfig(**{**TINY, "image_size": 32})).double()
    ours.load_state_dict(convert(peer.state_dict(), (4, 4)))
    return peer, ours


def test_features_and_gradients_equal_timms_in_float64():
    peer, ours = small_pair()
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.randint(5, (4,))
    for model in (peer, ours):
        F.cross_entropy(model(images), labels).backward()
    assert difference(ours(images), peer(images)) < 1e-12
    features = ours.head.norm(as_tokens(ours.forward_features(images)))
    assert difference(features, peer.forward_features(images)[:, 1:]) < 1e-12
    expected = convert({n: p.grad for n, p in peer.named_parameters()}, (4, 4))
    assert set(expected) == {n for n, _ in ours.named_parameters()}
    for name, p in ours.named_parameters():
        assert difference(p.grad, expected[name]) < 1e-12, name


def positions_transposed(ours):
    ours.embedding.positions.data = ours.embedding.positions.data.mT


def class_token_without_position(ours):
    nn.init.zeros_(ours.embedding.class_position)


def heads_taken_in_another_order(ours):
    for block in ours.blocks:
        weight = block.attention.qkv.weight.data.unflatten(0, (3, 3, 4))
        block.attention.qkv.weight.data = weight.transpose(0, 1).flatten(0, 2)


def another_eps(ours):
    ours.blocks[0].norm.eps = 1e-3


@pytest.mark.parametrize(
    "mistake",
    [positions_transposed, class_token_without_position, heads_taken_in_another_order, another_eps],
)
def test_mistakes_show_beside_timm(mistake):
    peer, ours = small_pair()
    mistake(ours)
    images = torch.randn(2, 3, 32, 32).double()
    assert difference(ours(images), peer(images)) > 1e-4


# Counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_timms_and_the_published_ones(name):
    with torch.device("meta"):
        peer = load_timm().create_model(f"{TIMM[name]}_patch16_224")
    assert count(on_meta(name)) == count(peer) == PARAMETERS[name]
    published = {"vit_tiny": 5.7, "vit_small": 22, "vit_base": 86}[name]
    assert PARAMETERS[name] / 1e6 == pytest.approx(published, rel=0.01)
    heads = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12}[name]
    assert [b.attention.heads for b in on_meta(name).blocks] == [heads] * 12


# The parts, by hand -----------------------------------------------------------------------


def test_embedding_by_a_loop():
    embedding = shaken(TokenEmbedding(2, (2, 3)))
    x = torch.randn(2, 2, 2, 3).double()
    tokens = embedding(x)
    assert tokens.shape == (2, 7, 2)
    for b in range(2):
        first = embedding.class_token + embedding.class_position
        assert difference(tokens[b, 0], first) < 1e-14
        for row in range(2):
            for column in range(3):
                expected = x[b, :, row, column] + embedding.positions[:, row, column]
                assert difference(tokens[b, 1 + 3 * row + column], expected) < 1e-14
    by_columns = x.permute(0, 3, 2, 1).flatten(1, 2)  # the order that a wrong reshape gives
    assert difference(by_columns, as_tokens(x)) > 0.1


def cubic(t):
    """The weight of a sample at distance t, Keys 1981 with a = −3/4."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resize_matrix(old, new, weight):
    """(new, old): each new position as a weighted sum of old ones, the border repeated."""
    M = torch.zeros(new, old).double()
    for p in range(new):
        centre = (p + 0.5) * old / new - 0.5
        for q in range(math.floor(centre) - 1, math.floor(centre) + 3):
            M[p, min(max(q, 0), old - 1)] += weight(centre - q)
    return M


@pytest.mark.parametrize("old, new", [((4, 4), (7, 7)), ((4, 6), (6, 9)), ((5, 3), (3, 4))])
def test_positions_are_resized_by_the_bicubic_formula(old, new):
    positions = torch.randn(3, *old).double()

    def formula(weight):
        rows, columns = (resize_matrix(o, n, weight) for o, n in zip(old, new, strict=True))
        return torch.einsum("ij,djk,lk->dil", rows, positions, columns)

    resized = resize_positions(positions, *new)
    assert difference(resized, formula(cubic)) < 1e-12
    assert difference(resized, formula(lambda t: max(0.0, 1 - abs(t)))) > 1e-2  # bilinear
    assert resize_positions(positions, *old) is positions


def test_positions_are_resized_as_deit_does():
    resample = load_timm().layers.resample_abs_pos_embed
    model = tiny(image_size=32)
    flat = torch.cat([torch.zeros(1, 1, 12), as_tokens(model.embedding.positions[None])], 1)
    options = dict(new_size=[6, 5], old_size=[4, 4])
    expected = resample(flat, antialias=False, **options)[0, 1:]
    resized = as_tokens(resize_positions(model.embedding.positions, 6, 5)[None])[0]
    assert difference(resized, expected) < 1e-6  # timm resizes in float32


def layer_norm(x, norm):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def attention_loop(x, layer):
    """Multi-head attention one head and one query at a time. x (N, D)."""
    D, d = x.shape[1], layer.head_dim
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(D, -1)
    y = torch.zeros_like(x)
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(len(x)):
            weights = [math.exp(q[i, part] @ k[j, part] / math.sqrt(d)) for j in range(len(x))]
            for j, w in enumerate(weights):
                y[i, part] += w / sum(weights) * v[j, part]
    return y @ layer.out.weight.T + layer.out.bias


def mlp_by_hand(x, mlp):
    x = x @ mlp.expand.weight.T + mlp.expand.bias
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x @ mlp.project.weight.T + mlp.project.bias


@torch.no_grad()
def test_block_by_a_loop():
    block = tiny().blocks[0]
    x = torch.randn(2, 5, 12).double()
    pre, post = [], []
    for tokens in x:
        y = tokens + attention_loop(layer_norm(tokens, block.norm), block.attention)
        pre.append(y + mlp_by_hand(layer_norm(y, block.mlp_norm), block.mlp))
        y = layer_norm(tokens + attention_loop(tokens, block.attention), block.norm)
        post.append(layer_norm(y + mlp_by_hand(y, block.mlp), block.mlp_norm))
    assert difference(block(x), torch.stack(pre)) < 1e-12
    assert difference(block(x), torch.stack(post)) > 0.1


def test_logits_read_the_class_token_of_the_last_block():
    model, images = tiny(), torch.randn(2, 3, 32, 48).double()
    patches, class_tokens = model.encode(images)
    assert patches.shape == (2, 12, 4, 6) and class_tokens.shape == (2, 3, 12)
    tokens = model.embedding(model.stem(images))
    for n, block in enumerate(model.blocks):
        tokens = block(tokens)
        assert difference(class_tokens[:, n], tokens[:, 0]) < 1e-12
    assert difference(model(images), model.head(tokens[:, 0])) < 1e-12
    assert difference(model(images), model.head(tokens[:, 1:].mean(1))) > 1e-3
    assert difference(as_tokens(patches), tokens[:, 1:]) < 1e-12
    assert torch.equal(model.forward_features(images), patches)


def test_without_positions_the_order_of_patches_does_not_matter():
    model, images = tiny(), torch.randn(2, 3, 32, 48).double()
    shuffled = images.unflatten(2, (4, 8)).flip(2).flatten(2, 3)  # rows of patches upside down
    assert difference(model(shuffled), model(images)) > 1e-3
    nn.init.zeros_(model.embedding.positions)
    assert difference(model(shuffled), model(images)) < 1e-12


# Sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (8, 64), (40, 40)])
def test_other_sizes_read_the_positions_resized(size):
    model, images = tiny(), torch.randn(3, 3, *size).double()
    fitted = tiny(image_size=size)
    fitted.load_state_dict(model.state_dict())
    assert fitted.embedding.positions.shape == (12, size[0] // 8, size[1] // 8)
    assert difference(model(images), fitted(images)) < 1e-12
    alone = torch.cat([model(image[None]) for image in images])
    assert difference(model(images), alone) < 1e-12
    if size != (32, 48):
        broken = copy.deepcopy(fitted)
        broken.embedding.positions.data.zero_()  # what dropping what does not fit would give
        assert difference(broken(images), model(images)) > 1e-3


@pytest.mark.parametrize("size", [224, 256, 384, (224, 320)])
def test_published_members_at_other_sizes(size):
    model = on_meta("vit_tiny", image_size=size)
    H, W = model.config.image_size
    images = torch.empty(2, 3, H, W, device="meta")
    assert model(images).shape == (2, 1000)
    assert model.forward_features(images).shape == (2, 192, H // 16, W // 16)
    assert on_meta("vit_tiny")(images).shape == (2, 1000)


# Training ---------------------------------------------------------------------------------


def test_the_ramp_of_stochastic_depth_reaches_the_full_rate():
    model = on_meta("vit_tiny", drop_path=0.1)
    rates = [m.rate for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx(torch.linspace(0, 0.1, 12).tolist())
    assert rates != pytest.approx([0.1 * b / 12 for b in range(12)])  # CoAtNet's ramp
    assert ViTConfig(width=8, depth=1, head_dim=8, drop_path=0.5).drop_path_rates == [0]


def test_both_residuals_are_dropped_separately():
    block = shaken(make_block(ViTConfig(width=8, head_dim=4), 0.5)).train()
    x = torch.randn(64, 3, 8).double()
    y = block(x)
    kept = copy.deepcopy(block).eval()
    attended = x + 2 * kept.attention(kept.norm(x))  # what is kept is divided by 1 − rate
    outcomes = [z + s * kept.mlp(kept.mlp_norm(z)) for z in (x, attended) for s in (0, 2)]
    found = torch.stack([(y - o).abs().amax((1, 2)) < 1e-12 for o in outcomes])
    assert torch.equal(found.sum(0), torch.ones(64, dtype=torch.int64))
    assert (found.sum(1) > 4).all()  # all four combinations occur


def test_every_parameter_learns():
    model = tiny().train()
    model(torch.randn(2, 3, 32, 48).double()).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_initial_weights():
    config = ViTConfig(width=96, depth=2, head_dim=32, patch_size=8, init="normal")
    model, default = ViT(config), nn.Conv2d(3, 96, 8)
    assert model.blocks[1].mlp.expand.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.stem.weight.std().item() == pytest.approx(default.weight.std().item(), rel=0.05)
    assert model.embedding.positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))
    fan = ViT(ViTConfig(width=96, depth=2, head_dim=32))
    fan_out = 16 * 16 * 96
    assert fan.stem.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not fan.stem.bias.any()
    assert fan.blocks[1].mlp.expand.weight.std().item() == pytest.approx(
        (2 / (96 + 384)) ** 0.5, rel=0.05
    )


# Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: create_model("vit_huge"), "unknown model 'vit_huge'; choose from"),
        (lambda: create_model("vit_tiny", heads=3), "unknown option 'heads'; choose from width, "),
        (lambda: create_model("vit_tiny", head_dim=60), "width 192 .* multiple of head_dim 60"),
        (lambda: create_model("vit_tiny", depth=0), "depth is 0; it must be a positive integer"),
        (lambda: create_model("vit_tiny", width=1.5), "width is 1.5; it must be a positive int"),
        (lambda: create_model("vit_tiny", drop_path=-0.5), "drop_path is -0.5; it must be at"),
        (lambda: create_model("vit_tiny", drop_path=1.0), "drop_path is 1.0; it must be at"),
        (lambda: create_model("vit_tiny", init="zero"), "init is 'zero'; choose from fan, normal"),
        (lambda: create_model("vit_tiny", image_size=200), "image size 200×200 .* multiples of 16"),
        (lambda: create_model("vit_tiny", image_size="a"), "image_size is 'a'; it must be"),
        (lambda: tiny()(torch.zeros(1, 3, 32, 44).double()), "image size 32×44 .* multiples of 8"),
        (lambda: tiny()(torch.zeros(1, 1, 32, 48)), r"\(batch, 3, height, width\), got \(1, 1, 32"),
        (lambda: tiny()(torch.zeros(3, 32, 48)), r"\(batch, 3, height, width\), got \(3, 32, 48\)"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_configuration_is_deits_unless_told():
    assert asdict(ViTConfig(width=192)) == {
        **dict(width=192, depth=12, head_dim=64, patch_size=16, expansion=4, drop_path=0.0),
        **dict(num_classes=1000, image_size=(224, 224), in_channels=3),
        **dict(layer_norm_eps=1e-6, init="fan"),
    }
    assert asdict(on_meta("vit_pico").config) == {
        **asdict(ViTConfig(width=192)),
        **dict(width=72, depth=8, head_dim=24, patch_size=4, image_size=(32, 32)),
    }


def test_the_eps_reaches_every_norm():
    model = tiny(layer_norm_eps=0.02)
    norms = [module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms == [0.02] * (2 * 3 + 1)


def test_a_network_of_one_block_and_of_another_expansion():
    model = tiny(depth=1, expansion=2, drop_path=0.5)
    assert model.blocks[0].mlp.expand.out_features == 24
    assert model.blocks[0].drop_path.rate == 0
    assert model(torch.randn(2, 3, 32, 48).double()).shape == (2, 5)


def test_every_part_of_the_embedding_starts_small():
    embedding = TokenEmbedding(4000, (2, 2))
    for part in (embedding.class_token, embedding.class_position, embedding.positions):
        assert part.std().item() == pytest.approx(0.02, rel=0.1)


def test_positions_that_are_no_grid_are_not_resized():
    state = tiny().state_dict()
    state["embedding.positions"] = torch.zeros(12, 24)
    with pytest.raises(RuntimeError, match=r"size mismatch for embedding\.positions"):
        tiny().load_state_dict(state)
    del state["embedding.positions"]
    with pytest.raises(RuntimeError, match=r"Missing key.*embedding\.positions"):
        tiny().load_state_dict(state)


def test_another_width_is_not_resized_away():
    with pytest.raises(RuntimeError, match="size mismatch for embedding"):
        tiny().load_state_dict(tiny(width=8).state_dict())


def test_blocks_take_any_attention_and_mlp():
    block = EncoderBlock(4, nn.Identity(), nn.Identity())
    x = torch.randn(2, 3, 4)
    y = x + F.layer_norm(x, (4,), eps=1e-6)
    assert difference(block(x), y + F.layer_norm(y, (4,), eps=1e-6)) < 1e-6
