"""Training on a CPU: the same values and gradients from fewer and smaller tensors.

A CPU spends a good part of a training step on moving activations and on asking the system for
memory. `lean` swaps parts of a network for others that move and ask for less.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.blocks import MBConv, SqueezeExcitation, check_grid

LARGE = 4_194_304  # elements from which `BatchNormGELU` gains; below, its many steps cost more
CHUNK = 524_288  # elements at a time, so that what its backward pass reuses stays in cache


def lean(model: nn.Module) -> nn.Module:
    """`model` itself, its parts swapped for lean ones with the same outputs and gradients.

    Only classes change: parameters and buffers stay, with their names, so that state dicts,
    optimizers and averages of the weights are those of the plain network. The lean parts differ in
    eager float32 and float64 training on a CPU; anywhere else they compute as the plain ones do.
    """
    for module in model.modules():
        module.__class__ = LEAN.get(type(module), type(module))
    return model


def is_lean(x: Tensor) -> bool:
    """Whether the lean parts have a way of their own with x."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return torch.is_grad_enabled() and not plain


class LeanMBConv(MBConv):
    """`MBConv` that writes and keeps fewer of its wide tensors."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_lean(x):
            return super().forward(x)
        check_grid(x, self.stride)
        y = self.expand(self.norm(x))
        y = self.depthwise(norm_gelu(self.expand_norm, self.act, y))
        y = norm_gelu(self.depthwise_norm, self.act, y)
        y = gated_projection(self.se, self.project, y)
        return self.shortcut(x) + self.drop_path(y)


class LeanAttention(MultiHeadAttention):
    """`MultiHeadAttention` that writes the scores of its pairs once.

    PyTorch's fused kernel on a CPU has no gradient for the bias; what it falls back to is slower.
    """

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        learns = self.relative_bias == "pre" and self.relative_bias_table.requires_grad
        if not (learns and is_lean(x)):
            return super().forward(x, grid)
        q, k, v = self.heads_of(x)  # each (B, heads, N, d)
        y = biased_attention(q, k, v, self.bias(grid), self.head_dim**-0.5)
        return self.out(y.transpose(1, 2).flatten(2))


def norm_gelu(norm: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """act(norm(x)); in one step for a large x, a BatchNorm in training and GELU. x (B, D, H, W)."""
    batch_norm = type(norm) is nn.BatchNorm2d and norm.training and norm.momentum
    if not batch_norm or x.numel() < LARGE:
        return act(norm(x))
    norm.num_batches_tracked.add_(1)
    statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
    return BatchNormGELU.apply(x, norm.weight, norm.bias, *statistics)[0]


class BatchNormGELU(torch.autograd.Function):
    """GELU(BatchNorm(x)) over (B, D, H, W), keeping x alone for the backward pass.

    The gradient it is handed is overwritten: inside a block nothing else reads it.
    """

    @staticmethod
    def forward(x, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, invstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        return torch.ops.aten.gelu_(y), mean, invstd

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias = inputs[:3]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, bias, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, weight, bias, mean, invstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        D, scale = x.shape[1], weight * invstd
        rows = max(1, CHUNK // D)
        xs, ds = (t.permute(0, 2, 3, 1).reshape(-1, D).split(rows) for t in (x, grad))
        centred, normed, ones = x.new_empty(rows, D), x.new_empty(rows, D), x.new_ones(1, rows)
        d_bias, d_scale = x.new_zeros(1, D), x.new_zeros(1, D)
        for x_, d in zip(xs, ds, strict=True):  # d becomes the gradient before the GELU
            c, v, one = centred[: len(d)], normed[: len(d)], ones[:, : len(d)]
            torch.addcmul(bias, torch.sub(x_, mean, out=c), scale, out=v)
            torch.ops.aten.gelu_backward.grad_input(d, v, grad_input=d)
            d_bias.addmm_(one, d)
            d_scale.addmm_(one, c.mul_(d))
        d_weight = d_scale[0] * invstd
        count = x.numel() // D
        slope, offset = -scale * invstd * d_weight / count, -scale * d_bias[0] / count
        for x_, d in zip(xs, ds, strict=True):  # and here the gradient before the BatchNorm
            c = torch.sub(x_, mean, out=centred[: len(d)])
            torch.addcmul(torch.addcmul(offset, c, slope, out=c), d, scale, out=d)
        return grad, d_weight, d_bias[0], None, None, None, None


def gated_projection(se: nn.Module, project: nn.Conv2d, x: Tensor) -> Tensor:
    """project(se(x)), with the gates on the columns of the projection and not on its wide input."""
    if not isinstance(se, SqueezeExcitation):
        return project(se(x))
    weight = project.weight.flatten(1) * se.gates(x)[:, None]  # (B, D_out, D)
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, D)
    y = torch.baddbmm(project.bias, tokens, weight.transpose(1, 2))  # (B, N, D_out)
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale·q kᵀ + bias) v; q, k, v (B, heads, N, d), bias (heads, N, N)."""
    batch = q.shape[:2]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    biases = bias.expand(*batch, -1, -1).flatten(0, 1)
    weights = torch.baddbmm(biases, q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return (weights @ v).unflatten(0, batch)


LEAN = {MBConv: LeanMBConv, MultiHeadAttention: LeanAttention}
