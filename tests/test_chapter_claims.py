"""What a chapter claims is shown by cells that would give something else were it false.

Each line of CLAIMS makes one claim false, with a wrong function in the place of one of the
package's, and names the cells that must notice: in what they print or return, or in the numbers of
their figures. Only these cells and the earlier ones that they need are run. (That strict nbval
fails on any such difference is shown in test_tools.py.)

To add a claim: its words, its mistake, and the ids of the cells beside it without their "ch05-".
"""

from collections.abc import Callable
from functools import cache, wraps
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coatnet_mini import (
    attention,
    blocks,
    ceit,
    cheaper,
    coatnet,
    convolution,
    inside,
    published,
    shapes,
    weighted_sum,
)
from coatnet_mini.audit import attention_checks, defects, network_checks
from coatnet_mini.studies import ablations, results
from coatnet_mini.train import optimization
from conftest import difference
from tests import CHAPTERS
from tests.chapter_cells import Cell, Ran, cells_of, run

# ---- Mistakes ----------------------------------------------------------------------------------


class Mistake(NamedTuple):
    """`wrong`, called with the right function and its arguments, stands for `module.name`."""

    module: object
    name: str
    wrong: Callable

    def make(self, monkeypatch):
        owner, _, name = self.name.rpartition(".")
        owner = attrgetter(owner)(self.module) if owner else self.module
        right = getattr(owner, name)

        @wraps(right)
        def instead(*args, **options):
            return self.wrong(right, *args, **options)

        monkeypatch.setattr(owner, name, instead)


def weights(of: str, rule: Callable) -> Mistake:
    """Weights of the form `of` by another rule of the plain attention A and the bias w."""

    def wrong(right, q, k=None, bias=None, form="pre", scale=1.0):
        if bias is None or form != of:
            return right(q, k, bias, form, scale)
        return rule(right(q, k, scale=scale), bias)

    return Mistake(attention, "attention_weights", wrong)


def bias_of(of: str, change: Callable) -> Mistake:
    """Weights of the form `of` with another bias, a function of the right one and the scale."""

    def wrong(right, q, k=None, bias=None, form="pre", scale=1.0):
        if bias is not None and form == of:
            bias = change(bias, scale)
        return right(q, k, bias, form, scale)

    return Mistake(attention, "attention_weights", wrong)


def one_table_for_all_heads(right, layer, *args, **options):
    right(layer, *args, **options)
    if layer.relative_bias_table is not None:
        layer.relative_bias_table = torch.nn.Parameter(layer.relative_bias_table[:1].detach())


def a_second_product_for_pre(right, layer, x, *args):
    y = right(layer, x, *args)
    if layer.relative_bias == "pre":
        y.new_zeros(y.shape[1], y.shape[1]) @ y  # multiply-adds that no output needs
    return y


def load_mirrored(right, layer, state_dict, prefix, *args):
    stored = state_dict[prefix + "relative_bias_table"]
    right(layer, state_dict, prefix, *args)
    table = layer.relative_bias_table
    if table.shape != stored.shape:
        table.data = table.data.flip(-1)


def better_in_both(right, x, y):
    x, y = np.asarray(x), np.asarray(y)
    return ~np.isnan(x) & ~((x < x[:, None]) & (y > y[:, None])).any(1)


def rows_of_the_height(right, H, W):
    y, x = torch.arange(H * W) // W, torch.arange(H * W) % W
    return (y[:, None] - y + H - 1) * (2 * H - 1) + (x[:, None] - x + W - 1)


def corner_to_corner(right, table, H, W):
    size = (2 * H - 1, 2 * W - 1)
    if table.shape[1:] == size:
        return table
    return F.interpolate(table[None], size, mode="bilinear", align_corners=True)[0]


def gate_before_the_depthwise(right, block, x):
    y = block.act(block.expand_norm(block.expand(block.norm(x))))
    y = block.act(block.depthwise_norm(block.depthwise(block.se(y))))
    return block.shortcut(x) + block.drop_path(block.project(y))


def norm_over_the_grid(right, layer, x):
    return right(layer, x - x.mean((2, 3), keepdim=True))


def stride_elsewhere(right, block, *args, downsample="expand", **options):
    other = {"expand": "depthwise", "depthwise": "expand"}[downsample]
    right(block, *args, downsample=other, **options)


