"""The figure style: white and wide enough, limits shared, signed maps centred, numbers written."""

import matplotlib as mpl

mpl.use("Agg")

import io
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from coatnet_mini import plots
from tests.helpers import contrast


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def test_style_is_opaque_white_wide_and_legible():
    figure, ax = plt.subplots()
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert ax.get_facecolor() == (1, 1, 1, 1)
    assert figure.get_figwidth() == plots.WIDTH == 6.4
    ax.set(xlabel="j", ylabel="i", title="W")
    ax.legend([ax.plot([0, 1])[0]], ["row"])
    texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_legend().get_texts()]
    assert min(t.get_fontsize() for t in texts + ax.get_xticklabels()) >= 10
    assert mpl.rcParams["image.cmap"] == plots.SEQUENTIAL


def test_whatever_style_was_set_before_a_figure_is_paper_768_by_384_pixels():
    plt.style.use("dark_background")
    plt.rcParams.update({"savefig.transparent": True, "font.size": 5, "xtick.labelsize": 5})
    plots.use_style()
    figure, ax = plt.subplots()
    ax.axis("off")
    file = io.BytesIO()
    figure.savefig(file)
    picture = np.asarray(Image.open(file))
    assert picture.shape == (384, 768, 4) and (picture == 255).all()


def test_the_style_in_words():
    """Font 10, titles and labels 11; two axes, curves two points wide, pixels as squares."""
    figure, ax = plt.subplots()
    ax.set(xlabel="j", ylabel="i", title="W")
    (curve,) = ax.plot([0, 1])
    legend = ax.legend([curve], ["row"])
    small = [*ax.get_xticklabels(), *ax.get_yticklabels(), *legend.get_texts(), ax.text(0, 0, "x")]
    assert {t.get_fontsize() for t in small} == {10}
    assert {t.get_fontsize() for t in (ax.title, ax.xaxis.label, ax.yaxis.label)} == {11}
    assert not legend.get_frame_on() and curve.get_linewidth() == 2
    assert {name: line.get_visible() for name, line in ax.spines.items()} == {
        "left": True,
        "bottom": True,
        "top": False,
        "right": False,
    }
    assert ax.imshow([[0, 1]]).get_interpolation() == "nearest"
    assert figure.get_constrained_layout()


def test_palettes_are_known_by_name_and_run_from_zero_both_ways():
    with pytest.warns(UserWarning, match="Overwriting"):
        plots.register_palettes()  # once more, as a notebook does that loads the module anew
    one, two = (mpl.colormaps[name](range(n)) for name, n in (("weights", 256), ("signed", 511)))
    assert (mpl.colormaps["weights"].N, mpl.colormaps["signed"].N) == (256, 511)
    assert np.allclose(one[:, :3], plots.ramp()) and np.allclose(two[255:], one)
    assert np.allclose(two[255::-1, :3], plots.ramp("-"))


@pytest.mark.parametrize("name", plots.RAMPS)
def test_a_ramp_passes_its_nine_colours_at_the_squares_of_eighths(name):
    theme, sign = name.split()
    ramp, colours = plots.ramp(sign, theme), plots.RAMPS[name].split()
    assert ramp.shape == (256, 3) and len(colours) == 9
    assert np.allclose(ramp[[0, -1]], [to_rgb(colours[0]), to_rgb(colours[-1])])
    for k, colour in enumerate(colours):
        at = (k / 8) ** 2 * 255
        between = [np.interp(at, range(256), channel) for channel in ramp.T]
        assert between == pytest.approx(to_rgb(colour), abs=0.02)


def test_limits_start_at_zero_or_are_centred_on_it():
    assert plots.colour_limits(torch.tensor([0.2, 0.5]), [[0.7]]) == pytest.approx((0, 0.7))
    assert plots.colour_limits([0.2, -0.9]) == pytest.approx((-0.9, 0.9))
    assert plots.colour_limits([0.2], signed=True) == pytest.approx((-0.2, 0.2))
    assert plots.colour_limits(torch.zeros(3)) == (0, 1)
    for bad in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="finite"):
            plots.colour_limits(bad)


