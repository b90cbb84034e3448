"""Logits in float32 on the GPU, TF32 off, against the CPU's; both against the CPU in float64."""

import copy

import torch
from torch import nn

from benchmarks.gpu_parts.job import Job, free, words
from coatnet_mini import create_model

NETWORKS = ("coatnet_0", "coatnet_2", "vit_small", "ceit_small")
TOY_NETWORKS = ("coatnet_pico", "vit_pico", "ceit_pico")
COMPILED = "coatnet_0"
LIMIT = 1e-4  # relative; TF32 would give some 1e-3
FOR_COMPILING = 30  # seconds


def run(job: Job) -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for name in TOY_NETWORKS if job.toy else NETWORKS:
        try:
            compare(job, name)
        except Exception as error:
            job.row(name, error=words(error))
        free()
    job.note(
        "Float32 without TF32. Errors are ‖logits − reference‖ / ‖reference‖; the reference is the "
        f"CPU in float64, and {LIMIT:g} the limit."
    )


@torch.no_grad()
def compare(job: Job, name: str) -> None:
    torch.manual_seed(0)
    model = drawn(create_model(name).eval())
    images = torch.randn(4, 3, *model.config.image_size)
    reference = copy.deepcopy(model).double()(images.double())
    cpu = model(images)
    model, images = model.to(job.device), images.to(job.device)
    here = model(images).cpu()
    errors = {
        "logits_std": reference.std().item(),
        "cpu_error": error_of(cpu, reference),
        "device_error": error_of(here, reference),
        "device_minus_cpu": error_of(here, cpu.double()),
    }
    job.row(name, **errors, below_limit=errors["device_error"] < LIMIT)
    if name == COMPILED and not job.toy and job.left() > FOR_COMPILING:
        error = error_of(torch.compile(model)(images).cpu(), reference)
        job.row(f"{name}, compiled", device_error=error, below_limit=error < LIMIT)


def drawn(model: nn.Module) -> nn.Module:
    """No zero or one left of what norms and biases start from, which could hide a difference."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def error_of(logits: torch.Tensor, reference: torch.Tensor) -> float:
    return ((logits.double() - reference).norm() / reference.norm()).item()
