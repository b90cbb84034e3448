"""What an explorable figure shows: its axes (sliders) and views, checked and tabulated.

An axis is a named list of options. A view is one picture with one array of numbers per state,
a state being one option of every axis. Arrays are stored as fixed-point codes, `value = (base +
code) * step`, with the step a round decimal (1, 2 or 5 times a power of ten): what a page prints
is then exactly the stored number, and the same picture needs two to four times fewer bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

LARGE = 16_384  # numbers above which a picture's table takes one byte a number instead of two


@dataclass(frozen=True)
class Axis:
    """A slider (numbers) or a set of named options (strings)."""

    name: str
    values: tuple
    start: int
    label: str

    @property
    def numeric(self) -> bool:
        return not isinstance(self.values[0], str)

    @property
    def options(self) -> list[str]:
        return [option_text(v) for v in self.values]

    def words(self, index: int) -> str:
        span = (
            f"{self.options[0]} to {self.options[-1]}" if self.numeric else ", ".join(self.values)
        )
        return f"{self.label} = {self.options[index]} (of {span})"


@dataclass(frozen=True)
class _AxisRequest:
    values: Sequence
    start: Any
    label: str | None


@dataclass(frozen=True)
class View:
    """One picture in one state: its kind, its numbers, and options that no state changes."""

    kind: str
    values: np.ndarray
    scale: str | None = None
    signed: bool | None = None
    mark: tuple[str, str] | None = None  # (axis name, "cell" | "row" | "column")
    labels: tuple[str, ...] | None = None
    series: tuple[str, ...] | None = None
    x: tuple[float, ...] | None = None
    clip: tuple[float, float] | None = None

    def fixed(self) -> tuple:
        """All that has to be the same in every state."""
        shape = self.values.shape
        return (
            self.kind,
            shape,
            self.scale,
            self.signed,
            self.mark,
            self.series,
            self.x,
            self.clip,
        )


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


def axis(values: Sequence, start: Any = None, label: str | None = None) -> _AxisRequest:
    """An axis of `explore` with a start value (default: the middle one) and a label."""
    return _AxisRequest(values, start, label)


def heat(
    values,
    *,
    mark=None,
    row=None,
    column=None,
    scale=None,
    signed=None,
    labels=None,
    clip=None,
) -> View:
    """A heat map of a matrix (H, W). `mark`, `row` or `column` names the axis whose value is the
    flat index of the cell, or the row or column, to outline; it can then be clicked as well.
    `signed` (default: whether a value is negative) centres the colours on zero. `labels` name
    the columns. `clip`, a pair of limits, keeps small values visible beside large ones: colours
    saturate there, and a number beyond is read as "≥ 0.2"."""
    mark, labels, values = _mark(mark, row, column), _names(labels), _array(values)
    if clip is not None:
        low, high = clip
        if not low < high:
            raise ValueError(f"clip={clip} is not a pair of limits, the lower one first")
        values, clip = np.clip(values, low, high), (float(low), float(high))
    return View("heat", values, scale, signed, mark, labels, clip=clip)


def image(values, *, mark=None, scale=None) -> View:
    """A picture: grey (H, W), or colour (H, W, 3) with red, green and blue in 0..1 or 0..255."""
    return View("image", _array(values), scale, False, _mark(mark))


def bars(values, *, mark=None, scale=None, signed=None, labels=None) -> View:
    """A bar for each entry of a vector (N,)."""
    return View("bars", _array(values), scale, signed, _mark(mark), _names(labels))


def line(values, *, x=None, mark=None, scale=None) -> View:
    """A curve through (N,) values, or one for each name of a dict of them, over `x` (N,)."""
    if isinstance(values, Mapping):
        series = tuple(values)
        values = np.stack([_array(v) for v in values.values()])
    else:
        series, values = None, _array(values)[None]
    x = None if x is None else tuple(float(v) for v in _array(x))
    return View("line", values, scale, None, _mark(mark), series=series, x=x)


def scalar(value) -> View:
    """One number, printed."""
    return View("scalar", _array(value).reshape(()))


def option_text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def as_view(name: str, value: Any) -> View:
    """`value` as a checked View: 0-d is a number, 1-d bars, 2-d a heat map."""
    if not isinstance(value, View):
        value = _array(value)
        kinds = {0: scalar, 1: bars, 2: heat}
        if value.ndim not in kinds:
            raise ValueError(f'view "{name}" has {value.ndim} dimensions; a view has at most 2')
        value = kinds[value.ndim](value)
    allowed = {"heat": (2,), "image": (2, 3), "bars": (1,), "line": (2,), "scalar": (0,)}[
        value.kind
    ]
    if value.values.ndim not in allowed or value.values.size == 0:
        raise ValueError(
            f'view "{name}" is a {value.kind} of shape {value.values.shape}; '
            f"it needs {' or '.join(map(str, allowed))} dimensions, none empty"
        )
    if value.kind == "image" and value.values.shape[2:] not in ((), (3,)):
        raise ValueError(f'image "{name}" has shape {value.values.shape}, not (H, W) or (H, W, 3)')
    for label, names, length in (
        ("labels", value.labels, value.values.shape[-1:]),
        ("x", value.x, value.values.shape[-1:]),
    ):
        if names is not None and (len(names),) != length:
            raise ValueError(f'view "{name}" has {len(names)} {label} for {length[0]} values')
    return value


def make_axes(requests: Mapping[str, Any]) -> list[Axis]:
    """Check the axes given to `explore`. Raises ValueError in one line."""
    if not 1 <= len(requests) <= 4:
        raise ValueError(f"an explorable has 1 to 4 axes, not {len(requests)}")
    return [_make_axis(name, request) for name, request in requests.items()]


def _make_axis(name: str, request: Any) -> Axis:
    if not isinstance(request, _AxisRequest):
        request = _AxisRequest(request, None, None)
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
    return Axis(name, values, start, request.label or name.replace("_", " "))


def check_mark(name: str, view: View, axes: Sequence[Axis]) -> None:
    """A mark names a numeric axis whose values are indices into the view."""
    if view.mark is None:
        return
    axis_name, what = view.mark
    marked = next((a for a in axes if a.name == axis_name), None)
    if marked is None or not marked.numeric:
        numeric = [a.name for a in axes if a.numeric]
        raise ValueError(f'view "{name}" marks "{axis_name}"; the numeric axes are {numeric}')
    shape = view.values.shape[:2] if view.kind == "image" else view.values.shape
    count = {"row": shape[0], "column": shape[-1]}.get(what, int(np.prod(shape)))
    if view.kind == "line":
        count = shape[-1]
    if any(v != int(v) or not 0 <= v < count for v in marked.values):
        raise ValueError(
            f'axis "{axis_name}" marks a {what} of view "{name}": '
            f"whole numbers 0 to {count - 1} only"
        )


def tabulate(kind: str, values: np.ndarray, cell_dims: int) -> Table:
    """Encode `values`, whose last `cell_dims` dimensions are one view and the others the axes.
    Axes along which nothing changes are dropped.

    Whole numbers are kept as they are. Other values are rounded to the finest round step that
    leaves at most 256 levels (a picture with many states) or 10 001 levels: below what a colour
    or a printed number of three digits can show. A number that spans many magnitudes (an error
    of 1e-16 beside one of 0.1) is kept in float32.
    """
    values, strides = _drop_constant_axes(
        values.reshape(*values.shape[: values.ndim - cell_dims], -1)
    )
    picture = kind in ("heat", "image") and values.size > LARGE
    if kind == "scalar" and _wide(values):
        return Table(values.astype(np.float32), strides=strides)
    levels = 256 if picture or kind == "image" else 10_001
    base, mantissa, decimals = _step(values, levels)
    # rounded twice: a number half-way between two steps takes the same one on every machine
    codes = np.rint(np.round(values * 10.0**decimals / mantissa, 3)).astype(np.int64) - base
    dtype = np.uint8 if codes.max() < 256 else np.uint16
    return Table(codes.astype(dtype), base, mantissa, decimals, strides)


def _drop_constant_axes(values: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
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


def _wide(values: np.ndarray) -> bool:
    sizes = np.abs(values[values != 0])
    return sizes.size > 0 and not _whole(values) and sizes.max() > 2e3 * sizes.min()


def _whole(values: np.ndarray) -> bool:
    return bool(np.all(values == np.rint(values))) and values.max() - values.min() < 2**16


def _step(values: np.ndarray, levels: int) -> tuple[int, int, int]:
    """(base, mantissa, decimals) of the finest step m / 10**decimals within `levels` levels."""
    low, high = float(values.min()), float(values.max())
    if _whole(values) and (levels > 256 or high - low < 256):
        return int(low), 1, 0
    largest = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * largest else largest  # constant but for rounding
    decimals = min(300, 3 - Decimal(span).adjusted() + (1 if levels > 256 else 0))
    while True:
        for mantissa in (1, 2, 5) if levels <= 256 else (1,):
            step = mantissa / 10.0**decimals
            base = round(round(low / step, 3))
            if round(round(high / step, 3)) - base < levels:
                return base, mantissa, decimals
        decimals -= 1


def _array(values) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        kind = type(values).__name__
        raise ValueError(f"a view needs numbers in rows of one length, not this {kind}") from None


def _mark(mark=None, row=None, column=None) -> tuple[str, str] | None:
    given = [(m, what) for m, what in ((mark, "cell"), (row, "row"), (column, "column")) if m]
    if len(given) > 1:
        raise ValueError("a view takes one of mark, row and column")
    return given[0] if given else None


def _names(labels) -> tuple[str, ...] | None:
    return None if labels is None else tuple(map(str, labels))