def test_heatmap_chooses_its_map_by_sign_and_writes_small_ones():
    _, (left, right) = plt.subplots(1, 2)
    positive = plots.heatmap(left, torch.rand(3, 4, requires_grad=True))
    assert positive.cmap.name == plots.SEQUENTIAL
    assert len(left.texts) == 12
    signed = plots.heatmap(right, torch.randn(20, 20), mark=(2, 3))
    assert signed.cmap.name == plots.DIVERGING
    assert signed.norm.vmin == -signed.norm.vmax
    assert not right.texts
    assert right.patches[0].get_xy() == (2.5, 1.5)


def test_a_map_is_drawn_as_it_is_told():
    _, (left, middle, right) = plt.subplots(1, 3)
    matrix = torch.arange(30.0).view(5, 6)
    image = plots.heatmap(left, matrix, limits=(-2, 40), title="W", xlabel="j", ylabel="i")
    assert np.array_equal(image.get_array(), matrix) and image.get_clim() == (-2, 40)
    assert image.cmap.name == "signed" and not left.texts
    assert (left.get_title(), left.get_xlabel(), left.get_ylabel()) == ("W", "j", "i")
    middle.set(title="mine", xlabel="my j", ylabel="my i")
    image = plots.heatmap(middle, -matrix, signed=False, values=True, limits=(0, 1))
    assert image.cmap.name == "weights" and len(middle.texts) == 30
    assert (middle.get_title(), middle.get_xlabel(), middle.get_ylabel()) == (
        "mine",
        "my j",
        "my i",
    )
    image = plots.heatmap(right, matrix[:, :5] / 50, signed=True)
    assert image.cmap.name == "signed" and image.get_clim() == pytest.approx((-0.56, 0.56))
    assert [t.get_text() for t in right.texts[:3]] == ["0.00", "0.02", "0.04"]
    assert right.texts[7].get_position() == (2, 1)  # row 1, column 2
    _, ax = plt.subplots()
    plots.heatmap(ax, matrix[:, :5], values=False)
    assert not ax.texts


def test_a_large_map_has_few_ticks_at_whole_positions():
    for length, step in ((8, 2), (14, 4), (24, 8), (28, 8), (49, 20), (99, 40)):
        _, ax = plt.subplots()
        plots.heatmap(ax, torch.rand(length, length))
        for axis in (ax.xaxis, ax.yaxis):
            shown = [t for t in axis.get_ticklocs() if 0 <= t < length]
            assert shown == list(range(0, length, step)), length


def test_a_frame_is_in_the_marks_colour_on_white_around_its_cells():
    _, ax = plt.subplots()
    plots.outline(ax, 2, 1, 3, 4)
    plots.outline(ax, 5, 6)
    wide, one = ax.patches
    assert (*wide.get_xy(), wide.get_width(), wide.get_height()) == (1.5, 0.5, 3, 4)
    assert (*one.get_xy(), one.get_width(), one.get_height()) == (4.5, 5.5, 1, 1)
    assert one.get_edgecolor()[:3] == to_rgb(plots.MARK) and one.get_linewidth() == 2
    assert not one.get_fill() and not one.get_clip_on()
    (halo,) = one.get_path_effects()
    assert halo._gc == {"linewidth": 4, "foreground": "white"}  # a point of white on each side


def test_written_numbers_contrast_with_their_cell():
    _, ax = plt.subplots()
    plots.heatmap(ax, [[0.0, 1.0]])
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [("0", "black"), ("1", "white")]


@pytest.mark.parametrize("sign", [1, -1])
def test_written_numbers_are_read_on_every_colour(sign):
    _, ax = plt.subplots()
    values = sign * torch.linspace(0, 1, 30)
    image = plots.heatmap(ax, values[None], values=True)
    cells = image.cmap(image.norm(values))[:, :3]
    inks = [to_rgb(t.get_color()) for t in ax.texts]
    assert contrast(cells, inks).min() > 4.5 and len(set(inks)) == 2


def test_compared_panels_share_their_limits():
    figure = plots.heatmaps({"a": torch.eye(4), "b": -3 * torch.eye(4), "c": torch.rand(4, 4)})
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) == 3
    assert {(im.norm.vmin, im.norm.vmax) for im in images} == {(-3, 3)}
    assert {im.cmap.name for im in images} == {plots.DIVERGING}


def test_a_small_matrix_has_a_tick_for_every_row_and_column():
    _, (left, right) = plt.subplots(1, 2)
    plots.heatmap(left, torch.rand(7, 3))
    assert list(left.get_yticks()) == list(range(7)) and list(left.get_xticks()) == [0, 1, 2]
    plots.heatmap(right, torch.rand(8, 8))
    assert len([t for t in right.get_yticks() if 0 <= t < 8]) < 8


