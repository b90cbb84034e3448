"""The figure as a widget and as stored output; the browser's half is tested in test_site.py."""

import base64
import io
import json
import zlib

import matplotlib
import numpy as np
import pytest
from PIL import Image

from coatnet_mini.explore import MIME, Explorable, axis, bars, explore, heat, image, line, scalar
from coatnet_mini.explore.sphinx_ext import classic_script


@pytest.fixture(scope="module")
def shown():
    def views(name, i):
        M = np.outer(np.arange(4), np.arange(4)) * (-1.0 if name == "minus" else 1.0)
        return {
            "M": heat(M, row="i"),
            "picture": image(np.eye(4), mark="i"),
            "colour": image(np.ones((2, 2, 3)) * 0.5),
            "row": bars(M[i], mark="i", labels="abcd"),
            "curves": line({"M": M[i], "half": M[i] / 2}, x=[0, 1, 4, 9], mark="i"),
            "sum": scalar(M[i].sum()),
        }

    return explore(views, "A figure", name=["plus", "minus"], i=axis(range(4), start=2))


def test_the_bundle_has_all_four_renditions(shown):
    data, _ = shown._repr_mimebundle_()
    assert set(data) == {
        "application/vnd.jupyter.widget-view+json",
        MIME,
        "image/png",
        "text/plain",
    }
    assert data["text/plain"] == repr(shown)
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width == 640


def test_the_still_is_the_same_every_time(shown):
    first, second = (shown._repr_mimebundle_()[0]["image/png"] for _ in range(2))
    assert first == second


def test_the_spec_holds_the_tables(shown):
    """What the browser does, done here: find a view's numbers by offset and strides."""
    spec = json.loads(shown.spec)
    raw = zlib.decompress(base64.b64decode(spec["data"]))
    for k, view in enumerate(spec["views"]):
        table = view["table"]
        for name_index, name in enumerate(("plus", "minus")):
            for i in range(4):
                start = table["strides"][0] * name_index + table["strides"][1] * i
                size = int(np.prod(view["shape"]))
                codes = np.frombuffer(raw, table["type"], offset=table["offset"])
                whole = table["base"] + codes[start : start + size].astype(int)
                numbers = whole * table["mantissa"] / 10 ** table["decimals"]
                expected = shown.numbers(list(shown.views)[k], name=name, i=i)
                assert np.array_equal(numbers.reshape(expected.shape), expected)


def test_unknown_options_are_named(shown):
    with pytest.raises(ValueError, match=r"i = 7: choose from \[0, 1, 2, 3\]"):
        shown.numbers("M", i=7)
    with pytest.raises(ValueError, match=r"j = 1: choose from \['name', 'i'\]"):
        shown.numbers("M", j=1)


def test_viridis_in_the_browser_is_matplotlibs():
    script = Explorable._esm
    encoded = script.split('const VIRIDIS = bytes("')[1].split('"')[0]
    expected = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round()
    assert base64.b64decode(encoded) == expected.astype(np.uint8).tobytes()


def test_the_classic_script_is_the_module_without_its_export():
    script = classic_script()
    assert "export " not in script
    assert "const explorable = (() => {" in script
    assert "return { render };" in script
