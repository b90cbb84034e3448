"""The figure as a widget and as stored output; the browser's half is tested in test_site.py."""

import base64
import io
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from coatnet_mini import plots
from coatnet_mini.explore import (
    MIME,
    Explorable,
    axis,
    bars,
    explore,
    heat,
    image,
    line,
    point,
    scalar,
)
from coatnet_mini.explore.spec import slug
from coatnet_mini.explore.sphinx_ext import classic_script
from tests.helpers import contrast, luminance


@pytest.fixture(scope="module")
def shown():
    def views(name, i):
        M = np.outer(np.arange(4), np.arange(4)) * (-1.0 if name == "minus" else 1.0)
        return {
            "M": heat(M, row="i"),
            "picture": image(np.eye(4), mark="i"),
            "row": bars(M[i], mark="i", labels="abcd", y="weight"),
            "curves": line({"M": M[i], "half": M[i] / 2}, x=("place", [0, 1, 4, 9]), mark="i"),
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


def test_the_browser_has_the_palettes_of_the_plots():
    script = Explorable._esm
    for name, colours in plots.RAMPS.items():
        assert f'"{name}": "{colours}"' in script


@pytest.mark.parametrize("sign", "+-")
@pytest.mark.parametrize(("theme", "page"), [("light", "#ffffff"), ("dark", "#121212")])
def test_a_sixth_of_full_scale_stands_out_from_zero(theme, page, sign):
    """3:1 is WCAG's bound for graphics. Below 15 % of what a scale spans the text speaks of no
    cell by its colour: it chooses a scale for it (`clip`, or "state")."""
    ramp = plots.ramp(sign, theme)
    assert np.allclose(ramp[0], to_rgb(page))
    strength = contrast(ramp, np.broadcast_to(ramp[0], ramp.shape))
    assert strength[round(0.15 * 255) :].min() >= 3
    assert np.all(np.diff(strength) > -0.02)  # larger is never fainter
    for colour in (plots.MARK, plots.INK, plots.BELOW):
        assert contrast(to_rgb(colour), ramp[0]) >= 3


def test_both_arms_are_equally_strong():
    for theme in ("light", "dark"):
        positive, negative = (luminance(plots.ramp(sign, theme)) for sign in "+-")
        assert np.abs((positive + 0.05) / (negative + 0.05) - 1).max() < 0.03


def test_the_classic_script_is_the_module_without_its_export():
    script = classic_script()
    assert "export " not in script
    assert "const explorable = (() => {" in script
    assert "return { render };" in script


def test_a_still_draws_every_kind_of_view():
    def views(i):
        return {
            "digit": image(np.eye(4), ink=True, mark="i", scale="state"),
            "colour": image(np.ones((4, 4, 3)) * 0.5, mark="i"),
            "map": heat(-np.eye(4), hatched=np.eye(4), x=("offset", range(4)), y="i"),
            "bars": bars([-1.0, 2.0], x=("offset", [-1, 0]), y="weight"),
        }

    data, _ = explore(views, "Kinds", i=point(4, 4))._repr_mimebundle_()
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width == 640


def test_the_site_needs_no_torch():
    code = "import sys, coatnet_mini.explore.sphinx_ext; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_title_names_its_figure_in_links():
    assert slug("  Softmax: the temperature τ, <b>1</b> ") == "softmax-the-temperature-τ-b-1-b"
