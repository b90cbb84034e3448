"""The limits between which a view's colours and heights run: over all states, or in one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coatnet_mini.explore.tables import Table
from coatnet_mini.explore.views import View

STATE = "state"  # the scale that every state has for itself


def span(view: View, numbers: np.ndarray, signed: bool) -> list[float]:
    """[low, high] that serves `numbers`; explore.js does the same for one state's.

    A heat map and bars start at zero, which has a look of its own; a signed map is centred on it.
    """
    if view.kind == "scatter":  # heights of the points that are shown, with some room
        points = numbers.reshape(-1, view.values.shape[1])
        y = points[points[:, 2] > 0, 1]
        if not y.size:
            return [0.0, 1.0]
        room = 0.08 * float(np.ptp(y)) or 1.0
        return [float(y.min()) - room, float(y.max()) + room]
    low, high = float(numbers.min()), float(numbers.max())
    low, high = view.clip or (low, high)
    if view.kind == "bars" or (view.kind == "heat" and not view.clip):
        low, high = min(low, 0.0), max(high, 0.0)
    if signed:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return [low, high if high > low else low + 1.0]


def all_limits(
    views: Mapping[str, View], tables: Mapping[str, Table]
) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """({view: [low, high] over all states}, {view: whether its map has two arms}).

    Views that name one scale share both. A view on the scale "state" has its own over all states,
    which say only whether it is signed.
    """
    groups: dict[str, list[str]] = {}
    for name, view in views.items():
        alone = view.scale in (None, STATE)
        groups.setdefault(f"view {name}" if alone else view.scale, []).append(name)
    limits, signed = {}, {}
    for names in groups.values():
        spans = {n: span(views[n], tables[n].numbers(tables[n].codes), False) for n in names}
        low, high = min(s[0] for s in spans.values()), max(s[1] for s in spans.values())
        heats = [n for n in names if views[n].kind == "heat"]
        two_arms = any(low < 0 if views[n].signed is None else views[n].signed for n in heats)
        if two_arms:
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        for name in names:
            limits[name], signed[name] = [low, high], two_arms and name in heats
    return limits, signed
