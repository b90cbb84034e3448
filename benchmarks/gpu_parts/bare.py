"""Training where only torch is: the learner of the training command, without accelerate.

`OneProcess` is what a `Learner` asks of an accelerator, for one process; `train` is a loop around
it that can be killed and resumed, for where the command's own cannot be imported.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coatnet_mini.shapes import CLASSES, SHAPES_TEST, SHAPES_TRAIN, shapes
from coatnet_mini.train.checkpoint import last_run, save_run
from coatnet_mini.train.learner import Learner
from coatnet_mini.train.log import Metrics
from coatnet_mini.train.recipe import Recipe


class OneProcess:
    """One process on one device, in bfloat16 or float32."""

    process_index, num_processes = 0, 1

    def __init__(self, device: torch.device, bf16: bool):
        self.device, self.bf16 = device, bf16

    def prepare(self, net: nn.Module, optimizer):
        return net.to(self.device), optimizer

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def no_sync(self, model: nn.Module):
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters, norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)


def train(recipe: Recipe, folder: Path, device: torch.device) -> dict:
    """Train on shapes as the recipe says, from the last checkpoint on if it says so."""
    images, labels = map(torch.from_numpy, shapes(recipe.train_images or SHAPES_TRAIN))
    steps = recipe.steps or round(recipe.epochs * len(images) / recipe.batch_size)
    machine = OneProcess(device, recipe.precision == "bf16")
    learner = Learner(recipe, len(CLASSES), steps, machine)
    first = 0
    if recipe.resume and (found := last_run(folder / "checkpoints")):
        first = found[1]["step"]
        learner.load_state_dict(found[1], first)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder, first, tensorboard=False)
    batches, start = drawn(images, labels, recipe, first), time.perf_counter()
    for step in range(first, steps):
        loss, done = learner.learn(batches, step), step + 1
        if done % recipe.log_every == 0:
            metrics.write(done, {"loss": loss.item()})
        if done % recipe.checkpoint_every == 0 or done == steps:
            save_run(folder / "checkpoints", done, {"step": done, **learner.state_dict()})
    seconds = time.perf_counter() - start
    held_out = map(torch.from_numpy, shapes(SHAPES_TEST, "test"))
    return {"step": steps, "seconds": seconds, "accuracy": accuracy(learner, *held_out)}


def drawn(images: Tensor, labels: Tensor, recipe: Recipe, step: int) -> Iterator:
    """Endless batches, each of rows that follow from the seed and the step."""
    while True:
        rng = np.random.default_rng([recipe.seed, step])
        rows = torch.from_numpy(rng.integers(len(images), size=recipe.batch_size))
        yield images[rows], labels[rows]
        step += 1


@torch.no_grad()
def accuracy(learner: Learner, images: Tensor, labels: Tensor) -> float:
    """The part of the images that is told right."""
    net, machine, right = learner.trained().eval(), learner.accelerator, 0
    for some, told in zip(images.split(256), labels.split(256), strict=True):
        with machine.autocast():
            logits = net(some.to(machine.device).float() / 127.5 - 1)
        right += (logits.argmax(1).cpu() == told).sum().item()
    return right / len(images)
