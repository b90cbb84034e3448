"""The figure style: white and wide enough, limits shared, signed maps centred, numbers written."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

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


@pytest.mark.parametrize(
    ("limits", "extend"),
    [((-3, 3), "neither"), ((-3, 2), "max"), ((-2, 3), "min"), ((-2, 2), "both")],
)
def test_the_colour_bar_points_to_what_is_beyond_its_ends(limits, extend):
    figure = plots.heatmaps({"a": [[-3.0, 0.0, 3.0]]}, limits=limits)
    assert figure.axes[-1]._colorbar.extend == extend


def test_picture_takes_grey_and_both_colour_orders():
    _, ax = plt.subplots()
    for shape in ((4, 5), (3, 4, 5), (4, 5, 3)):
        assert plots.picture(ax, torch.rand(shape)).get_array().shape[:2] == (4, 5)


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
