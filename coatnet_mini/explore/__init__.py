"""Explorable figures: sliders that are live in Jupyter, in Colab and on a page without a server."""

from coatnet_mini.explore.axes import axis, point
from coatnet_mini.explore.guess import Guess, guess
from coatnet_mini.explore.twin import drag, paint
from coatnet_mini.explore.views import View, bars, heat, image, line, scalar, scatter
from coatnet_mini.explore.widget import MIME, Explorable, explore

__all__ = [
    "MIME",
    "Explorable",
    "Guess",
    "View",
    "axis",
    "bars",
    "drag",
    "explore",
    "guess",
    "heat",
    "image",
    "line",
    "paint",
    "point",
    "scalar",
    "scatter",
]
