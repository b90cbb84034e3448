"""The figure style of the book: one call, `use_style()`, and the few drawings that chapters share.

One palette for one thing, in these plots and in explorable figures alike. A picture is grey. A
weight is blue, the darker the larger; zero is the page. A negative value is orange: `DIVERGING`
is `SEQUENTIAL` with a second arm, always centred on zero. `MARK` frames the query. The colours
rise quickly: 15 % of full scale stands out from zero with a contrast of 3:1 (WCAG's bound for
graphics), on white and, in explorable figures, on a dark page. Panels that are to be compared
share their limits. Small maps carry their numbers, so that no reader depends on colour.
"""

import time
from collections.abc import Mapping
from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

# Nine colours from zero to full scale, one each for (k / 8)² of it. Their contrast with zero is
# 10 ** (k / 8) ** 0.73, so both arms are equally strong; explore.js holds the same lists.
RAMPS = {
    "light +": "#ffffff #aaceea #7fb0da #5c98d0 #3f83c7 #256fc1 #175cb7 #184ca5 #183c93",
    "light -": "#ffffff #e4c4a5 #d1a278 #c48552 #b76d36 #ac5718 #9c4507 #8b3502 #782804",
    "dark +": "#121212 #283a59 #2e507f #2e64a0 #3177b8 #318bd0 #3c9fe1 #5ab3ea #78c6f3",
    "dark -": "#121212 #523225 #71442b #8d542d #a5642f #bb752f #cf8836 #dd9d4b #ecb360",
}
SEQUENTIAL = "weights"
DIVERGING = "signed"
WIDTH = 6.4  # inches; the text column of the site
MARK = "#d6006e"  # the frame around the query, "position i"
INK = "#3f7fbf"  # bars and the first curve
BELOW = "#b76d36"  # bars below zero
LINES = ("-", "--", ":", "-.")  # curves differ in dash, not only in colour

STYLE = {
    "figure.figsize": (WIDTH, 3.2),
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "font.size": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
    "lines.linewidth": 2.0,
}


def ramp(sign: str = "+", theme: str = "light") -> np.ndarray:
    """(256, 3) colours in 0..1 from zero to full scale, in even steps of the value."""
    anchors = np.array([to_rgb(colour) for colour in RAMPS[f"{theme} {sign}"].split()])
    place = np.sqrt(np.linspace(0, 1, 256)) * (len(anchors) - 1)
    return np.stack([np.interp(place, range(len(anchors)), channel) for channel in anchors.T], 1)


def register_palettes() -> None:
    """Make `SEQUENTIAL` and `DIVERGING` known to matplotlib by name."""
    positive, negative = ramp(), ramp("-")
    both = np.concatenate([negative[:0:-1], positive])  # 511 colours, zero in the middle
    mpl.colormaps.register(ListedColormap(positive, SEQUENTIAL), force=True)
    mpl.colormaps.register(ListedColormap(both, DIVERGING), force=True)


register_palettes()


def use_style() -> None:
    """Set the book's matplotlib defaults: white opaque face, 6.4 in wide, font 10 or more."""
    mpl.rcParams.update(STYLE)


def colour_limits(*arrays, signed: bool | None = None) -> tuple[float, float]:
    """Limits that serve all `arrays`: (0, largest), or (-m, m) when any value is negative.

    `signed` forces the one (False) or the other (True).
    """
    flat = np.concatenate([as_array(a).ravel() for a in arrays])
    if flat.size == 0 or not np.isfinite(flat).all():
        raise ValueError("cannot draw an empty array, NaN or infinity: give finite values")
    if signed is None:
        signed = bool((flat < 0).any())
    largest = float(np.abs(flat).max() if signed else flat.max())
    largest = largest if largest > 0 else 1.0  # an all-zero map still needs a scale
    return (-largest if signed else 0.0), largest


def heatmap(
    ax: Axes,
    matrix,
    *,
    limits: tuple[float, float] | None = None,
    signed: bool | None = None,
    values: bool | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    mark: tuple[int, int] | None = None,
) -> AxesImage:
    """Draw `matrix` (rows, columns), a tensor or array, on `ax`; return the image for a colour bar.

    limits: (low, high); by default those of `colour_limits`. signed: force or forbid the diverging
    map (default: diverging when the limits go below zero). values: write each number in its cell
    (default: up to 5×5). mark: (row, column) of a cell to frame.
    """
    matrix = as_array(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"a heat map needs a matrix, got an array of shape {matrix.shape}")
    if limits is None:
        limits = colour_limits(matrix, signed=signed)
    if signed is None:
        signed = limits[0] < 0
    image = ax.imshow(
        matrix, cmap=DIVERGING if signed else SEQUENTIAL, vmin=limits[0], vmax=limits[1]
    )
    if max(matrix.shape) <= 5 if values is None else values:
        write_values(ax, matrix, image)
    if mark is not None:
        outline(ax, mark[1], mark[0])
    for axis, length in ((ax.xaxis, matrix.shape[1]), (ax.yaxis, matrix.shape[0])):
        axis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 4, 5, 8, 10]))
        if length <= 7:
            axis.set_ticks(range(length))
    ax.spines[:].set_visible(True)
    given = {"title": title, "xlabel": xlabel, "ylabel": ylabel}
    ax.set(**{name: text for name, text in given.items() if text})  # keep what the caller set
    return image


