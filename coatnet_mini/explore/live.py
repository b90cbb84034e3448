"""The live network: draw a digit, and see what a small network makes of it, as you draw.

    from coatnet_mini import load
    from coatnet_mini.images import digits

    images, labels = digits()
    live_network(load("digits"), images[one_of_each], small=True)

It is a figure that computes in the page (see twin.py): the twin `network` runs `coatnet` of
operators.js on the very file that `load` reads, and the function here is what it is held to. A
page loads that file, `_static/digits.js`, when the figure nears the view; a kernel sends its bytes.
Neither is part of what a notebook stores.

A drawing becomes an input as the training pictures did: strokes on 32×32 pixels, the pixels with
ink counted in blocks of 4×4 (0 to 16, as the digits of scikit-learn were made from scans), enlarged
bicubically.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from coatnet_mini.explore.axes import AxisRequest, axis, point
from coatnet_mini.explore.twin import Computed, Edit, Network, computed, paint
from coatnet_mini.explore.views import bars, heat, image, scalar

SIDE, BLOCK = 32, 4  # pixels of the drawing, and of a block whose ink is counted
PEN = 2.5  # pixels: the width at which drawings are most like the digits it has learned from
TITLE = "Draw a digit"
NAMES = {
    "drawing": "your drawing",
    "probabilities": "what it reads",
    "attention": "where position i looks",
    "responses": "depthwise responses",
}
HEADS = ("mean of heads", "head 1", "head 2", "head 3")
SILENCE = ("nothing", "this part", "all six", "the whole stage")
TILES = 48  # pixels along each side of the mosaic of responses


def live_network(network, digits, small: bool = False, name: str = "digits") -> Computed:
    """The explorable figure of a network that reads the reader's drawing.

    Args:
        network: the CoAtNet that `load(name)` gives, in evaluation mode, for square grey images.
        digits: (classes, 8, 8) in 0..1, one picture of each class to start from, 1 being ink.
        small: the drawing, the probabilities and one map of attention, without controls; else also
            every layer's attention and the depthwise responses.
        name: of the network among the stored ones that come with the package.
    """
    stored = stored_network(name)
    training = json.loads((folder_of(name) / "training.json").read_text(encoding="utf-8"))
    reading = Reading(network, stored.config["image_size"][0])
    layers, blocks = reading.layers()
    bitmaps = [as_bitmap(picture) for picture in np.asarray(digits)]
    reading.choose_channels(bitmaps)
    requests = {"drawing": drawing_of(bitmaps, 3, NAMES["drawing"]), "i": position_on(reading.grid)}
    constants = {f"channels{k}": c for k, c in enumerate(reading.channels.values())}
    fixed = {"layer": layers.index("S2b.1") if "S2b.1" in layers else 0, "head": 0, "block": 0}
    if small:
        constants |= fixed
    else:
        requests["layer"] = axis(layers, start=layers[fixed["layer"]], label="attention of")
        requests["block"] = axis(blocks, label="responses of")
        requests["head"] = axis(HEADS, label="weights of")

    def figure(drawing, i, layer=layers[fixed["layer"]], head=HEADS[0], block=blocks[0]):
        made = reading.views(drawing, i, layer, HEADS.index(head), block)
        attention = heat(made["attention"], mark="i", scale="state", over="drawing")
        views = {
            "drawing": image(drawing, ink=True, clip=(0, 1), edit="drawing"),
            "attention": attention,
            "responses": heat(made["responses"], signed=True, scale="state"),
            "probabilities": bars(
                made["probabilities"],
                labels=range(len(bitmaps)),
                x="digit",
                y="probability",
                clip=(0, 1),
            ),
        }
        if small:
            del views["responses"]
        return views

    caption = sentence(training)
    return computed(figure, TITLE, caption, "network", constants, NAMES, requests, stored)


def live_heads(network, digits, name: str = "digits") -> Computed:
    """The explorable figure of one head's weights before and after its table of biases.

    The heads are those of the attention layers on the first one's grid. Arguments as in
    `live_network`.
    """
    stored = stored_network(name)
    reading = Reading(network, stored.config["image_size"][0])
    bitmaps = [as_bitmap(picture) for picture in np.asarray(digits)]
    layers = reading.shared_layers()
    count = len(reading.of(bitmaps[0])["attention"][layers[0]])
    options = [f"{b + 1}·{h + 1}" for b in range(len(layers)) for h in range(count)]

    def figure(drawing, i, head=options[0], times=1):
        at = options.index(head)
        return reading.one_head(drawing, i, layers[at // count], at % count, times)

    titles = {
        "drawing": "your digit",
        "before": "content alone",
        "bias": "table, from i",
        "after": "both: the weights",
        "nearBefore": "near i, content alone, %",
        "nearAfter": "near i, with the table, %",
    }
    requests = {
        "drawing": drawing_of(bitmaps, 0, titles["drawing"]),
        "head": axis(options, label="block · head"),
        "times": axis([1, 5, 20], start=1, label="table ×"),
        "i": position_on(reading.grid),
    }
    title = "One head, before and after its table"
    return computed(figure, title, "", "heads", {}, titles, requests, stored)


def live_silence(network, digits, parts: dict, inside, name: str = "digits") -> Computed:
    """The explorable figure of a network with some of its parts left out.

    Args:
        network, digits, name: as in `live_network`.
        parts: {"channels of S1": [("S1.0", 118), ...]}, for each group its parts as the branch of
            `inside.branches` and the head or channel; every group has the same number.
        inside: the module `coatnet_mini.inside`, which silences; figures import no other room.
    """
    stored = stored_network(name)
    reading = Reading(network, stored.config["image_size"][0])
    bitmaps = [as_bitmap(picture) for picture in np.asarray(digits)]
    branches = inside.branches(network)
    groups, rows, names = list(parts), list(parts.values()), list(branches)
    count = len(rows[0])

    def figure(drawing, of=groups[0], part=1, silence=SILENCE[1]):
        own = rows[groups.index(of)]
        silent = silent_parts(branches, own, part - 1, SILENCE.index(silence))
        return reading.without(inside, drawing, silent, *own[part - 1])

    titles = {
        "drawing": "your digit",
        "adds": "what the part adds",
        "probabilities": "what is read then",
        "change": "change of the scores",
        "before": "for its first answer, %",
        "after": "the same, parts left out, %",
    }
    constants = {
        "layers": np.array([[names.index(layer) for layer, _ in own] for own in rows]),
        "units": np.array([[unit for _, unit in own] for own in rows]),
    }
    requests = {
        "drawing": drawing_of(bitmaps, 2, titles["drawing"]),
        "of": axis(groups, label="parts"),
        "part": axis(range(1, count + 1), start=1, label="part"),
        "silence": axis(SILENCE, start=SILENCE[1], label="leave out"),
    }
    return computed(figure, "Leave a part out", "", "silence", constants, titles, requests, stored)


def silent_parts(
    branches: dict, own: list[tuple[str, int]], part: int, how: int
) -> dict[str, list[int]]:
    """What is left out: nothing, one of the parts `own`, all of them, or all of their stages."""
    if how < 3:
        chosen = [[], own[part : part + 1], own][how]
        layers = dict.fromkeys(layer for layer, _ in chosen)
        return {k: [unit for layer, unit in chosen if layer == k] for k in layers}
    stages = {layer.split(".")[0] for layer, _ in own}
    return {k: list(range(b.parts)) for k, b in branches.items() if k.split(".")[0] in stages}


def folder_of(name: str) -> Path:
    """That of a stored network which comes with the package."""
    return Path(str(files("coatnet_mini") / "checkpoints" / name))


def stored_network(name: str) -> Network:
    folder = folder_of(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Network(name, config, (folder / "model.safetensors").read_bytes())


def drawing_of(bitmaps: list[np.ndarray], start: int, label: str) -> Edit:
    """A digit to draw on, with a button for each of `bitmaps`, of which one is there at first."""
    choices = {str(k): bitmap for k, bitmap in enumerate(bitmaps)}
    return paint(bitmaps[start], label, pen=PEN, pens=("rub out", "ink"), choices=choices)


def position_on(grid: tuple[int, int]) -> AxisRequest:
    H, W = grid
    return point(H, W, start=(H // 2, W // 3), label="position i")


def sentence(training: dict) -> str:
    """What to do, and how far the network is to be trusted (tests/test_live.py measures that)."""
    results = training["results"]
    return (
        f"Draw a digit, or pick one; then point at the second picture. The network has seen "
        f"{results['train_images']:,} digits that fill their picture, and reads "
        f"{results['accuracy']:.0%} of {results['test_images']} others. So draw large: at half the "
        "height it reads most digits wrong."
    )


class Reading:
    """What a network makes of a drawing, with all on the way; one drawing is remembered."""

    def __init__(self, network, image_size: int):
        self.network, self.image_size = network, image_size
        self.last: tuple[bytes, dict] | None = None
        self.channels: dict[str, np.ndarray] = {}

    def of(self, drawing) -> dict:
        """The logits (classes,), "attention" (heads, N, N) and "responses" (D, H, W) by layer."""
        import torch

        drawing = np.asarray(drawing, dtype=np.float32)
        if self.last and self.last[0] == drawing.tobytes():
            return self.last[1]
        x = self.input(drawing)
        responses, handles = {}, []
        for path, module in self.network.named_modules():
            if path.endswith(".depthwise"):
                key = path.removeprefix("stages.").removesuffix(".depthwise")
                keep = lambda _, inputs, output, key=key: responses.update({key: output[0]})  # noqa: E731
                handles.append(module.register_forward_hook(keep))
        with torch.no_grad():
            logits = self.network(x)[0]
        for handle in handles:
            handle.remove()
        maps = {k: v[0].numpy() for k, v in self.network.attention_maps(x).items()}
        responses = {k: v.numpy() for k, v in responses.items()}
        seen = {"logits": logits.numpy(), "attention": maps, "responses": responses}
        self.last = (drawing.tobytes(), seen)
        return seen

    def layers(self) -> tuple[list[str], list[str]]:
        """The names of the attention layers and of the depthwise ones."""
        seen = self.of(np.zeros((SIDE, SIDE)))
        return list(seen["attention"]), list(seen["responses"])

    def shared_layers(self) -> list[str]:
        """The attention layers on the first one's grid."""
        maps = self.of(np.zeros((SIDE, SIDE)))["attention"]
        first = next(iter(maps.values())).shape
        return [layer for layer, weights in maps.items() if weights.shape == first]

    def one_head(self, drawing, i: int, layer: str, head: int, times: float) -> dict:
        """What `live_heads` shows: see the twin `heads`."""
        stage, block = layer.split(".")
        attention = self.network.stages[stage][int(block)].attention
        H, W = self.grid
        bias = attention.bias().detach().numpy()[head, i]
        scores = np.log(self.of(drawing)["attention"][layer][head, i]) - bias
        before, after = (softmax(scores + t * bias) for t in (0, times))
        j = np.arange(H * W)
        near = np.maximum(abs(j // W - i // W), abs(j % W - i % W)) < 2
        return {
            "drawing": image(drawing, ink=True, clip=(0, 1), edit="drawing"),
            "before": heat(before.reshape(H, W), mark="i", scale="state", over="drawing"),
            "bias": heat(times * bias.reshape(H, W), mark="i", scale="state", signed=True),
            "after": heat(after.reshape(H, W), mark="i", scale="state", over="drawing"),
            "nearBefore": scalar(100 * before[near].sum()),
            "nearAfter": scalar(100 * after[near].sum()),
        }

    def without(self, inside, drawing, silent: dict, layer: str, unit: int) -> dict:
        """What `live_silence` shows: see the twin `silence`."""
        whole, x = self.of(drawing)["logits"], self.input(drawing)
        made = inside.added(self.network, x)
        with inside.silenced(self.network, silent):
            left = self.network(x)[0].detach().numpy()
        side = next(iter(made.values())).shape[-1]
        norms = made[layer][0, unit].numpy()
        factor, read = side // len(norms), whole.argmax()
        return {
            "drawing": image(drawing, ink=True, clip=(0, 1), edit="drawing"),
            "adds": heat(norms.repeat(factor, 0).repeat(factor, 1), scale="state", over="drawing"),
            "probabilities": bars(
                softmax(left), labels=range(len(left)), x="digit", y="probability", clip=(0, 1)
            ),
            "change": bars(left - whole, labels=range(len(left)), x="digit", y="score"),
            "before": scalar(100 * softmax(whole)[read]),
            "after": scalar(100 * softmax(left)[read]),
        }

    def input(self, drawing):
        """A drawing (32, 32) as the network reads it: (1, 1, size, size)."""
        import torch

        grey = enlarge(counts(np.asarray(drawing, dtype=np.float32)), self.image_size)
        return torch.from_numpy(grey).float()[None, None] / 127.5 - 1

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the first attention layer."""
        N = next(iter(self.of(np.zeros((SIDE, SIDE)))["attention"].values())).shape[-1]
        return round(N**0.5), round(N**0.5)

    def views(self, drawing, i: int, layer: str, head: int, block: str) -> dict:
        """What the figure shows: see the twin `network`."""
        seen = self.of(drawing)
        return {
            "probabilities": softmax(seen["logits"]),
            "attention": row_of(seen["attention"][layer], i, head, self.grid),
            "responses": mosaic(seen["responses"][block], self.channels[block]),
        }

    def choose_channels(self, drawings) -> None:
        """The channels to show: those that respond most to these drawings, in their own order."""
        for block, response in self.of(drawings[0])["responses"].items():
            count = (TILES // response.shape[1]) * (TILES // response.shape[2])
            strength = sum(np.abs(self.of(d)["responses"][block]).mean((1, 2)) for d in drawings)
            self.channels[block] = np.sort(np.argsort(-strength, kind="stable")[:count])


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def row_of(maps: np.ndarray, i: int, head: int, grid: tuple[int, int]) -> np.ndarray:
    """The weights (heads, N, N) of the position that holds cell i of `grid`, on that grid.

    head: 0 for the mean of all. A layer of fewer positions repeats each weight.
    """
    weights = maps.mean(0) if head == 0 else maps[head - 1]
    side = round(len(weights) ** 0.5)
    factor = grid[0] // side
    row, column = i // grid[1] // factor, i % grid[1] // factor
    own = weights[row * side + column].reshape(side, side)
    return own.repeat(factor, 0).repeat(factor, 1)


def mosaic(responses: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """These channels of (D, H, W) side by side, row by row: (TILES, TILES)."""
    _, H, W = responses.shape
    rows, columns = TILES // H, TILES // W
    chosen = responses[channels].reshape(rows, columns, H, W)
    return chosen.swapaxes(1, 2).reshape(TILES, TILES)


def counts(drawing: np.ndarray) -> np.ndarray:
    """How many pixels of each 4×4 block hold ink: (32, 32) in 0..1 → (8, 8) of 0..16."""
    ink = drawing >= 0.5
    return ink.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).sum((1, 3))


def enlarge(count: np.ndarray, size: int) -> np.ndarray:
    """Counts (8, 8) as the network's training pictures were enlarged: (size, size) uint8."""
    from PIL import Image

    grey = (count * (255 / 16)).round().astype(np.uint8)
    picture = Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).copy()


def as_bitmap(picture: np.ndarray) -> np.ndarray:
    """A picture (8, 8) in 0..1 as a drawing (32, 32) of 0 and 1 that has the same `counts`.

    Of each block those pixels hold ink that are darkest in a smooth enlargement.
    """
    from PIL import Image

    count = np.rint(np.asarray(picture) * 16).astype(int)
    grey = Image.fromarray(count.astype(np.float32))
    smooth = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    blocks = smooth.reshape(8, BLOCK, 8, BLOCK).swapaxes(1, 2).reshape(8, 8, BLOCK * BLOCK)
    rank = np.argsort(np.argsort(-blocks, axis=-1, kind="stable"), axis=-1, kind="stable")
    ink = rank < count[..., None]
    bitmap = ink.reshape(8, 8, BLOCK, BLOCK).swapaxes(1, 2).reshape(SIDE, SIDE)
    return bitmap.astype(np.float32)


def network_script(name: str = "digits") -> str:
    """The file `name`.js that a page loads: the stored network's configuration and its weights."""
    network = stored_network(name)
    weights = base64.b64encode(network.weights).decode()
    text = json.dumps({"config": network.config, "safetensors": weights}, separators=(",", ":"))
    return f"(globalThis.coatnetNetworks ??= {{}}).{name} = {text};\n"
