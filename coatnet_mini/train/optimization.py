"""AdamW's parameter groups, the learning rate's course, and the running average of weights."""

from math import cos, pi

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coatnet_mini.train.recipe import Recipe

DECAYED = (nn.Linear, nn.Conv2d)  # layers whose weight is decayed; biases, norms and tables are not


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: the weights of linear layers and convolutions, and all else, without decay."""
    modules = [module for module in model.modules() if isinstance(module, DECAYED)]
    decayed = {id(module.weight) for module in modules}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    groups = parameter_groups(model, recipe.weight_decay)
    return AdamW([{**group, "initial_lr": recipe.lr} for group in groups], lr=recipe.lr)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of step 0, 1, ..., steps − 1.

    It rises linearly, reaching the peak in the last step of the warm-up, and ends at `min_lr`,
    or stays at the peak if the schedule is constant.
    """
    warmup = min(recipe.warmup_steps, steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = min((step - warmup + 1) / max(steps - warmup, 1), 1.0)
    left = {"cosine": (1 + cos(pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * left[recipe.schedule]


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps: int, step: int = 0) -> LambdaLR:
    """`learning_rate` as a schedule of torch's, at `step`; a closed form, so it has no memory."""
    return LambdaLR(optimizer, lambda s: learning_rate(s, steps, recipe) / recipe.lr, step - 1)


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A running average θ ← decay·θ + (1 − decay)·model, also of BatchNorm's statistics."""
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
