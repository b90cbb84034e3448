"""What an explorable figure shows: its views, each one picture with an array of numbers per state.

A state is one option of every axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from coatnet_mini.explore.axes import Axis


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
    xname: str | None = None
    yname: str | None = None
    x: tuple[float, ...] | None = None  # what the positions across are called, in numbers
    y: tuple[float, ...] | None = None
    clip: tuple[float, float] | None = None
    ink: bool = False
    hatched: np.ndarray | None = None  # (H, W) booleans; the mask, not its presence, may change
    edit: str | None = None  # what the reader changes here, see explore/twin.py
    over: str | None = None  # the view whose picture lies over this one
    notes: tuple[str, ...] | None = None  # what is to be said of each point of a scatter

    def fixed(self) -> tuple:
        """All that has to be the same in every state."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        options |= {"values": self.values.shape, "hatched": self.hatched is not None}
        return tuple(options.values())


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
    hatched=None,
    x=None,
    y=None,
    edit=None,
    over=None,
) -> View:
    """A heat map of a matrix (H, W): weights, scores, anything that is not a picture to look at.

    heat(A, row="i", x="j", y="i")                       # the row of the query outlined
    heat(w, x=("offset", [-1, 0, 1]), y=("offset", [-1, 0, 1]))
    heat(error, hatched=~inside, scale="state")

    Args:
        mark, row, column: the axis (one of the three) whose value is the flat index of the cell,
            or the row or column, to outline; it can then be clicked as well.
        scale: views that give the same name share their limits; "state" gives each state limits
            of its own. By default one scale serves all states of the view.
        signed: (default: whether a value is ever negative) uses the map with two arms.
        labels: names of the columns.
        clip: a pair of limits that keeps small values visible beside large ones: colours saturate
            there, and a number beyond is read as "≥ 0.2".
        hatched: (H, W) booleans: cells that are not compared, whose values (or NaN) are not shown.
        x, y: what runs across and down: a name, or a name with the number of each position.
        edit: the `paint(...)` whose array this is, in a figure that computes in the page.
        over: the name of a picture in ink, which is drawn thinly over this map.
    """
    mark, labels, values = make_mark(mark, row, column), make_names(labels), make_array(values)
    (xname, x), (yname, y) = make_positions(x), make_positions(y)
    values, hatched = blank(values, hatched)
    values, clip = clipped(values, clip)
    names = {"xname": xname, "yname": yname, "x": x, "y": y, "edit": edit, "over": over}
    return View("heat", values, scale, signed, mark, labels, clip=clip, hatched=hatched, **names)


def image(values, *, mark=None, scale=None, clip=None, ink=False, hatched=None, edit=None) -> View:
    """A picture: grey (H, W), or colour (H, W, 3) with red, green and blue in 0..1 or 0..255.

    image(photo[0], mark="i")
    image(digit, ink=True, mark="i", clip=(0, 1))   # a digit: 1 is black ink on white paper

    `ink` turns a grey picture over: its largest value is black. `clip` fixes the values of black
    and white, which otherwise are the extremes over all states (of all views on one `scale`).
    `mark`, `hatched` and `edit` are those of `heat`.
    """
    values, hatched = blank(make_array(values), hatched)
    values, clip = clipped(values, clip)
    options = {"clip": clip, "ink": bool(ink), "hatched": hatched, "edit": edit}
    return View("image", values, scale, False, make_mark(mark), **options)


def bars(
    values, *, mark=None, scale=None, labels=None, x=None, y=None, edit=None, clip=None
) -> View:
    """A bar for each entry of a vector (N,): `bars(w, x=("offset", [-1, 0, 1]), y="weight")`.

    `x` and `y` name the axes (with the number of each position, if not 0, 1, ...); the rest is as
    in `heat`; `edit` names a `drag(...)`. `clip` is the pair of limits, where they are known.
    """
    (xname, x), (yname, _) = make_positions(x), make_positions(y)
    values, clip = clipped(make_array(values), clip)
    names = {"xname": xname, "yname": yname, "x": x, "edit": edit, "clip": clip}
    return View("bars", values, scale, None, make_mark(mark), make_names(labels), **names)


def line(values, *, x=None, y=None, mark=None, scale=None) -> View:
    """A curve through (N,) values, or one for each name of a dict of them.

    line({"pre": a, "post": b}, x=("bias strength", strengths), y="weight of i")

    `x` is what runs across: numbers (N,), a name, or the pair of both; `y` a name.
    """
    if isinstance(values, Mapping):
        series = tuple(values)
        values = np.stack([make_array(v) for v in values.values()])
    else:
        series, values = None, make_array(values)[None]
    (xname, x), (yname, _) = make_positions(x), make_positions(y)
    names = {"xname": xname, "yname": yname, "x": x, "series": series}
    return View("line", values, scale, None, make_mark(mark), **names)


SHOWN, FRONT = 1, 2  # the third column of a scatter; 0 is a point that this state leaves out


