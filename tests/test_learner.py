"""One step of training against the same step by hand, and a run as it is before its first step."""

import copy
import runpy
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu_parts.bare import OneProcess
from coatnet_mini import create_model
from coatnet_mini.checkpoint import save_network
from coatnet_mini.images import normalize
from coatnet_mini.train import learner as learner_module
from coatnet_mini.train import run as run_module
from coatnet_mini.train.augment import mixup, one_hot
from coatnet_mini.train.checkpoint import save_run
from coatnet_mini.train.learner import Learner, seed_step
from coatnet_mini.train.recipe import Recipe
from coatnet_mini.train.run import Run
from coatnet_mini.train.sources import table

SMALL = dict(width=8, depth=2, head_dim=4, patch_size=4)
RECIPE = Recipe(
    **dict(model="vit_pico", image_size=8, channels=1, accumulate=2, seed=3),
    options=tuple(f"{name}={value}" for name, value in SMALL.items()),
    **dict(lr=0.01, min_lr=0.001, schedule="linear", warmup_steps=2, weight_decay=0.3),
    **dict(clip_norm=0.5, label_smoothing=0.2, ema=0.75),
)
STEPS, CLASSES = 6, 3
RATES = [0.005, 0.01, 0.00775, 0.0055, 0.00325, 0.001]


def learner(recipe=RECIPE):
    return Learner(recipe, CLASSES, STEPS, OneProcess(torch.device("cpu"), bf16=False))


def pieces(count):
    rng = torch.Generator().manual_seed(0)
    for _ in range(count):
        images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=rng)
        yield images, torch.randint(CLASSES, (4,), generator=rng)


