"""The operators in the page are the package's: in Chromium, on random grids and whole networks."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coatnet_mini.attention import attention_weights, bias_matrix
from coatnet_mini.checkpoint import find, load, save_network
from coatnet_mini.coatnet import CoAtNet, CoAtNetConfig
from coatnet_mini.convolution import depthwise_loop
from coatnet_mini.explore.scripts import module as module_text
from coatnet_mini.images import digit_images, normalize
from coatnet_mini.mending import patches
from coatnet_mini.weighted_sum import weighted_sum
from tests.browser_scripts import page_with, run

LIMIT = 17_000  # bytes
DIGITS = 50
GRIDS = [(1, 1, 1), (2, 5, 3), (7, 4, 1), (6, 9, 5), (12, 3, 2)]  # H, W, D

# A slip, and what it would change: what stands in operators.js, and what would stand there.
MUTANTS = {
    "bias flipped": (
        "const row = Math.floor(i / W) - Math.floor(j / W)",
        "const row = Math.floor(j / W) - Math.floor(i / W)",
    ),
    "bias flipped along rows": ("(i % W) - (j % W)", "(j % W) - (i % W)"),
    "bias scaled": ("scale * s + (pre ? bias[at] : 0)", "scale * (s + (pre ? bias[at] : 0))"),
    "kernel flipped": ("taps[t * D + d] * x[j + d]", "taps[(kh * kw - 1 - t) * D + d] * x[j + d]"),
    "tanh GELU": ("erf(v * Math.SQRT1_2)", "Math.tanh(0.7978845608 * (v + 0.044715 * v ** 3))"),
    "heads before q, k, v": ("which * out + h * d + (at % d)", "h * 3 * d + which * d + (at % d)"),
    "heads in another order": (
        "* out + h * d + (at % d)] = v",
        "* out + (heads - 1 - h) * d + (at % d)] = v",
    ),
    "average for max pool": ('kind === "max"', 'kind === "avg"'),
    "unbiased variance": ("- mean) ** 2 / D", "- mean) ** 2 / (D - 1)"),
    "no gate": ("v * gates[at % grid.D]", "v"),
    "softmax over two rows": ("softmax(scores, M)", "softmax(scores, 2 * M)"),
}


@pytest.fixture(scope="module")
def page(browser):
    return page_with(browser, "operators")


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def close(found, expected, atol=1e-5):
    expected = expected.detach().numpy().ravel()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= atol


def channels_last(x):
    """(1, D, H, W) → (H·W, D)."""
    return x[0].permute(1, 2, 0).flatten(0, 1)


def test_the_module_is_small_and_has_one_export_at_its_end():
    text = module_text("operators")
    assert len(text.encode()) <= LIMIT
    assert text.count("export ") == 1
    assert text[text.index("export ") :].count("\n") <= 5


@pytest.mark.parametrize(("M", "N", "D"), [(1, 1, 1), (5, 3, 2), (4, 17, 7), (31, 8, 1)])
def test_weighted_sum_softmax_and_linear(page, random, M, N, D):
    W, x = torch.randn(M, N, generator=random), torch.randn(N, D, generator=random)
    close(run(page, "operators.weightedSum", W, x, D), weighted_sum(W, x))
    scores = 20 * W
    close(run(page, "operators.softmax", scores, N), scores.softmax(-1))
    A, b = torch.randn(M, D, generator=random), torch.randn(M, generator=random)
    close(run(page, "operators.linear", x, A, b, D), F.linear(x, A, b))


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("padding", ["zero", "circular", "none"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((1, 3), 1), ((3, 3), 2), ((3, 1), 3)])
def test_depthwise_convolution(page, random, shape, padding, kernel, stride):
    H, W, D = shape
    if padding == "none":  # there the kernel has to fit
        H, W = H + 2, W + 2
        shape = (H, W, D)
    x = torch.randn(1, D, H, W, generator=random)
    weight = torch.randn(D, *kernel, generator=random)
    expected = depthwise_loop(x, weight, padding=padding, stride=stride)
    options = {"padding": padding, "stride": stride}
    found = run(page, "operators.depthwise", channels_last(x), shape, weight, kernel, options)
    close(found, channels_last(expected))


@pytest.mark.parametrize("shape", GRIDS)
def test_unfold_and_patches(page, random, shape):
    x = torch.randn(1, shape[2], *shape[:2], generator=random)
    for k, stride in ((3, 1), (3, 2), (5, 1)):
        expected = F.unfold(x, k, padding=k // 2, stride=stride)[0].mT
        found = run(page, "operators.unfold", channels_last(x), shape, k, {"stride": stride})
        close(found, expected)
    found = run(page, "operators.patches", x[0, 0], shape[:2], 5)
    close(found, patches(x[0, 0]))


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("form", ["pre", "post", "none"])
def test_attention_with_its_bias(page, random, shape, form):
    H, W, d = shape
    q, k = torch.randn(2, H * W, d, generator=random)
    table = torch.randn(2 * H - 1, 2 * W - 1, generator=random)
    bias = bias_matrix(table, H, W)
    close(run(page, "operators.biasMatrix", table, H, W), bias, atol=0)
    options = {"bias": bias, "form": form, "scale": 0.4}
    found = run(page, "operators.attentionWeights", q, k, d, options)
    close(found, attention_weights(q, k, bias, form, 0.4))
    found = run(page, "operators.attentionWeights", q, k, d)
    close(found, attention_weights(q, k))


def test_the_error_function(page):
    x = torch.linspace(-6, 6, 1001)
    close(run(page, "(x) => x.map(operators.erf)", x), torch.erf(x), atol=3e-7)


# ---- whole networks ----------------------------------------------------------------------------


class Told:
    """What a network makes of images: in PyTorch, and in the page."""

    def __init__(self, network: CoAtNet, images: torch.Tensor):
        self.images, responses = images, {}
        network.eval()
        for path, module in network.named_modules():
            if path.endswith(".depthwise"):
                name = path.removeprefix("stages.").removesuffix(".depthwise")
                module.register_forward_hook(partial(self.keep, responses, name))
        with torch.no_grad():
            self.logits = network(images)
        self.attention, self.responses = network.attention_maps(images), responses

    @staticmethod
    def keep(responses: dict, name: str, module, inputs, output) -> None:
        responses[name] = output

    def compare(self, page, config: dict, weights: bytes, atol: float = 1e-4) -> None:
        run(
            page,
            "(c, w) => { globalThis.net = [c, operators.readSafetensors(w)]; }",
            config,
            weights,
        )
        for n, image in enumerate(self.images):
            pixels = image.permute(1, 2, 0).contiguous()
            found = run(page, "(x) => operators.coatnet(x, ...net)", pixels)
            close(found["logits"], self.logits[n], atol)
            assert list(found["attention"]) == list(self.attention)
            assert list(found["responses"]) == list(self.responses)
            for name, maps in self.attention.items():
                close(found["attention"][name]["weights"], maps[n], atol)
            for name, grids in self.responses.items():
                close(found["responses"][name]["x"], channels_last(grids[n][None]), atol)


@pytest.fixture(scope="module")
def held_out():
    """The shipped network on held-out digits, its configuration and its file."""
    folder = find("digits")
    config = json.loads((folder / "config.json").read_text())
    images = normalize(digit_images(config["image_size"][0])[1].images[:DIGITS])
    told = Told(load(folder), images)
    return told, config, (folder / "model.safetensors").read_bytes()


def test_the_shipped_network_on_held_out_digits(page, held_out):
    told, config, weights = held_out
    assert len(told.images) == DIGITS
    told.compare(page, config, weights)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_slip_is_noticed(browser, held_out, mutant):
    right, wrong = MUTANTS[mutant]
    text = module_text("operators")
    assert right in text, f"operators.js no longer reads {right}: update this test"
    slipped = page_with(browser, "operators", operators=text.replace(right, wrong))
    told, config, weights = held_out
    with pytest.raises(AssertionError):
        told.compare(slipped, config, weights)
    slipped.close()


S, C, T = ("S", 1, 8, 2), ("C", 2, 12, 2), ("T", 2, 16, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"stages": (S, C, T)},
        {"stages": (("S", 3, 8, 1), C, T), "relative_bias": "post", "pool": "avg"},
        {"stages": (("P", 1, 8, 2), T), "relative_bias": "none", "head": "tanh"},
        {"stages": (S, C, T), "downsample": "depthwise", "se_ratio": 0, "conv_norm": "layer"},
        {"stages": (S, T, C), "transformer_norm": "batch", "expansion": 2, "in_channels": 1},
    ],
    ids=["paper", "post", "patches", "depthwise", "batch"],
)
def test_other_networks_of_random_weights(page, tmp_path, options):
    """Every choice of the configuration, on grids that are not square."""
    config = CoAtNetConfig(**{"head_dim": 8, "num_classes": 5, "image_size": (8, 16), **options})
    torch.manual_seed(0)
    network = CoAtNet(config)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(std=1 / math.sqrt(max(tensor[0].numel(), 1)))
    save_network(tmp_path / "net", network.state_dict(), config)
    images = torch.randn(2, config.in_channels, 8, 16)
    written = json.loads((tmp_path / "net" / "config.json").read_text())
    weights = (tmp_path / "net" / "model.safetensors").read_bytes()
    Told(network, images).compare(page, written, weights)
