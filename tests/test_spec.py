"""What a page is told of a figure: every field of the JSON that its scripts read."""

import base64
import json
import zlib

import numpy as np
import pytest

from coatnet_mini.explore import (
    axis,
    bars,
    drag,
    explore,
    heat,
    image,
    line,
    paint,
    point,
    scalar,
    scatter,
)
from coatnet_mini.explore.spec import Packed
from coatnet_mini.explore.tables import Table
from coatnet_mini.explore.twin import Network, computed


def told(figure) -> dict:
    """The figure's JSON, but for its tables."""
    return {k: v for k, v in json.loads(figure.spec).items() if k != "data"}


def table(kind, offset, strides, base=0, decimals=0) -> dict:
    return {
        "type": kind,
        "offset": offset,
        "strides": strides,
        "base": base,
        "mantissa": 1,
        "decimals": decimals,
    }


def all_kinds(t, i, mode):
    return {
        "map": heat(
            [[1.0, -2.0, 4.0], [0.5, 4.0, 0.0]],
            mark="i",
            labels="abc",
            clip=(-3, 3),
            hatched=[[0, 1, 0], [0, 0, t]],
            x=("offset", [0, 5, 10]),
            y=("down", [7, 9]),
            over="drawing",
            scale="weights",
        ),
        "drawing": image(np.eye(2, 3), ink=True, mark="i"),
        "bars": bars([0.25, 1.5 + t], mark="t", x="k", y="weight", scale="state"),
        "two": line(
            {"pre": [1, 2.0], "post": [3.0, 4.0]},
            x=("strength", [0.5, 8]),
            y="share",
            scale="weights",
        ),
        "sum": scalar(3.0 + t),
    }


def test_a_page_is_told_all_of_a_figure():
    shown = explore(
        all_kinds,
        "All Kinds, together",
        caption="Look.",
        t=axis([0, 1], start=1, label="time τ"),
        i=point(2, 3, start=(1, 0)),
        mode=["a b", "c"],
    )
    assert repr(shown) == (
        "All Kinds, together: time τ = 1 (of 0 to 1), i = row 1, column 0 (of 2×3), "
        "mode = a b (of a b, c): map (4) 0.5 to 3; drawing (2×3) 0 to 1; bars (2) 0.25 to 2.5; "
        "two (2×2) 1 to 4; sum 4"
    )
    axes = [
        {"name": "t", "label": "time τ", "start": 1, "options": ["0", "1"], "slider": True},
        {"name": "i", "label": "i", "start": 3, "point": [2, 3]},
        {"name": "mode", "label": "mode", "start": 0, "options": ["a b", "c"], "slider": False},
    ]
    views = [
        {
            "name": "map",
            "kind": "heat",
            "shape": [2, 3],
            "limits": [-4, 4],
            "table": table("uint16", 0, [6, 0, 0], 0, 3),
            "labels": ["a", "b", "c"],
            "x": [0, 5, 10],
            "y": [7, 9],
            "clip": [-3, 3],
            "xname": "offset",
            "yname": "down",
            "over": "drawing",
            "signed": True,
            "scale": "shared",
            "hatched": table("uint8", 24, [6, 0, 0]),
            "mark": {"axis": 1, "what": "cell"},
        },
        {
            "name": "drawing",
            "kind": "image",
            "shape": [2, 3],
            "limits": [0, 1],
            "table": table("uint8", 36, [0, 0, 0]),
            "ink": True,
            "mark": {"axis": 1, "what": "cell"},
        },
        {
            "name": "bars",
            "kind": "bars",
            "shape": [2],
            "limits": [0, 2.5],
            "table": table("uint16", 44, [2, 0, 0], 250, 3),
            "xname": "k",
            "yname": "weight",
            "scale": "state",
            "mark": {"axis": 0, "what": "cell", "cells": [0, 1]},
        },
        {
            "name": "two",
            "kind": "line",
            "shape": [2, 2],
            "limits": [-4, 4],
            "table": table("uint8", 52, [0, 0, 0], 1),
            "series": ["pre", "post"],
            "x": [0.5, 8],
            "xname": "strength",
            "yname": "share",
            "scale": "shared",
        },
        {
            "name": "sum",
            "kind": "scalar",
            "shape": [],
            "limits": [3, 4],
            "table": table("uint8", 56, [1, 0, 0], 3),
        },
    ]
    assert told(shown) == {
        "id": "all-kinds-together",
        "title": "All Kinds, together",
        "caption": "Look.",
        "words": repr(shown),
        "axes": axes,
        "views": views,
    }