def heatmaps(
    matrices: Mapping[str, object],
    *,
    limits: tuple[float, float] | None = None,
    values: bool | None = None,
    xlabel: str = "",
    ylabel: str = "",
    height: float | None = None,
    columns: int | None = None,
    label: str = "",
) -> Figure:
    """Draw the named matrices side by side: same limits, one colour bar. Return the figure.

    limits: by default those of `colour_limits`; narrower ones saturate, and arrows at the ends of
    the colour bar say so. height: inches (default: square panels). columns: panels per row
    (default: all in one row). label: what the colour stands for.
    """
    if not matrices:
        raise ValueError("no matrices to draw: give at least one")
    columns = columns or len(matrices)
    rows = -(-len(matrices) // columns)
    limits = limits or colour_limits(*matrices.values())
    height = height or rows * (WIDTH / columns + 0.4) + 0.6
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False)
    for ax in axes.ravel()[len(matrices) :]:
        ax.axis("off")
    alike = len({as_array(matrix).shape for matrix in matrices.values()}) == 1
    for k, (ax, (name, matrix)) in enumerate(zip(axes.ravel(), matrices.items(), strict=False)):
        image = heatmap(ax, matrix, limits=limits, values=values, title=name, xlabel=xlabel)
        if k % columns == 0:
            ax.set_ylabel(ylabel)
        elif alike:
            ax.tick_params(labelleft=False)  # the first panel of the row carries the numbers
    low, high = colour_limits(*matrices.values())
    extend = {(0, 0): "neither", (0, 1): "max", (1, 0): "min", (1, 1): "both"}[
        low < limits[0], high > limits[1]
    ]
    figure.colorbar(
        image, ax=axes, label=label, location="bottom", fraction=0.06, aspect=60, extend=extend
    )
    return figure


def picture(
    ax: Axes,
    image,
    *,
    title: str = "",
    mark: tuple[int, int] | None = None,
    ink: bool = False,
) -> AxesImage:
    """Draw `image`, (H, W) or (3, H, W) or (H, W, 3) in 0..1, without ticks; frame `mark`.

    ink: a value says how much ink there is: 0 is white paper, 1 black (a digit, for one).
    """
    image = as_array(image)
    if image.ndim == 3 and image.shape[0] == 3:
        image = np.moveaxis(image, 0, 2)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"an image is (H, W), (3, H, W) or (H, W, 3), got shape {image.shape}")
    drawn = ax.imshow(image.clip(0, 1), cmap="gray_r" if ink else "gray", vmin=0, vmax=1)
    if mark is not None:
        outline(ax, mark[1], mark[0])
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return drawn


class LiveCurves:
    """Curves that grow in the notebook while something runs, a panel for each name.

    watch = LiveCurves("loss", "held-out accuracy", steps=200)
    watch(20, loss, accuracy)   # a point on each curve; drawn anew at most once a second
    watch.draw()                # the whole picture: all that a static page keeps

    Attributes:
        points: [(step, value, value, ...), ...].
    """

    def __init__(self, *names: str, steps: int, seconds: float = 1.0):
        self.names, self.steps, self.seconds = names, steps, seconds
        self.points: list[tuple[float, ...]] = []
        self.drawn, self.shown = -float("inf"), None

    def __call__(self, step: int, *values: float) -> None:
        self.points.append((step, *map(float, values)))
        if time.monotonic() - self.drawn >= self.seconds:
            self.draw()

    def draw(self) -> None:
        """Draw in the place of the last picture, where the front end can, else below it."""
        from IPython.display import Image, display

        figure, axes = plt.subplots(1, len(self.names), figsize=(WIDTH, 2.4), squeeze=False)
        steps, *curves = zip(*self.points, strict=True)
        for ax, name, curve in zip(axes[0], self.names, curves, strict=True):
            ax.plot(steps, curve, color=INK)
            ax.set(xlabel="step", title=name, xlim=(0, self.steps))
        file = BytesIO()
        figure.savefig(file, format="png", dpi=2 * figure.dpi)
        plt.close(figure)
        image = Image(file.getvalue(), width=round(WIDTH * figure.dpi))
        if self.shown is None:
            self.shown = display(image, display_id=True)
        else:
            self.shown.update(image)
        self.drawn = time.monotonic()


def outline(ax: Axes, x: float, y: float, width: float = 1, height: float = 1) -> None:
    """Frame cells of a picture or map as the query is framed everywhere: on white, in `MARK`.

    x, y: the column and row of the upper left cell; width, height: in cells.
    """
    on_white = [withStroke(linewidth=4, foreground="white")]
    box = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, ec=MARK, lw=2, clip_on=False)
    ax.add_patch(box).set_path_effects(on_white)


def as_array(values) -> np.ndarray:
    """Tensor, array or nested list to a NumPy array of floats, cut from any graph or device."""
    if hasattr(values, "detach"):  # a tensor; torch is not imported for it
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=float)


def write_values(ax: Axes, matrix: np.ndarray, image: AxesImage) -> None:
    """Write each number in its cell, black or white: with a contrast of at least 4.5 (WCAG)."""
    whole = np.array_equal(matrix, matrix.round())
    for (row, column), value in np.ndenumerate(matrix):
        rgb = np.array(image.cmap(image.norm(value))[:3])
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        light = linear @ [0.2126, 0.7152, 0.0722] > 0.179
        text = f"{value:.0f}" if whole else f"{value:.2f}"
        ax.text(column, row, text, ha="center", va="center", color="black" if light else "white")
