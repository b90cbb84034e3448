"""What learns: a network, its optimizer, the running average of its weights; and one step of it.

All randomness of a step follows from (seed, step, part, rank), see `seed_step`, so that no state of
a generator has to be kept.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini import checkpoint
from coatnet_mini.models import create_model
from coatnet_mini.train.augment import Augment, mixup, one_hot
from coatnet_mini.train.checkpoint import check_like
from coatnet_mini.train.optimization import make_ema, make_optimizer, make_schedule
from coatnet_mini.train.recipe import Recipe, drop_path_of

if TYPE_CHECKING:  # a step needs torch alone, and an accelerator that was made elsewhere
    from accelerate import Accelerator

    from coatnet_mini.train.loading import Batch

CLASSIFIER = "head.classifier."


class Learner:
    """A network in training.

    Args:
        steps: of the whole run, by which the learning rate takes its course.

    Attributes:
        options: by which `create_model` makes the network; config: its configuration.
        model: the network as it trains; net: the same one, without what wraps it for many
            processes; ema: its running average, or None.

    Raises:
        ValueError: there is no such network, or the weights to start from do not fit.
    """

    def __init__(self, recipe: Recipe, classes: int, steps: int, accelerator: "Accelerator"):
        self.recipe, self.classes, self.steps = recipe, classes, steps
        self.accelerator = accelerator
        torch.manual_seed(recipe.seed)
        shape = {"image_size": recipe.image_size, "in_channels": recipe.channels}
        self.options = {"num_classes": classes, **shape, **recipe.overrides()}
        net = create_model(recipe.model, **self.options, drop_path=drop_path_of(recipe))
        self.config = replace(net.config, drop_path=0.0)  # a matter of training, not of use
        self.starts_anew = bool(recipe.init_from) and not checkpoint.load_weights(
            net, recipe.init_from
        )
        self.ema = make_ema(net.to(accelerator.device), recipe.ema) if recipe.ema else None
        if recipe.compile:
            net.compile()
        self.adamw = make_optimizer(net, recipe)
        self.model, self.optimizer = accelerator.prepare(net, self.adamw)
        self.net = accelerator.unwrap_model(self.model)
        self.schedule = make_schedule(self.adamw, recipe, steps)
        self.head = {id(p) for n, p in self.net.named_parameters() if n.startswith(CLASSIFIER)}
        self.augment = Augment(recipe)

    @property
    def lr(self) -> float:
        return self.schedule.get_last_lr()[0]

    def learn(self, batches: "Iterator[Batch]", step: int) -> Tensor:
        """One step of the optimizer; returns the loss, averaged over this process's images."""
        accelerator, parts = self.accelerator, self.recipe.accumulate
        frozen = step < self.recipe.head_steps
        self.model.train(not frozen)  # a network that stays as it is keeps its statistics too
        loss = torch.zeros((), device=accelerator.device)
        for part in range(parts):
            images, labels = next(batches)
            seed_step(self.recipe.seed, step, part, accelerator.process_index)
            last = part == parts - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                part_loss = self.loss(images, labels) / parts
                accelerator.backward(part_loss)
            loss += part_loss.detach()
        if frozen:
            for p in self.net.parameters():
                p.grad = p.grad if id(p) in self.head else None  # which AdamW leaves alone
        if self.recipe.clip_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.net)
        return loss

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Of images (B, C, H, W) uint8 and labels (B,), augmented and mixed as the recipe says."""
        recipe, device = self.recipe, self.accelerator.device
        images = self.augment(images.to(device, non_blocking=True))
        targets = one_hot(labels.to(device, non_blocking=True), self.classes)
        if recipe.mixup:
            images, targets = mixup(images, targets, recipe.mixup)
        with self.accelerator.autocast():
            logits = self.model(images * 2 - 1)  # `normalize`, of images in 0..1
        return F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)

    def state_dict(self) -> dict:
        """Weights, their average, and AdamW's moments; its rates follow from recipe and step."""
        ema = self.ema.state_dict() if self.ema else None
        optimizer = self.optimizer.state_dict()["state"]
        return {"model": self.net.state_dict(), "ema": ema, "optimizer": optimizer}

    def load_state_dict(self, state: dict, step: int) -> None:
        """Take up what `state_dict` gave at a step; a TypeError says what is not built like it."""
        mine = {**self.state_dict(), "optimizer": self.moments(step)}
        check_like({name: state[name] for name in mine}, mine, "its")
        self.net.load_state_dict(state["model"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.schedule = make_schedule(self.adamw, self.recipe, self.steps, step)

    def moments(self, step: int) -> dict:
        """What AdamW keeps after so many steps of each parameter that has learned."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        each, all_learn = {"step": torch.zeros(())}, step > self.recipe.head_steps
        return {
            n: {**each, "exp_avg": p, "exp_avg_sq": p}
            for n, p in enumerate(parameters)
            if all_learn or id(p) in self.head
        }

    def trained(self) -> nn.Module:
        """The network to be kept: the running average, if there is one."""
        return self.ema.module if self.ema else self.net


def seed_step(seed: int, step: int, part: int, rank: int) -> None:
    """Start torch's generators anew, from numbers that name this piece of work and no other."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1)[0]))
