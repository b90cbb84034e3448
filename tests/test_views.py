"""Axes, views and tables of explorable figures, without a browser."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coatnet_mini.explore import axis, bars, explore, heat, image, line, point, scalar, scatter
from coatnet_mini.explore.axes import make_axes
from coatnet_mini.explore.tables import LARGE, tabulate

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
    for wrong in ("i=9", "i=1,3", "i=x", "i=1,1,1", "i=-1"):
        with pytest.raises(ValueError, match='is no position of "i", a point on 3×3 cells'):
            pointed.state_of(wrong)


def test_a_figure_holds_what_fits_one_screen():
    def panels(count, kind=bars):
        return lambda **_: {f"v{k}": kind([1.0] if kind is bars else 1.0) for k in range(count)}

    explore(panels(4), "four", a=[1], b=[1], c=[1])
    explore(panels(3, scalar), "three", a=[1])
    for make, message in (
        (lambda: explore(panels(5), "five", a=[1]), "5 panels, ['v0', 'v1', 'v2', 'v3', 'v4']"),
        (lambda: explore(panels(4, scalar), "four", a=[1]), "a figure has at most 3"),
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
