"""The training loop: on one process or many, and resumed as if it had never been stopped.

What is random in a step, and the order of the images, follows from the seed and the step (see
`learner.py` and `loading.py`). So a checkpoint holds no state of generators, and a run that was
killed and resumed ends with the same weights and the same metrics, bit for bit on a CPU.
"""

import time
from contextlib import ExitStack, closing
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from coatnet_mini import checkpoint
from coatnet_mini.cpu.lean import lean
from coatnet_mini.models import list_models
from coatnet_mini.train.checkpoint import check_like, last_run, runs, save_run
from coatnet_mini.train.evaluation import evaluate
from coatnet_mini.train.identity import changes, identity
from coatnet_mini.train.learner import Learner
from coatnet_mini.train.loading import Decoder, Loader, Share, Waiting
from coatnet_mini.train.log import FILE, Metrics
from coatnet_mini.train.machine import accelerator_of, locked, signals
from coatnet_mini.train.recipe import Recipe, differences
from coatnet_mini.train.sources import open_data
from coatnet_mini.train.stream import Position

CHECKPOINTS = "checkpoints"
SQUARE_OF_CROPS = 8 / 7  # random crops are cut from images that much larger than the network's


class Stopped(Exception):
    """The run was asked to stop, and has saved what it had."""


class Diverged(ArithmeticError):
    """The loss or a weight is no longer a number."""


