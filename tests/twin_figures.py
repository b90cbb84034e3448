"""A figure's function for each twin of twins.js, as a chapter would write it."""

import math

import torch

from coatnet_mini.attention import attention_weights, bias_matrix
from coatnet_mini.cheaper import window_mask
from coatnet_mini.convolution import depthwise_conv2d
from coatnet_mini.mending import (
    distance_bias,
    gaussian_blur,
    likeness,
    mend,
    patches,
    psnr,
    random_order,
    shuffle,
)

NEAR, WIDTH, SIZE = 1.1, 6.0, 5
MODES = ["near", "alike", "near and alike"]


def mending(clean):
    order, grid = random_order(clean.numel()), tuple(clean.shape)

    def figure(noisy, mode, temperature, shuffled, i):
        mixed = shuffled == "shuffled"
        x, aim = (shuffle(p, order) if mixed else p for p in (noisy, clean))
        bias = distance_bias(grid, WIDTH) if mode == MODES[2] else None
        if mode == MODES[0]:
            W = gaussian_blur(grid, NEAR)
        else:
            W = likeness(patches(x, SIZE), temperature, bias)
        mended = mend(W, x)
        return {
            "noisy": x,
            "weights": W[i].view(grid),
            "mended": mended,
            "before": psnr(x, aim),
            "after": psnr(mended, aim),
        }

    return figure, {"clean": clean, "order": order, "near": NEAR, "width": WIDTH, "size": SIZE}


def products(kernels):
    """kernels: {name: (k, k)}."""

    def figure(picture, kernel, flip, i):
        w = kernels[kernel].flip(0, 1) if flip == "turned over" else kernels[kernel]
        k = len(w)
        patch = torch.nn.functional.unfold(picture[None, None], k, padding=k // 2)[0, :, i]
        return {
            "picture": picture,
            "patch": patch.view(k, k),
            "kernel": w,
            "products": patch.view(k, k) * w,
            "sum": (patch * w.flatten()).sum(),
            "result": depthwise_conv2d(picture[None, None], w[None])[0, 0],
        }

    return figure, {"kernels": torch.stack(list(kernels.values()))}


def qkv():
    def figure(noisy, size, temperature, i):
        features = patches(noisy, size)
        scores = -(features - features[i]).square().sum(-1)
        weights = (scores / temperature).softmax(-1)
        return {
            "noisy": noisy,
            "query": features[i].view(size, size),
            "scores": scores.view(noisy.shape),
            "weights": weights.view(noisy.shape),
            "value": noisy.flatten()[i],
            "fetched": weights @ noisy.flatten(),
        }

    return figure, {}


def shares(values):
    def figure(scores, temperature):
        weights = (scores / temperature).softmax(-1)
        return {"scores": scores, "weights": weights, "values": values, "fetched": weights @ values}

    return figure, {"values": values}


def prepost(clean, width=1.0):
    grid = tuple(clean.shape)
    N = math.prod(grid)
    biases = distance_table(grid, width)
    kernel = biases.exp()
    kernel = kernel / kernel.sum()

    def figure(noisy, content, strength, i):
        f = patches(noisy, SIZE)
        q = torch.cat([f, torch.ones(N, 1).to(f)], 1)
        k = torch.cat([2 * f, -f.square().sum(1, keepdim=True)], 1)
        A = {
            form: attention_weights(q, k, strength * bias_matrix(table, *grid), form, content)
            for form, table in (("pre", biases.to(f)), ("post", kernel.to(f)))
        }
        mended_pre = mend(A["pre"], noisy)
        mended_post = mend(A["post"] / A["post"].sum(1, keepdim=True), noisy)
        return {
            "noisy": noisy,
            "pre": A["pre"][i].view(grid),
            "post": A["post"][i].view(grid),
            "mendedPre": mended_pre,
            "mendedPost": mended_post,
            "psnrPre": psnr(mended_pre, clean),
            "psnrPost": psnr(mended_post, clean),
        }

    return figure, {"clean": clean, "biases": biases, "kernel": kernel, "size": SIZE}


def bend(noisy, clean, widths):
    """One channel, a 3×3 kernel for each of n copies, GELU or none, and back."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(max(widths), 3, 3, generator=generator)
    shifts = torch.randn(max(widths), generator=generator)
    backs = torch.randn(2 * len(widths), max(widths) + 1, generator=generator) / 9

    def figure(n, bend, i):
        back = backs[2 * widths.index(n) + (bend == "GELU")]

        def block(x):  # (H, W), edge pixels going on beyond the border
            hidden = torch.nn.functional.conv2d(x[None, None], kernels[:n, None], shifts[:n])[0]
            hidden = torch.nn.functional.gelu(hidden) if bend == "GELU" else hidden
            return x[1:-1, 1:-1] + torch.einsum("n,nhw->hw", back[:n], hidden) + back[-1]

        padded = torch.nn.functional.pad(noisy[None, None], [1] * 4, mode="replicate")[0, 0]
        mended = block(padded)
        windows = padded.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 3, 3)
        reads = torch.func.vmap(torch.func.jacrev(block))(windows)[:, 0, 0]
        return {
            "mended": mended,
            "own": reads[:, 1, 1].view(noisy.shape),
            "around": reads[i].round(decimals=2),
            "psnr": psnr(mended, clean),
        }

    constants = {"noisy": noisy, "clean": clean, "kernels": kernels, "shifts": shifts}
    return figure, constants | {"backs": backs, "widths": torch.tensor(widths)}


def distance_table(grid, width):
    rows, columns = torch.meshgrid(*(torch.arange(1.0 - n, n) for n in grid), indexing="ij")
    return -(rows.square() + columns.square()) / (2 * width**2)


LAYERS = ["one", "two, same windows", "two, second shifted"]


def windows(clean, temperature=0.6):
    grid = tuple(clean.shape)

    def figure(noisy, window, layers, i):
        def attend(shift):
            mask = window_mask(grid, window, shift)
            return likeness(patches(noisy, SIZE), temperature, mask)

        first = attend(0)
        last = attend(window // 2) if layers == LAYERS[2] else first
        two = layers != LAYERS[0]
        mended = mend(first, noisy)
        mended = mend(last, mended) if two else mended
        weights = last[i] @ first if two else first[i]
        return {
            "noisy": noisy,
            "weights": weights.view(grid),
            "mended": mended,
            "psnr": psnr(mended, clean),
            "believed": (weights > 0).sum(),
        }

    return figure, {"clean": clean, "temperature": temperature, "size": SIZE}