def test_panels_stand_in_rows_and_the_first_of_each_row_has_the_numbers():
    panels = {name: torch.rand(9, 9) for name in "abcde"}
    figure = plots.heatmaps(panels, columns=3, ylabel="i")
    *axes, _ = figure.axes
    assert [ax.axison for ax in axes] == [True] * 5 + [False]
    assert [ax.get_ylabel() for ax in axes[:5]] == ["i", "", "", "i", ""]
    numbered = [ax.yaxis.get_tick_params()["labelleft"] for ax in axes[:5]]
    assert numbered == [True, False, False, True, False]
    unlike = plots.heatmaps({"a": torch.rand(9, 9), "b": torch.rand(8, 9)})
    assert all(ax.yaxis.get_tick_params()["labelleft"] for ax in unlike.axes[:2])


def test_compared_panels_are_drawn_as_they_are_told():
    panels = {name: torch.full((6, 6), 0.5) for name in "abc"}
    given = {"limits": (0, 2), "values": True, "xlabel": "j", "label": "weight", "columns": 2}
    figure = plots.heatmaps(panels, **given, height=3)
    *axes, empty, bar = figure.axes
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"] and not empty.get_title()
    assert [ax.get_xlabel() for ax in axes] == ["j"] * 3
    assert [len(ax.texts) for ax in axes] == [36] * 3
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 2)}
    assert bar.get_xlabel() == "weight" and not bar.get_ylabel()  # it lies below
    assert tuple(figure.get_size_inches()) == (6.4, 3)
    row = plots.heatmaps(panels)
    assert len({ax.get_subplotspec().rowspan.start for ax in row.axes[:3]}) == 1
    assert not row.axes[-1].get_xlabel() and not row.axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("panels", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 2, 3), (6, 3, 2)]
)
def test_panels_are_as_high_as_they_are_wide(panels, columns, rows):
    """Each with 0.4 inches for its words, and 0.6 for the colour bar."""
    maps = {f"W{k}": torch.rand(9, 9) for k in range(panels)}
    figure = plots.heatmaps(maps, columns=columns)
    width, height = figure.get_size_inches()
    assert width == 6.4 and height == pytest.approx(rows * (6.4 / columns + 0.4) + 0.6)


@pytest.mark.parametrize(
    ("limits", "extend"),
    [((-3, 3), "neither"), ((-3, 2), "max"), ((-2, 3), "min"), ((-2, 2), "both")],
)
def test_the_colour_bar_points_to_what_is_beyond_its_ends(limits, extend):
    figure = plots.heatmaps({"a": [[-3.0, 0.0, 3.0]]}, limits=limits)
    assert figure.axes[-1]._colorbar.extend == extend


def test_values_come_from_lists_arrays_and_any_tensor():
    half = torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True)
    for given in ([0.5], np.float32([0.5]), half):
        found = plots.as_array(given)
        assert found.dtype == np.float64 and found.tolist() == [0.5]


def test_picture_takes_grey_and_both_colour_orders():
    _, ax = plt.subplots()
    for shape in ((4, 5), (3, 4, 5), (4, 5, 3)):
        assert plots.picture(ax, torch.rand(shape)).get_array().shape[:2] == (4, 5)


def test_a_picture_is_grey_from_black_to_white_without_ticks():
    _, axes = plt.subplots(1, 3)
    grey = plots.picture(axes[0], [[-1, 0.25], [0.5, 2]], title="x", mark=(1, 0))
    ink = plots.picture(axes[1], [[0.25, 0.5]], ink=True)
    for drawn, name, ax in ((grey, "gray", axes[0]), (ink, "gray_r", axes[1])):
        assert drawn.cmap.name == name and drawn.get_clim() == (0, 1)
        assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert grey.get_array().tolist() == [[0, 0.25], [0.5, 1]]
    assert axes[0].get_title() == "x" and axes[0].patches[0].get_xy() == (-0.5, 0.5)
    assert not axes[1].patches
    colour = np.random.default_rng(0).random((3, 4, 5))
    for given in (colour, np.moveaxis(colour, 0, 2)):
        assert np.array_equal(plots.picture(axes[2], given).get_array(), colour.transpose(1, 2, 0))


