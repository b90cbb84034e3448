"""For strict nbval: the tables of explorable figures, compared as numbers.

A table is deflated, and another zlib deflates it to other bytes, so nbval's comparison leaves the
bytes out (tests/nbval_sanitize.cfg). A number that lies between two of a table's steps may round
to either of them on another processor: one step of difference is let pass, two are not.
"""

import base64
import json
import math
import zlib

import numpy as np
import pytest
from nbval.plugin import IPyNbCell

MIME = "application/vnd.coatnet-mini.explorable"


def tables(text: str) -> dict[str, tuple[np.ndarray, float]]:
    """Each view's codes, flat, and how far a code may be off; `text` is the figure's MIME text."""
    spec = json.loads(text)
    raw = zlib.decompress(base64.b64decode(spec["data"]))
    sizes = [len(axis["options"]) for axis in spec["axes"]]
    found = {}
    for view in spec["views"]:
        table = view["table"]
        states = math.prod(n for n, s in zip(sizes, table["strides"], strict=True) if s)
        kind = np.dtype(table["type"]).newbyteorder("<")
        count = states * math.prod(view["shape"])
        codes = np.frombuffer(raw, kind, count, table["offset"]).astype(np.float64)
        whole = table["mantissa"] == 1 and table["decimals"] == 0
        step = 1e-5 * np.abs(codes).max() if kind.kind == "f" else 0.0 if whole else 1.0
        found[view["name"]] = codes, step
    return found


def difference(stored: str, computed: str) -> str:
    """What sets two figures' tables apart, in words; '' if nothing that counts."""
    old, new = tables(stored), tables(computed)
    if old.keys() != new.keys() or any(old[k][0].shape != new[k][0].shape for k in old):
        return f"views {list(old)} of other names or shapes than {list(new)}"
    for name, (codes, step) in old.items():
        count = np.sum(np.abs(codes - new[name][0]) > step)
        if count:
            return f"view {name!r}: {count} of {codes.size} numbers differ"
    return ""


def figures(outputs) -> list[str]:
    found = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    return ["".join(text) for text in found]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if isinstance(item, IPyNbCell) and item.options["check"]:
        pairs = zip(figures(item.cell.outputs), figures(item.test_outputs), strict=True)
        for stored, computed in pairs:
            if found := difference(stored, computed):
                item.raise_cell_error("Explorable figures differ", found)
    return result
