"""Digits as a reader might draw them: strokes in a unit square, (x, y) with y down, and a pen."""

import math
from itertools import pairwise

import numpy as np

from coatnet_mini.explore.live import PEN, SIDE


def arc(x, y, rx, ry, start, end, n=24):
    """Points on an ellipse, from one angle to another in degrees, 0 to the right, 90 down."""
    angles = np.radians(np.linspace(start, end, n))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


STROKES = {
    0: [[arc(0.5, 0.5, 0.3, 0.45, 0, 360)], [arc(0.5, 0.5, 0.22, 0.45, 0, 360)]],
    1: [[[(0.5, 0.05), (0.5, 0.95)]], [[(0.3, 0.25), (0.52, 0.05), (0.52, 0.95)]]],
    2: [[[*arc(0.5, 0.3, 0.3, 0.25, 200, 390), (0.2, 0.95), (0.82, 0.95)]]],
    3: [[arc(0.45, 0.28, 0.3, 0.23, 210, 450), arc(0.45, 0.73, 0.33, 0.22, 270, 510)]],
    4: [
        [[(0.6, 0.05), (0.18, 0.65), (0.85, 0.65)], [(0.65, 0.4), (0.65, 0.95)]],
        [[(0.25, 0.05), (0.25, 0.5), (0.75, 0.5)], [(0.75, 0.05), (0.75, 0.95)]],
    ],
    5: [[[(0.78, 0.05), (0.28, 0.05), (0.25, 0.45), *arc(0.48, 0.68, 0.3, 0.27, 240, 510)]]],
    6: [[[*arc(0.72, 0.55, 0.5, 0.5, 260, 180), *arc(0.5, 0.7, 0.27, 0.24, 180, 540)]]],
    7: [
        [[(0.2, 0.07), (0.8, 0.07), (0.42, 0.95)]],
        [[(0.2, 0.07), (0.8, 0.07), (0.42, 0.95)], [(0.35, 0.5), (0.75, 0.5)]],
    ],
    8: [[arc(0.5, 0.28, 0.24, 0.22, 0, 360), arc(0.5, 0.73, 0.28, 0.23, 0, 360)]],
    9: [[arc(0.48, 0.3, 0.27, 0.24, 0, 360), [(0.75, 0.3), (0.72, 0.65), (0.55, 0.95)]]],
}


def drawn(strokes, angle=0.0, scale=1.0, pen=PEN) -> np.ndarray:
    """The strokes as (32, 32) of 0 and 1, from edge to edge, as the training digits were fitted."""
    turn = math.radians(angle)
    turned = [
        [
            (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
            for x, y in stroke
        ]
        for stroke in strokes
    ]
    points = np.array([p for stroke in turned for p in stroke])
    low, size = points.min(0), (np.ptp(points, axis=0)).max()
    middle = low + np.ptp(points, axis=0) / 2
    factor = scale * (SIDE - 2 * pen) / size
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    bitmap = np.zeros((SIDE, SIDE), dtype=np.float32)
    for stroke in turned:
        placed = (np.array(stroke) - middle) * factor + SIDE / 2
        for (x0, y0), (x1, y1) in pairwise(placed):
            dx, dy = x1 - x0, y1 - y0
            t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy or 1), 0, 1)
            bitmap[np.hypot(x - x0 - t * dx, y - y0 - t * dy) <= pen] = 1
    return bitmap


def drawings() -> list[tuple[int, np.ndarray]]:
    """(digit, drawing) for every way to write each, turned and scaled a little."""
    return [
        (digit, drawn(strokes, angle, scale))
        for digit, ways in STROKES.items()
        for strokes in ways
        for angle in (-10, 0, 10)
        for scale in (0.85, 0.93, 1.0)
    ]
