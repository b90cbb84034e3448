"""The still picture of an explorable figure: its start state, for GitHub, print and readers
without JavaScript."""

from __future__ import annotations

import io
import math
import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from coatnet_mini import plots
from coatnet_mini.explore.views import FRONT


def still_png(figure) -> bytes:
    """`figure` (an Explorable) at its start state as a PNG, on white, 6.4 inches wide."""
    pictures = {n: v for n, v in figure.views.items() if v.kind != "scalar"}
    columns = {0: 1, 4: 2}.get(len(pictures), min(len(pictures), 3))
    rows = math.ceil(len(pictures) / columns)
    with mpl.rc_context(plots.STYLE):
        fig = Figure(figsize=(plots.WIDTH, 0.9 + 2.3 * rows), layout="constrained")
        grid = fig.subplots(max(rows, 1), columns, squeeze=False)
        for ax in grid.flat:
            ax.set_axis_off()
        for (name, view), ax in zip(pictures.items(), grid.flat, strict=False):
            ax.set_axis_on()
            draw(ax, view, figure, name)
            ax.set_title(textwrap.fill(name, 84 // columns - 6))  # or it runs into the next one
            outline(ax, view, figure)
        fig.suptitle(figure.title, fontweight="bold")
        fig.supxlabel("\n".join(lines(notes(figure))), fontsize=10)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def notes(figure) -> list[str]:
    """What is chosen, and the numbers of the figure as its page prints them."""
    chosen = [f"{a.label} = {a.options[a.start]}" for a in figure.axes]
    scalars = [n for n, view in figure.views.items() if view.kind == "scalar"]
    return chosen + [f"{n} = {figure.tables[n].text(figure.numbers(n).item())}" for n in scalars]


def lines(notes: list[str], width: int = 84) -> list[str]:
    """The notes in lines of at most `width` characters, none broken within itself."""
    lines = [""]
    for note in notes:
        if lines[-1] and len(lines[-1]) + len(note) + 3 > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + note
    return lines


def draw(ax, view, figure, name: str) -> None:
    numbers, (low, high) = figure.numbers(name), figure.limits_at(name)
    if view.kind == "image":
        flat = numbers.ndim == 2
        grey = (numbers - low) / (high - low) if flat else numbers / (255 if high > 1 else 1)
        plots.picture(ax, grey, ink=view.ink)
    elif view.kind == "heat":
        signed = figure.signed[name]
        drawn = plots.heatmap(ax, numbers, limits=(low, high), signed=signed)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.7)
        if view.over:
            lay_over(ax, figure.numbers(view.over), drawn.get_extent())
        number_positions(ax.xaxis, view.x)
        number_positions(ax.yaxis, view.y)
    elif view.kind == "bars":
        colours = np.where(numbers < 0, plots.BELOW, plots.INK)
        ax.bar(range(numbers.size), numbers, color=colours)
        ax.set_ylim(low, high)
        number_positions(ax.xaxis, view.x)
    elif view.kind == "scatter":
        points(ax, view, numbers)
        ax.set_ylim(low, high)
    else:
        curves(ax, view, numbers)
        ax.set_ylim(low, high)
    if view.hatched is not None:
        hatch(ax, figure.hatched(name))
    if view.labels and view.kind != "scatter":
        ax.set_xticks(range(len(view.labels)), view.labels)
    chosen = {a.name: a.options[a.start] for a in figure.axes if view.kind == "scatter"}
    ax.set(
        xlabel=chosen.get(view.xname, view.xname) or "",
        ylabel=chosen.get(view.yname, view.yname) or "",
    )


def lay_over(ax, ink: np.ndarray, extent) -> None:
    """A picture in ink, thinly, over the map that is already there."""
    shade = np.zeros((*ink.shape, 4))
    shade[..., 3] = 0.5 * ink / max(ink.max(), 1e-9)
    ax.imshow(shade, extent=extent)


def curves(ax, view, numbers: np.ndarray) -> None:
    for k, curve in enumerate(numbers):
        x, dash = view.x or range(curve.size), plots.LINES[k % len(plots.LINES)]
        ax.plot(x, curve, dash, label=view.series[k] if view.series else None)
    if view.series:
        ax.legend()


def points(ax, view, numbers: np.ndarray) -> None:
    """The points shown, by group, and the staircase along those on the front."""
    x, y, role, group, _ = numbers.T
    for g, name in enumerate(view.series):
        here = (role > 0) & (group == g)
        if here.any():
            ax.plot(x[here], y[here], "osD^vP"[g % 6], markersize=5, label=name)
    on = np.flatnonzero(role == FRONT)
    on = on[np.lexsort((y[on], x[on]))]
    ax.step(x[on], y[on], where="post", color="#777", linewidth=1, zorder=0)
    for k in on:
        at = (x[k], y[k])
        ax.annotate(view.labels[k], at, (3, 3), textcoords="offset points", fontsize=6)
    ax.set_xscale("log")
    if role.any():
        ax.legend(fontsize=7)


def number_positions(axis, numbers) -> None:
    """The first, middle and last position by their numbers, where the view gives them."""
    if numbers:
        places = sorted({0, (len(numbers) - 1) // 2, len(numbers) - 1})
        axis.set_ticks(places, [f"{numbers[k]:g}" for k in places])


def hatch(ax, mask: np.ndarray) -> None:
    for row, column in np.argwhere(mask):
        ax.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor="white",
                edgecolor="#777",
                hatch="//////",
                linewidth=0,
            )
        )


def outline(ax, view, figure) -> None:
    """The marked cell, row or column, as the live figure outlines it."""
    if view.mark is None:
        return
    marked = next(a for a in figure.axes if a.name == view.mark[0])
    cell, what = int(marked.values[marked.start]), view.mark[1]
    if view.kind in ("bars", "line"):
        ax.axvline(view.x[cell] if view.x else cell, color=plots.MARK, linewidth=1)
        return
    height, width = view.values.shape[:2]
    box = {
        "cell": (cell % width, cell // width, 1, 1),
        "row": (0, cell, width, 1),
        "column": (cell, 0, 1, height),
    }
    plots.outline(ax, *box[what])
