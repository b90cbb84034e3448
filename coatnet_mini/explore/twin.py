"""Figures that compute in the page: what the reader paints, drags or points at on large pictures.

    def figure(noisy, temperature, i):                      # the source: draws the still, the words
        W = likeness(patches(noisy), temperature)
        mended = mend(W, noisy)
        return {
            "noisy": image(noisy, edit="noisy", clip=(0, 1)),
            "weights": heat(W[i].view(32, 32), mark="i", scale="state"),
            "mended": image(mended, mark="i", clip=(0, 1)),
            "after": scalar(psnr(mended, clean)),
        }

    explore(
        figure, "Mend the roof", twin="mend",
        titles={"noisy": "noisy picture", "weights": "weights of pixel i", "after": "PSNR in dB"},
        constants={"clean": clean, "mode": 1, "size": 5},
        noisy=paint(noisy), temperature=axis([0.2, 0.4, 0.6, 1]), i=point(32, 32),
    )

No table is shipped: in the page, in Jupyter and in Colab the function of that name in `twins.js`
computes the same views again, at most once a frame, so axes and pictures may be large.

To add a twin, write a function there, a dozen lines over `operators.js`, and name it in the export:

    function mend({ noisy, clean, temperature, i }, operators) {
      ...
      return { weights: () => W.subarray(i * N, (i + 1) * N), mended: () => ... };
    }

It is given, by name, every axis, edit and constant: a slider as its number, named options as their
place in the list (so that their words are the author's), a point as its flat index, arrays as
Float32Arrays with a `shape`. A constant in one figure may be a slider in another. It returns a
function for each view, under the key that the Python function uses (`titles` says what the reader
sees instead); views that a figure does not show are not computed. Then write its Python beside the
others in tests/twin_figures.py: tests/test_twins.py compares both in random states and edits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import traitlets

from coatnet_mini.explore.axes import Axis, make_axes, option_text
from coatnet_mini.explore.scripts import constant, module
from coatnet_mini.explore.spec import Packed
from coatnet_mini.explore.tables import Table
from coatnet_mini.explore.views import View, make_array
from coatnet_mini.explore.widget import Explorable, check_form, evaluate

SPREAD = 3  # options of each axis from which the limits of the views are taken


@dataclass(frozen=True)
class Edit:
    """An array that the reader changes: `paint` or `drag`."""

    kind: str
    array: Any  # as the author gave it, which is how the function gets it
    label: str | None
    low: float
    high: float
    pen: float = 0.0
    pens: tuple[str, str] = ("", "")
    choices: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Network:
    """A stored network that the twin runs: its name, its configuration and its safetensors file."""

    name: str
    config: Mapping[str, Any]
    weights: bytes


def paint(
    array,
    label: str | None = None,
    *,
    pen: float = 1.5,
    low: float = 0.0,
    high: float = 1.0,
    pens: tuple[str, str] = ("black", "white"),
    choices: Mapping[str, Any] | None = None,
) -> Edit:
    """A picture (H, W) whose pixels the reader paints: `explore(f, ..., noisy=paint(noisy))`.

    The view that shows it says so, `image(noisy, edit="noisy")`. With the focus there, arrow keys
    move the pen and space paints.

    Args:
        label: what it is called, by default the name of the argument.
        pen: radius of the pen, in pixels.
        low, high: what its two pens leave; `pens` says what they are called.
        choices: other pictures of the same shape, by name, from which the reader may start; they
            come with buttons that clear, turn and move the picture.
    """
    values = make_array(array)
    if values.ndim != 2:
        raise ValueError(f"a picture to paint on is (H, W), got shape {values.shape}")
    if not pen > 0:
        raise ValueError(f"pen is {pen}; a radius is above 0")
    for name, other in (choices or {}).items():
        if make_array(other).shape != values.shape:
            raise ValueError(f'choice "{name}" is {make_array(other).shape}, not {values.shape}')
    ends = float(low), float(high)
    return Edit("paint", array, label, *ends, float(pen), tuple(map(str, pens)), choices)


def drag(array, low: float, high: float, label: str | None = None) -> Edit:
    """A vector (N,) whose bars the reader drags: `explore(f, ..., w=drag(w, -1, 1))`.

    The view that shows it says so, `bars(w, edit="w")`. With the focus there, left and right choose
    a bar, up and down change it. low, high: how far; both are within the view's limits.
    """
    values = make_array(array)
    if values.ndim != 1:
        raise ValueError(f"bars to drag are (N,), got shape {values.shape}")
    if not low < high:
        raise ValueError(f"bars from {low} to {high}: give the lower limit first")
    return Edit("drag", array, label, float(low), float(high))


class Computed(Explorable):
    """An explorable figure whose views a twin computes in the browser."""

    _esm = "".join(
        [*(constant(name) for name in ("operators", "twins", "computing")), module("explore")]
    )
    edits = traitlets.Dict().tag(sync=True)  # name: array, where the reader has changed one
    network = traitlets.Dict().tag(sync=True)  # for a notebook; a page loads the network's file

    def __init__(self, function, twin, keys, constants, edited, network, *form):
        self.stored: Network | None = network
        self.function, self.twin, self.twin_keys = function, twin, keys
        self.constants: Mapping[str, Any] = constants
        self.edited: dict[str, Edit] = edited
        super().__init__(*form)
        if network:
            self.network = {"config": network.config, "safetensors": network.weights}

    def numbers(self, name: str, /, **options: Any) -> np.ndarray:
        """The numbers of view `name`, computed by the Python function.

        `options` are options of the axes and arrays for what the reader edits; the rest is as at
        the start. Returns an array of the view's shape; raises ValueError for an unknown option.
        """
        if not options:
            return self.views[name].values
        arrays = {n: options.pop(n) for n in self.edited if n in options}
        state = self.index(options)
        return evaluate(lambda **at: self.function(**at, **arrays), self.axes, state)[name].values

    def more_spec(self, packed: Packed) -> dict:
        """The twin's name, the key of each view, the constants, and what can be edited."""
        given = {n: e.array for n, e in self.edited.items()} | dict(self.constants)
        edits = {n: edit_spec(n, e, packed) for n, e in self.edited.items()}
        arrays = {n: array_spec(a, packed) for n, a in given.items()}
        shown = {view.edit: name for name, view in self.views.items() if view.edit}
        numbers = [list(a.values) if a.numeric and not a.grid else None for a in self.axes]
        twin = {"name": self.twin, "keys": self.twin_keys, "numbers": numbers}
        if self.stored:
            twin["network"] = self.stored.name
        return {"twin": twin | {"given": arrays, "edits": edits, "shown": shown}}


