"""What a reader of an explorable figure sets: sliders, named options, and positions pointed at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A slider (numbers), a set of named options (strings) or a position to point at (a grid)."""

    name: str
    values: tuple
    start: int
    label: str
    grid: tuple[int, ...] | None = None  # of a point: (H, W), or (N,) in a vector

    @property
    def numeric(self) -> bool:
        return not isinstance(self.values[0], str)

    @property
    def options(self) -> list[str]:
        if self.grid and len(self.grid) == 2:
            return ["row {}, column {}".format(*divmod(v, self.grid[1])) for v in self.values]
        return [option_text(v) for v in self.values]

    def words(self, index: int) -> str:
        options = self.options
        span = f"{options[0]} to {options[-1]}" if self.numeric else ", ".join(options)
        if self.grid and len(self.grid) == 2:
            span = "×".join(map(str, self.grid))
        return f"{self.label} = {options[index]} (of {span})"

    def find(self, text: str) -> int:
        """The index of an option by its text; a position by "27" or by "3,5" (row, column)."""
        text = text.strip().replace("−", "-")
        if self.grid:
            return self.position(text)
        for index, option in enumerate(self.options):
            if option == text:
                return index
        raise ValueError(f'"{self.name}" has no option "{text}"; choose from {self.options}')

    def position(self, text: str) -> int:
        parts = text.split(",")
        try:
            sizes = self.grid if len(parts) > 1 else (len(self.values),)
            places = [int(part) if part.strip().isdecimal() else -1 for part in parts]
            return int(np.ravel_multi_index(places, sizes))
        except ValueError:
            size = "×".join(map(str, self.grid))
            raise ValueError(
                f'"{text}" is no position of "{self.name}", a point on {size} cells'
            ) from None


@dataclass(frozen=True)
class AxisRequest:
    values: Sequence
    start: Any
    label: str | None
    grid: tuple[int, ...] | None = None


def axis(values: Sequence, start: Any = None, label: str | None = None) -> AxisRequest:
    """An axis of `explore` with a start value (default: the middle one) and a label.

    explore(f, "Temperature", T=axis([0.1, 1, 10], start=1, label="temperature τ"))
    """
    return AxisRequest(values, start, label)


def point(
    height: int,
    width: int | None = None,
    start: int | tuple[int, int] | None = None,
    label: str | None = None,
) -> AxisRequest:
    """An axis of `explore` that the reader sets by pointing: a position on a grid, or in a vector.

    It has no slider. Every view that names it in `mark=`, `row=` or `column=` outlines the position
    and takes it from a click or, while that picture has the focus, from the arrow keys. The
    function is called with the flat index, `row * width + column`.

        def figure(i, T):
            A = attention(T)
            return {"x": image(x, mark="i"), "row i": heat(A[i].view(8, 8), mark="i")}

        explore(figure, "What pixel i sees", i=point(8, 8, start=(3, 4), label="query i"), T=[1, 2])

    Args:
        height, width: of the grid; leave `width` out for a position in a vector.
        start: (row, column) or the flat index; the middle by default.
        label: how the position is called, by default the axis' name.
    """
    grid = (height,) if width is None else (height, width)
    if not all(isinstance(n, int) and n > 0 for n in grid):
        raise ValueError(f"point{grid} has no cells: give whole numbers above 0")
    if start is None:
        start = height // 2 if width is None else height // 2 * width + width // 2
    elif isinstance(start, tuple):
        row, column = start if width and len(start) == 2 else (-1, -1)
        if not (0 <= row < height and 0 <= column < (width or 0)):
            raise ValueError(f"point{grid} cannot start at {start}: it is not on the grid")
        start = row * width + column
    return AxisRequest(range(math.prod(grid)), start, label, grid)


def option_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def make_axes(requests: Mapping[str, Any]) -> list[Axis]:
    """Check the axes given to `explore`. Raises ValueError in one line."""
    if not requests:
        raise ValueError("an explorable needs an axis: a control, or a position to point at")
    return [make_axis(name, request) for name, request in requests.items()]


def make_axis(name: str, request: Any) -> Axis:
    if not isinstance(request, AxisRequest):
        request = AxisRequest(request, None, None)
    if isinstance(request.values, str) or not hasattr(request.values, "__iter__"):
        raise ValueError(f'axis "{name}" is {request.values!r}; it needs a list of values')
    values = tuple(v.item() if hasattr(v, "item") else v for v in request.values)
    if not values:
        raise ValueError(f'axis "{name}" is empty; it needs at least one value')
    if len({isinstance(v, str) for v in values}) > 1:
        raise ValueError(f'axis "{name}" mixes numbers and names; use one or the other')
    if not all(isinstance(v, str) or np.isfinite(v) for v in values):
        raise ValueError(f'axis "{name}" has a value that is not finite')
    if len(set(map(option_text, values))) < len(values):
        raise ValueError(f'axis "{name}" has two values that read the same; make them distinct')
    if request.start is not None and request.start not in values:
        raise ValueError(
            f'axis "{name}" cannot start at {request.start!r}: it is not one of {values}'
        )
    middle = 0 if isinstance(values[0], str) else (len(values) - 1) // 2
    start = middle if request.start is None else values.index(request.start)
    return Axis(name, values, start, request.label or name.replace("_", " "), request.grid)