class Run:
    """One run of a recipe, from its folder as it finds it to the trained network.

    Args:
        folder: where checkpoints, metrics and the network go.
        about: what else is to be kept with the network, such as the command.

    Raises:
        ValueError: the recipe holds a value that no run could use.
    """

    def __init__(self, recipe: Recipe, folder: Path, about: dict | None = None):
        recipe.check()
        if recipe.model not in list_models():
            raise ValueError(
                f"unknown model {recipe.model!r}; choose from {', '.join(list_models())}"
            )
        self.recipe, self.folder, self.about = recipe, Path(folder), about or {}
        self.stop: str | None = None  # the signal that asked for it

    def train(self) -> dict:
        """Train to the last step; returns the results, which are also in the network's folder.

        Raises:
            ValueError: the recipe does not fit the data, the folder or the checkpoint.
            Stopped: a signal came; the run can be resumed.
            Diverged: the loss or a weight is no longer a number.
        """
        with ExitStack() as stack:
            self.accelerator = stack.enter_context(accelerator_of(self.recipe))
            self.is_main = self.accelerator.is_main_process
            self.take_folder(stack)
            self.prepare()
            if self.recipe.resume:
                self.resume()
            return self.finish(self.loop())

    # ---- Setting up

    def say(self, text: str) -> None:
        if self.is_main:
            tqdm.write(text)

    def take_folder(self, stack: ExitStack) -> None:
        """Have the folder to itself, and refuse one that holds a run which is not to be resumed."""
        used = [name for name in (CHECKPOINTS, "network", FILE) if (self.folder / name).exists()]
        if used and not self.recipe.resume:
            raise ValueError(
                f"{self.folder} already holds a run ({used[0]}); go on with --resume, "
                "or choose another --output"
            )
        self.accelerator.wait_for_everyone()  # so that no process takes its own folder for a run
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_main:
            stack.enter_context(locked(self.folder))

    def prepare(self) -> None:
        """Open the data, and make the network as it is before the first step."""
        recipe, accelerator = self.recipe, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        self.share = Share(recipe.batch_size, recipe.accumulate, rank, processes)
        train, test = open_data(recipe)
        self.data = identity(train, test)
        size = recipe.image_size
        crop_from = round(size * SQUARE_OF_CROPS) if recipe.crop_scale < 1 else size
        self.train_data = self.loader(train, crop_from)
        self.test_data = self.loader(test, round(size / recipe.crop_ratio))
        if self.train_data.size is not None and recipe.batch_size > self.train_data.size:
            raise ValueError(
                f"batch_size is {recipe.batch_size}, of {self.train_data.size:,} training images"
            )
        self.steps = recipe.steps
        if recipe.steps is None:
            self.steps = max(1, round(recipe.epochs * self.train_data.size / recipe.batch_size))
        self.learner = Learner(recipe, len(train.classes), self.steps, accelerator)
        if accelerator.device.type == "cpu" and not recipe.compile:
            lean(self.learner.net)
            self.say("on a CPU, MBConv and attention train in their lean forms: the same values")
        if self.learner.starts_anew:
            self.say(f"{recipe.init_from} has other classes: the classifier starts anew")
        self.step = self.logged = 0  # steps taken, and those of them that are in the metrics
        self.losses = torch.zeros((), device=accelerator.device)  # the sum since then

    def loader(self, split, size: int) -> Loader:
        recipe = self.recipe
        decoder = Decoder(size, recipe.channels, recipe.strict, tqdm.write)
        return Loader(split, decoder, recipe.memory * 1e9, recipe.threads, recipe.shuffle_buffer)

    # ---- Training

    def loop(self) -> dict[str, float]:
        """Train to the last step; returns how fast."""
        recipe, first, seconds = self.recipe, self.step, 0.0
        batches = Waiting(self.train_data.train(self.share, recipe.seed, first))
        bar = tqdm(
            total=self.steps, initial=first, unit="step", disable=None if self.is_main else True
        )
        with ExitStack() as stack:
            for used in (batches, bar):
                stack.enter_context(closing(used))
            self.metrics = None
            if self.is_main:
                self.metrics = Metrics(self.folder, self.step, recipe.tensorboard)
                stack.enter_context(closing(self.metrics))
            if self.accelerator.num_processes == 1:  # others would wait for the one that stops
                stack.enter_context(signals(partial(setattr, self, "stop")))
            while self.step < self.steps:
                start, lr = time.perf_counter(), self.learner.lr
                self.losses += self.learner.learn(batches, self.step)
                self.step += 1
                bar.update()
                last = self.step == self.steps
                if last or self.due(recipe.log_every):
                    self.log(lr, bar)
                seconds += time.perf_counter() - start
                if self.due(recipe.evaluate_every) and not last:
                    self.log_evaluation()
                if last or self.stop or self.due(recipe.checkpoint_every):
                    self.save()
                if self.stop and not last:
                    raise Stopped(f"stopped by {self.stop} at step {self.step} of {self.steps}")
        return {
            "seconds": seconds,
            "images_per_second": (self.step - first) * recipe.batch_size / max(seconds, 1e-9),
            "loader_share": batches.seconds / max(seconds, 1e-9),
        }

    def due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def log(self, lr: float, bar: tqdm) -> None:
        """Write down the mean loss since the last time."""
        loss = self.accelerator.reduce(self.losses / (self.step - self.logged), "mean").item()
        if not np.isfinite(loss):
            raise self.diverged(f"the loss is {loss}")
        bar.set_postfix(loss=f"{loss:.3f}")
        if self.metrics:
            self.metrics.write(self.step, {"loss": loss, "lr": lr})
        self.losses.zero_()
        self.logged = self.step

    def log_evaluation(self) -> None:
        values = self.evaluate(self.learner.net)
        if self.learner.ema:
            averaged = self.evaluate(self.learner.ema)
            values |= {f"ema_{name}": value for name, value in averaged.items()}
        if self.metrics:
            self.metrics.write(self.step, values)
        self.say(f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def evaluate(self, net: nn.Module) -> dict[str, float]:
        return evaluate(net, self.test_data, self.recipe.image_size, self.accelerator)

    def diverged(self, what: str) -> Diverged:
        kept = runs(self.folder / CHECKPOINTS)
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return Diverged(
            f"{what} at step {self.step}; {good}; a lower --lr or a longer --warmup-steps may help"
        )

    # ---- Keeping

    def save(self) -> None:
        """Write a checkpoint; a full disk is reported, and the run goes on with the one before."""
        learnt = self.learner.state_dict()
        bad = torch.tensor(float(not all_finite(learnt)), device=self.accelerator.device)
        if self.accelerator.reduce(bad, "sum").item():
            raise self.diverged("not all weights are finite")
        position = self.train_data.position
        mine = {"losses": self.losses.item(), "position": position and astuple(position)}
        state = {
            "step": self.step,
            "logged": self.logged,
            "recipe": asdict(self.recipe),
            "data": self.data,
            "processes": gather_object([mine]),
            **learnt,
        }
        if self.is_main:
            try:
                save_run(self.folder / CHECKPOINTS, self.step, state)
            except OSError as error:
                self.say(
                    f"could not write the checkpoint of step {self.step}: {error}; "
                    "the one before it stays"
                )
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Take up the last whole checkpoint, if there is one."""
        folder = self.folder / CHECKPOINTS
        found = last_run(folder, self.say)
        if found is None:
            self.say(f"no checkpoint in {folder}: starting from the beginning")
            return
        path, state = found
        try:
            self.take_up(state)
        except (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"checkpoint {path} does not fit this run: {reason}") from error
        self.say(f"resumed at step {self.step} of {self.steps}, from {path}")

    def take_up(self, state: dict) -> None:
        if changed := differences({**state["recipe"]}, self.recipe):
            raise ValueError(f"cannot resume {self.folder}: {'; '.join(changed)}")
        self.compare_data({**state["data"]})
        parts, here = state["processes"], self.share.processes
        if len(parts) != here and self.train_data.split.streamed:
            raise ValueError(
                f"cannot resume {self.folder}: the stream was dealt out among {len(parts)} "
                f"processes and cannot be among {here}"
            )
        counts = {"step": state["step"], "logged": state["logged"]}
        mine = {**parts[self.share.rank % len(parts)], **counts}
        position = self.train_data.position and astuple(self.train_data.position)
        wanted = {"step": 0, "logged": 0, "losses": 0.0, "position": position}
        check_like(mine, wanted, "its")
        if not 0 <= mine["logged"] <= mine["step"] <= self.steps:
            raise LookupError(f"it is of step {mine['step']}, and the last one is {self.steps}")
        self.step, self.logged = mine["step"], mine["logged"]
        self.losses.fill_(mine["losses"])
        if position:
            self.train_data.position = Position(*mine["position"])
        self.learner.load_state_dict(state, self.step)

    def compare_data(self, before: dict) -> None:
        """Refuse to go on with other images than the run was begun with, unless that is meant."""
        changed = changes(before, self.data)
        if not changed:
            return
        what = f"the data is not what it was: {'; '.join(changed)}"
        if len(before["classes"]) != len(self.data["classes"]):
            raise ValueError(f"cannot resume {self.folder}: {what}")
        if not self.recipe.changed_data:
            raise ValueError(f"cannot resume {self.folder}: {what}; --changed-data goes on with it")
        self.say(f"going on all the same: {what}")

    def finish(self, speed: dict[str, float]) -> dict:
        """Store the trained network, and evaluate it as stored."""
        net, dtype = self.learner.trained(), getattr(torch, self.recipe.save_dtype)
        weights = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in net.state_dict().items()
        }
        net.load_state_dict(weights)
        results = {**self.evaluate(net), **self.results(), **speed}
        if self.is_main:
            training = {
                **self.about,
                "model": self.recipe.model,
                "options": self.learner.options,
                "classes": self.train_data.split.classes,
                "recipe": asdict(self.recipe),
                "data_sha256": {"train": self.train_data.digest, "test": self.test_data.digest},
                "results": results,
            }
            config = self.learner.config
            checkpoint.save_network(self.folder / "network", weights, config, training)
        return results

    def results(self) -> dict:
        corrupt = [part.corrupt_in(self.share.rank) for part in (self.train_data, self.test_data)]
        device = self.accelerator.device
        corrupt = self.accelerator.reduce(torch.tensor(corrupt, device=device), "sum").tolist()
        return {
            "step": self.step,
            "parameters": sum(parameter.numel() for parameter in self.learner.net.parameters()),
            "train_images": self.train_data.size,
            "test_images": self.test_data.size,
            "corrupt_train_images": corrupt[0],
            "corrupt_test_images": corrupt[1],
            "device": str(device),
            "processes": self.share.processes,
            "threads": torch.get_num_threads(),
        }


def all_finite(state) -> bool:
    """Whether no tensor in nested dicts and lists holds a NaN or an infinity."""
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    parts = state.values() if isinstance(state, dict) else state
    return all(all_finite(part) for part in parts if isinstance(part, Tensor | dict | list))