def computed(
    function: Callable,
    title: str,
    caption: str,
    twin: str,
    constants,
    titles,
    requests,
    network=None,
) -> Computed:
    """`explore` with a twin. Raises ValueError in one line."""
    check_twin(twin)
    edited = {name: r for name, r in requests.items() if isinstance(r, Edit)}
    others = {name: r for name, r in requests.items() if name not in edited}
    axes = make_axes(others) if others or not edited else []
    check_names(title, [*requests], constants)

    def shown(**options):
        views = function(**{n: e.array for n, e in edited.items()} | options)
        return {titles.get(key, key): renamed(view, titles) for key, view in views.items()}

    start = tuple(a.start for a in axes)
    first = evaluate(shown, axes, start)
    check_form(title, axes, first)
    check_edits(title, edited, first)
    keys = keys_of(first, titles)
    seen = [first, *(evaluate(shown, axes, state) for state in spread(axes) if state != start)]
    still = {n: as_table(view.values, axes) for n, view in first.items()}
    limits = {n: as_table(reach([v[n] for v in seen], edited), axes) for n in first}
    masks = {n: as_table(v.hatched, axes) for n, v in first.items() if v.hatched is not None}
    form = (title, caption, axes, first, still, masks, limits)
    return Computed(shown, twin, keys, constants, edited, network, *form)


