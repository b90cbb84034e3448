"""What a page is told of an explorable figure: everything, as JSON, the tables in base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coatnet_mini.explore.axes import Axis
from coatnet_mini.explore.scales import STATE
from coatnet_mini.explore.tables import Table
from coatnet_mini.explore.views import View

if TYPE_CHECKING:
    from coatnet_mini.explore.widget import Explorable


def slug(title: str) -> str:
    """A title as links name its figure: "Temperature τ, softmax" is temperature-τ-softmax."""
    letters = "".join(c if c.isalnum() else " " for c in title.lower())
    return "-".join(letters.split())


def make_spec(figure: Explorable) -> dict:
    """The figure as a JSON object; its tables follow one another, deflated."""
    packed = Packed()
    views = [view_spec(figure, name, packed) for name in figure.views]
    return {
        "id": slug(figure.title),
        "title": figure.title,
        "caption": figure.caption,
        "words": repr(figure),
        "axes": [axis_spec(a) for a in figure.axes],
        "views": views,
        **figure.more_spec(packed),
        "data": packed.text(),
    }


class Packed:
    """Tables one behind the other, each starting at a multiple of four bytes."""

    def __init__(self):
        self.raw = bytearray()

    def add(self, table: Table) -> dict:
        """Append a table; returns how a page finds and reads it."""
        spec = {
            "type": table.codes.dtype.name,
            "offset": len(self.raw),
            "strides": list(table.strides),
            "base": table.base,
            "mantissa": table.mantissa,
            "decimals": table.decimals,
        }
        self.raw += table.codes.astype(table.codes.dtype.newbyteorder("<")).tobytes()
        self.raw += b"\0" * (-len(self.raw) % 4)  # typed arrays start at their item size
        return spec

    def text(self) -> str:
        return base64.b64encode(zlib.compress(bytes(self.raw), 9)).decode()


def axis_spec(a: Axis) -> dict:
    spec = {"name": a.name, "label": a.label, "start": a.start}
    if a.grid:
        return {**spec, "point": list(a.grid)}
    return {**spec, "options": a.options, "slider": a.numeric}


def view_spec(figure: Explorable, name: str, packed: Packed) -> dict:
    view = figure.views[name]
    spec = {
        "name": name,
        "kind": view.kind,
        "shape": list(view.values.shape),
        "limits": figure.limits[name],
        "table": packed.add(figure.tables[name]),
    }
    for key in ("labels", "series", "notes", "x", "y", "clip"):
        if getattr(view, key) is not None:
            spec[key] = list(getattr(view, key))
    for key in ("xname", "yname", "ink", "over"):
        if getattr(view, key):
            spec[key] = getattr(view, key)
    if figure.signed[name]:
        spec["signed"] = True
    spec |= scale_spec(view, figure.views)
    if name in figure.masks:
        spec["hatched"] = packed.add(figure.masks[name])
    if view.mark:
        spec["mark"] = mark_spec(view.mark, figure.axes)
    return spec


def scale_spec(view: View, views: dict[str, View]) -> dict:
    if view.scale == STATE:
        return {"scale": "state"}
    alike = [v for v in views.values() if v.scale == view.scale is not None]
    return {"scale": "shared"} if len(alike) > 1 else {}


def mark_spec(mark: tuple[str, str], axes: Sequence[Axis]) -> dict:
    place = [a.name for a in axes].index(mark[0])
    spec = {"axis": place, "what": mark[1]}
    if not axes[place].grid:
        spec["cells"] = [int(v) for v in axes[place].values]
    return spec