def pool_before_norm(right, block, x):
    y = block.norm(block.pool(x))
    grid = y.shape[2:]
    y = block.attention(blocks.as_tokens(y), grid)
    x = block.shortcut(x) + blocks.as_grid(y, *grid)
    return x + blocks.as_grid(block.mlp(blocks.as_tokens(block.mlp_norm(x))), *grid)


def no_shortcut(right, block, x):
    y = block.pool(block.norm(x))
    grid = y.shape[2:]
    x = blocks.as_grid(block.attention(blocks.as_tokens(y), grid), *grid)
    return blocks.as_grid(block.mlp(blocks.as_tokens(block.mlp_norm(x))), *grid)


def difference_of_strangers(right, found, one, other, **cell):
    a, b = (found.interval(**{**cell, **part}) for part in (one, other))
    half = (a.half**2 + b.half**2) ** 0.5
    mean = a.mean - b.mean
    return results.Interval(mean, mean - half, mean + half, a.n, a.level)


SOFTMAX_OVER_QUERIES = Mistake(
    weighted_sum, "attention_matrix", lambda right, x: torch.softmax(x @ x.mT, dim=-2)
)
MATRIX_OF_FLIPPED_KERNEL = Mistake(
    weighted_sum, "convolution_matrix", lambda right, w, *args, **o: right(w.flip(-1), *args, **o)
)
LOOP_OVER_FLIPPED_KERNEL = Mistake(
    convolution,
    "depthwise_loop",
    lambda right, x, w, **options: right(x, w.flip(-2, -1), **options),
)
CONV2D_OF_FLIPPED_KERNEL = Mistake(
    convolution, "depthwise_conv2d", lambda right, x, w, **o: right(x, w.flip(-2, -1), **o)
)
KEY_MINUS_QUERY = Mistake(
    attention, "bias_matrix", lambda right, table, H, W: right(table.flip(-2, -1), H, W)
)
ROWS_OF_THE_HEIGHT = Mistake(attention, "relative_index", rows_of_the_height)
CORNER_TO_CORNER = Mistake(attention, "resize_table", corner_to_corner)
ONE_TABLE = Mistake(attention, "MultiHeadAttention.__init__", one_table_for_all_heads)
SECOND_PRODUCT = Mistake(attention, "MultiHeadAttention.forward", a_second_product_for_pre)
LOAD_MIRRORED = Mistake(attention, "MultiHeadAttention._load_from_state_dict", load_mirrored)
AVERAGE_POOLS = Mistake(blocks, "make_pool", lambda right, kind, stride: right("avg", stride))
SQUEEZED_LESS = Mistake(
    blocks,
    "SqueezeExcitation.__init__",
    lambda right, layer, width, squeezed: right(layer, width, 4 * squeezed),
)
CUTS_THAT_STAY = Mistake(cheaper, "window_of", lambda right, grid, size, shift=0: right(grid, size))
NO_WALLS = Mistake(
    cheaper, "window_mask", lambda right, grid, size, shift=0: right(grid, max(grid))
)
FORGET_TO_SHRINK = Mistake(
    cheaper,
    "streamed_attention",
    lambda right, q, k, v, block=64, scale=1.0: (
        sum(
            right(q, *part, block, scale)
            for part in zip(k.split(block), v.split(block), strict=True)
        )
        / len(k.split(block))
    ),
)
WINDOWS_SCALED = Mistake(
    cheaper, "window_attention", lambda right, q, *args, **options: right(q / 2, *args, **options)
)
LINEAR_UNDIVIDED = Mistake(
    cheaper,
    "linear_attention",
    lambda right, q, k, v, feature=cheaper.positive: feature(q) @ (feature(k).mT @ v),
)
INTERVALS_OF_68_PERCENT = Mistake(
    results, "student", lambda right, values, level=0.95: right(values, 0.68)
)
GATES_OF_A_CORNER = Mistake(
    blocks.SqueezeExcitation, "gates", lambda right, layer, x: right(layer, x[..., :1, :1])
)
GATE_BEFORE_THE_DEPTHWISE = Mistake(blocks.MBConv, "forward", gate_before_the_depthwise)
NORM_OVER_THE_GRID = Mistake(blocks.LayerNorm2d, "forward", norm_over_the_grid)
STRIDE_ELSEWHERE = Mistake(blocks.MBConv, "__init__", stride_elsewhere)
DROP_WITHOUT_DIVIDING = Mistake(
    blocks.StochasticDepth,
    "forward",
    lambda right, layer, residual: right(layer, residual) * (1 - layer.rate),
)
ONE_RELATION_FOR_ALL = Mistake(shapes, "positions", lambda right, relation, split: right(0, split))
BETTER_IN_BOTH = Mistake(published, "front", better_in_both)
LARGEST_INSTEAD_OF_MEAN = Mistake(
    coatnet,
    "CoAtNet.forward",
    lambda right, net, x: net.head(net.forward_features(x).amax((2, 3))),
)
SEEDS_AS_STRANGERS = Mistake(results, "Study.difference", difference_of_strangers)
GRADIENT_TWICE = lambda w, scale: 2 * w - w.detach()  # noqa: E731
# chapter 12
DECAY_ALL = Mistake(
    optimization,
    "parameter_groups",
    lambda right, model, decay: [{**g, "weight_decay": decay} for g in right(model, decay)],
)
LATE_BY_A_STEP = Mistake(
    optimization, "learning_rate", lambda right, s, steps, recipe: right(s + 1, steps, recipe)
)
OTHER_WAY_ROUND = Mistake(
    results,
    "Study.difference",
    lambda right, study, one, other, *a, **o: right(study, other, one, *a, **o),
)
# chapter 16