def scatter(x, y, *, names, groups, shown, front, notes, flags, xname, yname) -> View:
    """Named points (n,), x on a logarithmic scale, with a staircase along those `front` says.

    Under it the page has the same points as a table, with their notes. Every state has the limits
    that its own points need.

    Args:
        x, y: numbers (n,); where x is not a number above 0, there is no point.
        names, notes: what a point is called, and what is to be said of it.
        groups: (n,) names; each group has a mark of its own.
        shown, front, flags: (n,) booleans: in this state, on the staircase, marked with a "!".
        xname, yname: what runs across and up; the name of an axis stands for its option.
    """
    x, y = make_array(x), make_array(y)
    there = np.nan_to_num(x) > 0
    role = np.where(there & (make_array(shown) != 0), np.where(front, FRONT, SHOWN), 0)
    series = tuple(dict.fromkeys(map(str, groups)))
    group = [series.index(str(name)) for name in groups]
    columns = (np.where(there, x, 0), y, role, group, make_array(flags) != 0)
    labels, notes = make_names(names), make_names(notes)
    options = {"labels": labels, "series": series, "notes": notes, "xname": xname, "yname": yname}
    return View("scatter", np.stack(columns, axis=1).astype(float), "state", **options)


def scalar(value) -> View:
    """One number, printed."""
    return View("scalar", make_array(value).reshape(()))


def as_view(name: str, value: Any) -> View:
    """`value` as a checked View: 0-d is a number, 1-d bars, 2-d a heat map."""
    if not isinstance(value, View):
        value = make_array(value)
        kinds = {0: scalar, 1: bars, 2: heat}
        if value.ndim not in kinds:
            raise ValueError(f'view "{name}" has {value.ndim} dimensions; a view has at most 2')
        value = kinds[value.ndim](value)
    flat = {"bars": (1,), "line": (2,), "scatter": (2,), "scalar": (0,)}
    allowed = {"heat": (2,), "image": (2, 3), **flat}[value.kind]
    if value.values.ndim not in allowed or value.values.size == 0:
        raise ValueError(
            f'view "{name}" is a {value.kind} of shape {value.values.shape}; '
            f"it needs {' or '.join(map(str, allowed))} dimensions, none empty"
        )
    if value.kind == "image" and value.values.shape[2:] not in ((), (3,)):
        raise ValueError(f'image "{name}" has shape {value.values.shape}, not (H, W) or (H, W, 3)')
    shape = value.values.shape
    for label, names, length in (
        ("labels", value.labels, shape[:1] if value.kind == "scatter" else shape[-1:]),
        ("notes", value.notes, shape[:1]),
        ("x", value.x, shape[1:2] if value.kind == "heat" else shape[-1:]),
        ("y", value.y, shape[:1]),
    ):
        if names is not None and (len(names),) != length:
            raise ValueError(f'view "{name}" has {len(names)} {label} for {length[0]} values')
    return value


def check_mark(name: str, view: View, axes: Sequence[Axis]) -> None:
    """A mark names a point, or a numeric axis whose values are indices into the view."""
    if view.mark is None:
        return
    axis_name, what = view.mark
    marked = next((a for a in axes if a.name == axis_name), None)
    if marked is None or not marked.numeric:
        numeric = [a.name for a in axes if a.numeric]
        raise ValueError(f'view "{name}" marks "{axis_name}"; the numeric axes are {numeric}')
    shape = view.values.shape[:2] if view.kind == "image" else view.values.shape
    cells = {"row": shape[:1], "column": shape[-1:]}.get(what, shape)
    if view.kind == "line":
        cells = shape[-1:]
    if marked.grid and what == "cell" and marked.grid != cells:
        raise ValueError(
            f'view "{name}" has {"×".join(map(str, cells))} cells, but '
            f'"{axis_name}" points at {"×".join(map(str, marked.grid))}'
        )
    count = math.prod(cells)
    if any(v != int(v) or not 0 <= v < count for v in marked.values):
        raise ValueError(
            f'axis "{axis_name}" marks a {what} of view "{name}": '
            f"whole numbers 0 to {count - 1} only"
        )


def make_array(values) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor; torch is not imported for it
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        kind = type(values).__name__
        raise ValueError(f"a view needs numbers in rows of one length, not this {kind}") from None


def make_mark(mark=None, row=None, column=None) -> tuple[str, str] | None:
    given = [(m, what) for m, what in ((mark, "cell"), (row, "row"), (column, "column")) if m]
    if len(given) > 1:
        raise ValueError("a view takes one of mark, row and column")
    return given[0] if given else None


def make_names(labels) -> tuple[str, ...] | None:
    return None if labels is None else tuple(map(str, labels))


def make_positions(given) -> tuple[str | None, tuple[float, ...] | None]:
    """(name, numbers) of a view's axis, given as a name, as numbers, or as a pair of both."""
    name, numbers = None, given
    if isinstance(given, str):
        name, numbers = given, None
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        name, numbers = given
    return name, None if numbers is None else tuple(float(v) for v in make_array(numbers))


def blank(values: np.ndarray, hatched) -> tuple[np.ndarray, np.ndarray | None]:
    """`values` with the smallest compared one in hatched cells, which so change no limits."""
    if hatched is None:
        return values, None
    hatched = make_array(hatched) != 0
    if hatched.shape != values.shape[:2]:
        raise ValueError(f"hatched is {hatched.shape}, but the view is {values.shape[:2]}")
    compared = values[~hatched]
    values = values.copy()
    values[hatched] = compared.min() if compared.size else 0.0
    return values, hatched


def clipped(values: np.ndarray, clip) -> tuple[np.ndarray, tuple[float, float] | None]:
    if clip is None:
        return values, None
    low, high = clip
    if not low < high:
        raise ValueError(f"clip={clip} is not a pair of limits, the lower one first")
    return np.clip(values, low, high), (float(low), float(high))
