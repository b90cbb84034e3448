"""The study `locality`: does attention learn by itself to look near (chapter 15)?

Two networks of nearly one size read digits. Both attend twice, over the same grid; in the one,
convolutions have looked near before that, in the other, nothing has.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from coatnet_mini.checkpoint import load
from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig
from coatnet_mini.images import digit_images, normalize
from coatnet_mini.inside import half_distance
from coatnet_mini.studies.plans import Plan, Planned, options_of
from coatnet_mini.train.recipe import Recipe

QUESTION = (
    "Within which distance does half of the weight of attention lie after training, and before, "
    "with convolutions before it and without; and what are the tables of biases worth?"
)
PILOTED = {
    "small": (
        "One seed (100, not in the study), 300 steps of 32: with convolutions 98.5 % held out, "
        "with patches 48.6 % and still rising. So both have three times as many steps."
    ),
    "gpu": "Nothing.",
}
ARMS = {  # kind, depth, width, stride: grids of 8×8 positions
    "small": {
        "convolutions": (("S", 2, 16, 1), ("C", 2, 32, 2), ("T", 2, 48, 1)),
        "patches": (("P", 1, 48, 2), ("T", 2, 48, 1)),
    },
    "gpu": {
        "convolutions": (("S", 2, 24, 2), ("C", 2, 48, 2), ("T", 4, 96, 1)),
        "patches": (("P", 1, 96, 4), ("T", 4, 96, 1)),
    },
}
SMALL = Recipe(
    image_size=16,
    channels=1,
    steps=900,
    batch_size=32,
    lr=2e-3,
    warmup_steps=90,
    rotate=10.0,
    translate=0.08,
    zoom=0.1,
    label_smoothing=0.1,
    drop_path=0.0,
    evaluate_every=300,
    log_every=50,
    checkpoint_every=900,
    tensorboard=False,
    device="cpu",
    threads=1,
)
RECIPES = {
    "small": SMALL,
    "gpu": replace(
        SMALL, image_size=32, steps=3000, warmup_steps=300, evaluate_every=500, device="auto"
    ),
}
SEEDS = range(3)


def plan(scale: str) -> Plan:
    runs = tuple(planned(scale, arm, seed) for seed, arm in product(SEEDS, ARMS[scale]))
    return Plan("locality", scale, QUESTION, PILOTED[scale], runs)


def planned(scale: str, arm: str, seed: int) -> Planned:
    options = options_of(stages=ARMS[scale][arm], head_dim=16)
    recipe = replace(RECIPES[scale], options=options, seed=seed)
    return Planned({"before": arm, "seed": seed}, recipe, measure=partial(measured, seed))


def measured(seed: int, network: Path) -> dict[str, float]:
    """Half distances by layer, after training and before; the accuracy without tables."""
    trained = load(network).eval()
    new = untrained(seed, trained.config)
    held_out = digit_images(trained.config.image_size[0])[1]
    images = normalize(held_out.images)
    found = {f"{kind}_{n}": r for n, kind, r in halves(trained, images)}
    found |= {f"new_{kind}_{n}": r for n, kind, r in halves(new, images)}
    with torch.inference_mode():
        for layer in tables(trained):
            layer.relative_bias_table.zero_()
        right = trained(images).argmax(1) == held_out.labels
    return found | {"without_tables": right.double().mean().item()}


def untrained(seed: int, config: CoAtNetConfig) -> CoAtNet:
    """The network that a run of this seed starts from: the weights are the first that it draws."""
    torch.manual_seed(seed)
    return CoAtNet(config).eval()


def tables(network) -> list:
    return [m for m in network.modules() if hasattr(m, "relative_bias_table")]


@torch.inference_mode()
def halves(network, images) -> list[tuple[int, str, float]]:
    """(layer, what, mean half distance) of the weights, of the content and of the table alone."""
    found = []
    maps = network.attention_maps(images)
    for n, (layer, A) in enumerate(zip(tables(network), maps.values(), strict=True), 1):
        B = layer.bias()
        kinds = {"weights": A, "content": (A.log() - B).softmax(-1), "table": B.softmax(-1)}
        for kind, weights in kinds.items():
            found.append((n, kind, half_distance(weights, *layer.grid).mean().item()))
    return found
