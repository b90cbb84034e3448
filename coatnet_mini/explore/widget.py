"""Explorable figures: sliders that are live in Jupyter, in Colab and on a page without a server.

    def figure(temperature, i):
        A = torch.softmax(scores / temperature, dim=-1)
        return {"A": heat(A, row="i"), "row i": bars(A[i]), "largest weight": scalar(A[i].max())}

    explore(figure, "Softmax temperature", temperature=[0.1, 0.5, 1, 2], i=range(16))

`explore` calls the function now, once for every combination of the axes' options, and ships the
numbers inside the figure. In the browser `explore.js` only looks numbers up and draws them: there
is no mathematics in it, and no kernel behind it.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from coatnet_mini.explore.still import still_png
from coatnet_mini.explore.views import (
    Axis,
    Table,
    View,
    as_view,
    axis,
    bars,
    check_mark,
    heat,
    image,
    line,
    make_axes,
    option_text,
    scalar,
    tabulate,
)

__all__ = ["Explorable", "axis", "bars", "explore", "heat", "image", "line", "scalar"]

MIME = "application/vnd.coatnet-mini.explorable"
BUDGET = 1_000_000  # bytes of table a figure may ship, before compression
MOST_STATES = 50_000  # function calls that a reader can be asked to wait for


def explore(function: Callable[..., Mapping[str, Any]], title: str, **axes: Any) -> Explorable:
    """An explorable figure of `function` over every combination of the options of its `axes`.

    Args:
        function: called with one keyword per axis, returns a dict from view name to a number, a
            vector, a matrix (torch or NumPy) or a view: `heat`, `image`, `bars`, `line`, `scalar`.
            Names, kinds and shapes must not change from state to state.
        title: what the figure shows, in a few words.
        axes: one to four: a list of numbers (a slider), a list of strings (named options), or
            `axis(values, start=..., label=...)`.

    Raises:
        ValueError: in one line, for an empty or mixed axis, values that are not finite, shapes
            that change, a mark that points outside its view, or a table above 1 MB.
    """
    axes = make_axes(axes)
    states = list(itertools.product(*(range(len(a.values)) for a in axes)))
    if len(states) > MOST_STATES:
        raise ValueError(
            f'"{title}" has {len(states):,} states, more than {MOST_STATES:,}; {_thin(axes)}'
        )
    views = [_evaluate(function, axes, state) for state in states]
    tables = _tables(axes, states, views)
    _check_budget(title, axes, tables)
    return Explorable(title, axes, views[0], tables, _limits(views[0], tables))


class Explorable(anywidget.AnyWidget):
    """What `explore` returns: an ipywidget that also knows its static, still and spoken forms.

    Its bundle holds the live widget, a self-contained text for static pages (MIME), a picture of
    the start state, and the figure in words, which is its `repr`.
    """

    _esm = Path(__file__).with_name("explore.js").read_text(encoding="utf-8")
    _css = Path(__file__).with_name("explore.css").read_text(encoding="utf-8")
    spec = traitlets.Unicode().tag(sync=True)
    state = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, title: str, axes: list[Axis], views: dict[str, View], tables, limits):
        self.title, self.axes, self.views = title, axes, views
        self.tables: dict[str, Table] = tables
        self.limits = limits
        start = [a.start for a in axes]
        super().__init__(spec=json.dumps(self._as_spec(), separators=(",", ":")), state=start)

    def __repr__(self) -> str:
        axes = ", ".join(a.words(a.start) for a in self.axes)
        shown = "; ".join(_view_words(name, self.numbers(name)) for name in self.views)
        return f"{self.title}: {axes}: {shown}"

    def numbers(self, name: str, /, **options: Any) -> np.ndarray:
        """The numbers of view `name` as the page prints them, at the start or where `options` say.

        Returns an array of the view's shape; raises ValueError for an unknown axis or option.
        """
        table, view = self.tables[name], self.views[name]
        offset = int(np.dot(self._index(options), table.strides))
        codes = table.codes.reshape(-1)[offset : offset + view.values.size]
        return table.numbers(codes).reshape(view.values.shape)

    def _index(self, options: Mapping[str, Any]) -> list[int]:
        index = {a.name: a.start for a in self.axes}
        for name, value in options.items():
            found = next((a for a in self.axes if a.name == name), None)
            if found is None or value not in found.values:
                allowed = list(found.values) if found else [a.name for a in self.axes]
                raise ValueError(f"{name} = {value!r}: choose from {allowed}")
            index[name] = found.values.index(value)
        return list(index.values())

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        still = base64.b64encode(still_png(self)).decode()
        words = {"text/plain": repr(self), "image/png": still, MIME: self.spec}
        return {**data, **words}, metadata

    def _as_spec(self) -> dict:
        """All a page needs, as JSON; the tables follow one another, deflated, in base64."""
        views, chunks, offset = [], [], 0
        for name, view in self.views.items():
            table = self.tables[name]
            raw = table.codes.astype(table.codes.dtype.newbyteorder("<")).tobytes()
            raw += b"\0" * (-len(raw) % 4)  # typed arrays start at multiples of their item size
            views.append(_view_spec(name, view, table, self.limits[name], offset, self.axes))
            chunks.append(raw)
            offset += len(raw)
        deflated = zlib.compress(b"".join(chunks), 9)
        return {
            "title": self.title,
            "words": repr(self),
            "axes": [_axis_spec(a) for a in self.axes],
            "views": views,
            "data": base64.b64encode(deflated).decode(),
        }


def _axis_spec(a: Axis) -> dict:
    return {"label": a.label, "options": a.options, "slider": a.numeric, "start": a.start}


def _view_spec(name: str, view: View, table: Table, limits, offset: int, axes) -> dict:
    spec = {
        "name": name,
        "kind": view.kind,
        "shape": list(view.values.shape),
        "limits": limits,
        "table": {
            "type": table.codes.dtype.name,
            "offset": offset,
            "strides": list(table.strides),
            "base": table.base,
            "mantissa": table.mantissa,
            "decimals": table.decimals,
        },
    }
    for key in ("labels", "series", "x", "clip"):
        if getattr(view, key) is not None:
            spec[key] = list(getattr(view, key))
    if view.mark:
        marked = [a.name for a in axes].index(view.mark[0])
        cells = [int(v) for v in axes[marked].values]
        spec["mark"] = {"axis": marked, "what": view.mark[1], "cells": cells}
    return spec


def _evaluate(function: Callable, axes: list[Axis], state: tuple[int, ...]) -> dict[str, View]:
    options = {a.name: a.values[k] for a, k in zip(axes, state, strict=True)}
    result = function(**options)
    if not isinstance(result, Mapping) or not result:
        raise ValueError(f"the function returns {type(result).__name__}; it needs a dict of views")
    views = {name: as_view(name, value) for name, value in result.items()}
    at = ", ".join(f"{name} = {option_text(v)}" for name, v in options.items())
    for name, view in views.items():
        check_mark(name, view, axes)
        if not np.all(np.isfinite(view.values)):
            raise ValueError(f'view "{name}" is not finite (NaN or infinity) at {at}')
    return views


def _tables(axes: list[Axis], states: list, views: list[dict[str, View]]) -> dict[str, Table]:
    first = views[0]
    for state, other in zip(states, views, strict=True):
        if list(other) != list(first):
            raise ValueError(f"the views change from {list(first)} to {list(other)} at {state}")
        for name in first:
            _check_fixed(name, first[name], other[name], axes, state)
    sizes = [len(a.values) for a in axes]
    tables = {}
    for name, view in first.items():
        stack = np.stack([v[name].values for v in views]).reshape(*sizes, *view.values.shape)
        tables[name] = tabulate(view.kind, stack, view.values.ndim)
    return tables


def _check_fixed(name: str, first: View, other: View, axes: list[Axis], state) -> None:
    if first.values.shape != other.values.shape:
        at = ", ".join(a.words(k) for a, k in zip(axes, state, strict=True))
        raise ValueError(
            f'view "{name}" has shape {other.values.shape} at {at}, but {first.values.shape} '
            "at the first options; a view keeps one shape"
        )
    if first.fixed() != other.fixed():
        raise ValueError(f'view "{name}" changes its kind or options from state to state')


def _check_budget(title: str, axes: list[Axis], tables: dict[str, Table]) -> None:
    total = sum(t.codes.nbytes for t in tables.values())
    if total <= BUDGET:
        return
    name, largest = max(tables.items(), key=lambda item: item[1].codes.nbytes)
    used = [a for a, stride in zip(axes, largest.strides, strict=True) if stride]
    raise ValueError(
        f'"{title}" needs {total / 1e6:.2f} MB of table, more than {BUDGET / 1e6:g} MB; view '
        f'"{name}" takes {largest.codes.nbytes / 1e6:.2f} MB: show fewer cells, or {_thin(used)}'
    )


def _thin(axes: list[Axis]) -> str:
    longest = max(axes, key=lambda a: len(a.values))
    return f'thin out axis "{longest.name}" ({len(longest.values)} values)'


def _limits(views: dict[str, View], tables: dict[str, Table]) -> dict[str, list[float]]:
    """[low, high] of each view over all states; views that name one scale share theirs."""
    spans: dict[str, list[float]] = {}
    signed: dict[str, bool] = {}
    for name, view in views.items():
        numbers, key = tables[name].numbers(tables[name].codes), view.scale or f"view {name}"
        low, high = float(numbers.min()), float(numbers.max())
        low, high = view.clip or (low, high)
        if view.kind == "bars":  # a bar starts at zero
            low, high = min(low, 0.0), max(high, 0.0)
        span = spans.setdefault(key, [low, high])
        spans[key] = [min(span[0], low), max(span[1], high)]
        centred = spans[key][0] < 0 if view.signed is None else view.signed
        signed[key] = (view.kind == "heat" and centred) or signed.get(key, False)
    for key, (low, high) in spans.items():
        if signed[key]:
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        spans[key] = [low, high if high > low else low + 1.0]
    return {name: spans[view.scale or f"view {name}"] for name, view in views.items()}


def _view_words(name: str, numbers: np.ndarray) -> str:
    if numbers.size == 1:
        return f"{name} {numbers.item():.3g}"
    size = "×".join(map(str, numbers.shape))
    return f"{name} ({size}) {numbers.min():.3g} to {numbers.max():.3g}"
