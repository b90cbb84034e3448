"""CoAtNet-0 and -2 at 224 pixels against timm's, in bfloat16 and channels-last.

Inference and a training step, eager and compiled: times in turn, their ratio, peak memory, and the
share of the rate at which the same device multiplies large bfloat16 matrices.
"""

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import torch
from torch import nn

from benchmarks.gpu_parts.job import Job, free, is_out_of_memory, words
from benchmarks.memory import peak_of_run
from benchmarks.network import inference, training_step
from benchmarks.peers import load_timm
from coatnet_mini import create_model
from coatnet_mini.cost import cost
from tests.timm_weights import create_pair

INFERENCE, TRAINING = "inference", "training step"
CASES = [  # (network, task, compiled), what matters most first
    (name, task, compiled)
    for compiled in (False, True)
    for task in (TRAINING, INFERENCE)
    for name in ("coatnet_2", "coatnet_0")
]
TOY_CASES = [
    ("coatnet_0", TRAINING, False),
    ("coatnet_pico", INFERENCE, True),  # timm has none: a shorter trace
]
BATCH = {INFERENCE: 256, TRAINING: 128}  # halved as long as memory does not suffice
NEEDED = {False: 12, True: 40}  # seconds that a case may take: eager, compiled
PASSES = {INFERENCE: 1, TRAINING: 3}  # the backward pass multiplies twice as much as the forward
SMALL = 64  # pixels, at toy size


def run(job: Job) -> None:
    rate = matmul_rate(job)
    job.note(f"Matrix products in bfloat16: {rate / 1e12:.4g} TFLOP/s.")
    job.note(
        "Ratios: medians over rounds. The share of that rate: ours. Peaks: beyond what is kept."
    )
    with suppress(Exception):  # without timm every row says why
        job.note(f"timm {load_timm().__version__}, with the same weights.")
    for network, task, compiled in TOY_CASES if job.toy else CASES:
        name = f"{network}, {task}, {'compiled' if compiled else 'eager'}"
        if job.left() < NEEDED[compiled] and not job.toy:
            job.note(f"No time was left for: {name}.")
            continue
        try:
            measure(job, name, network, task, compiled, rate)
        except Exception as error:
            job.row(name, error=words(error))
        free()


def matmul_rate(job: Job) -> float:
    """Operations a second of one large product of random bfloat16 matrices."""
    n = 256 if job.toy else 8192
    a, b = torch.randn(2, n, n, device=job.device, dtype=torch.bfloat16)
    rounds = [per_run(job, lambda: a @ b) for _ in range(5)]
    return 2 * n**3 / statistics.median(rounds)


def per_run(job: Job, run, at_least: float = 0.2) -> float:
    """Seconds that one run takes, of as many in a row as fill `at_least` seconds."""
    n = 1 if job.toy else max(1, round(at_least / elapsed(job, run, 1)))
    return elapsed(job, run, n) / n


def elapsed(job: Job, run, n: int) -> float:
    job.wait()
    start = time.perf_counter()
    for _ in range(n):
        run()
    job.wait()
    return time.perf_counter() - start


def measure(job: Job, name: str, network: str, task: str, compiled: bool, rate: float) -> None:
    """One row; the batch is halved until it fits."""
    batch = 2 if job.toy else BATCH[task]
    while True:
        try:
            for row in compare(job, network, task, compiled, batch, rate):
                job.row(name, **row)
            return
        except Exception as error:
            if not is_out_of_memory(error) or batch == 1:
                raise
        free()
        batch //= 2


def compare(
    job: Job, network: str, task: str, compiled: bool, batch: int, rate: float
) -> Iterator[dict]:
    """The row of ours alone, since compiling timm's may take what is left; then of both in turn."""
    size = (SMALL if network == "coatnet_0" else 32) if job.toy else 224
    images = torch.randn(batch, 3, size, size, device=job.device)
    images = images.to(memory_format=torch.channels_last)
    models, lacking = sides(network, size)
    operations = 2 * batch * PASSES[task] * cost(models["ours"], size)[-1].multiply_adds
    count = 1 if job.toy else 7
    row, runs = {"batch": batch, **({"without_timm": lacking} if lacking else {})}, {}
    for who, model in models.items():
        runs[who] = run = prepare(job, model, task, compiled, images)
        run(), run()  # compilation, choice of algorithms, allocation
        rounds = [{who: per_run(job, r) for who, r in runs.items()} for _ in range(count)]
        seconds = {who: statistics.median(r[who] for r in rounds) for who in runs}
        row |= {f"{who}_ms": 1e3 * s for who, s in seconds.items()}
        row["images_per_second"] = batch / seconds["ours"]
        row["share_of_matmul"] = operations / seconds["ours"] / rate
        if "timm" in runs:
            row["timm/ours"] = statistics.median(r["timm"] / r["ours"] for r in rounds)
        row[f"{who}_peak_gb"] = peak_of_run(run, job.device.type) / 1e9
        yield row


@cache
def sides(network: str, size: int) -> tuple[dict[str, nn.Module], str | None]:
    """Ours and, with the same weights, timm's, on the CPU; if ours is alone, the reason."""
    if not network[-1].isdigit():
        return {"ours": create_model(network, image_size=size)}, "it has none"
    try:
        timms, ours = create_pair(int(network[-1]), size)
    except Exception as error:  # timm is not there, or is another than we know
        return {"ours": create_model(network, image_size=size)}, words(error)
    return {"ours": ours, "timm": timms}, None


def prepare(job: Job, model: nn.Module, task: str, compiled: bool, images: torch.Tensor):
    """The function to time; in training the weights are float32 and the arithmetic bfloat16."""
    fullgraph = type(model).__module__.startswith("coatnet_mini")
    model = copy.deepcopy(model).to(job.device, memory_format=torch.channels_last)
    if task == INFERENCE:
        model, images = model.bfloat16().eval(), images.bfloat16()
    if compiled:
        backend = "eager" if job.toy else "inductor"  # a C++ compiler would take a minute
        model = torch.compile(model, fullgraph=fullgraph, backend=backend)
    return (inference if task == INFERENCE else training_step)(model, images)