def patches_into_the_class_token(right, block, x, grid):
    y = right(block, x, grid)
    return torch.cat([y[:, :1] + y[:, 1:].mean(1, keepdim=True), y[:, 1:]], 1)


CLASS_TOKEN_ON_THE_GRID = Mistake(ceit, "LeFFBlock.feed_forward", patches_into_the_class_token)
FIRST_LAYER_ASKS = Mistake(
    ceit, "LastQueryAttention.heads_of", lambda right, layer, x: right(layer, x.flip(1))
)
HALF_THE_CHANNELS = Mistake(
    ceit,
    "ImageToTokens.__init__",
    lambda right, layer, dim, width, patch=4, channels=64, *rest: right(
        layer, dim, width, patch, channels // 2, *rest
    ),
)

# chapter 17
EVEN_TABLES = Mistake(
    attention,
    "bias_matrix",
    lambda right, table, *grid: right((table + table.flip(-2, -1)) / 2, *grid),
)
NOTHING_IS_LOST = Mistake(network_checks, "replay", lambda right, *_: True)
LINE_POOL_OF_GRIDS = Mistake(
    defects, "LinePool.forward", lambda right, layer, x: F.max_pool2d(x, 2)
)
NO_GRID = Mistake(attention_checks, "positions_of", lambda right, *_: None)
# chapter 14
POPULATION = Mistake(
    results,
    "student",
    lambda right, values, level=0.95: right([*values, sum(values) / len(values)], level),
)
MOVED_BACK = Mistake(ablations, "moved", lambda right, scale, blocks: right(scale, -blocks))
# chapter 15
NOT_SILENT = Mistake(inside, "silenced", lambda right, network, parts: right(network, {}))
ONE_FARTHER = Mistake(inside, "half_distance", lambda right, *a: right(*a) + 1)
OTHER_NAMES = Mistake(inside, "explained", lambda right, kernels: right(kernels).flip(1))
MISSED_LEAST = Mistake(inside, "occlusion", lambda right, *a, **o: -right(*a, **o))

# ---- Claims: chapter, words: mistake, cells that notice ----------------------------------------

