"""Exercises of chapter 11: what a block costs, where most, when pairs do, and a budget."""

import math
from itertools import compress, product

import torch

from coatnet_mini.exercises import Exercise, Mistake


def one_more_block(kind: str, D: int, side: int) -> int:
    """Multiply-adds of a block, D channels in and out, on side × side positions."""
    return _block(kind, D, side**2)


def _block(kind: str, D: int, N: int) -> int:
    if kind == "C":
        return N * (8 * D * D + 36 * D) + 2 * D * D
    return 12 * N * D * D + 2 * N * N * D


def dearest_stage(kinds: str, widths: tuple[int, ...], image_side: int) -> int:
    """The stage, from 1, in which one more block costs most multiply-adds."""
    return _dearest(kinds, widths, image_side)


def _dearest(kinds, widths, image_side, price=_block, first=4) -> int:
    positions = [(image_side // (first * 2**n)) ** 2 for n in range(len(kinds))]
    prices = list(map(price, kinds, widths, positions))
    return 1 + prices.index(max(prices))


def _parameters(kind: str, D: int, N: int) -> int:
    return 10 * D * D + 36 * D if kind == "C" else 12 * D * D


def pairs_outweigh(D: int, stride: int) -> int:
    """The smallest image side, a multiple of stride, with 2 N² D ≥ 12 N D²."""
    return stride * math.ceil(math.sqrt(6 * D))


def most_parameters(price: tuple[int, ...], gain: tuple[int, ...], left: int) -> int:
    """The most parameters that blocks of these prices and gains can add for `left`."""
    best = [0]  # by what may be spent
    for spent in range(1, left + 1):
        bought = (best[spent - p] + g for p, g in _kinds(price, gain) if p <= spent)
        best.append(max(bought, default=0))
    return best[-1]


def _kinds(price: tuple[int, ...], gain: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(price, gain, strict=True))


def _greedy(price: tuple[int, ...], gain: tuple[int, ...], left: int) -> int:
    """The best bargain until the money is gone, then the next best."""
    found = 0
    for p, g in sorted(_kinds(price, gain), key=lambda pair: -pair[1] / pair[0]):
        found, left = found + left // p * g, left % p
    return found


def _each_once(price: tuple[int, ...], gain: tuple[int, ...], left: int) -> int:
    choices = product((False, True), repeat=len(price))
    return max(
        sum(compress(gain, chosen)) for chosen in choices if sum(compress(price, chosen)) <= left
    )


def _block_cases(rng: torch.Generator) -> list[dict]:
    sizes = torch.randint(2, 20, (4, 2), generator=rng).tolist()
    cases = [{"kind": "C", "D": 4, "side": 2}, {"kind": "T", "D": 4, "side": 2}]
    return cases + [{"kind": "CT"[n % 2], "D": 32 * a, "side": b} for n, (a, b) in enumerate(sizes)]


def _stage_cases(rng: torch.Generator) -> list[dict]:
    widths = [(96, 192, 384, 768), (96, 256, 384, 768), (256, 512, 1280, 2048)]
    cases = [
        {"kinds": "CCTT", "widths": w, "image_side": side} for w in widths for side in (224, 512)
    ]
    cases += [
        {"kinds": "CCCC", "widths": (96, 192, 384, 768), "image_side": 224},
        {"kinds": "CTTT", "widths": (96, 192, 384, 768), "image_side": 384},
        {"kinds": "CT", "widths": (128, 128), "image_side": 64},
        {"kinds": "CCTT", "widths": (256, 256, 384, 512), "image_side": 224},
        {"kinds": "CCTT", "widths": (64, 192, 384, 1024), "image_side": 224},
    ]
    return cases


def _pair_cases(rng: torch.Generator) -> list[dict]:
    widths = [6, 384, 768, 512, 1280, *torch.randint(2, 2000, (4,), generator=rng).tolist()]
    return [{"D": D, "stride": 16 if n % 2 else 32} for n, D in enumerate(widths)]


def _budget_cases(rng: torch.Generator) -> list[dict]:
    cases = [
        {"price": (4, 5), "gain": (4, 6), "left": 8},
        {"price": (4, 5), "gain": (4, 6), "left": 3},
        {"price": (4, 5), "gain": (4, 6), "left": 9},
        {"price": (237, 376, 351), "gain": (380, 1783, 7092), "left": 2387},
    ]
    for left in (60, 97, 151):
        price = tuple(torch.randint(7, 30, (3,), generator=rng).tolist())
        gain = tuple(torch.randint(10, 99, (3,), generator=rng).tolist())
        cases.append({"price": price, "gain": gain, "left": left})
    return cases


EXERCISES = [
    Exercise(
        "11.1",
        one_more_block,
        _block_cases,
        [
            Mistake(
                "squeeze-and-excitation is counted at every position. It reads the mean over the "
                "grid: its two matrices are used once.",
                lambda kind, D, side: (
                    side**2 * (10 * D * D + 36 * D) if kind == "C" else _block(kind, D, side**2)
                ),
            ),
            Mistake(
                "the pairs are missing: q·k and A·v are N × N × D each, and have no weights.",
                lambda kind, D, side: (
                    _block(kind, D, side**2) if kind == "C" else 12 * side**2 * D * D
                ),
            ),
            Mistake(
                "only one of the two products of pairs is there: q·k, and then A·v.",
                lambda kind, D, side: (
                    _block(kind, D, side**2) if kind == "C" else 12 * side**2 * D * D + side**4 * D
                ),
            ),
            Mistake(
                "the depthwise convolution is missing: nine weights for each of the 4D channels.",
                lambda kind, D, side: (
                    _block(kind, D, side**2) - (36 * D * side**2 if kind == "C" else 0)
                ),
            ),
            Mistake(
                "that is twice the answer: a multiply-add counts as one.",
                lambda kind, D, side: 2 * _block(kind, D, side**2),
            ),
            Mistake(
                "`side` is one side of the grid. There are side² positions.",
                lambda kind, D, side: _block(kind, D, side),
            ),
            Mistake(
                "these are parameters. Each weight of a matrix is used at every position.",
                lambda kind, D, side: _parameters(kind, D, side),
            ),
        ],
    ),
    Exercise(
        "11.2",
        dearest_stage,
        _stage_cases,
        [
            Mistake(
                "stages count from 1 here: S1 is 1.",
                lambda kinds, widths, image_side: _dearest(kinds, widths, image_side) - 1,
            ),
            Mistake(
                "that is the stage in which a block has most parameters. Each of them is used at "
                "every position, and positions get fewer.",
                lambda kinds, widths, image_side: _dearest(
                    kinds, widths, image_side, price=_parameters
                ),
            ),
            Mistake(
                "the pairs are missing, 2 N² D in a Transformer block: on large pictures they "
                "decide.",
                lambda kinds, widths, image_side: _dearest(
                    kinds, widths, image_side, price=lambda kind, D, N: N * _parameters(kind, D, N)
                ),
            ),
            Mistake(
                "S0 halves the picture too, so S1 works on a quarter of its side. Your grids are "
                "twice too large.",
                lambda kinds, widths, image_side: _dearest(kinds, widths, image_side, first=2),
            ),
        ],
    ),
    Exercise(
        "11.3",
        pairs_outweigh,
        _pair_cases,
        [
            Mistake(
                "that is the side of the grid. Each of its positions stands for stride pixels.",
                lambda D, stride: pairs_outweigh(D, 1),
            ),
            Mistake(
                "the root is rounded down: at that side the pairs still cost less.",
                lambda D, stride: stride * math.isqrt(6 * D),
            ),
            Mistake(
                "N is the number of positions; the side of the grid is its root.",
                lambda D, stride: 6 * D * stride,
            ),
            Mistake(
                "only one product of pairs is in your sum: q·k and A·v make 2 N² D.",
                lambda D, stride: pairs_outweigh(2 * D, stride),
            ),
        ],
    ),
    Exercise(
        "11.4",
        most_parameters,
        _budget_cases,
        [
            Mistake(
                "the best bargain first is not always best: it can leave a rest that buys nothing. "
                "Try all numbers of blocks of one stage, and solve the rest the same way.",
                _greedy,
            ),
            Mistake(
                "a stage may get more than one block.",
                _each_once,
            ),
            Mistake(
                "one kind of block alone is not the most: stages can be mixed.",
                lambda price, gain, left: max(left // p * g for p, g in _kinds(price, gain)),
            ),
        ],
    ),
]
