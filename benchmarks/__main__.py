"""`make bench`: what is measured side by side, in one run, and a table at the end.

The candidates of a group take turns, round after round, so that a machine that slows down slows
all of them alike. Printed are the median over the rounds and its ratio to the group's first.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.peers import load_timm
from coatnet_mini import convolution
from coatnet_mini.model import create_model

ROUNDS = 7


def compare(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each candidate, in turns, after one round to warm up."""
    seconds = {name: [] for name in candidates}
    for number in range(ROUNDS + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def depthwise() -> tuple[str, dict[str, Callable[[], object]]]:
    """Chapter 2's four forms of the same convolution."""
    x, weight = torch.randn(8, 16, 14, 14), torch.randn(16, 3, 3)
    forms = ("conv2d", "unfold", "matrix", "loop")
    functions = {form: getattr(convolution, f"depthwise_{form}") for form in forms}
    candidates = {form: partial(function, x, weight) for form, function in functions.items()}
    return "Depthwise 3×3 convolution, (8, 16, 14, 14)", candidates


def networks(train: bool) -> tuple[str, dict[str, Callable[[], object]]]:
    """CoAtNet-0 here and in timm: a forward pass, or a forward and a backward one."""
    images = torch.randn(2, 3, 224, 224)
    ours = create_model("coatnet_0", downsample="depthwise", pool="avg", head="tanh")
    theirs = load_timm().create_model("coatnet_0_224")
    models = {"coatnet_mini": ours.train(train), "timm": theirs.train(train)}
    run = forward_and_backward if train else forward
    what = "forward and backward" if train else "forward"
    candidates = {name: partial(run, model, images) for name, model in models.items()}
    return f"CoAtNet-0, {what}, (2, 3, 224, 224)", candidates


@torch.no_grad()
def forward(model: torch.nn.Module, images: torch.Tensor) -> None:
    model(images)


def forward_and_backward(model: torch.nn.Module, images: torch.Tensor) -> None:
    model.zero_grad()
    model(images).logsumexp(-1).sum().backward()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)  # the Makefile's one thread is for the notebooks
    rows = []
    for title, candidates in (depthwise(), networks(train=False), networks(train=True)):
        print(f"measuring: {title}", flush=True)
        times = compare(candidates)
        first = next(iter(times.values()))
        rows.append(f"\n{title}")
        rows += [f"  {n:<14}{1e3 * t:>10.2f} ms{t / first:>8.2f}×" for n, t in times.items()]
    print("\n".join(rows))


if __name__ == "__main__":
    main()
