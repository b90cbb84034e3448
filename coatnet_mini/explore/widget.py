"""Explorable figures: sliders that are live in Jupyter, in Colab and on a page without a server.

    def figure(temperature, i):
        A = torch.softmax(scores / temperature, dim=-1)
        return {
            "x": image(x, mark="i"),
            "A": heat(A, row="i", x="j", y="i"),
            "row i": heat(A[i].view(8, 8), mark="i", scale="state"),
            "largest weight": scalar(A[i].max()),
        }

    explore(
        figure, "Softmax temperature", caption="Point at a stroke, then lower the temperature.",
        temperature=[0.1, 0.5, 1, 2], i=point(8, 8, start=(3, 4), label="query i"),
    )

`explore` calls the function now, once for every combination of the axes' options, and ships the
numbers inside the figure. In the browser `explore.js` only looks numbers up and draws them: there
is no mathematics in it, and no kernel behind it.

Prose sets a figure with a link, plain words wherever there is no script:

    <span class="cm-set" data-figure="softmax-temperature" data-set="temperature=0.1; i=3,4">lower
    the temperature to 0.1</span>

`data-figure` is the slug of the title (without it: the figure before the link), `data-set` names
axes (or their labels) and options; `reset` puts all axes to their start.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from coatnet_mini.explore.axes import Axis, make_axes, option_text
from coatnet_mini.explore.scales import STATE, all_limits, span
from coatnet_mini.explore.spec import Packed, make_spec
from coatnet_mini.explore.still import still_png
from coatnet_mini.explore.tables import Table, tabulate
from coatnet_mini.explore.views import FRONT, View, as_view, check_mark

MIME = "application/vnd.coatnet-mini.explorable"
BUDGET = 1_000_000  # bytes of table a figure may ship, before compression
MOST_STATES = 50_000  # function calls that a reader can be asked to wait for
MOST_CONTROLS, MOST_PANELS, MOST_SCALARS = 3, 4, 3  # what is seen together on one screen


def explore(
    function: Callable[..., Mapping[str, Any]],
    title: str,
    *,
    caption: str = "",
    twin: str | None = None,
    constants: Mapping[str, Any] | None = None,
    titles: Mapping[str, str] | None = None,
    **axes: Any,
) -> Explorable:
    """An explorable figure of `function` over every combination of the options of its `axes`.

    A figure holds one idea: at most three controls, four panels and three numbers, so that all of
    it is on the screen at once.

    Args:
        function: called with one keyword per axis, returns a dict from view name to a number, a
            vector, a matrix (torch or NumPy) or a view: `heat`, `image`, `bars`, `line`, `scatter`,
            `scalar`. Names, kinds and shapes must not change from state to state.
        title: what the figure shows, in a few words; its slug names the figure in links.
        caption: one sentence under the title: what to do, and what to watch.
        axes: a list of numbers (a slider), a list of strings (named options), `axis(values,
            start=..., label=...)`, or `point(height, width)`, a position that the reader points at
            and that is no control.
        twin, constants, titles: for a figure that computes in the page, see explore/twin.py.

    Raises:
        ValueError: in one line, for too many controls, panels or numbers, an empty or mixed axis,
            values that are not finite, shapes that change, a mark that points outside its view, a
            point that no view marks, or a table above 1 MB.
    """
    if twin is not None:
        from coatnet_mini.explore.twin import computed  # which builds on this module

        return computed(function, title, caption, twin, constants or {}, titles or {}, axes)
    axes = make_axes(axes)
    states = list(itertools.product(*(range(len(a.values)) for a in axes)))
    if len(states) > MOST_STATES:
        raise ValueError(
            f'"{title}" has {len(states):,} states, more than {MOST_STATES:,}; {thin(axes)}'
        )
    first = evaluate(function, axes, states[0])
    check_form(title, axes, first)
    views = [first, *(evaluate(function, axes, state) for state in states[1:])]
    tables, masks = make_tables(axes, states, views)
    check_budget(title, axes, tables, masks)
    return Explorable(title, caption, axes, first, tables, masks)


class Explorable(anywidget.AnyWidget):
    """What `explore` returns: an ipywidget that also knows its static, still and spoken forms.

    Its bundle holds the live widget, a self-contained text for static pages (MIME), a picture of
    the start state, and the figure in words, which is its `repr`.
    """

    _esm = Path(__file__).with_name("explore.js").read_text(encoding="utf-8")
    _css = Path(__file__).with_name("explore.css").read_text(encoding="utf-8")
    spec = traitlets.Unicode().tag(sync=True)
    state = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, title: str, caption: str, axes: list[Axis], views, tables, masks, seen=None):
        # seen: the tables that the limits are to serve, where they are not all that is shipped
        self.title, self.caption, self.axes = title, caption, axes
        self.views: dict[str, View] = views
        self.tables: dict[str, Table] = tables
        self.masks: dict[str, Table] = masks
        self.limits, self.signed = all_limits(views, seen or tables)
        start = [a.start for a in axes]
        super().__init__(spec=json.dumps(make_spec(self), separators=(",", ":")), state=start)

    def more_spec(self, packed: Packed) -> dict:
        """What a figure that computes tells the page besides."""
        return {}

    def __repr__(self) -> str:
        axes = ", ".join(a.words(a.start) for a in self.axes)
        views = self.views.items()
        shown = "; ".join(view_words(name, view, self.compared(name)) for name, view in views)
        return f"{self.title}: {axes}: {shown}"

    def numbers(self, name: str, /, **options: Any) -> np.ndarray:
        """The numbers of view `name` as the page prints them, at the start or where `options` say.

        Returns an array of the view's shape; raises ValueError for an unknown axis or option.
        """
        shape = self.views[name].values.shape
        return self.look_up(self.tables[name], shape, options)

    def hatched(self, name: str, /, **options: Any) -> np.ndarray | None:
        """(H, W) booleans: the cells of view `name` that are not compared; None if it has none."""
        if name not in self.masks:
            return None
        return self.look_up(self.masks[name], self.views[name].values.shape[:2], options) != 0

    def compared(self, name: str, /, **options: Any) -> np.ndarray:
        """The numbers of view `name`, without those of hatched cells."""
        numbers, mask = self.numbers(name, **options), self.hatched(name, **options)
        return numbers if mask is None or mask.all() else numbers[~mask]

    def limits_at(self, name: str, /, **options: Any) -> list[float]:
        """[low, high] of view `name` at the start or where `options` say."""
        if self.views[name].scale != STATE:
            return self.limits[name]
        return span(self.views[name], self.compared(name, **options), self.signed[name])

    def state_of(self, settings: str) -> list[int]:
        """The state to which a link in the prose leads from the start: "content=8; i=3,5", "reset".

        Raises ValueError in one line for an axis or an option that the figure does not have.
        """
        state = [a.start for a in self.axes]
        for part in settings.split(";"):
            if part.strip() == "reset":
                state = [a.start for a in self.axes]
                continue
            name, equals, text = part.partition("=")
            names = [k for k, a in enumerate(self.axes) if name.strip() in (a.name, a.label)]
            if not equals or not names:
                allowed = [a.name for a in self.axes]
                raise ValueError(f'"{part.strip()}": write axis=option, the axes are {allowed}')
            state[names[0]] = self.axes[names[0]].find(text)
        return state

    def look_up(self, table: Table, shape: tuple[int, ...], options: Mapping) -> np.ndarray:
        offset = int(np.dot(self.index(options), table.strides))
        codes = table.codes.reshape(-1)[offset : offset + int(np.prod(shape))]
        return table.numbers(codes).reshape(shape)

    def index(self, options: Mapping[str, Any]) -> list[int]:
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


def check_form(title: str, axes: list[Axis], views: Mapping[str, View]) -> None:
    """Raises ValueError if not all of the figure can be on the screen at once."""
    marked = {view.mark[0] for view in views.values() if view.mark}
    for a in axes:
        if a.grid and a.name not in marked:
            raise ValueError(
                f'"{title}" points at "{a.name}", but no view names it in mark, row or column'
            )
    controls = [a.name for a in axes if not a.grid]
    panels = [name for name, view in views.items() if view.kind != "scalar"]
    scalars = [name for name, view in views.items() if view.kind == "scalar"]
    for names, most, what in (
        (controls, MOST_CONTROLS, "controls"),
        (panels, MOST_PANELS, "panels"),
        (scalars, MOST_SCALARS, "numbers"),
    ):
        if len(names) > most:
            hint = "; a position can be a point(...)" if what == "controls" else ""
            raise ValueError(
                f'"{title}" has {len(names)} {what}, {names}: a figure has at most {most}{hint}'
            )


def evaluate(function: Callable, axes: list[Axis], state: tuple[int, ...]) -> dict[str, View]:
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


def make_tables(
    axes: list[Axis], states: list, views: list[dict[str, View]]
) -> tuple[dict[str, Table], dict[str, Table]]:
    """(numbers, hatched cells) of each view over all states."""
    first = views[0]
    for state, other in zip(states, views, strict=True):
        if list(other) != list(first):
            raise ValueError(f"the views change from {list(first)} to {list(other)} at {state}")
        for name in first:
            check_fixed(name, first[name], other[name], axes, state)
    sizes = [len(a.values) for a in axes]
    tables, masks = {}, {}
    for name, view in first.items():
        stack = np.stack([v[name].values for v in views]).reshape(*sizes, *view.values.shape)
        tables[name] = tabulate(view.kind, stack, view.values.ndim)
        if view.hatched is not None:
            mask = np.stack([v[name].hatched for v in views]).reshape(*sizes, *view.hatched.shape)
            masks[name] = tabulate("image", mask.astype(float), 2)
    return tables, masks


def check_fixed(name: str, first: View, other: View, axes: list[Axis], state) -> None:
    if first.values.shape != other.values.shape:
        at = ", ".join(a.words(k) for a, k in zip(axes, state, strict=True))
        raise ValueError(
            f'view "{name}" has shape {other.values.shape} at {at}, but {first.values.shape} '
            "at the first options; a view keeps one shape"
        )
    if first.fixed() != other.fixed():
        raise ValueError(f'view "{name}" changes its kind or options from state to state')


def check_budget(title: str, axes: list[Axis], tables: dict, masks: dict) -> None:
    total = sum(t.codes.nbytes for t in (*tables.values(), *masks.values()))
    if total <= BUDGET:
        return
    name, largest = max(tables.items(), key=lambda item: item[1].codes.nbytes)
    used = [a for a, stride in zip(axes, largest.strides, strict=True) if stride]
    raise ValueError(
        f'"{title}" needs {total / 1e6:.2f} MB of table, more than {BUDGET / 1e6:g} MB; view '
        f'"{name}" takes {largest.codes.nbytes / 1e6:.2f} MB: show fewer cells, or {thin(used)}'
    )


def thin(axes: list[Axis]) -> str:
    longest = max(axes, key=lambda a: len(a.values))
    return f'thin out axis "{longest.name}" ({len(longest.values)} values)'


def view_words(name: str, view: View, numbers: np.ndarray) -> str:
    if view.kind == "scatter":
        role = numbers[:, 2]
        along = ", ".join(view.labels[k] for k in np.flatnonzero(role == FRONT))
        return f"{name} ({np.count_nonzero(role)} points), on the front {along}"
    if numbers.size == 1:
        return f"{name} {numbers.item():.3g}"
    size = "×".join(map(str, numbers.shape))
    return f"{name} ({size}) {numbers.min():.3g} to {numbers.max():.3g}"
