"""The still picture of a figure: what matplotlib is asked to draw of its start state."""

import base64
import io
import json
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from PIL import Image

from coatnet_mini import plots
from coatnet_mini.explore import axis, bars, explore, heat, image, line, point, scalar
from coatnet_mini.explore.still import lines, notes, still_png
from coatnet_mini.explore.views import scatter
from tests import CHAPTERS, ROOT
from tests.chapter_cells import run

EYE = np.eye(3, 4)


def views(i, name):
    return {
        "digit": image(EYE, ink=True, mark="i"),
        "map": heat(-EYE, hatched=EYE[::-1], x=("column", [-1, 0, 1, 2]), y="row"),
        "bars": bars([-1.0, 2.0], y="weight", labels="ab"),
        "curves": line({"one": [0.0, 3.0], "two": [1.0, 0.5]}, x=("place", [2, 4])),
        "gain": scalar(0.1234567),
    }


@pytest.fixture
def drawn(monkeypatch):
    """Called with a figure, gives the matplotlib figure of its still."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: kept.append(self))

    def draw(figure) -> Figure:
        kept.clear()  # `explore` may have drawn already
        still_png(figure)
        return kept[-1]

    return draw


@pytest.fixture
def still(drawn):
    return drawn(explore(views, "Four kinds", i=point(3, 4, start=6), name=axis(["a", "b"])))


def titled(still, title: str):
    return next(ax for ax in still.axes if ax.get_title() == title)


def test_every_view_has_its_panel_and_the_rest_its_line(still):
    panels = [ax.get_title() for ax in still.axes if ax.get_title()]
    assert panels == ["digit", "map", "bars", "curves"]
    assert tuple(still.get_size_inches()) == (plots.WIDTH, pytest.approx(0.9 + 2.3 * 2))
    assert still.get_suptitle() == "Four kinds"
    below = still.get_supxlabel()
    assert "name = a" in below and "gain = 0.123" in below and "i = " in below


def test_the_names_of_panels_do_not_run_into_each_other(drawn):
    names = ["added to DeiT-T, %: parameters | multiply-adds", "positions read for one output"]
    still = drawn(explore(lambda k: {n: bars([1.0, k]) for n in names}, "Long", k=[1, 2]))
    still.canvas.draw()
    one, other = (ax.title.get_window_extent() for ax in still.axes)
    assert one.x0 > 0 and one.x1 < other.x0 and other.x1 < still.bbox.width


def test_ink_is_dark_and_the_marked_cell_is_outlined(still):
    ax = titled(still, "digit")
    (picture,) = ax.images
    assert picture.cmap(picture.norm(0.0))[:3] == (1, 1, 1)
    (frame,) = ax.patches
    assert frame.get_xy() == (1.5, 0.5)  # position 6 of 3×4: row 1, column 2
    assert (frame.get_width(), frame.get_height()) == (1, 1)


def test_a_picture_runs_from_its_least_to_its_largest_and_colours_as_they_are(drawn):
    colour = np.random.default_rng(0).integers(0, 256, (2, 2, 3))
    colour[0, 0] = 0, 255, 2

    def pictures(k):
        return {
            "grey": image([[2.0, 3.0], [6.0, 4.0]]),
            "bytes": image(colour),
            "shares": image(colour / 255),
        }

    still = drawn(explore(pictures, "Pictures", k=[0]))
    assert titled(still, "grey").images[0].get_array().tolist() == [[0, 0.25], [1, 0.5]]
    for title in ("bytes", "shares"):
        (picture,) = titled(still, title).images
        assert np.allclose(picture.get_array(), colour / 255, atol=1 / 255)


@pytest.mark.parametrize(
    ("mark", "box"), [("row", (-0.5, 1.5, 4, 1)), ("column", (1.5, -0.5, 1, 3))]
)
def test_a_marked_row_or_column_is_outlined_whole(drawn, mark, box):
    still = drawn(
        explore(lambda k: {"M": heat(EYE, **{mark: "k"})}, "M", k=axis(range(3), start=2))
    )
    (frame,) = titled(still, "M").patches
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == box


def test_what_does_not_count_is_hatched_and_positions_have_their_numbers(still):
    ax = titled(still, "map")
    boxes = [p for p in ax.patches if p.get_hatch()]
    assert [p.get_xy() for p in boxes] == [(1.5, -0.5), (0.5, 0.5), (-0.5, 1.5)]
    assert {(p.get_width(), p.get_height()) for p in boxes} == {(1, 1)}
    ticks = {t.get_position()[0]: t.get_text() for t in ax.get_xticklabels()}
    assert ticks == {0: "-1", 1: "0", 3: "2"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column", "row")


def test_bars_below_zero_have_the_other_colour(still):
    ax = titled(still, "bars")
    assert [bar.get_height() for bar in ax.patches] == [-1, 2]
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colours == [to_hex(to_rgba(c)) for c in (plots.BELOW, plots.INK)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]
    low, high = ax.get_ylim()
    assert low <= -1 and high >= 2 and ax.get_ylabel() == "weight"


def test_curves_run_over_their_positions_each_with_its_dash_and_name(still):
    ax = titled(still, "curves")
    assert [list(curve.get_xdata()) for curve in ax.lines] == [[2, 4], [2, 4]]
    assert [list(curve.get_ydata()) for curve in ax.lines] == [[0, 3], [1, 0.5]]
    assert len({curve.get_linestyle() for curve in ax.lines}) == 2
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["one", "two"]


def test_a_mark_on_a_curve_is_a_line_at_its_position(drawn):
    def curve(k):
        return {"c": line({"c": [0.0, 1.0, 2.0]}, x=("x", [1, 5, 9]), mark="k")}

    ax = titled(drawn(explore(curve, "C", k=axis(range(3), start=1))), "c")
    assert list(ax.lines[-1].get_xdata()) == [5, 5]


def test_a_map_of_points_shows_those_chosen_and_the_front(drawn):
    def points(regime):
        return {
            "results": scatter(
                [1.0, 4.0, 2.0, 3.0],
                [5.0, 8.0, 7.0, 6.0],
                names=["p", "q", "r", "s"],
                groups=["A", "B", "A", "B"],
                shown=[True, True, True, False],
                front=[True, True, False, False],
                notes=[""] * 4,
                flags=[False] * 4,
                xname="size",
                yname="accuracy",
            )
        }

    ax = titled(drawn(explore(points, "Results", regime=axis(["all", "one"]))), "results")
    groups = {c.get_label(): list(c.get_xdata()) for c in ax.lines if c.get_label() in "AB"}
    assert groups == {"A": [1, 2], "B": [4]}
    stairs = next(c for c in ax.lines if c.get_drawstyle() == "steps-post")
    assert (list(stairs.get_xdata()), list(stairs.get_ydata())) == ([1, 4], [5, 8])
    assert {t.get_text() for t in ax.texts} == {"p", "q"} and ax.get_xscale() == "log"


def test_numbers_are_printed_as_in_the_page():
    shown = explore(lambda k: {"all": scalar(5716 * k), "error": scalar(k / 1e4)}, "N", k=[-1, 3])
    assert notes(shown) == ["k = -1", "all = −5716", "error = −0.0001000"]


def test_notes_are_wrapped_between_them():
    assert lines(["a" * 40, "b" * 41]) == ["a" * 40 + "   " + "b" * 41]
    assert lines(["a" * 40, "b" * 42]) == ["a" * 40, "b" * 42]
    assert lines(["a" * 100]) == ["a" * 100]


# ---- What chapters store -------------------------------------------------------------------------

PINNED = re.search(r"matplotlib==([\d.]+)", (ROOT / "requirements.txt").read_text("utf-8"))[1]
SHOWN = {  # cell: what is seen there
    "ch01-explore": "bars, and a map with a row outlined",
    "ch03-roof": "a picture with a pixel outlined",
    "ch04-mend": "a hatched map",
    "ch09-cost": "curves with a line at the mark",
    "ch18-budget": "points and their front",
}


@pytest.mark.skipif(mpl.__version__ != PINNED, reason="another matplotlib draws other pixels")
@pytest.mark.parametrize("cell", SHOWN)
def test_the_stored_still_is_the_one_that_is_drawn(cell):
    """nbval compares no pictures; a few pixels may differ, for numbers that round otherwise."""
    (path,) = (path for path in CHAPTERS if path.name.startswith(cell[2:4]))
    cells = {c["id"]: c for c in json.loads(path.read_text("utf-8"))["cells"]}
    (stored,) = (o["data"]["image/png"] for o in cells[cell]["outputs"])
    *_, (_, ran) = run(path, {cell})
    ((figure, _),) = ran.made
    one, other = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        for png in (base64.b64decode(stored), still_png(figure))
    )
    assert one.shape == other.shape and (np.abs(one - other).max(-1) > 16).sum() <= 20
