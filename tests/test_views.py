"""Axes, views and tables of explorable figures, without a browser."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coatnet_mini.explore import (
    View,
    axis,
    bars,
    explore,
    heat,
    image,
    line,
    point,
    scalar,
    scatter,
)
from coatnet_mini.explore.axes import make_axes
from coatnet_mini.explore.tables import LARGE, tabulate
from coatnet_mini.explore.views import as_view

ANY = {"t": [0, 1, 2]}


def figure(view, **axes):
    return explore(lambda **_: {"v": view}, "title", **(axes or ANY))


def decoded(table, shape):
    """All numbers of a table, with the axes that nothing changes spread out again."""
    start = np.tensordot(np.indices(shape), np.array(table.strides), axes=(0, 0))
    cells = table.codes.shape[-1]
    return table.numbers(table.codes.reshape(-1)[start[..., None] + np.arange(cells)])


# Steps end at 1e-300, since a float64 knows no 10^309: what is nearer to zero is shown as zero.
SHOWN = st.floats(1e-280, 1e6)
SIZES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, SIZES, elements=SHOWN | SHOWN.map(lambda v: -v) | st.just(0.0)))
@example(np.array([[1.0, 1.0 + 1e-12]]))
@example(np.array([[1e-280, 1e-280 + 1e-288]]))
def test_tables_keep_every_number_to_a_thousandth_of_the_range(values):
    table = tabulate("bars", values, 1)
    back = decoded(table, values.shape[:-1])
    assert table.exact
    span, largest = np.ptp(values), np.abs(values).max()
    span = span if span > 1e-9 * largest else largest  # constant but for rounding
    assert np.abs(back - values).max() <= span / 1000 / 2


def test_whole_numbers_and_bytes_are_exact():
    table = tabulate("image", np.arange(256.0).reshape(1, 16, 16), 2)
    assert table.codes.dtype == np.uint8
    assert np.array_equal(decoded(table, (1,))[0], np.arange(256.0))
    one_more = tabulate("image", np.arange(257.0)[None], 1)  # too many for a byte: rounded
    assert one_more.codes.dtype == np.uint8 and one_more.mantissa / 10**one_more.decimals > 1


def test_large_pictures_take_one_byte_small_ones_two():
    values = np.random.default_rng(0).random((LARGE // 4, 2, 4))
    assert tabulate("heat", values, 2).codes.dtype == np.uint8
    assert tabulate("heat", values[:9], 2).codes.dtype == np.uint16
    back = decoded(tabulate("heat", values, 2), (len(values),))
    assert np.abs(back - values.reshape(-1, 8)).max() <= 0.51 * 0.005


def test_printed_numbers_are_multiples_of_a_round_step():
    table = tabulate("heat", np.random.default_rng(0).random((LARGE, 1, 2)), 2)
    assert (table.mantissa, table.decimals) in {(5, 3), (1, 2)}


def test_numbers_of_many_magnitudes_stay_floats():
    errors = np.array([1e-16, 3e-9, 0.2])
    table = tabulate("scalar", errors, 0)
    assert not table.exact
    assert np.allclose(decoded(table, (3,))[:, 0], errors, rtol=1e-7)


def test_a_number_constant_but_for_rounding_is_a_constant():
    table = tabulate("scalar", np.array([1.0, 1.0 - 1e-16, 1.0 + 2e-16]), 0)
    assert np.array_equal(np.unique(decoded(table, (3,))), [1.0])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, -5716, 30_000], ["0", "−5716", "30000"]),
        ([50.25, -5716.25], ["50", "−5716"]),
        ([5710.5, 5716.2], ["5710.500", "5716.200"]),
        ([1e-9, 3e-9], ["1e−9", "3e−9"]),
        ([1e-9, 0.25, -57160.4], ["1e−9", "0.25", "−57160"]),
        ([5e-5, 1.0, 1.0], ["0.00005", "1", "1"]),
        ([1e-4, 2e-4], ["0.00010000", "0.00020000"]),
        ([1e-5, 2e-5], ["0.00001", "0.00002"]),
        ([4.4e-4, 1.25], ["0.00044", "1.25"]),
        ([8.4e-4, 1.25], ["0.001", "1.250"]),
        ([0.0, 9e-7, 1e-6, 1.5e-6, -0.25], ["0", "9e−7", "0.000001", "0.0000015", "−0.25"]),
    ],
)
def test_a_number_is_printed_as_in_the_page(values, texts):
    table = tabulate("scalar", np.array(values, dtype=float), 0)
    assert [table.text(v) for v in decoded(table, (len(values),))[:, 0]] == texts


def test_axes_that_change_nothing_are_not_stored():
    def views(i, t):
        return {"W": heat(np.eye(4) * t), "row": bars(np.eye(4)[i] * t), "still": image(np.eye(4))}

    shown = explore(views, "title", i=range(4), t=[1.0, 2.0, 3.0])
    sizes = {name: table.codes.size for name, table in shown.tables.items()}
    assert sizes == {"W": 3 * 16, "row": 4 * 3 * 4, "still": 16}
    assert np.array_equal(shown.numbers("row", i=2, t=3.0), [0, 0, 3, 0])
    assert np.array_equal(shown.numbers("W", i=3, t=2.0), 2 * np.eye(4))


def test_numbers_are_those_of_the_function():
    def views(operator, t):
        base = torch.linspace(-1, 1, 6) ** (1 if operator == "odd" else 2)
        return {"v": base * t, "sum": (base * t).sum(), "m": torch.outer(base, base) * t}

    shown = explore(views, "title", operator=["odd", "even"], t=np.linspace(0.1, 2, 7))
    for operator in ("odd", "even"):
        for t in shown.axes[1].values:
            for name, value in views(operator, t).items():
                got = shown.numbers(name, operator=operator, t=t)
                assert np.abs(got - value.numpy()).max() < 1e-3


def test_plain_values_choose_their_view():
    shown = explore(
        lambda t: {"a": 1.0, "b": torch.zeros(3), "c": np.zeros((2, 2))}, "title", t=[1]
    )
    assert [v.kind for v in shown.views.values()] == ["scalar", "bars", "heat"]


def points(x, shown):
    y = np.array([81.6, 82.0, 88.56])
    names, groups = ["a", "b", "c"], ["A", "A", "B"]
    words = {"xname": "price", "yname": "right, %", "notes": ["", "slip", ""]}
    front = [True, False, True]
    options = {"names": names, "groups": groups, "flags": [0, 1, 0], **words}
    return {"v": scatter(x, y, shown=shown, front=front, **options)}


def test_points_keep_their_numbers_their_roles_and_limits_of_their_own():
    def views(price, least):
        x = [4.2, 5160, 0.58] if price == "size" else [4.2, np.nan, 0.58]
        return points(x, np.array([81.6, 82.0, 88.56]) > least)

    shown = explore(views, "title", price=["size", "cost"], least=[0, 81.8, 99])
    assert np.allclose(shown.numbers("v", least=0)[:, 0], [4.2, 5160, 0.58], rtol=1e-6)
    assert shown.numbers("v", least=0)[:, 2:].tolist() == [[2, 0, 0], [1, 0, 1], [2, 1, 0]]
    assert shown.numbers("v", price="cost", least=81.8)[:, 2].tolist() == [0, 0, 2]
    room = 0.08 * (88.56 - 81.6)
    assert np.allclose(shown.limits_at("v", least=0), [81.6 - room, 88.56 + room])
    assert shown.limits_at("v", price="cost", least=81.8) == pytest.approx([87.56, 89.56])
    assert shown.limits_at("v", least=99) == [0, 1]
    assert "v (2 points), on the front c" in repr(shown)
    with pytest.raises(ValueError, match="2 notes for 3 values"):
        explore(lambda t: {"v": replace(points([1, 2, 3], [1, 1, 1])["v"], notes="ab")}, "t", t=[1])


def test_views_on_one_scale_share_their_limits():
    def views(t):
        return {
            "a": heat(np.full((2, 2), t), scale="both"),
            "b": heat(np.full((2, 2), -3.0), scale="both"),
            "c": heat(np.full((2, 2), t)),
        }

    shown = explore(views, "title", t=[1.0, 2.0])
    assert shown.limits == {"a": [-3, 3], "b": [-3, 3], "c": [0, 2]}
    assert shown.signed == {"a": True, "b": True, "c": False}


def test_a_view_on_the_scale_of_its_state_has_limits_for_each():
    def views(t):
        return {
            "map": heat(t * np.eye(3), scale="state"),
            "signed": heat(t * np.eye(3) - (t > 1), scale="state"),
            "bars": bars([1.0, t], scale="state"),
            "curve": line([2.0, 2.0 + t], scale="state"),
            "picture": image(5 + t * np.eye(2), scale="state"),
        }

    shown = explore(
        lambda t: {k: v for k, v in views(t).items() if k != "curve"}, "title", t=[1.0, 4.0]
    )
    assert [shown.limits_at("map", t=t) for t in (1.0, 4.0)] == [[0, 1], [0, 4]]
    assert [shown.limits_at("signed", t=t) for t in (1.0, 4.0)] == [[-1, 1], [-3, 3]]
    assert [shown.limits_at("bars", t=t) for t in (1.0, 4.0)] == [[0, 1], [0, 4]]
    assert [shown.limits_at("picture", t=t) for t in (1.0, 4.0)] == [[5, 6], [5, 9]]
    curve = explore(lambda t: {"curve": views(t)["curve"]}, "title", t=[1.0, 4.0])
    assert [curve.limits_at("curve", t=t) for t in (1.0, 4.0)] == [[2, 3], [2, 6]]


def test_hatched_cells_are_not_shown_and_change_no_limits():
    def views(k):
        values = np.arange(12.0).reshape(3, 4) + 1
        mask = np.arange(4) < k
        values[:, :k] = np.nan
        return {"v": heat(values, hatched=np.broadcast_to(mask, (3, 4)))}

    shown = explore(views, "title", k=axis(range(5), start=1))
    assert shown.limits["v"] == [0, 12]
    for k in range(5):
        mask = shown.hatched("v", k=k)
        assert np.array_equal(mask, np.tile(np.arange(4) < k, (3, 1)))
        if k < 4:
            kept = (np.arange(12.0).reshape(3, 4) + 1)[~mask]
            assert np.array_equal(shown.compared("v", k=k), kept)
    assert repr(shown).endswith("v (9) 2 to 12")


def test_a_point_is_an_axis_without_a_control():
    def views(i, n):
        return {"map": heat(np.eye(3, 4), mark="i"), "row": bars(np.eye(5)[n], mark="n")}

    shown = explore(views, "Points", i=point(3, 4, start=(1, 2), label="query i"), n=point(5))
    assert shown.state == [6, 2]
    assert "query i = row 1, column 2 (of 3×4), n = 2 (of 0 to 4)" in repr(shown)
    assert np.array_equal(shown.numbers("row", n=3), [0, 0, 0, 1, 0])
    assert shown.state_of("i=2,3; n=0") == [11, 0]
    assert shown.state_of("query i = 7; n=4; reset") == [6, 2]


def test_links_name_axes_and_options():
    shown = explore(
        lambda **_: {"v": 1.0}, "t", T=axis([-0.5, 1], label="temperature τ"), form=["pre", "post"]
    )
    assert shown.state_of("temperature τ=−0.5; form=post") == [0, 1]
    for wrong, message in (
        ("T=2", 'has no option "2"; choose from'),
        ("U=1", "the axes are ['T', 'form']"),
        ("form", "write axis=option"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
            shown.state_of(wrong)
        assert message in str(error.value)
    pointed = explore(lambda i: {"v": heat(np.eye(3), mark="i")}, "t", i=point(3, 3))
    for wrong in ("i=9", "i=1,3", "i=x", "i=1,1,1", "i=-1", "i=+1", "i=1_0", "i=²"):
        with pytest.raises(ValueError, match='is no position of "i", a point on 3×3 cells'):
            pointed.state_of(wrong)


def test_a_figure_holds_what_fits_one_screen():
    def panels(count, kind=bars):
        return lambda **_: {f"v{k}": kind([1.0] if kind is bars else 1.0) for k in range(count)}

    explore(panels(4), "four", a=[1], b=[1], c=[1])
    explore(panels(3, scalar), "three", a=[1])
    for make, message in (
        (lambda: explore(panels(5), "five", a=[1]), "5 panels, ['v0', 'v1', 'v2', 'v3', 'v4']"),
        (
            lambda: explore(panels(4, scalar), "four", a=[1]),
            "4 numbers, ['v0', 'v1', 'v2', 'v3']: a figure has at most 3",
        ),
        (
            lambda: explore(panels(1), "t", a=[1], b=[1], c=[1], d=[1]),
            "has 4 controls, ['a', 'b', 'c', 'd']: a figure has at most 3; a position can be a",
        ),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
            make()
        assert message in str(error.value)


def test_a_clipped_map_saturates_at_its_limits():
    shown = figure(heat([[-3.0, 0.01], [0.05, 9.0]], clip=(-0.2, 0.2)))
    assert shown.limits["v"] == [-0.2, 0.2]
    assert np.array_equal(shown.numbers("v"), [[-0.2, 0.01], [0.05, 0.2]])


def test_start_values():
    shown = explore(lambda **_: {"v": 1.0}, "t", a=range(5), b=axis([3, 9], start=9), c=["x", "y"])
    assert shown.state == [2, 1, 0]


def test_repr_says_the_figure_in_words_and_holds_no_address():
    def views(T):
        return {"weights": torch.softmax(torch.arange(4.0) / T, 0), "largest": scalar(T)}

    shown = explore(views, "Softmax temperature", T=axis([0.5, 1.0, 2.0], start=1.0))
    expected = "Softmax temperature: T = 1 (of 0.5 to 2): weights (4) 0.0321 to 0.644; largest 1"
    assert repr(shown) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: figure(1.0, i=[]), 'axis "i" is empty'),
        (lambda: figure(1.0, i=[1, "a"]), 'axis "i" mixes numbers and names'),
        (lambda: figure(1.0, i="abc"), "axis \"i\" is 'abc'; it needs a list"),
        (lambda: figure(1.0, i=[1, 1.0]), 'axis "i" has two values that read the same'),
        (lambda: figure(1.0, i=[np.nan]), 'axis "i" has a value that is not finite'),
        (lambda: figure(1.0, i=axis([1, 2], start=3)), 'axis "i" cannot start at 3'),
        (lambda: explore(lambda: {"v": 1}, "t"), "needs an axis"),
        (lambda: figure(1.0, i=point(2, 2)), 'points at "i", but no view names it'),
        (lambda: figure(heat(np.eye(3), mark="i"), i=point(2, 2)), "3×3 cells, but"),
        (lambda: figure(heat(np.eye(3), row="i"), i=point(2, 2)), "whole numbers 0 to 2 only"),
        (lambda: point(2, 0), "point(2, 0) has no cells"),
        (lambda: point(2, 3, start=(0, 3)), "cannot start at (0, 3): it is not on the grid"),
        (lambda: figure(heat(np.eye(2), mark="i"), i=point(2, 2, start=4)), "cannot start at 4"),
        (lambda: heat(np.eye(2), hatched=[True]), "hatched is (1,), but the view is (2, 2)"),
        (lambda: figure(heat(np.eye(2), y=("i", [1]))), "1 y for 2 values"),
        (lambda: figure(np.nan), 'view "v" is not finite (NaN or infinity) at t = 0'),
        (lambda: figure([[1, 2], [3]]), "numbers in rows of one length"),
        (lambda: figure(np.zeros((0, 3))), "none empty"),
        (lambda: figure(np.zeros((2, 2, 2))), "at most 2"),
        (lambda: figure(image(np.zeros((2, 2, 4)))), "not (H, W) or (H, W, 3)"),
        (lambda: figure(bars([1, 2], labels=["a"])), "1 labels for 2 values"),
        (lambda: figure(line([1, 2], x=[0, 1, 2])), "3 x for 2 values"),
        (lambda: figure(bars([1, 2], mark="t")), "whole numbers 0 to 1 only"),
        (
            lambda: figure(bars([1, 2], mark="u")),
            'view "v" marks "u"; the numeric axes are [\'t\']',
        ),
        (lambda: explore(lambda t: np.zeros(t), "x", t=[1, 2]), "returns ndarray"),
        (lambda: explore(lambda t: {"v": np.zeros(t)}, "x", t=[1, 2]), "has shape (2,) at t = 2"),
        (lambda: explore(lambda t: {f"v{t}": 1}, "x", t=[1, 2]), "the views change"),
        (lambda: heat(np.eye(2), row="i", mark="i"), "one of mark, row and column"),
        (lambda: heat(np.eye(2), clip=(1, 0)), "clip=(1, 0) is not a pair of limits"),
        (lambda: explore(lambda **_: {"v": 1}, "x", a=range(300), b=range(300)), "90,000 states"),
    ],
)
def test_bad_input_is_one_clear_line(make, message):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        make()
    assert message in str(error.value)


def test_a_figure_over_its_budget_says_what_to_thin_out():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        explore(lambda i, t: {"map": rng.random((64, 64))}, "Big", i=range(200), t=[1, 2])
    assert 'view "map" takes 1.64 MB: show fewer cells, or thin out axis "i" (200 values)' in str(
        error.value
    )


def test_an_axis_takes_numpy_and_torch_numbers():
    assert make_axes({"t": np.linspace(0, 1, 3)})[0].options == ["0", "0.5", "1"]
    assert make_axes({"t": torch.arange(3)})[0].values == (0, 1, 2)
    for numbers in (np.arange(3), torch.arange(3)):
        assert {type(v) for v in make_axes({"t": numbers})[0].values} == {int}  # as JSON needs them


# ---- What a view keeps ---------------------------------------------------------------------------


def kept(view) -> dict:
    """The fields that are not as in a plain view, arrays as lists."""
    plain = vars(View(view.kind, view.values))
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(view).items()}
    return {k: v for k, v in found.items() if k in ("kind", "values") or v is not plain[k]}


def test_a_view_keeps_all_that_it_is_given():
    M, mask = [[1, 2], [3, 4]], [[True, False], [False, False]]
    across, down = {"xname": "j", "x": (0, 5)}, {"yname": "i", "y": (6, 7)}
    shared = {"scale": "one", "clip": (0, 3), "edit": "e"}
    mine = {"mark": ("k", "cell"), **shared}
    named = {"x": ("j", [0, 5]), "y": ("i", [6, 7])}
    limits = {"mark": "k", **shared}
    assert kept(heat(M, signed=True, labels="ab", over="p", hatched=mask, **named, **limits)) == {
        "kind": "heat",
        "values": [[2, 2], [3, 3]],
        "signed": True,
        "labels": ("a", "b"),
        "over": "p",
        "hatched": mask,
        **across,
        **down,
        **mine,
    }
    assert kept(heat(M, row="k"))["mark"] == ("k", "row")
    assert kept(heat(M, column="k"))["mark"] == ("k", "column")
    assert kept(image(M, ink=True, hatched=mask, **limits)) == {
        "kind": "image",
        "values": [[2, 2], [3, 3]],
        "signed": False,
        "ink": True,
        "hatched": mask,
        **mine,
    }
    assert kept(bars([1, 5], labels="ab", **named, **limits)) == {
        "kind": "bars",
        "values": [1, 3],
        "labels": ("a", "b"),
        "yname": "i",
        **across,
        **mine,
    }
    assert kept(line({"p": [1, 2], "q": [3, 4]}, mark="k", scale="one", **named)) == {
        "kind": "line",
        "values": M,
        "series": ("p", "q"),
        "mark": ("k", "cell"),
        "scale": "one",
        "yname": "i",
        **across,
    }
    assert kept(line([1, 2], x=[0, 5])) == {"kind": "line", "values": [[1, 2]], "x": (0, 5)}
    assert kept(scalar(torch.tensor([3.0]))) == {"kind": "scalar", "values": 3}


def test_a_view_is_plain_unless_told():
    E = np.eye(2).tolist()
    assert kept(heat(E)) == {"kind": "heat", "values": E}
    assert kept(image(E)) == {"kind": "image", "values": E, "signed": False}
    assert kept(bars([1, 2])) == {"kind": "bars", "values": [1, 2]}
    assert kept(line([1, 2])) == {"kind": "line", "values": [[1, 2]]}


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "image"},
        {"values": np.zeros((2, 2)), "hatched": np.eye(2) > 0},
        *({name: ("u", "row")} for name in ("mark", "labels", "series", "notes", "x", "y", "clip")),
        *({name: "u"} for name in ("scale", "xname", "yname", "edit", "over")),
        {"signed": True},
        {"ink": True},
    ],
    ids=lambda other: list(other)[-1],
)
def test_only_numbers_and_which_cells_are_hatched_change_from_state_to_state(other):
    view = View("heat", np.zeros((2, 2)))
    assert view.fixed() == View("heat", np.ones((2, 2))).fixed()
    assert view.fixed() != replace(view, **other).fixed()
    masked = View("heat", view.values, hatched=np.eye(2) > 0)
    assert masked.fixed() == replace(masked, hatched=np.eye(2) < 1).fixed()


def test_a_view_that_changes_its_options_is_refused():
    with pytest.raises(ValueError, match='view "v" changes its kind or options from state to st'):
        explore(lambda t: {"v": heat(np.eye(2), x=f"j{t}")}, "x", t=[1, 2])


@pytest.mark.parametrize(
    "view",
    [
        bars([1, 2, 3], mark="k"),
        line({"a": [1, 2, 3], "b": [1, 2, 3]}, mark="k"),
        heat(np.ones((3, 2)), row="k"),
        heat(np.ones((2, 3)), column="k"),
        heat(np.ones((1, 3)), mark="k"),
        image(np.ones((3, 1, 3)), mark="k"),
    ],
    ids=["bar", "place on a curve", "row", "column", "cell", "pixel"],
)
def test_a_mark_may_be_at_each_place_and_at_no_other(view):
    figure(view, k=[0, 1, 2])
    for beyond in ([2, 3], [-1, 0], [0, 0.5]):
        with pytest.raises(ValueError, match="whole numbers 0 to 2 only"):
            figure(view, k=beyond)


def test_a_point_marks_a_view_of_its_grid():
    for view in (heat(np.ones((2, 3)), mark="i"), image(np.ones((2, 3, 3)), mark="i")):
        figure(view, i=point(2, 3))
        with pytest.raises(ValueError, match='has 2×3 cells, but "i" points at 3×2'):
            figure(view, i=point(3, 2))
    for view in (bars(np.ones(3), mark="i"), line({"a": [1, 2, 3], "b": [4, 5, 6]}, mark="i")):
        figure(view, i=point(3))
        with pytest.raises(ValueError, match='has 3 cells, but "i" points at 2'):
            figure(view, i=point(2))
    figure(heat(np.ones((6, 6)), row="i"), i=point(2, 3))  # whose rows are its positions


def test_a_view_has_a_word_for_each_of_its_places():
    """Columns and rows of a map, places along bars and curves; each names its own."""
    figure(heat(np.ones((2, 3)), labels="abc", x=[1, 2, 3], y=[1, 2]))
    figure(line({"a": [1, 2, 3], "b": [4, 5, 6]}, x=[1, 2, 3]))
    for view, words in (
        (heat(np.ones((2, 3)), labels="ab"), "2 labels for 3 values"),
        (heat(np.ones((2, 3)), x=[1, 2]), "2 x for 3 values"),
        (heat(np.ones((2, 3)), y=[1, 2, 3]), "3 y for 2 values"),
        (line({"a": [1, 2, 3], "b": [4, 5, 6]}, x=[1, 2]), "2 x for 3 values"),
    ):
        with pytest.raises(ValueError, match=words):
            figure(view)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("heat", (2, 2), (2,)),
        ("image", (2, 2), (2,)),
        ("image", (2, 2, 3), (2, 2, 3, 1)),
        ("bars", (2,), (2, 2)),
        ("line", (1, 2), (2,)),
        ("scatter", (2, 5), (2,)),
        ("scalar", (), (1,)),
    ],
)
def test_each_kind_of_view_has_its_dimensions(kind, right, wrong):
    names = ("a", "b") if kind == "scatter" else None
    assert as_view("v", View(kind, np.ones(right), labels=names)).values.shape == right
    with pytest.raises(ValueError, match=f'view "v" is a {kind} of shape .* none empty'):
        as_view("v", View(kind, np.ones(wrong)))


def test_hatched_cells_take_the_least_number_that_is_compared():
    """So they change no limits; in a view without any other they are zero."""
    given = np.array([[np.nan, 5.0], [7.0, -9.0]])
    view = heat(given, hatched=[[1, 0], [0, 1]])
    assert view.values.tolist() == [[5, 5], [7, 5]] and np.isnan(given[0, 0])
    assert not heat(given, hatched=np.ones((2, 2))).values.any()
    with pytest.raises(ValueError, match=r"clip=\(1, 1\) is not a pair of limits"):
        heat(given, clip=(1, 1))


def test_points_are_where_x_is_above_zero_and_belong_to_their_groups():
    words = {"names": "abcd", "groups": [2, 1, 2, 1], "notes": "pqrs", "xname": "t", "yname": "y"}
    view = scatter(
        [0, np.nan, 1, 2],
        [1, 2, 3, 4],
        shown=[1, 1, 1, 0],
        front=[1, 1, 0, 1],
        flags=[1, 0, 1, 0],
        **words,
    )
    assert (view.scale, view.series, view.labels) == ("state", ("2", "1"), tuple("abcd"))
    assert (view.notes, view.xname, view.yname) == (tuple("pqrs"), "t", "y")
    assert view.values.tolist() == [
        [0, 1, 0, 0, 1],
        [0, 2, 0, 1, 0],
        [1, 3, 1, 0, 1],
        [2, 4, 0, 1, 0],
    ]


# ---- Axes ----------------------------------------------------------------------------------------


def test_positions_are_found_by_index_or_by_row_and_column():
    (grid,) = make_axes({"i": point(2, 3)})
    found = [grid.find(text) for text in ("0", "0,0", " 1 , 0 ", "1,2", "5")]
    assert found == [0, 0, 3, 5, 5] and set(map(type, found)) == {int}
    (vector,) = make_axes({"i": point(3)})
    assert [vector.find(text) for text in ("0", "2")] == [0, 2]
    for pointed, size, wrong in (
        (grid, "2×3", ("6", "2,0", "0,3", "-1", "0,-1", "-1,0", "1,1,1", "x", "", "1,")),
        (vector, "3", ("3", "0,0", "1.0")),
    ):
        for text in wrong:
            with pytest.raises(ValueError, match=f'is no position of "i", a point on {size} cells'):
                pointed.find(text)


def test_an_axis_says_its_option_among_all():
    axes = make_axes(
        {
            "t_1": axis([0.1, 1 / 3, 20], start=20),
            "form": ["pre", "post"],
            "i": point(2, 3, label="query i"),
            "n": point(4),
        }
    )
    assert [a.words(a.start) for a in axes] == [
        "t 1 = 20 (of 0.1 to 20)",
        "form = pre (of pre, post)",
        "query i = row 1, column 1 (of 2×3)",
        "n = 2 (of 0 to 3)",
    ]
    assert axes[0].options == ["0.1", "0.333333", "20"]
    assert [a.numeric for a in axes] == [True, False, True, True]


def test_a_point_starts_in_the_middle_or_where_it_is_told():
    points = [point(4), point(5), point(4, 6), point(3, 5, start=(2, 0)), point(3, 5, start=7)]
    assert [a.start for a in make_axes({f"i{k}": p for k, p in enumerate(points)})] == [
        2,
        2,
        2 * 6 + 3,
        2 * 5,
        7,
    ]
    assert point(1, 1, start=(0, 0)).start == 0
    for start in ((3, 0), (-1, 0), (0, -1), (0, 5), (1,), (1, 1, 1)):
        with pytest.raises(ValueError, match="it is not on the grid"):
            point(3, 5, start=start)
    with pytest.raises(ValueError, match="it is not on the grid"):
        point(3, start=(0, 0))
    for size in ((0,), (-1, 3), (2.0, 3)):
        with pytest.raises(ValueError, match="has no cells: give whole numbers above 0"):
            point(*size)


def test_a_slider_starts_in_its_middle_and_names_at_the_first():
    axes = make_axes({"a": range(4), "b": range(5), "c": list("xyz"), "d": axis([0, 1], start=0)})
    assert [a.start for a in axes] == [1, 2, 0, 0]
    for request in (7, "abc"):
        with pytest.raises(ValueError, match="it needs a list of values"):
            make_axes({"t": request})


# ---- Tables --------------------------------------------------------------------------------------


def stepped(kind, low, high, cells=3):
    """The step of a table of numbers from low to high that are not all whole."""
    values = np.full((1, cells), low + 0.3 * (high - low))
    values[0, :2] = low, high
    table = tabulate(kind, values, 1)
    half = table.mantissa / 10**table.decimals / 2
    assert np.abs(decoded(table, (1,)) - values).max() <= half + 1e-9
    return table.mantissa, table.decimals


def test_the_step_is_the_finest_round_one_within_the_levels():
    """256 of them in a picture, 10 001 elsewhere: both sides of each bound."""
    assert stepped("bars", 0.5, 1.5) == (1, 4)
    assert stepped("bars", 0.5, 1.5001) == (1, 3)
    assert stepped("image", 0.0, 2.55) == (1, 2)
    assert stepped("image", 0.0, 2.56) == (2, 2)
    assert stepped("image", 0.0, 5.10) == (2, 2)
    assert stepped("image", 0.0, 5.12) == (5, 2)
    assert stepped("image", 0.0, 12.75) == (5, 2)
    assert stepped("image", 0.5, 13.3) == (1, 1)
    assert stepped("heat", 0.5, 1.5, 16_384) == (1, 4)
    assert stepped("heat", 0.5, 1.5, 16_385) == (5, 3)
    assert stepped("bars", 0.5, 1.5, 16_385) == (1, 4)


def test_whole_numbers_stay_whole_up_to_two_bytes():
    for kind, largest, size in (("bars", 255, 1), ("bars", 256, 2), ("bars", 65_535, 2)):
        table = tabulate(kind, np.array([[-7.0, largest - 7.0, 3.0]]), 1)
        assert table.codes.dtype.itemsize == size and (table.base, table.decimals) == (-7, 0)
        assert decoded(table, (1,))[0].tolist() == [-7, largest - 7, 3]
    assert decoded(tabulate("bars", np.array([[0.0, 65_536, 3]]), 1), (1,))[0].tolist() != [
        0,
        65_536,
        3,
    ]
    assert decoded(tabulate("image", np.array([[0.0, 255, 3]]), 1), (1,))[0, 2] == 3


def test_axes_that_change_nothing_cost_nothing_wherever_they_are():
    values = np.arange(6.0).reshape(1, 2, 1, 3) + np.zeros((4, 2, 5, 3))
    table = tabulate("bars", values, 1)
    assert table.strides == (0, 3, 0) and table.codes.size == 6
    assert np.array_equal(decoded(table, (4, 2, 5)), values)


# ---- Figures -------------------------------------------------------------------------------------


def test_limits_of_views_together():
    """One scale serves all that name it; maps on it have two arms when one of them needs them."""
    below, above, half = np.array([[-1.0, 0.5]]), np.array([[2.0, 3.0]]), np.array([[0.25, 0.5]])

    def limits(**views):
        shown = explore(lambda t: views, "t", t=[0])
        return {n: (*shown.limits[n], shown.signed[n]) for n in views}

    assert limits(a=heat(above), b=bars(above[0]), c=line(above[0]), d=image(above)) == {
        "a": (0, 3, False),
        "b": (0, 3, False),
        "c": (2, 3, False),
        "d": (2, 3, False),
    }
    assert limits(a=heat(below), b=bars(-above[0]), c=line(below[0]), d=image(below)) == {
        "a": (-1, 1, True),
        "b": (-3, 0, False),
        "c": (-1, 0.5, False),
        "d": (-1, 0.5, False),
    }
    assert limits(a=heat(above, signed=True), b=heat(below, signed=False)) == {
        "a": (-3, 3, True),
        "b": (-1, 0.5, False),
    }
    together = {"a": heat(above, scale="s"), "b": line(below[0], scale="s"), "c": heat(half)}
    assert limits(**together) == {
        "a": (-3, 3, True),
        "b": (-3, 3, False),
        "c": (0, 0.5, False),
    }
    one_arm = {"a": heat(above, scale="s", signed=False), "b": line(below[0], scale="s")}
    assert limits(**one_arm) == {"a": (-1, 3, False), "b": (-1, 3, False)}
    assert limits(**one_arm, d=heat(half, scale="s", signed=True)) == {
        "a": (-3, 3, True),
        "b": (-3, 3, False),
        "d": (-3, 3, True),
    }
    assert limits(a=heat(half, clip=(0.3, 0.4)), b=bars(half[0], clip=(0.3, 0.4)), c=scalar(7)) == {
        "a": (0.3, 0.4, False),
        "b": (0, 0.4, False),
        "c": (7, 8, False),
    }
    assert limits(a=image(half, clip=(-1, 1)), b=heat([[0.0]])) == {
        "a": (-1, 1, False),
        "b": (0, 1, False),
    }


def test_a_figure_may_have_50_000_states_and_a_megabyte_of_tables():
    class Asked(Exception):
        pass

    def ask(**state):
        raise Asked

    with pytest.raises(Asked):
        explore(ask, "x", a=range(250), b=range(200))
    with pytest.raises(
        ValueError, match=r"has 50,001 states, more than 50,000; thin out axis \"b\""
    ):
        explore(ask, "x", a=range(21), b=range(2381))

    def picture(t):
        return image(np.random.default_rng(t).integers(0, 256, (25, 40)))

    explore(lambda t: {"v": picture(t)}, "x", t=range(1000))
    with pytest.raises(
        ValueError, match=r"needs 1.00 MB of table, more than 1 MB; view \"v\" takes"
    ):
        explore(lambda t: {"v": picture(t), "one": scalar(1)}, "x", t=range(1000))


def test_settings_are_followed_from_left_to_right():
    shown = explore(lambda **_: {"v": 1.0}, "t", a_b=axis([1, 2, 3], label="how far"), c=list("pq"))
    assert shown.state_of("a_b=1; how far = 3; c=q") == [2, 1]
    assert shown.state_of("c=q; reset; a_b=3") == [2, 0]
    assert shown.state_of("c=q; a_b=1; reset") == [1, 0]
    with pytest.raises(ValueError, match="write axis=option"):
        shown.state_of("a b=1")


def test_hatched_cells_are_left_out_of_what_is_said():
    def views(k):
        return {"v": heat([[1.0, 2.0], [3.0, 4.0]], hatched=[[k > 0, k > 1], [k > 1, k > 1]])}

    shown = explore(views, "x", k=range(3))
    assert shown.compared("v", k=0).tolist() == [1, 2, 3, 4]
    assert shown.compared("v", k=1).tolist() == [2, 3, 4]
    assert shown.compared("v", k=2).tolist() == [[0, 0], [0, 0]]  # nothing is compared
    plain = explore(lambda k: {"v": heat(np.eye(2))}, "x", k=[0])
    assert plain.hatched("v") is None and plain.compared("v").tolist() == np.eye(2).tolist()
    colour = explore(lambda k: {"v": image(np.ones((2, 2, 3)), hatched=np.eye(2))}, "x", k=[0])
    assert colour.hatched("v").tolist() == [[True, False], [False, True]]