def renamed(view: Any, titles: Mapping[str, str]) -> Any:
    """The view, naming the one that lies over it by the name that the reader sees."""
    if isinstance(view, View) and view.over:
        return replace(view, over=titles.get(view.over, view.over))
    return view


def spread(axes: list[Axis]) -> list[tuple[int, ...]]:
    """States that reach from the start along one axis each."""
    start, states = [a.start for a in axes], []
    for k, a in enumerate(axes):
        for index in np.linspace(0, len(a.values) - 1, SPREAD).round().astype(int):
            states.append((*start[:k], int(index), *start[k + 1 :]))
    return states


def reach(views: list[View], edited: Mapping[str, Edit]) -> np.ndarray:
    """All numbers that a view's limits are to serve, to three digits of the largest."""
    numbers = np.stack([v.values for v in views])
    if edit := edited.get(views[0].edit or ""):
        ends = [np.full(numbers.shape[1:], end) for end in (edit.low, edit.high)]
        numbers = np.concatenate([numbers, ends])
    largest = np.abs(numbers).max()
    return numbers.round(2 - int(np.floor(np.log10(largest)))) if largest else numbers


def as_table(values: np.ndarray, axes: list[Axis]) -> Table:
    """A table that is the same in every state, of numbers as they are."""
    return Table(np.asarray(values, dtype=np.float32), strides=(0,) * len(axes))


def array_spec(value: Any, packed: Packed) -> dict | float:
    """A constant as the page gets it: a number, or where its numbers are, and its shape."""
    array = make_array(value)
    if not np.isfinite(array).all():
        raise ValueError(f"a constant is not finite: {value}")
    if array.ndim == 0:
        return float(array)
    return {"table": packed.add(Table(array.astype(np.float32))), "shape": list(array.shape)}


def edit_spec(name: str, edit: Edit, packed: Packed) -> dict:
    spec = {"kind": edit.kind, "label": edit.label or name.replace("_", " ")}
    spec |= {"low": edit.low, "high": edit.high}
    if edit.kind == "paint":
        spec |= {"pen": edit.pen, "pens": list(edit.pens)}
    if edit.choices:
        spec["choices"] = {n: array_spec(a, packed) for n, a in edit.choices.items()}
    return spec


def keys_of(views: Mapping[str, View], titles: Mapping[str, str]) -> list[str]:
    """The twin's key of each view, in their order."""
    keys = {title: key for key, title in titles.items()}
    return [keys.get(name, name) for name in views]


def check_twin(name: str) -> None:
    names = re.findall(r"\w+", module("twins").partition("\nexport default ")[2])
    if name not in names:
        raise ValueError(f'no twin "{name}" in twins.js; choose from {", ".join(names)}')


def check_names(title: str, names: list[str], constants: Mapping[str, Any]) -> None:
    if twice := [name for name in names if name in constants]:
        raise ValueError(f'"{title}" gives {option_text(twice[0])} as an axis and as a constant')


def check_edits(title: str, edited: Mapping[str, Edit], views: Mapping[str, View]) -> None:
    """Every edit is shown by one view, of its shape; every view's edit is one."""
    for name, view in views.items():
        if view.edit is not None and view.edit not in edited:
            allowed = [*edited] or "nothing"
            raise ValueError(f'view "{name}" edits "{view.edit}"; there is {allowed}')
    for name, edit in edited.items():
        shapes = [view.values.shape for view in views.values() if view.edit == name]
        if shapes != [make_array(edit.array).shape]:
            raise ValueError(
                f'"{title}" lets "{name}" be edited: show it in one view, edit="{name}"'
            )