CLAIMS = {
    1: {
        "a row of attention sums to one": (SOFTMAX_OVER_QUERIES, "equal table explore"),
        "a convolution's matrix reads at j − i": (MATRIX_OF_FLIPPED_KERNEL, "equal"),
    },
    2: {
        "the loop is PyTorch's operator": (LOOP_OVER_FLIPPED_KERNEL, "equal"),
    },
    5: {
        "pre multiplies and its rows sum to one": (
            weights("pre", lambda A, w: A * w.exp()),
            "equal matrices pre hull limits",
        ),
        "the prior favours i − j, and content overrules it": (
            bias_of("pre", lambda w, scale: -w),
            "equal pre prior overrule limits",
        ),
        "post adds and is not renormalised": (
            weights("post", lambda A, w: (A + w).softmax(-1)),
            "equal matrices post hull overrule limits",
        ),
        "nothing in the content silences post's kernel": (
            weights("post", lambda A, w: A * (1 + w)),
            "equal post overrule limits gradient-content",
        ),
        "the kernel is read at i − j": (KEY_MINUS_QUERY, "equal post gradient"),
        "post is attention plus a depthwise convolution": (CONV2D_OF_FLIPPED_KERNEL, "post"),
        "the gradient of pre is (5.8)": (
            bias_of("pre", GRADIENT_TWICE),
            "gradient gradient-content",
        ),
        "the gradient of post is (5.7)": (
            bias_of("post", GRADIENT_TWICE),
            "gradient gradient-content",
        ),
        "only post needs a second product": (SECOND_PRODUCT, "cost"),
        "one scalar per offset and head": (ONE_TABLE, "cost"),
        "the bias is not scaled": (
            bias_of("pre", lambda w, scale: w * scale),
            "prior limits pitfall-scale",
        ),
        "the study's intervals hold 95 % by Student's t": (
            INTERVALS_OF_68_PERCENT,
            "study-guess study",
        ),
    },
    6: {
        "a row of the table has 2W − 1 cells": (ROWS_OF_THE_HEIGHT, "equal pairs shared"),
        "the table is read at query − key": (KEY_MINUS_QUERY, "equal heads pitfall-flip"),
        "every head has its table": (ONE_TABLE, "cost"),
        "tables are resized with half-pixel centres": (CORNER_TO_CORNER, "resize resize-heads"),
        "a layer resizes what it loads": (LOAD_MIRRORED, "load"),
    },
    # chapter 8
    8: {
        "the norm comes before the pool": (
            Mistake(blocks, "TransformerBlock.forward", pool_before_norm),
            "equal",
        ),
        "with shortcuts the positions stay apart": (
            Mistake(blocks, "TransformerBlock.forward", no_shortcut),
            "stack equal pytorch",
        ),
        "the table is read at query − key, before the softmax": (KEY_MINUS_QUERY, "equal"),
        "every head has its table": (ONE_TABLE, "real"),
    },
    # chapter 10
    10: {
        "the relation is far, the texture near": (ONE_RELATION_FOR_ALL, "hole"),
        "the page's networks are the package's": (LARGEST_INSTEAD_OF_MEAN, "equal"),
        "the five cost the same, pairs included": (SECOND_PRODUCT, "equal costs figure"),
        "layouts are compared seed by seed": (SEEDS_AS_STRANGERS, "three ranking transfer"),
        "the study's intervals hold 95 % by Student's t": (
            INTERVALS_OF_68_PERCENT,
            "guess-few guess-most halves three ranking transfer",
        ),
    },
    # chapter 11
    11: {
        "the network of the page is the package's": (AVERAGE_POOLS, "equal"),
        "it reads its tables at query − key": (KEY_MINUS_QUERY, "equal"),
        "every MBConv squeezes to a quarter of its width": (SQUEEZED_LESS, "spend equal"),
        "a Transformer block multiplies 12 N D² + 2 N² D": (SECOND_PRODUCT, "spend meta"),
        "every head has its table": (ONE_TABLE, "spend equal"),
    },
    # chapter 7
    7: {
        "the gate stands behind the depthwise": (GATE_BEFORE_THE_DEPTHWISE, "equal"),
        "the gate reads the whole picture": (GATES_OF_A_CORNER, "equal gate probes"),
        "layer normalisation is over channels": (NORM_OVER_THE_GRID, "removal-run"),
        "the stride decides what is read": (STRIDE_ELSEWHERE, "equal parts-check stride table9"),
        "stochastic depth keeps the mean": (DROP_WITHOUT_DIVIDING, "drop-run"),
    },
    # chapter 9
    9: {
        "shifted windows heal the walls": (CUTS_THAT_STAY, "seams pitfall-roll"),
        "across a wall nothing is seen": (
            NO_WALLS,
            "guess-where windows-equal seams guess-best camera",
        ),
        "blocks give the softmax's own numbers": (FORGET_TO_SHRINK, "streamed-equal"),
        "a window as large as the grid is full attention": (WINDOWS_SCALED, "windows-equal"),
        "linear attention is its matrix": (LINEAR_UNDIVIDED, "linear-equal"),
    },
    # chapter 12
    12: {
        "tables, norms and biases are not decayed": (DECAY_ALL, "groups"),
        "the last step of the warm-up has the peak": (LATE_BY_A_STEP, "equal"),
        "an effect is one arm minus the other": (OTHER_WAY_ROUND, "guess-alone effects"),
    },
    # chapter 17
    17: {
        "every offset has a bias of its own": (EVEN_TABLES, "equal report"),
        "no residuals are seen by what still arrives": (NOTHING_IS_LOST, "verdict"),
        "the page's line is the package's": (LINE_POOL_OF_GRIDS, "verdict"),
        "what the places are is looked at": (NO_GRID, "report verdict"),
    },
    # chapter 16
    16: {
        "LeFF leads the class token past": (CLASS_TOKEN_ON_THE_GRID, "equal"),
        "so the last one gets no gradient": (
            CLASS_TOKEN_ON_THE_GRID,
            "guess-dead dead dropped",
        ),
        "the last class token asks all": (FIRST_LAYER_ASKS, "equal"),
        "only 64 channels give the published sizes": (HALF_THE_CHANNELS, "sizes parts"),
        "the study's intervals hold 95 % by Student's t": (
            INTERVALS_OF_68_PERCENT,
            "guess-part effects curves",
        ),
        "an effect is one arm minus the other": (OTHER_WAY_ROUND, "guess-part effects curves"),
    },
    # chapter 18
    18: {
        "a rival need not be better in both": (
            BETTER_IN_BOTH,
            "figure equal budget kinds again-run",
        ),
        "printed operations leave out what a count has": (SECOND_PRODUCT, "kinds-guess kinds"),
        "our differences are seed by seed": (SEEDS_AS_STRANGERS, "ours"),
        "our intervals hold 95 % by Student's t": (INTERVALS_OF_68_PERCENT, "ours"),
    },
    # chapter 14
    14: {
        "an effect is the changed arm minus the paper's": (OTHER_WAY_ROUND, "forest"),
        "the interval is that of the differences by hand": (POPULATION, "equal forest"),
        "V1 moves a block from S2 to S3, V2 one back": (MOVED_BACK, "costs"),
    },
    # chapter 15
    15: {
        "a silent part leaves out its term": (NOT_SILENT, "equal table"),
        "half of the weight lies within the circle": (ONE_FARTHER, "half-equal half-table"),
        "a kernel is named by what explains it": (OTHER_NAMES, "kernel guess-kernel"),
        "what is covered is what is missed": (MISSED_LEAST, "guess-why cover"),
    },
    # chapter 13
    13: {
        "tables are resized with half-pixel centres": (CORNER_TO_CORNER, "equal pitfall-align"),
        "starts are compared seed by seed": (SEEDS_AS_STRANGERS, "tune-guess tune augment"),
        "the study's intervals hold 95 % by Student's t": (
            INTERVALS_OF_68_PERCENT,
            "broken tune augment transfer",
        ),
    },
}
LINES = [
    pytest.param(chapter, *line, id=f"{chapter}: {words}")
    for chapter, claims in CLAIMS.items()
    for words, line in claims.items()
]