def test_what_is_not_given_is_not_told():
    """A view alone has no scale to share, an axis is called by its name, and no caption is none."""
    shown = explore(lambda how_far: {"v": heat(np.eye(2), scale="own")}, "T", how_far=[1])
    (view,), (control,) = told(shown)["views"], told(shown)["axes"]
    assert set(view) == {"name", "kind", "shape", "limits", "table"}
    assert control["label"] == "how far" and told(shown)["caption"] == ""


def test_points_are_told_with_their_names_groups_and_notes():
    def results(k):
        given = {"names": "ab", "groups": [1, 2], "notes": ["", "slip"], "flags": [0, 1]}
        words = {"xname": "size", "yname": "right, %"}
        return {"all": scatter([1, 2], [3, 4], shown=[1, 1], front=[1, 0], **given, **words)}

    (view,) = told(explore(results, "R", k=[0]))["views"]
    assert view == {
        "name": "all",
        "kind": "scatter",
        "shape": [2, 5],
        "limits": [3 - 0.08, 4 + 0.08],
        "table": table("float32", 0, [0]),
        "labels": ["a", "b"],
        "series": ["1", "2"],
        "notes": ["", "slip"],
        "xname": "size",
        "yname": "right, %",
        "scale": "state",
    }


def test_tables_follow_one_another_little_end_first_each_at_four_bytes():
    packed = Packed()
    codes = [np.array([1, 2, 3], "u1"), np.array([256], ">u2"), np.array([0.5], ">f4")]
    offsets = [packed.add(Table(c))["offset"] for c in codes]
    assert offsets == [0, 4, 8]
    raw = zlib.decompress(base64.b64decode(packed.text()))
    assert raw == bytes([1, 2, 3, 0, 0, 1, 0, 0]) + np.array([0.5], "<f4").tobytes()


# ---- A figure that computes in the page ----------------------------------------------------------


def numbers_at(figure, spec) -> list[float]:
    raw = zlib.decompress(base64.b64decode(json.loads(figure.spec)["data"]))
    found = spec["table"]
    assert found["type"] == "float32"
    count = int(np.prod(spec["shape"]))
    return np.frombuffer(raw, "<f4", count, found["offset"]).reshape(spec["shape"]).tolist()


PICTURE, VECTOR = np.array([[0.0, 1.0, 0.5], [0.25, 0.0, 0.0]]), np.array([-1.0, 2.0])


def computing(**axes):
    def views(noisy, own_weights, **_):
        return {
            "picture": image(noisy, edit="noisy", ink=True, clip=(0, 1)),
            "w": bars(own_weights, edit="own_weights"),
            "map": heat(noisy, over="picture", mark="i" if "i" in axes else None),
        }

    return explore(
        views,
        "F",
        twin="mend",
        titles={"picture": "your picture", "map": "a map"},
        constants={"near": 1.1, "order": np.array([[2, 0, 1]])},
        noisy=paint(
            PICTURE,
            "the noisy picture",
            pen=2,
            low=0.25,
            high=0.75,
            pens=("rub", "ink"),
            choices={"blank": 0 * PICTURE},
        ),
        own_weights=drag(VECTOR, -3, 5),
        **axes,
    )


def test_a_page_is_told_all_that_a_twin_is_given():
    shown = computing(t=axis([0.5, 2], start=2), i=point(2, 3), mode=["a", "b"])
    twin = told(shown)["twin"]
    spec = {name: twin["given"][name] for name in ("noisy", "own_weights", "order")}
    assert numbers_at(shown, spec["noisy"]) == PICTURE.tolist()
    assert numbers_at(shown, spec["own_weights"]) == VECTOR.tolist()
    assert numbers_at(shown, spec["order"]) == [[2, 0, 1]]
    blank = twin["edits"]["noisy"].pop("choices")
    assert list(blank) == ["blank"]
    assert numbers_at(shown, blank["blank"]) == [[0, 0, 0], [0, 0, 0]]
    assert twin == {
        "name": "mend",
        "keys": ["picture", "w", "map"],
        "numbers": [[0.5, 2], None, None],
        "given": spec | {"near": 1.1},
        "edits": {
            "noisy": {
                "kind": "paint",
                "label": "the noisy picture",
                "low": 0.25,
                "high": 0.75,
                "pen": 2,
                "pens": ["rub", "ink"],
            },
            "own_weights": {"kind": "drag", "label": "own weights", "low": -3, "high": 5},
        },
        "shown": {"noisy": "your picture", "own_weights": "w"},
    }
    assert told(shown)["views"][2]["over"] == "your picture"
    assert all(view["table"]["strides"] == [0, 0, 0] for view in told(shown)["views"])


