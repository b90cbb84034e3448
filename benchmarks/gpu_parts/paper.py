"""The paper's recipe at full size: CoAtNet-0 at 224 pixels, batches of 4096, for 20 steps.

The images are random and lie on the device, so reading and decoding are no part of the time;
augmentation, MixUp, the running average and the optimizer are.
"""

import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import cycle

import torch

from benchmarks.gpu_parts.bare import OneProcess
from benchmarks.gpu_parts.job import Job, free, is_out_of_memory, missing, words
from coatnet_mini.train.learner import Learner
from coatnet_mini.train.recipe import PRESETS, Recipe

STEPS = 20
IMAGES, EPOCHS, CLASSES = 1_281_167, 300, 1000  # ImageNet-1K
EMA = 0.9999  # the paper's, in fine-tuning; in pre-training it has none
PIECE, GB_AN_IMAGE = 256, 0.25  # images at once, where there is memory
SQUARE_OF_CROPS = 8 / 7  # as the training command has it
TOY_FIELDS = {
    **{"model": "coatnet_pico", "image_size": 32, "batch_size": 16, "device": "cpu"},
    "compile": False,
}


def run(job: Job) -> None:
    recipe = replace(PRESETS["imagenet1k"], ema=EMA, compile=True)
    job.note(f"A running average of decay {EMA} is added, which the paper has in fine-tuning only.")
    if job.toy:
        recipe = replace(recipe, **TOY_FIELDS)
        job.note("At toy size nothing is compiled.")
    if lacking := missing("kornia.augmentation"):
        recipe = replace(recipe, crop_scale=1.0, flip=False, rand_augment_layers=0)
        job.note(f"{lacking} is not installed: no RandAugment, crops, mirror images.")
    if lacking := missing("coatnet_mini.train.machine"):
        job.note(f"{lacking} is not installed: the learner ran without accelerate, alone.")
    piece = piece_of(job, recipe)
    while True:
        try:
            return measure(job, replace(recipe, accumulate=recipe.batch_size // piece), lacking)
        except Exception as error:
            if is_out_of_memory(error) and piece > 8:
                piece //= 2
            elif recipe.compile:
                recipe = replace(recipe, compile=False)
                job.note(f"Compiled, it failed ({words(error)}); so it ran eagerly.")
            else:
                raise
        free()


def piece_of(job: Job, recipe: Recipe) -> int:
    """Images at once: as many as the device should have memory for, a power of two."""
    if job.toy:
        return recipe.batch_size // 2
    memory = torch.cuda.get_device_properties(job.device).total_memory / 1e9
    piece = PIECE
    while piece > 8 and piece * GB_AN_IMAGE > 0.8 * memory:
        piece //= 2
    return piece


def measure(job: Job, recipe: Recipe, alone: str | None) -> None:
    """Up to 20 steps after a first one, in which what is compiled is; a row that grows."""
    with accelerator(job, recipe, alone) as machine:
        learner = Learner(recipe, CLASSES, EPOCHS * IMAGES // recipe.batch_size, machine)
        batches = cycle(synthetic(job, recipe))
        if job.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        first = seconds(job, learner, batches, 0)
        steps, spent = 3 if job.toy else STEPS, 0.0
        for step in range(1, steps + 1):
            spent += seconds(job, learner, batches, step)
            rate = step * recipe.batch_size / spent
            job.row(
                f"{recipe.model}, {recipe.image_size} pixels",
                batch=recipe.batch_size,
                parts=recipe.accumulate,
                compiled=recipe.compile,
                first_step_s=first,
                steps=step,
                images_per_second=rate,
                peak_gb=torch.cuda.max_memory_allocated() / 1e9,
                hours_for_300_epochs=EPOCHS * IMAGES / rate / 3600,
            )
            if job.left() < 2 * spent / step:
                break


def accelerator(job: Job, recipe: Recipe, alone: str | None):
    """accelerate's, as in the training command, or ours for one process."""
    if alone:
        return nullcontext(OneProcess(job.device, recipe.precision == "bf16"))
    from coatnet_mini.train.machine import accelerator_of

    return accelerator_of(recipe)


def synthetic(job: Job, recipe: Recipe, pieces: int = 4) -> list:
    """A few pieces of random images (B, 3, S, S) uint8 and labels, on the device."""
    crops = recipe.crop_scale < 1
    size = round(recipe.image_size * (SQUARE_OF_CROPS if crops else 1))
    shape, device = (recipe.batch_size // recipe.accumulate, 3, size, size), job.device
    return [
        (
            torch.randint(256, shape, dtype=torch.uint8, device=device),
            torch.randint(CLASSES, shape[:1], device=device),
        )
        for _ in range(pieces)
    ]


def seconds(job: Job, learner: Learner, batches, step: int) -> float:
    """What one step of the optimizer takes."""
    job.wait()
    start = time.perf_counter()
    loss = learner.learn(batches, step)
    job.wait()
    if not torch.isfinite(loss):
        raise ArithmeticError(f"the loss of step {step} is {loss.item()}")
    return time.perf_counter() - start
