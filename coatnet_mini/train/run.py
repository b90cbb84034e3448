"""The training loop: on one process or many, and resumed as if it had never been stopped.

All randomness of a step follows from (seed, step, part, rank), see `seed_step`, and the order of
the images from (seed, step), see `loading.py`. So a checkpoint holds no state of generators, and a
run that was killed and resumed ends with the same weights, bit for bit on a CPU.
"""

import json
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from tqdm import tqdm

from coatnet_mini.checkpoint import load_weights, save_network
from coatnet_mini.images import normalize
from coatnet_mini.models import create_model
from coatnet_mini.train import checkpoint
from coatnet_mini.train.augment import Augment, mixup, one_hot
from coatnet_mini.train.loading import IGNORED, Decoder, Loader, Share
from coatnet_mini.train.log import FILE, Metrics
from coatnet_mini.train.optimization import make_ema, make_optimizer, make_schedule
from coatnet_mini.train.recipe import Recipe, differences, drop_path_of
from coatnet_mini.train.sources import open_data

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
EVALUATION_BATCH = 256  # images, per process
SQUARE_OF_CROPS = 8 / 7  # random crops are cut from images that much larger than the network's


class Stopped(Exception):
    """The run was asked to stop, and has saved what it had."""


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


class Run:
    """One run of a recipe, from its folder as it finds it to the trained network.

    Args:
        folder: where checkpoints, metrics and the network go.
        about: what else is to be kept with the network, such as the command.

    Raises:
        ValueError: the recipe does not fit the data, the folder or the checkpoint.
    """

    def __init__(self, recipe: Recipe, folder: Path, about: dict | None = None):
        recipe.check()
        self.recipe, self.folder, self.about = recipe, Path(folder), about or {}
        self.checkpoints = self.folder / "checkpoints"
        self.accelerator = Accelerator(
            cpu=recipe.device == "cpu", mixed_precision=recipe.precision,
            step_scheduler_with_optimizer=False,
        )  # fmt: skip
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.share = Share(recipe.batch_size, recipe.accumulate, self.rank, self.processes)
        if self.sharded and recipe.ema:
            raise ValueError("ema does not work with sharded weights (FSDP); use --ema 0")
        self.check_folder()
        self.load_data()
        self.build()
        self.step, self.position = 0, (0, 0)
        if recipe.resume:
            self.resume()
        self.schedule = make_schedule(self.optimizer.optimizer, recipe, self.steps, self.step)
        self.seconds = self.waited = 0.0  # since the start of this process, in training steps
        self.first_step = self.step

    # ---- Setting up

    def say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(text)

    def check_folder(self) -> None:
        used = [name for name in ("checkpoints", "network", FILE) if (self.folder / name).exists()]
        if used and not self.recipe.resume:
            raise ValueError(f"{self.folder} already holds a run ({used[0]}); go on with --resume, "
                             "or choose another --output")  # fmt: skip
        self.accelerator.wait_for_everyone()  # so that no process takes its own folder for a run
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f".writable-{self.rank}").touch()
        (self.folder / f".writable-{self.rank}").unlink()

    def load_data(self) -> None:
        recipe = self.recipe
        train, test = open_data(recipe)
        size = recipe.image_size
        crop_from = round(size * SQUARE_OF_CROPS) if recipe.crop_scale < 1 else size
        self.train_loader = self.loader(train, crop_from)
        self.test_loader = self.loader(test, round(size / recipe.crop_ratio))
        self.classes = train.classes
        self.steps = recipe.steps
        if recipe.steps is None:
            self.steps = max(1, round(recipe.epochs * self.train_loader.size / recipe.batch_size))

    def loader(self, split, size: int) -> Loader:
        recipe = self.recipe
        decoder = Decoder(size, recipe.channels, recipe.strict, tqdm.write)
        return Loader(split, decoder, recipe.memory * 1e9, recipe.threads)

    def build(self) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        torch.manual_seed(recipe.seed)
        self.options = {"num_classes": len(self.classes), "image_size": recipe.image_size,
                        "in_channels": recipe.channels, **parsed(recipe.options)}  # fmt: skip
        model = create_model(recipe.model, **self.options, drop_path=drop_path_of(recipe))
        if recipe.init_from and not load_weights(model, recipe.init_from):
            self.say(f"{recipe.init_from} has other classes: the classifier starts anew")
        self.config = replace(model.config, drop_path=0.0)  # a matter of training, not of use
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if recipe.sync_batch_norm and self.processes > 1 and accelerator.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.sharded:  # FSDP takes no channels-last weights
            model.to(memory_format=torch.contiguous_format)
        self.ema = make_ema(model.to(accelerator.device), recipe.ema) if recipe.ema else None
        if recipe.compile:
            model.compile()
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
        self.net = self.model if self.sharded else accelerator.unwrap_model(self.model)
        self.augment = Augment(recipe)

    # ---- Training

    def train(self) -> dict:
        """Train to the last step; returns the results, which are also in the network's folder."""
        recipe = self.recipe
        self.metrics = None
        if self.accelerator.is_main_process:
            self.metrics = Metrics(self.folder, self.step, recipe.tensorboard)
        self.stop = None
        batches = self.train_loader.train(self.share, recipe.seed, self.step, self.position)
        bar = tqdm(total=self.steps, initial=self.step, unit="step",
                   disable=None if self.accelerator.is_main_process else True)  # fmt: skip
        try:
            with self.signals():
                self.loop(batches, bar)
        finally:
            batches.close()
            bar.close()
            if self.metrics:
                self.metrics.close()
        return self.finish()

    def loop(self, batches, bar) -> None:
        recipe = self.recipe
        total = torch.zeros((), device=self.accelerator.device)
        since, mark = 0, time.perf_counter()
        while self.step < self.steps:
            lr = self.schedule.get_last_lr()[0]
            total += self.train_step(batches)
            self.step, since = self.step + 1, since + 1
            bar.update()
            due = [every and self.step % every == 0 for every in
                   (recipe.log_every, recipe.evaluate_every, recipe.checkpoint_every)]  # fmt: skip
            last = self.step == self.steps
            if due[0] or last:
                self.log(total / since, lr, bar)
                total.zero_()
                since = 0
            if any(due) or last or self.stop:
                self.seconds += time.perf_counter() - mark
                if due[1] and not last:
                    self.log_evaluation()
                if due[2] or last or self.stop:
                    self.save()
                mark = time.perf_counter()
            if self.stop and not last:
                raise Stopped(f"stopped by {self.stop} at step {self.step} of {self.steps}")

    def train_step(self, batches) -> Tensor:
        """One step of the optimizer; returns the loss, averaged over this process's images."""
        accelerator, parts = self.accelerator, self.share.parts
        self.model.train()
        loss = torch.zeros((), device=accelerator.device)
        for part in range(parts):
            start = time.perf_counter()
            images, labels = next(batches)
            self.waited += time.perf_counter() - start
            self.position = self.train_loader.position
            seed_step(self.recipe.seed, self.step, part, self.rank)
            last = part == parts - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                part_loss = self.loss(images, labels) / parts
                accelerator.backward(part_loss)
            loss += part_loss.detach()
        if self.recipe.clip_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.net)
        return loss

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        recipe, device = self.recipe, self.accelerator.device
        images = self.augment(images.to(device, non_blocking=True))
        targets = one_hot(labels.to(device, non_blocking=True), len(self.classes))
        if recipe.mixup:
            images, targets = mixup(images, targets, recipe.mixup)
        with self.accelerator.autocast():
            logits = self.model(images * 2 - 1)  # `normalize`, of images in 0..1
        return F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)

    def log(self, loss: Tensor, lr: float, bar) -> None:
        loss = self.accelerator.reduce(loss, "mean").item()
        if not np.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {self.step}; the last checkpoint is whole, "
                           "and a lower --lr or a longer --warmup-steps may help")  # fmt: skip
        bar.set_postfix(loss=f"{loss:.3f}")
        if self.metrics:
            self.metrics.write(self.step, {"loss": loss, "lr": lr})

    def signals(self):
        """While training alone: save before giving way to Ctrl-C or a scheduler's SIGTERM."""
        if self.processes > 1 or threading.current_thread() is not threading.main_thread():
            return nullcontext()  # processes that stop at different steps would wait for each other
        return Signals(self)

    # ---- Evaluation

    def log_evaluation(self) -> None:
        values = self.evaluate(self.net)
        if self.ema:
            values |= {f"ema_{name}": value for name, value in self.evaluate(self.ema).items()}
        if self.metrics:
            self.metrics.write(self.step, values)
        self.say(f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    @torch.no_grad()
    def evaluate(self, net: nn.Module) -> dict[str, float]:
        """Accuracy and loss on the held-out split, over all processes; no augmentation."""
        device = self.accelerator.device
        if self.processes > 1:  # each process has its own running statistics; the first's count
            for buffer in net.buffers():
                broadcast(buffer)
        net.eval()
        totals = torch.zeros(3, device=device)
        for images, labels in self.evaluation_batches():
            images = centre(images, self.recipe.image_size).to(device)
            with self.accelerator.autocast():
                logits = net(normalize(images)).float()
            labels = labels.to(device)
            counts = torch.stack([
                (logits.argmax(1) == labels).sum(),
                F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"),
                (labels != IGNORED).sum(),
            ])  # fmt: skip
            totals += counts.to(totals)
        right, loss, n = self.accelerator.reduce(totals, "sum").tolist()
        if not n:
            raise ValueError("none of the held-out images can be read")
        return {"accuracy": right / n, "test_loss": loss / n}

    def evaluation_batches(self):
        """This process's batches; with sharded weights, the same number of them everywhere."""
        batches = self.test_loader.evaluate(EVALUATION_BATCH, self.rank, self.processes)
        if not self.sharded:
            yield from batches
            return
        size, channels = self.test_loader.decoder.size, self.recipe.channels
        nothing = (torch.zeros(1, channels, size, size, dtype=torch.uint8), torch.tensor([IGNORED]))
        while True:
            batch = next(batches, None)
            left = torch.tensor(float(batch is not None), device=self.accelerator.device)
            if not self.accelerator.reduce(left, "sum").item():
                return
            yield nothing if batch is None else batch

    # ---- Keeping

    def save(self) -> None:
        """Write a checkpoint; a full disk is reported, and the run goes on with the one before."""
        weights = get_model_state_dict(self.net, options=WHOLE)
        optimizer = get_optimizer_state_dict(self.net, self.optimizer.optimizer, options=WHOLE)
        if self.accelerator.is_main_process:
            tensors = {"model": weights,
                       "optimizer": checkpoint.optimizer_tensors(optimizer["state"])}  # fmt: skip
            if self.ema:
                tensors["ema"] = self.ema.state_dict()
            state = {"recipe": asdict(self.recipe), "groups": optimizer["param_groups"],
                     "position": self.position, "scaler": self.scaler_state()}  # fmt: skip
            try:
                checkpoint.save_run(self.checkpoints, self.step, tensors, state)
            except OSError as error:
                self.say(f"could not write the checkpoint of step {self.step}: {error}; "
                         "the one before it stays")  # fmt: skip
        self.accelerator.wait_for_everyone()

    def scaler_state(self) -> dict | None:
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def resume(self) -> None:
        """Take up the last whole checkpoint, if there is one."""
        found = checkpoint.last_run(self.checkpoints, self.say)
        if found is None:
            self.say(f"no checkpoint in {self.checkpoints}: starting from the beginning")
            return
        path, state = found
        if changed := differences(state["recipe"], asdict(self.recipe)):
            raise ValueError(f"cannot resume {self.folder}: {'; '.join(changed)}")
        optimizer = {"state": checkpoint.optimizer_state(
            checkpoint.read_tensors(path / "optimizer.safetensors")),
            "param_groups": state["groups"]}  # fmt: skip
        weights = checkpoint.read_tensors(path / "model.safetensors")
        set_model_state_dict(self.net, weights, options=WHOLE)
        set_optimizer_state_dict(self.net, self.optimizer.optimizer, optimizer, options=WHOLE)
        if not self.sharded:
            checkpoint.restore_layout(self.optimizer.optimizer)
        if self.ema:
            self.ema.load_state_dict(checkpoint.read_tensors(path / "ema.safetensors"))
        if state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.position = state["step"], tuple(state["position"])
        self.say(f"resumed at step {self.step} of {self.steps}, from {path}")

    def finish(self) -> dict:
        """Store the trained network, and evaluate it as stored."""
        net = self.ema.module if self.ema else self.net
        weights = get_model_state_dict(net, options=WHOLE) if self.sharded else net.state_dict()
        dtype = getattr(torch, self.recipe.save_dtype)
        weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                   for name, tensor in weights.items()}  # fmt: skip
        if not self.sharded:  # else only the first process has all of them
            net.load_state_dict(weights)
        values = self.evaluate(net)
        results = {**values, **self.results()}
        if self.accelerator.is_main_process:
            digests = {"train": self.train_loader.digest, "test": self.test_loader.digest}
            training = {**self.about, "model": self.recipe.model, "options": self.options,
                        "classes": self.classes, "recipe": asdict(self.recipe),
                        "data_sha256": digests, "results": results}  # fmt: skip
            save_network(self.folder / "network", weights, self.config, training)
        self.accelerator.end_training()
        return results

    def results(self) -> dict:
        steps = self.step - self.first_step
        device = self.accelerator.device
        corrupt = [len(loader.decoder.corrupt) for loader in (self.train_loader, self.test_loader)]
        corrupt = self.accelerator.reduce(torch.tensor(corrupt, device=device), "sum").tolist()
        if self.train_loader.images is not None:  # every process has decoded all of them
            corrupt[0] //= self.processes
        if self.test_loader.images is not None:
            corrupt[1] //= self.processes
        return {
            "step": self.step,
            "parameters": self.parameters,
            "train_images": self.train_loader.size,
            "test_images": self.test_loader.size,
            "corrupt_train_images": corrupt[0],
            "corrupt_test_images": corrupt[1],
            "seconds": self.seconds,
            "images_per_second": steps * self.recipe.batch_size / max(self.seconds, 1e-9),
            "loader_share": self.waited / max(self.seconds, 1e-9),
            "device": str(device),
            "processes": self.processes,
            "threads": torch.get_num_threads(),
        }


class Signals:
    """Turns the first SIGINT or SIGTERM into a note on the run; a second one ends it at once."""

    def __init__(self, run: Run):
        self.run = run

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note)
                       for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip

    def note(self, number, frame) -> None:
        self.run.stop = signal.Signals(number).name
        signal.signal(number, self.before[number])

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def seed_step(seed: int, step: int, part: int, rank: int) -> None:
    """Start torch's generators anew, from numbers that name this piece of work and no other."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1)[0]))


def centre(images: Tensor, size: int) -> Tensor:
    """The centre of images (B, C, S, S), size × size."""
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def parsed(options: tuple[str, ...]) -> dict:
    """("head=tanh", "se_ratio=0") → {"head": "tanh", "se_ratio": 0}"""
    values = {}
    for option in options:
        name, _, value = option.partition("=")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
