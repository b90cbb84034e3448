"""CoAtNet-0 against timm's coatnet_0_224: the same configuration, the same weights, one run.

    python -m benchmarks.network [--batch 8] [--rounds 9] [--threads 2] [--device cpu|cuda]

Three sides: timm's network; "plain", ours as the book reads it; and "ours", the same after a
transform of coatnet_mini/cpu, `fuse` for inference and `lean` for training (under a compiler `lean`
changes nothing). What each part of a transform is worth: benchmarks/parts.py.

Every round times all three, one after the other, so that what else the machine does falls on all.
Printed and stored are medians over rounds; a ratio is the median of the rounds' ratios. Results are
written to benchmarks/results/. On a GPU the networks run in bfloat16; that path has not been run
yet.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.memory import peak_of_child
from coatnet_mini.cpu.fuse import fuse
from coatnet_mini.cpu.lean import lean
from tests.timm_weights import create_pair

RESULTS = Path(__file__).resolve().parent / "results"
SIDES = ("timm", "plain", "ours")
TRANSFORMS = {"inference": fuse, "training step": lean}


def inference(model: nn.Module, images: torch.Tensor):
    """One forward pass, as a function without arguments."""

    def run():
        with torch.inference_mode():
            return model(images)

    return run


def training_step(model: nn.Module, images: torch.Tensor):
    """Forward, loss, backward and an AdamW step, as a function without arguments."""
    model.train()
    labels = torch.arange(len(images), device=images.device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)

    def run():
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, images.device.type == "cuda"):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return run


def prepare(who: str, task: str, compiled: bool, device: str, batch: int):
    """The function to time: `who` of `SIDES` doing `task`, as fast as it can."""
    torch.manual_seed(0)
    timms, plain = create_pair(0)
    model = timms if who == "timm" else plain
    if who == "ours":
        model = TRANSFORMS[task](model)
    images = torch.randn(batch, 3, 224, 224)
    if task == "inference" and device == "cuda":
        model, images = model.bfloat16(), images.bfloat16()
    # Channels-last is timm's best format too: three times as fast as its default on our CPU.
    model = model.to(device, memory_format=torch.channels_last)
    images = images.to(device, memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model, fullgraph=who != "timm")
    return (inference if task == "inference" else training_step)(model, images)


def seconds(run, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(task: str, compiled: bool, arguments) -> dict:
    """Times of all sides at one task, alternating, and their ratios."""
    runs = {who: prepare(who, task, compiled, arguments.device, arguments.batch) for who in SIDES}
    for run in runs.values():  # compilation, allocation, caches
        run()
        run()
    rounds = [
        {who: seconds(run, arguments.device) for who, run in runs.items()}
        for _ in range(arguments.rounds)
    ]

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(r[a] / r[b] for r in rounds), 3)

    return {
        "task": task,
        "compiled": compiled,
        **{f"{who}_ms": milliseconds(statistics.median(r[who] for r in rounds)) for who in SIDES},
        "timm/plain": ratio("timm", "plain"),
        "plain/ours": ratio("plain", "ours"),
        "timm/ours": ratio("timm", "ours"),
        "rounds_ms": [{who: milliseconds(r[who]) for who in SIDES} for r in rounds],
    }


def milliseconds(time: float) -> float:
    return round(1e3 * time, 1)


def add_memory(row: dict, arguments) -> None:
    """Peak memory of one run beyond what was held before it, each side in a process of its own."""
    for who in SIDES:
        peak = peak_of_child(who, row["task"], row["compiled"], arguments.device, arguments.batch)
        row[f"{who}_peak_mb"] = round(peak / 1e6, 1)


def machine(device: str) -> dict:
    """What the numbers depend on."""
    import timm

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else names[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
    }


def table(result: dict) -> str:
    """The result as Markdown."""
    about = result["machine"]
    lines = [
        f"CoAtNet-0, 224×224, batch {result['batch']}, identical weights; ours is plain after fuse "
        f"(inference) or lean (training). {about['device']}, "
        f"{about['threads']} threads, torch {about['torch']}, timm {about['timm']}, "
        f"commit {about['commit']}.",
        "",
        f"`{result['command']}`",
        "",
        "| | timm (ms) | plain (ms) | ours (ms) | timm / plain | plain / ours | timm / ours "
        "| timm peak (MB) | plain peak (MB) | ours peak (MB) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        name = row["task"] + (", compiled" if row["compiled"] else ", eager")
        times = [f"{row[f'{who}_ms']:,.0f}" for who in SIDES]
        ratios = [f"{row[ratio]:.2f}" for ratio in ("timm/plain", "plain/ours", "timm/ours")]
        peaks = [f"{row[f'{who}_peak_mb']:,.0f}" for who in SIDES]
        lines.append("| " + " | ".join([name, *times, *ratios, *peaks]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--eager-only", action="store_true", help="leave out what needs compiling")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for compiled in (False,) if arguments.eager_only else (False, True):
        for task in ("inference", "training step"):
            rows.append(compare(task, compiled, arguments))
            add_memory(rows[-1], arguments)
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "rounds_ms"}), flush=True)
    result = {
        "command": "python -m benchmarks.network " + " ".join(sys.argv[1:]),
        "machine": machine(arguments.device),
        "batch": arguments.batch,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"network_{arguments.device}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print("\n" + table(result))


if __name__ == "__main__":
    main()
