"""The study `ceit`: what CeiT's three parts do for a ViT (chapter 16).

All eight combinations of Image-to-Tokens, LeFF and LCA, from DeiT's network, with none, to CeiT,
with all; a wider DeiT with CeiT's parameters; and a CoAtNet within 5 % of CeiT's parameters and
multiply-adds, at scale gpu 8 % (`tests/test_studies.py`). DeiT's distillation is no part of it.

Equal for all arms: pictures, steps, batches and rate, not seconds. Parameters are equal, within
5 %, for CeiT, the wider DeiT (whose multiply-adds are a quarter more) and the CoAtNet.
"""

from dataclasses import replace
from itertools import compress, product

from coatnet_mini.studies.plans import Plan, Planned, options_of
from coatnet_mini.train.recipe import Recipe

QUESTION = (
    "What do Image-to-Tokens, LeFF and LCA each do for a ViT, alone, together and left out, and "
    "does CeiT learn sooner than DeiT's network (without distillation) on an equal budget? {}"
)
NETWORK = {
    "small": "100 digits of 16×16 pixels in patches of 4×4, four blocks of width 48.",
    "gpu": "10,000 shapes of 32×32 pixels in patches of 4×4, twelve blocks of CeiT-T's width.",
}
PILOTED = {
    "small": (
        "One seed (100, not in the study), judged by the study's own held-out digits. Rejected: "
        "300 digits, 400 steps of 32: CeiT 96.3 %, DeiT 92.0 %, too near the top. Two pilots were "
        "stopped before their end, too slow on a busy machine, among them `shapes`, CeiT 28 % "
        "after 75 steps. Taken: 100 digits, 240 steps of 16. Learning rate 0.001: DeiT 62.8 %, "
        "CeiT 89.5 %; 0.002: 64.6 and 90.2 %; 0.004: 67.3 and 88.1 %. So 0.002 for all. The other "
        "arms were not tried."
    ),
    "gpu": "Nothing.",
}
PARTS = ("I2T", "LeFF", "LCA")
OFF = {"I2T": "i2t_convs=[]", "LeFF": "leff_kernel=0", "LCA": "lca=false"}
WIDER, COATNET = "DeiT, wider", "CoAtNet"
SIZES = {  # width, head_dim, depth; and of the wider DeiT, which has CeiT's parameters
    "small": {"CeiT": (48, 16, 4), WIDER: (56, 14, 4)},
    "gpu": {"CeiT": (192, 64, 12), WIDER: (204, 68, 12)},
}
STAGES = {
    "small": (("S", 2, 8, 1), ("C", 2, 24, 2), ("C", 2, 32, 2), ("T", 2, 48, 1), ("T", 2, 48, 2)),
    "gpu": (
        ("S", 2, 32, 1),
        ("C", 2, 80, 2),
        ("C", 4, 144, 2),
        ("T", 6, 224, 1),
        ("T", 2, 256, 2),
    ),
}
HEAD_DIM = {"small": 16, "gpu": 32}  # of the CoAtNet
RECIPES = {
    "small": Recipe(
        image_size=16,
        channels=1,
        train_images=100,
        steps=240,
        batch_size=16,
        lr=2e-3,
        warmup_steps=30,
        weight_decay=0.0,
        label_smoothing=0.0,
        drop_path=0.0,
        evaluate_every=30,
        log_every=15,
        checkpoint_every=120,
        tensorboard=False,
        device="cpu",
    ),
    "gpu": Recipe(
        data="shapes",
        train_images=10_000,
        steps=5000,
        batch_size=256,
        lr=1e-3,
        warmup_steps=500,
        label_smoothing=0.0,
        drop_path=0.0,
        precision="bf16",
        evaluate_every=500,
        log_every=100,
        checkpoint_every=500,
        tensorboard=False,
    ),
}
CHANNELS = {"small": 16, "gpu": 32}  # of I2T: a 3×3 convolution at stride 1, a pool at stride 2
SEEDS = range(5)


def arm_of(parts: tuple[str, ...]) -> str:
    """What a combination is called: "DeiT", "I2T + LCA", "CeiT"."""
    if not parts or len(parts) == len(PARTS):
        return "CeiT" if parts else "DeiT"
    return " + ".join(parts)


COMBINATIONS = {
    arm_of(parts): parts
    for on in product((False, True), repeat=len(PARTS))
    for parts in [tuple(compress(PARTS, on))]
}
ARMS = (*COMBINATIONS, WIDER, COATNET)


def plan(scale: str) -> Plan:
    runs = tuple(planned(scale, arm, seed) for seed, arm in product(SEEDS, ARMS))
    return Plan("ceit", scale, QUESTION.format(NETWORK[scale]), PILOTED[scale], runs)


def planned(scale: str, arm: str, seed: int) -> Planned:
    recipe = replace(RECIPES[scale], **network(scale, arm), seed=seed)
    return Planned({"arm": arm, "seed": seed}, recipe)


def network(scale: str, arm: str) -> dict:
    """The fields of a recipe that say which network it trains."""
    if arm == COATNET:
        options = options_of(stages=STAGES[scale], head_dim=HEAD_DIM[scale])
        return {"model": "coatnet_pico", "options": options}
    width, head_dim, depth = SIZES[scale].get(arm, SIZES[scale]["CeiT"])
    options = [f"width={width}", f"head_dim={head_dim}", f"depth={depth}"]
    parts = COMBINATIONS.get(arm, ())
    if "I2T" in parts:
        options.append(f"i2t_channels={CHANNELS[scale]}")
    options += [OFF[part] for part in PARTS if part not in parts]
    return {"model": "ceit_pico", "options": tuple(options)}