def differs(cell: Cell, ran: Ran) -> bool:
    """Whether strict nbval would say that this cell gave something else."""
    if ran.error or ran.text != cell.text or len(ran.made) != len(cell.specs):
        return True
    made = (figure.spec for figure, _ in ran.made)
    return any(map(difference, cell.specs, made))


def find(number: int, names: str) -> tuple[Path, frozenset[str]]:
    """The chapter and the ids of its cells; one line if it has no such cell to compare."""
    chapter = next(path for path in CHAPTERS if path.name.startswith(f"{number:02d}_"))
    wanted = frozenset(f"ch{number:02d}-{name}" for name in names.split())
    compared = {cell.id for cell in cells_of(chapter) if cell.text or cell.specs}
    if lost := sorted(wanted - compared):
        pytest.fail(
            f"{chapter.name} has no cell {', '.join(lost)} with an output: mend CLAIMS",
            pytrace=False,
        )
    return chapter, wanted


def differing(chapter: Path, wanted: frozenset[str]) -> set[str]:
    ran = list(run(chapter, wanted))
    for cell, result in ran:
        if cell.id not in wanted and result.error:
            raise result.error
    return {cell.id for cell, result in ran if cell.id in wanted and differs(cell, result)}


@cache
def differing_as_it_is(number: int) -> set[str]:
    """Of all cells that a mistake is to change in a chapter, those that differ without one."""
    every = " ".join(names for _, names in CLAIMS[number].values())
    return differing(*find(number, every))


@pytest.mark.parametrize(("number", "mistake", "names"), LINES)
def test_false_claim_is_noticed_where_it_is_made(number, mistake, names, monkeypatch):
    chapter, wanted = find(number, names)
    assert not differing_as_it_is(number) & wanted, "not what is stored, with the package as it is"
    mistake.make(monkeypatch)
    assert differing(chapter, wanted) == wanted
