"""The numbers of a view over all states, as the page stores them.

Arrays are stored as fixed-point codes, `value = (base + code) * step`, with the step a round
decimal (1, 2 or 5 times a power of ten): what a page prints is then exactly the stored number,
and the same picture needs two to four times fewer bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

LARGE = 16_384  # numbers above which a picture's table takes one byte a number instead of two


@dataclass(frozen=True)
class Table:
    """A view's numbers over all states: codes, and how a code becomes a number."""

    codes: np.ndarray  # (axes that matter..., cells), uint8 | uint16 | float32
    base: int = 0
    mantissa: int = 1
    decimals: int = 0  # the step is mantissa / 10**decimals
    strides: tuple[int, ...] = ()

    @property
    def exact(self) -> bool:
        return self.codes.dtype != np.float32

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        if not self.exact:
            return codes.astype(np.float64)
        return (self.base + codes.astype(np.int64)) * self.mantissa / 10**self.decimals

    def text(self, number: float) -> str:
        """A number of the view as the page prints it: `print` in explore.js."""
        if self.exact and self.decimals <= 8:
            text = f"{number:.{max(self.decimals, 0)}f}"
        else:
            near = float(f"{number:.4g}")
            small = 0 < abs(near) < 1e-6  # from there on JavaScript writes an exponent
            text = (
                np.format_float_scientific(near, trim="-", exp_digits=1)
                if small
                else np.format_float_positional(near, trim="-")
            )
        return text.replace("-", "−", 1)


def tabulate(kind: str, values: np.ndarray, cell_dims: int) -> Table:
    """Encode `values`, whose last `cell_dims` dimensions are one view and the others the axes.
    Axes along which nothing changes are dropped.

    Whole numbers are kept as they are. Other values are rounded to the finest round step that
    leaves at most 256 levels (a picture with many states) or 10 001 levels: below what a colour
    or a printed number of three digits can show. A number that spans many magnitudes (an error
    of 1e-16 beside one of 0.1) is kept in float32, and so are the points of a scatter.
    """
    values, strides = drop_constant_axes(
        values.reshape(*values.shape[: values.ndim - cell_dims], -1)
    )
    if kind == "scatter" or (kind == "scalar" and wide(values)):
        return Table(values.astype(np.float32), strides=strides)
    picture = kind == "image" or (kind == "heat" and values.size > LARGE)
    base, mantissa, decimals = step(values, picture)
    # rounded twice: a number half-way between two steps takes the same one on every machine
    codes = np.rint(np.round(values * 10.0**decimals / mantissa, 3)).astype(np.int64) - base
    dtype = np.uint8 if codes.max() < 256 else np.uint16
    return Table(codes.astype(dtype), base, mantissa, decimals, strides)


def drop_constant_axes(values: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Keep one slice of every axis that changes nothing; a stride of 0 says so."""
    for k in range(values.ndim - 1):
        first = values.take([0], axis=k)
        if np.array_equal(np.broadcast_to(first, values.shape), values):
            values = first
    sizes, strides, run = values.shape[:-1], [], values.shape[-1]
    for size in reversed(sizes):
        strides.append(run if size > 1 else 0)
        run *= size
    return values, tuple(reversed(strides))


def wide(values: np.ndarray) -> bool:
    sizes = np.abs(values[values != 0])
    return sizes.size > 0 and not whole(values) and sizes.max() > 2e3 * sizes.min()


def whole(values: np.ndarray) -> bool:
    return bool(np.all(values == np.rint(values))) and values.max() - values.min() < 2**16


def step(values: np.ndarray, picture: bool) -> tuple[int, int, int]:
    """(base, mantissa, decimals) of the finest step m / 10**decimals within its levels."""
    levels = 256 if picture else 10_001
    low, high = float(values.min()), float(values.max())
    if whole(values) and (not picture or high - low < levels):
        return int(low), 1, 0
    largest = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * largest else largest  # constant but for rounding
    decimals = min(300, 4 - Decimal(span).adjusted())
    while True:
        for mantissa in (1, 2, 5) if picture else (1,):
            step = mantissa / 10.0**decimals
            base = round(round(low / step, 3))
            if round(round(high / step, 3)) - base < levels:
                return base, mantissa, decimals
        decimals -= 1
