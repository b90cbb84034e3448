"""The study `bias`: no relative bias, one before the softmax, one after it (chapter 5).

Every pixel is a token, and nothing comes before the attention, so that the bias is all that a
network knows of places: without it, it can tell no picture from the same pixels shuffled.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.checkpoint import save_network
from coatnet_mini.models import create_model
from coatnet_mini.studies.plans import Plan, Planned, options_of
from coatnet_mini.train.recipe import Recipe

TIMES = 50  # N(0, 0.02²) becomes N(0, 1)
ENLARGED = f"pre, table ×{TIMES}"
FORMS = {"none": "none", "pre": "pre", "post": "post", ENLARGED: "pre"}
QUESTION = (
    "Where should the kernel go, before or after the softmax, when it is all that a network knows "
    "of places? {} Tables are drawn from N(0, 0.02²), as everywhere in this book; in one more arm, "
    "before the softmax, the same draw is 50 times as large, so that it starts at the scale of a "
    "score."
)
NETWORK = {
    "small": "Digits of 8×8 pixels, every pixel a token, two Transformer blocks, no convolution.",
    "gpu": "Shapes of 32×32 pixels, patches of 2×2, six Transformer blocks, no convolution.",
}
PILOTED = (
    "One seed (100, not in the study), 600 steps unless said. Rejected: `shapes` in patches of 4 "
    "(4,000 images, 400 steps: none 14.6 %, pre 8.8 %, chance 6.3 %); digits at random places of a "
    "16×16 canvas in patches of 2 (1,000 images, 800 steps: none 39.0 %, pre 39.1 %; places in "
    "step with the patches, 1,198 images: none 66.6 %, pre 65.7 %). Taken: every pixel a token, "
    "1,198 images, lr 0.003: none 27.9 %, pre 61.4 %, post 97.3 %; 300 images: pre 72.5 %. "
    "Learning rate 0.006: pre 42.7 %, post 95.8 %, so 0.003 for all. Since pre was slow: 1,200 "
    "steps, 89.6 %; 600 steps with its table 50 times as large, 89.0 %, which became an arm. Then "
    "the recipe was fixed, with 1,000 steps."
)
STAGES = {
    "small": (("P", 1, 48, 1), ("T", 2, 48, 1)),
    "gpu": (("P", 1, 192, 2), ("T", 6, 192, 1)),
}
RECIPES = {
    "small": Recipe(
        image_size=8,
        channels=1,
        steps=1000,
        batch_size=32,
        lr=3e-3,
        warmup_steps=50,
        label_smoothing=0.0,
        evaluate_every=100,
        log_every=50,
        checkpoint_every=250,
        tensorboard=False,
        device="cpu",
    ),
    # Texture and relation in patches of 2×2 pixels: 256 tokens, and as many images as one wants.
    "gpu": Recipe(
        data="shapes",
        steps=10_000,
        batch_size=256,
        lr=1e-3,
        warmup_steps=500,
        label_smoothing=0.0,
        precision="bf16",
        evaluate_every=500,
        log_every=100,
        checkpoint_every=500,
        tensorboard=False,
    ),
}
IMAGES = {"small": (300, 1198), "gpu": (10_000, 100_000)}
CLASSES = {"digits": 10, "shapes": 16}
HEAD_DIM = {"small": 16, "gpu": 32}
SEEDS = range(5)


def plan(scale: str) -> Plan:
    cells = sorted(product(SEEDS, IMAGES[scale], FORMS), key=lambda cell: cell[2] == ENLARGED)
    runs = tuple(planned(scale, form, images, seed) for seed, images, form in cells)
    piloted = PILOTED if scale == "small" else "Nothing."
    return Plan("bias", scale, QUESTION.format(NETWORK[scale]), piloted, runs)


def planned(scale: str, form: str, images: int, seed: int) -> Planned:
    options = options_of(stages=STAGES[scale], head_dim=HEAD_DIM[scale], relative_bias=FORMS[form])
    recipe = replace(
        RECIPES[scale],
        options=options,
        train_images=images,
        seed=seed,
    )
    cell = {"form": form, "images": images, "seed": seed}
    start = partial(drawn, recipe, TIMES) if form == ENLARGED else None
    return Planned(cell, recipe, start)


def drawn(recipe: Recipe, times: float, study_folder: Path, folder: Path) -> Path:
    """The weights that the recipe would start from, but for the tables, which are larger."""
    torch.manual_seed(recipe.seed)
    fields = {"num_classes": CLASSES[recipe.data], **recipe.overrides()}
    model = create_model(
        recipe.model, image_size=recipe.image_size, in_channels=recipe.channels, **fields
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                module.relative_bias_table.mul_(times)
    save_network(folder / "start", model.state_dict(), model.config)
    return folder / "start"