def by_hand(recipe, steps):
    """The network, its average and the losses of a run, from the recipe's words alone."""
    torch.manual_seed(recipe.seed)
    net = create_model(recipe.model, CLASSES, 8, 1, **SMALL)
    average = {name: weight.clone() for name, weight in net.state_dict().items()}
    decayed = [p for n, p in net.named_parameters() if n.endswith("weight") and p.ndim > 1]
    others = [p for p in net.parameters() if all(p is not d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    optimizer = torch.optim.AdamW([*groups, {"params": others, "weight_decay": 0}])
    batches, losses = pieces(2 * steps), []
    for step in range(steps):
        total = 0
        for part in range(2):
            images, labels = next(batches)
            targets, x = one_hot(labels, CLASSES), images / 255
            if recipe.mixup:
                seed_step(recipe.seed, step, part, 0)
                x, targets = mixup(x, targets, recipe.mixup)
            smooth = (1 - recipe.label_smoothing) * targets + recipe.label_smoothing / CLASSES
            loss = -(smooth * net(2 * x - 1).log_softmax(1)).sum(1).mean() / 2
            loss.backward()
            total += loss.item()
        losses.append(total)
        norm = torch.stack([p.grad.square().sum() for p in net.parameters()]).sum().sqrt()
        if recipe.clip_norm and norm > recipe.clip_norm:
            for p in net.parameters():
                p.grad *= recipe.clip_norm / norm
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.step()
        optimizer.zero_grad()
        for name, weight in net.state_dict().items():
            keep = recipe.ema if step else 0  # the first is copied
            average[name] = keep * average[name] + (1 - keep) * weight
    return net, average, losses


def close(state, expected):
    """But for the keys' biases, on which no logit depends: AdamW makes steps of their rounding."""
    assert state.keys() == expected.keys()
    kept = {name: slice(None) for name in state}
    kept |= {name: [*range(8), *range(16, 24)] for name in state if name.endswith("qkv.bias")}
    return all(torch.allclose(state[n][i], expected[n][i], atol=1e-4) for n, i in kept.items())


@pytest.mark.parametrize("changed", [{}, dict(clip_norm=0), dict(mixup=0.4)])
def test_steps_are_those_by_hand(changed):
    recipe = replace(RECIPE, **changed)
    net, average, losses = by_hand(recipe, 4)
    ours, batches = learner(recipe), pieces(8)
    for step in range(4):
        assert ours.lr == pytest.approx(RATES[step])
        assert ours.learn(batches, step).item() == pytest.approx(losses[step], abs=1e-5)
    assert close(ours.net.state_dict(), net.state_dict())
    assert ours.trained() is ours.ema.module and close(ours.ema.module.state_dict(), average)
    assert not close(ours.net.state_dict(), average)


def test_gradients_are_shared_by_the_last_part_of_a_step_alone():
    class Counting(OneProcess):
        alone = 0

        def no_sync(self, model):
            self.alone += 1
            return super().no_sync(model)

    machine = Counting(torch.device("cpu"), bf16=False)
    ours, batches = Learner(replace(RECIPE, accumulate=3), CLASSES, STEPS, machine), pieces(6)
    for step in (0, 1):
        ours.learn(batches, step)
    assert machine.alone == 2 * 2


@pytest.mark.parametrize("classes", [3, 5])
def test_a_learner_may_start_from_stored_weights(classes, tmp_path):
    stored = learner(replace(RECIPE, seed=4))
    save_network(tmp_path, stored.net.state_dict(), stored.config)
    machine = OneProcess(torch.device("cpu"), bf16=False)
    ours = Learner(replace(RECIPE, init_from=str(tmp_path)), classes, STEPS, machine)
    assert ours.starts_anew is (classes == 5)
    weights, average = ours.net.state_dict(), ours.ema.module.state_dict()
    for name, weight in stored.net.state_dict().items():
        if classes == 3 or not name.startswith("head.classifier."):
            assert torch.equal(weights[name], weight) and torch.equal(average[name], weight)


def test_a_state_of_another_network_is_described():
    ours = learner()
    ours.learn(pieces(2), 0)
    state = ours.state_dict()
    del state["model"]["stem.bias"]
    with pytest.raises(TypeError, match=r"^its model has no stem\.bias$"):
        learner().load_state_dict(state, 1)


def test_without_an_average_the_network_itself_is_kept():
    ours = learner(replace(RECIPE, ema=0))
    ours.learn(pieces(2), 0)
    assert ours.ema is None and ours.trained() is ours.net and ours.state_dict()["ema"] is None


def test_a_step_needs_no_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert runpy.run_path(learner_module.__file__)["Learner"].__doc__ == Learner.__doc__


def test_a_learner_knows_by_what_its_network_is_made_again():
    ours = learner(replace(RECIPE, drop_path=0.5))
    assert ours.options == {"num_classes": 3, "image_size": 8, "in_channels": 1, **SMALL}
    assert [block.drop_path.rate for block in ours.net.blocks] == [0, 0.5]
    assert ours.config == create_model("vit_pico", **ours.options).config  # without drop_path
    assert ours.starts_anew is False


@pytest.mark.parametrize("head_steps", [0, 1, 2, 4])
def test_a_learner_that_is_stopped_anywhere_goes_on_as_if_it_had_not_been(head_steps):
    recipe = replace(RECIPE, head_steps=head_steps, weight_decay=0.5)
    whole, batches, states = learner(recipe), pieces(8), []
    for step in range(4):
        whole.learn(batches, step)
        states.append(copy.deepcopy(whole.state_dict()))
    for step in range(1, 4):
        ours, rest = learner(recipe), pieces(8)
        ours.load_state_dict(states[step - 1], step)
        assert ours.lr == pytest.approx(RATES[step])
        for _ in range(2 * step):
            next(rest)
        for later in range(step, 4):
            ours.learn(rest, later)
        for name, weight in whole.net.state_dict().items():
            assert torch.equal(ours.net.state_dict()[name], weight)
        for name, weight in whole.ema.module.state_dict().items():
            assert torch.equal(ours.ema.module.state_dict()[name], weight)


def test_while_the_classifier_learns_alone_the_rest_is_as_in_evaluation():
    ours, batches = learner(replace(RECIPE, head_steps=2)), pieces(6)
    before = {name: weight.clone() for name, weight in ours.net.state_dict().items()}
    for step, training in ((0, False), (1, False), (2, True)):
        ours.learn(batches, step)
        assert ours.net.training == training
        moved = {n for n, w in ours.net.state_dict().items() if not torch.equal(w, before[n])}
        head = {"head.classifier.weight", "head.classifier.bias"}
        assert moved > head if training else moved == head


# ---- A run before its first step


class Accelerator(OneProcess):
    def reduce(self, value, how):
        return value


class FewStepsLearner:
    starts_anew = False

    def __init__(self, recipe, classes, steps, accelerator):
        self.given, self.net = (classes, steps), nn.Identity()


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A run of 40 drawn images, ready to train; and what it has said."""
    images, labels = np.zeros((40, 4, 4), np.uint8), np.arange(40) % 3

    def prepare(**flags):
        split = table(images, labels, list("abc"), "train")
        monkeypatch.setattr(run_module, "open_data", lambda recipe: (split, split))
        monkeypatch.setattr(run_module, "Learner", FewStepsLearner)
        run = Run(replace(Recipe(batch_size=8, image_size=28, channels=1), **flags), tmp_path)
        run.accelerator, run.is_main = Accelerator(torch.device("cpu"), False), True
        run.said = []
        run.say = run.said.append
        run.prepare()
        return run

    return prepare


class Told:
    """Stands for a progress bar or for the metrics."""

    def __init__(self, *given, **options):
        self.given, self.options, self.closed = given, options, False
        made.append(self)

    def close(self):
        self.closed = True


made = []


@pytest.mark.parametrize("is_main", [True, False])
def test_bar_and_metrics_are_the_first_processs_and_are_closed(prepared, monkeypatch, is_main):
    run = prepared(steps=4, tensorboard=False)
    monkeypatch.setattr(run_module, "tqdm", Told)
    monkeypatch.setattr(run_module, "Metrics", Told)
    made.clear()
    run.is_main, run.step = is_main, 4
    assert run.loop() == {"seconds": 0, "images_per_second": 0, "loader_share": 0}
    bar, *metrics = made
    disable = None if is_main else True
    assert bar.options == dict(total=4, initial=4, unit="step", disable=disable)
    assert [each.given for each in metrics] == [(run.folder, 4, False)] * is_main
    assert all(each.closed for each in made)


def test_crops_are_cut_from_larger_images_in_training_and_evaluation(prepared):
    run = prepared()
    assert [data.decoder.size for data in (run.train_data, run.test_data)] == [28, 28]
    run = prepared(crop_scale=0.5, crop_ratio=0.875)
    assert [data.decoder.size for data in (run.train_data, run.test_data)] == [32, 32]


def test_epochs_are_rounded_to_steps_of_which_there_is_at_least_one(prepared):
    for epochs, steps in ((1, 5), (0.3, 2), (0.01, 1), (2.5, 12)):
        run = prepared(epochs=epochs)
        assert run.steps == steps and run.learner.given == (3, steps)
    assert prepared(epochs=9, steps=4).steps == 4
    assert prepared(batch_size=40, steps=1).share.size == 40
    with pytest.raises(ValueError, match=r"^batch_size is 41, of 40 training images$"):
        prepared(batch_size=41)


def test_memory_is_in_gigabytes_of_decoded_images(prepared):
    size = 40 * 28 * 28 / 1e9
    assert prepared(memory=1.001 * size).train_data.images is not None
    assert prepared(memory=0.999 * size).train_data.images is None
    run = prepared(memory=0, threads=7, shuffle_buffer=9, strict=True)
    assert (run.train_data.threads, run.train_data.shuffled) == (7, 9)
    assert run.train_data.decoder.strict and run.test_data.decoder.channels == 1


def test_what_is_swapped_for_a_cpu_is_said(prepared, monkeypatch):
    swapped = []
    monkeypatch.setattr(run_module, "lean", swapped.append)
    said = "on a CPU, MBConv and attention train in their lean forms: the same values"
    run = prepared()
    assert run.said == [said] and swapped == [run.learner.net]
    assert prepared(compile=True).said == [] and len(swapped) == 1


def test_a_classifier_that_starts_anew_is_said(prepared, monkeypatch):
    monkeypatch.setattr(FewStepsLearner, "starts_anew", True)
    assert prepared(init_from="a/b").said[-1] == "a/b has other classes: the classifier starts anew"


def test_what_is_due_is_due_every_so_many_steps():
    run = SimpleNamespace(step=0)
    due = [[n for n in range(1, 10) if Run.due(set_step(run, n), every)] for every in (0, 1, 4)]
    assert due == [[], [*range(1, 10)], [4, 8]]


def set_step(run, n):
    run.step = n
    return run


def test_a_run_that_diverges_says_what_is_left(tmp_path):
    run = Run(Recipe(), tmp_path)
    run.step = 7
    advice = "a lower --lr or a longer --warmup-steps may help"
    said = f"the loss is nan at step 7; there is no checkpoint yet; {advice}"
    assert str(run.diverged("the loss is nan")) == said
    paths = [save_run(tmp_path / "checkpoints", step, {}) for step in (4, 6)]
    said = f"the loss is inf at step 7; the last good checkpoint is {paths[-1]}; {advice}"
    assert str(run.diverged("the loss is inf")) == said


def test_only_networks_of_the_package_are_trained(tmp_path):
    with pytest.raises(ValueError, match=r"^unknown model 'x'; choose from .*coatnet_0, .*vit_ti"):
        Run(Recipe(model="x"), tmp_path)
    with pytest.raises(ValueError, match=r"^lr is 0; it must be above 0$"):
        Run(Recipe(lr=0), tmp_path)
    assert Run(Recipe(), str(tmp_path)).folder == tmp_path and Run(Recipe(), tmp_path).about == {}


@pytest.mark.parametrize("name", ["checkpoints", "network", "metrics.jsonl"])
def test_a_folder_with_anything_of_a_run_is_refused(name, tmp_path):
    (tmp_path / name).mkdir()
    run = Run(Recipe(), tmp_path)
    with pytest.raises(ValueError) as error:
        run.take_folder(None)
    said = f"{tmp_path} already holds a run ({name}); go on with --resume, or choose another --outp"
    assert str(error.value).startswith(said)


def test_the_loss_by_hand_is_torchs():
    """The smoothing that `by_hand` writes out."""
    logits, targets = torch.randn(5, 3), one_hot(torch.arange(5) % 3, 3)
    smooth = 0.8 * targets + 0.2 / 3
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2)
    assert torch.allclose(-(smooth * logits.log_softmax(1)).sum(1).mean(), expected)
    pixels = torch.randint(0, 256, (2, 1, 3, 3), dtype=torch.uint8)
    assert torch.allclose(2 * (pixels / 255) - 1, normalize(pixels), atol=1e-6)