def test_pens_are_black_and_white_and_three_pixels_wide_unless_said():
    def picture(x):
        return {"x": image(x, edit="x")}

    (edit,) = told(explore(picture, "F", twin="mend", x=paint(PICTURE)))["twin"]["edits"].values()
    pens = {"pen": 1.5, "pens": ["black", "white"], "low": 0, "high": 1}
    assert edit == {"kind": "paint", "label": "x", **pens}


def test_a_figure_that_only_edits_has_no_axes_and_one_that_does_nothing_is_refused():
    assert told(computing())["axes"] == []
    with pytest.raises(ValueError, match="an explorable needs an axis"):
        explore(lambda: {"v": 1.0}, "F", twin="mend")


def test_limits_serve_the_ends_of_every_axis_and_what_can_be_dragged():
    """Not all states are tried, since a figure that computes may have any number of them."""
    tried = []

    def views(w, t, u):
        tried.append((t, u))
        return {"w": bars(w, edit="w"), "product": line([0.0, t * u]), "fine": heat([[t / 2345]])}

    shown = explore(
        views,
        "F",
        twin="shares",
        w=drag(VECTOR, -3, 5),
        t=axis(range(101), start=10),
        u=axis(range(1, 8), start=2),
    )
    along_t, along_u = [(t, 2) for t in (10, 0, 50, 100)], [(10, u) for u in (1, 4, 7)]
    assert sorted(tried) == sorted(along_t + along_u)
    assert shown.limits == {"w": [-3, 5], "product": [0, 200], "fine": [0, np.float32(0.0426)]}


def test_a_network_goes_to_the_page_by_name_and_to_a_notebook_whole():
    network = Network("digits", {"depths": [2]}, b"weights")
    requests = {"x": paint(PICTURE)}
    views = lambda x: {"x": image(x, edit="x")}  # noqa: E731
    shown = computed(views, "F", "", "network", {}, {}, requests, network)
    assert told(shown)["twin"]["network"] == "digits"
    assert shown.network == {"config": {"depths": [2]}, "safetensors": b"weights"}
    assert "network" not in told(computing())["twin"] and computing().network == {}


def test_numbers_of_a_figure_that_computes_are_its_functions():
    def views(x, w, t):
        return {"x": image(t * x, edit="x"), "w": bars(w, edit="w"), "sum": scalar(t + w.sum())}

    shown = explore(views, "F", twin="mend", x=paint(PICTURE), w=drag(VECTOR, 0, 1), t=[1, 2, 4])
    assert shown.numbers("sum") == 2 + 1
    assert shown.numbers("sum", t=4) == 4 + 1
    assert shown.numbers("sum", t=4, w=np.array([5.0, 6.0])) == 4 + 11
    assert shown.numbers("w", w=np.array([5.0, 6.0])).tolist() == [5, 6]
    assert np.array_equal(shown.numbers("x", x=1 + PICTURE), 2 * (1 + PICTURE))
    with pytest.raises(ValueError, match=r"t = 3: choose from \[1, 2, 4\]"):
        shown.numbers("sum", t=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: paint(PICTURE, choices={"other": VECTOR}), r'"other" is \(2,\), not \(2, 3\)'),
        (lambda: drag(VECTOR, 1, 1), "give the lower limit first"),
        (
            lambda: explore(
                lambda x: {"a": image(x, edit="x"), "b": image(x, edit="x")},
                "F",
                twin="mend",
                x=paint(PICTURE),
            ),
            "show it in one view",
        ),
        (
            lambda: explore(
                lambda x: {"a": image(x[:1], edit="x")}, "F", twin="mend", x=paint(PICTURE)
            ),
            "show it in one view",
        ),
        (
            lambda: explore(
                lambda x: {"a": image(x, edit="x")},
                "F",
                twin="mend",
                x=paint(PICTURE),
                constants={"c": [1.0, np.nan]},
            ),
            "a constant is not finite",
        ),
        (
            lambda: explore(lambda t: {"a": image(PICTURE, edit="x")}, "F", twin="mend", t=[1]),
            'view "a" edits "x"; there is nothing',
        ),
        (
            lambda: explore(
                lambda t: {f"v{k}": bars([1.0]) for k in range(5)}, "F", twin="mend", t=[1]
            ),
            "has 5 panels",
        ),
    ],
)
def test_a_figure_that_computes_refuses_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_notebook_keeps_the_browser_in_step():
    """What both sides hold; the rest of a widget stays in Python."""
    plain = explore(lambda t: {"v": 1.0}, "t", t=[1, 2])
    assert {"spec", "state"} <= set(plain.trait_names(sync=True))
    both = {"spec", "state", "edits", "network"}
    assert both <= set(computing().trait_names(sync=True))
