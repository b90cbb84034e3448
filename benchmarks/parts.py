"""What each part of `fuse` and `lean` is worth on a CPU: alone, and as what the whole loses.

    python -m benchmarks.parts [--task inference|training] [--batch 8] [--rounds 9] [--threads 2]

All variants of one CoAtNet-0 take turns in every round. Printed are medians of the rounds' ratios:
the plain network's time over the variant's, and the variant's over the whole transform's. A part
that is worth less than 3 % has no place in the package.
"""

import argparse
import copy
import statistics
from contextlib import ExitStack
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.network import TRANSFORMS, inference, seconds, training_step
from coatnet_mini.attention import MultiHeadAttention
from tests.timm_weights import create_pair

# Each part by what stands in its place where it is left out.
PARTS = {
    "inference": {
        "folded norms": {
            "fuse.fuse_mbconv": lambda block: None,
            "fuse.fuse_stem": lambda stem: None,
        },
        "conv and GELU in one": {  # builds on the folded norms: alone it is nothing
            "fuse.ConvGELU.forward": lambda conv, x: F.gelu(nn.Conv2d.forward(conv, x)),
        },
        "linear and GELU in one": {"fuse.fuse_mlp": lambda mlp: None},
    },
    "training step": {
        "norm and GELU in one": {"lean.norm_gelu": lambda norm, act, x: act(norm(x))},
        "gates on the kernel": {"lean.gated_projection": lambda se, project, x: project(se(x))},
        "attention": {"lean.LeanAttention.forward": MultiHeadAttention.forward},
    },
}


def without(task: str, left_out: set[str]) -> ExitStack:
    """A context in which the task's transform does nothing at the parts named."""
    stack = ExitStack()
    for part in left_out:
        for name, instead in PARTS[task][part].items():
            stack.enter_context(mock.patch(f"coatnet_mini.cpu.{name}", instead))
    return stack


def variants(task: str) -> dict[str, set[str] | None]:
    """What each variant leaves out; the plain network has no transform at all."""
    parts = set(PARTS[task])
    alone = {f"{part}, alone": parts - {part} for part in PARTS[task]}
    others = {f"all but: {part}": {part} for part in PARTS[task]}
    return {"plain": None, **alone, **others, "all": set()}


def prepare(task: str, model: nn.Module, left_out: set[str] | None, images: torch.Tensor):
    """One run of a variant, as a function without arguments."""
    model = copy.deepcopy(model)
    if left_out is not None:
        with without(task, left_out):
            model = TRANSFORMS[task](model)
    run = (inference if task == "inference" else training_step)(model, images)

    def run_without():
        with without(task, left_out or set()):
            return run()

    return run_without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("inference", "training"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plain = create_pair(0)[1].to(memory_format=torch.channels_last)
    images = torch.randn(arguments.batch, 3, 224, 224).to(memory_format=torch.channels_last)
    for task in PARTS:
        if not arguments.task or task.startswith(arguments.task):
            runs = {
                name: prepare(task, plain, left_out, images)
                for name, left_out in variants(task).items()
            }
            print(table(task, runs, arguments.rounds), flush=True)


def table(task: str, runs: dict, rounds: int) -> str:
    """Time all runs in turn; the result as Markdown."""
    for run in runs.values():
        run()
    times = [{name: seconds(run, "cpu") for name, run in runs.items()} for _ in range(rounds)]

    def ratio(a: str, b: str) -> str:
        return f"{statistics.median(t[a] / t[b] for t in times):.3f}"

    lines = [f"| {task} | ms | plain / this | this / all |", "|---|---:|---:|---:|"]
    for name in runs:
        milliseconds = 1e3 * statistics.median(t[name] for t in times)
        lines.append(
            f"| {name} | {milliseconds:,.0f} | {ratio('plain', name)} | {ratio(name, 'all')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