def test_pictures_and_maps_are_framed():
    _, (left, right) = plt.subplots(1, 2)
    plots.heatmap(left, torch.rand(3, 4))
    plots.picture(right, torch.rand(3, 4))
    for ax in (left, right):
        assert all(spine.get_visible() for spine in ax.spines.values())


def test_zero_is_the_page_in_every_palette():
    """A digit is a picture, so its zero is paper; a weight of zero is paper too."""
    _, axes = plt.subplots(1, 3)
    drawn = [
        plots.picture(axes[0], [[0.0, 1.0]], ink=True),
        plots.heatmap(axes[1], [[0.0, 1.0]]),
        plots.heatmap(axes[2], [[0.0, -1.0]]),
    ]
    for image in drawn:
        assert image.cmap(image.norm(0.0))[:3] == (1, 1, 1)


def test_bad_input_is_named():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"needs a matrix, got an array of shape \(3,\)"):
        plots.heatmap(ax, torch.zeros(3))
    with pytest.raises(ValueError, match=r"got shape \(2, 4, 5\)"):
        plots.picture(ax, torch.zeros(2, 4, 5))
    for shape in ((4, 5, 4), (3, 4, 5, 1), (4,)):
        with pytest.raises(ValueError, match="an image is"):
            plots.picture(ax, torch.zeros(shape))
    with pytest.raises(ValueError, match="at least one"):
        plots.heatmaps({})


def test_live_curves_replace_their_picture_and_keep_every_point(monkeypatch):
    from IPython import display

    class Handle:
        def update(self, image):
            shown.append(image)

    shown, handle = [], Handle()
    monkeypatch.setattr(display, "display", lambda image, display_id: shown.append(image) or handle)
    watch = plots.LiveCurves("loss", "accuracy", steps=9, seconds=1e9)
    for step in range(1, 4):
        watch(step, torch.tensor(1 / step), step / 9)
    assert len(shown) == 1  # the second and third came too soon
    watch.draw()
    assert len(shown) == 2 and shown[0].data[:4] == shown[1].data[:4] == b"\x89PNG"
    assert shown[0].data != shown[1].data and not plt.get_fignums()
    assert watch.points[2] == (3, pytest.approx(1 / 3), 3 / 9)
    often = plots.LiveCurves("loss", steps=9, seconds=0)
    for step in range(3):
        often(step, 1.0)
    assert len(shown) == 5


def test_live_curves_are_drawn_at_most_once_a_second(monkeypatch):
    clock, drawn = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(plots.LiveCurves, "draw", lambda self: drawn.append(len(self.points)))
    watch = plots.LiveCurves("loss", steps=9)
    watch(1, 0.5)
    assert drawn == [1] and watch.points == [(1, 0.5)]  # the first at once
    for now in (100.0, 100.5, 101.0):
        clock[0], watch.drawn = now, 100.0
        watch(2, 0.5)
    assert drawn == [1, 4]


def test_live_curves_have_a_panel_each_over_all_steps(monkeypatch):
    from IPython import display

    shown, made, subplots = [], [], plt.subplots
    monkeypatch.setattr(display, "display", lambda image, **_: shown.append(image))
    monkeypatch.setattr(plt, "subplots", lambda *a, **o: made.append(subplots(*a, **o)) or made[-1])
    watch = plots.LiveCurves("loss", "accuracy", steps=9, seconds=1e9)
    watch(1, 0.5, 0.1)
    watch(4, 0.25, 0.6)
    watch.draw()
    figure, axes = made[-1]
    assert tuple(figure.get_size_inches()) == (6.4, 2.4)
    assert [ax.get_title() for ax in axes[0]] == ["loss", "accuracy"]
    for ax, values in zip(axes[0], ([0.5, 0.25], [0.1, 0.6]), strict=True):
        (curve,) = ax.lines
        assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([1, 4], values)
        assert curve.get_color() == plots.INK
        assert ax.get_xlabel() == "step" and ax.get_xlim() == (0, 9)
    picture = Image.open(io.BytesIO(shown[-1].data))
    assert picture.size == (1536, 576) and shown[-1].width == 768  # two pixels for each of CSS
    watch(5, 0.2)
    with pytest.raises(ValueError):
        watch.draw()  # a value is missing
    with pytest.raises(ValueError):
        plots.LiveCurves("loss", steps=9)(1, 0.5, 0.1)  # there is one too many
