"""The still picture of an explorable figure: its start state, for GitHub, print and readers
without JavaScript."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from coatnet_mini import plots

COLUMNS = 3


def still_png(figure) -> bytes:
    """`figure` (an Explorable) at its start state as a PNG, on white, 6.4 inches wide."""
    pictures = {n: v for n, v in figure.views.items() if v.kind != "scalar"}
    scalars = {n: v for n, v in figure.views.items() if v.kind == "scalar"}
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    with mpl.rc_context(plots.STYLE):
        fig = Figure(figsize=(plots.WIDTH, 0.9 + 2.3 * rows), layout="constrained")
        grid = fig.subplots(max(rows, 1), columns, squeeze=False)
        for ax in grid.flat:
            ax.set_axis_off()
        for (name, view), ax in zip(pictures.items(), grid.flat, strict=False):
            ax.set_axis_on()
            ax.set_title(name)
            _draw(ax, view, figure.numbers(name), figure.limits[name])
            _outline(ax, view, figure)
        notes = [f"{a.label} = {a.options[a.start]}" for a in figure.axes]
        notes += [f"{n} = {figure.numbers(n).item():.3g}" for n in scalars]
        fig.suptitle(figure.title, fontweight="bold")
        fig.supxlabel("\n".join(_lines(notes)), fontsize=10)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _lines(notes: list[str], width: int = 84) -> list[str]:
    """The notes in lines of at most `width` characters, none broken within itself."""
    lines = [""]
    for note in notes:
        if lines[-1] and len(lines[-1]) + len(note) + 3 > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + note
    return lines


def _draw(ax, view, numbers: np.ndarray, limits) -> None:
    low, high = limits
    if view.kind == "image":
        plots.picture(ax, (numbers - low) / (high - low))
    elif view.kind == "heat":
        drawn = plots.heatmap(ax, numbers, limits=(low, high), signed=low == -high)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.7)
    elif view.kind == "bars":
        ax.bar(range(numbers.size), numbers, color=plots.INK)
        ax.set_ylim(low, high)
    else:
        for k, curve in enumerate(numbers):
            label = view.series[k] if view.series else None
            ax.plot(
                view.x or range(curve.size), curve, plots.LINES[k % len(plots.LINES)], label=label
            )
        ax.set_ylim(low, high)
        if view.series:
            ax.legend()
    if view.labels:
        ax.set_xticks(range(len(view.labels)), view.labels)


def _outline(ax, view, figure) -> None:
    """The marked cell, row or column, as the live figure outlines it."""
    if view.mark is None:
        return
    marked = next(a for a in figure.axes if a.name == view.mark[0])
    cell, what = int(marked.values[marked.start]), view.mark[1]
    if view.kind in ("bars", "line"):
        ax.axvline(view.x[cell] if view.x else cell, color=plots.MARK, linewidth=1)
        return
    height, width = view.values.shape[:2]
    x, y, w, h = {
        "cell": (cell % width, cell // width, 1, 1),
        "row": (0, cell, width, 1),
        "column": (cell, 0, 1, height),
    }[what]
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=plots.MARK, linewidth=2))
