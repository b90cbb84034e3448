"""Logits, features and gradients equal timm's coatnet_0..2_224 with the same weights."""

import pytest
import torch

from benchmarks.peers import load_timm
from coatnet_mini import create_model
from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import TransformerBlock
from tests.helpers import count, difference
from tests.timm_weights import TIMM_CHOICES, convert, create_pair


@pytest.mark.parametrize("number", [0, 1, 2])
def test_logits_and_features_equal(number):
    peer, ours = create_pair(number)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = peer.forward_features(images)
        logits = peer.forward_head(features)
        assert logits.std() > 0.1  # logits that say something
        assert difference(ours(images), logits) < 1e-4
        if number == 0:
            assert difference(ours.forward_features(images), features) < 1e-4


def test_gradients_equal_in_training_mode():
    peer, ours = create_pair(0, 64)
    peer.double().train(), ours.double().train()
    images, labels = torch.randn(4, 3, 64, 64).double(), torch.randint(1000, (4,))
    for model in (peer, ours):
        torch.nn.functional.cross_entropy(model(images), labels).backward()
    gradients = {name: p.grad for name, p in peer.named_parameters()}
    expected = convert(gradients, ours)
    assert set(expected) == {name for name, _ in ours.named_parameters()}
    for name, p in ours.named_parameters():
        assert difference(p.grad, expected[name]) < 1e-9, name
    assert ours.head.norm.weight.grad.abs().max() > 1e-3  # gradients that say something
    statistics = convert(peer.state_dict(), ours)
    for name, buffer in ours.named_buffers():
        assert difference(buffer, statistics[name]) < 1e-9, name


def test_transformer_blocks_equal():
    """Block by block: each Transformer block of S3 and S4, fed with its own random grid."""
    peer, ours = create_pair(0, 64)
    for stage in (2, 3):
        theirs, blocks = peer.stages[stage].blocks, ours.stages[f"S{stage + 1}"]
        assert len(theirs) == len(blocks)
        for their_block, block in zip(theirs, blocks, strict=True):
            H, W = (block.stride * side for side in block.attention.grid)
            x = torch.randn(2, block.norm.normalized_shape[0], H, W)
            with torch.no_grad():
                y = their_block(x)
                assert difference(block(x), y) < 1e-5
                change = difference(block.shortcut(x), y)
            assert change > 0.1  # a block that says something


def flipped(ours):
    """A table read by key minus query."""
    for module in ours.modules():
        if isinstance(module, MultiHeadAttention):
            module.relative_bias_table.data = module.relative_bias_table.data.flip(1, 2)


def heads_not_reordered(ours):
    for module in ours.modules():
        if isinstance(module, MultiHeadAttention):
            weight = module.qkv.weight.data
            module.qkv.weight.data = weight.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)


def max_pool(ours):
    for module in ours.modules():
        if isinstance(module, TransformerBlock) and module.stride == 2:
            module.pool = torch.nn.MaxPool2d(2)


@pytest.mark.parametrize("mistake", [flipped, heads_not_reordered, max_pool])
def test_mistakes_show(mistake):
    peer, ours = create_pair(0, 64)
    mistake(ours)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert difference(ours(images), peer(images)) > 1e-3


def test_parameters_equal():
    with torch.device("meta"):
        for number in range(5):
            ours = create_model(f"coatnet_{number}", **TIMM_CHOICES)
            peer = load_timm().create_model(f"coatnet_{number}_224")
            assert count(ours) == count(peer)
