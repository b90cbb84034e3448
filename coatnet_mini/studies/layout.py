"""The study `layout`: in which order should convolution and attention be stacked (chapter 10)?

Five layouts of nearly the same parameters and multiply-adds: the largest is at most 5 % above the
least, at scale gpu 15 % (`tests/test_studies.py`). As in Section 2.2 of the paper they are trained
without augmentation and regularisation.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import PIL.Image
import torch

from coatnet_mini.checkpoint import load
from coatnet_mini.images import fit, normalize
from coatnet_mini.shapes import RELATIONS, SHAPES_TEST, shapes
from coatnet_mini.studies.plans import Plan, Planned, key_of, options_of
from coatnet_mini.train.recipe import Recipe

QUESTION = (
    "Which order of convolution (C) and attention (T) generalises from few images, which has the "
    "capacity for many, and which of the best two transfers better? The paper's Section 2.2 on "
    "images of two shapes, whose class is a texture, which is near, and a relation, which is far."
)
PILOTED = {
    "small": (
        "Sixteen classes of `shapes`, 400 steps of 64, one seed, with larger networks: "
        "coatnet_pico (CCTT, 0.69 M parameters) 29.9 % held out after 500 images and 93.8 % after "
        "2,000; vit_pico (absolute positions) 13.2 % and 16.3 %; chance is 6.3 %. So the question "
        "is open there. These networks are a quarter as large, and have 500 steps."
    ),
    "gpu": "Nothing.",
}
STAGES = {  # kind, depth, width, stride: 0.155 to 0.161 M parameters, 11.1 to 11.6 M multiply-adds
    "ViT_REL": (("P", 1, 64, 4), ("T", 3, 64, 1)),
    "CCCC": (("S", 2, 16, 1), ("C", 2, 24, 2), ("C", 3, 32, 2), ("C", 3, 48, 1), ("C", 1, 48, 2)),
    "CCCT": (("S", 2, 16, 1), ("C", 2, 24, 2), ("C", 3, 32, 2), ("C", 3, 48, 1), ("T", 1, 48, 2)),
    "CCTT": (("S", 2, 16, 1), ("C", 1, 24, 2), ("C", 3, 32, 2), ("T", 2, 48, 1), ("T", 2, 48, 2)),
    "CTTT": (("S", 2, 16, 1), ("C", 2, 24, 2), ("T", 2, 32, 2), ("T", 1, 48, 1), ("T", 3, 48, 2)),
}
LAYOUTS = tuple(STAGES)
SMALL = Recipe(
    data="shapes",
    steps=500,
    batch_size=64,
    lr=2e-3,
    warmup_steps=100,
    weight_decay=0.0,
    label_smoothing=0.0,
    drop_path=0.0,
    evaluate_every=100,
    log_every=25,
    checkpoint_every=100,
    tensorboard=False,
    device="cpu",
)
RECIPES = {
    "small": SMALL,
    # CoAtNet-0's size; images of 128 pixels, so that the last grid, at 1/32, has 4×4 positions.
    "gpu": replace(
        SMALL,
        image_size=128,
        steps=5000,
        batch_size=256,
        lr=1e-3,
        warmup_steps=500,
        evaluate_every=500,
        log_every=50,
        checkpoint_every=500,
        precision="bf16",
        device="auto",
    ),
}
IMAGES = {"small": (500, 2000, 8000), "gpu": (2_000, 10_000, 100_000)}
SEEDS = range(3)
TRANSFER_IMAGES, TRANSFER_STEPS = 100, 100  # digits, another task: few, so that the start matters


def plan(scale: str) -> Plan:
    runs = tuple(
        planned(scale, layout, images, seed)
        for seed, images, layout in product(SEEDS, IMAGES[scale], LAYOUTS)
    )
    return Plan("layout", scale, QUESTION, PILOTED[scale], runs, lambda rows: transfer(scale, rows))


def network(scale: str, layout: str) -> dict:
    """The fields of a recipe that say which network it trains."""
    if scale == "gpu":
        name = "vit_rel" if layout == "ViT_REL" else f"coatnet_{layout.lower()}"
        return {"model": name}
    return {"model": "coatnet_pico", "options": options_of(stages=STAGES[layout], head_dim=16)}


def cell_of(task: str, layout: str, images: int, start: str, seed: int) -> dict:
    return {"task": task, "layout": layout, "images": images, "start": start, "seed": seed}


def planned(scale: str, layout: str, images: int, seed: int) -> Planned:
    recipe = replace(RECIPES[scale], **network(scale, layout), train_images=images, seed=seed)
    cell = cell_of("shapes", layout, images, "new", seed)
    most = images == max(IMAGES[scale])
    size = RECIPES[scale].image_size
    return Planned(cell, recipe, keep=most, measure=partial(halves, size) if most else None)


def halves(size: int, network: Path) -> dict[str, float]:
    """The shares of the held-out images whose texture and whose relation are read right."""
    model, (images, labels) = load(network).eval(), shapes(SHAPES_TEST, "test")
    fitted = [fit(PIL.Image.fromarray(image.transpose(1, 2, 0)), size, 3) for image in images]
    batches = normalize(torch.from_numpy(np.stack(fitted))).split(250)
    with torch.inference_mode():
        found = torch.cat([model(batch).argmax(1) for batch in batches]).numpy()
    right = {"texture": found // len(RELATIONS) == labels // len(RELATIONS)}
    right["relation"] = found % len(RELATIONS) == labels % len(RELATIONS)
    return {name: float(those.mean()) for name, those in right.items()}


def transfer(scale: str, rows: list[dict]) -> tuple[Planned, ...]:
    """The two layouts that did best on the most images, on digits: from there, and from new."""
    most = max(IMAGES[scale])
    reached = {
        layout: mean(r["accuracy"] for r in rows if (r["layout"], r["images"]) == (layout, most))
        for layout in LAYOUTS
    }
    best = sorted(LAYOUTS, key=reached.get, reverse=True)[:2]
    runs = product(SEEDS, best, ("shapes", "new"))
    return tuple(transferred(scale, layout, start, seed) for seed, layout, start in runs)


def transferred(scale: str, layout: str, start: str, seed: int) -> Planned:
    recipe = replace(
        planned(scale, layout, max(IMAGES[scale]), seed).recipe,
        data="digits",
        train_images=TRANSFER_IMAGES,
        steps=TRANSFER_STEPS,
        batch_size=25,
        warmup_steps=20,
        evaluate_every=20,
        log_every=10,
        checkpoint_every=50,
    )
    cell = cell_of("digits", layout, TRANSFER_IMAGES, start, seed)
    trained = key_of(cell_of("shapes", layout, max(IMAGES[scale]), "new", seed))

    def stored(study_folder: Path, folder: Path) -> Path:
        return study_folder / "networks" / trained

    return Planned(cell, recipe, stored if start == "shapes" else None)
