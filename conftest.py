"""For strict nbval: the numbers of explorable figures, compared as numbers.

A table is deflated, and another zlib deflates it to other bytes, so nbval's comparison leaves its
bytes out (tests/nbval_sanitize.cfg). A number that lies between two of a table's steps may round
to either, since float32 sums differ in their last digit from run to run: one step of difference
is let pass, two are not.
"""

import base64
import json
import math
import zlib

import numpy as np
import pytest
from nbval.plugin import IPyNbCell

MIME = "application/vnd.coatnet-mini.explorable"


def views(text: str) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Each view's numbers, its limits, and how far they may be off, from a figure's MIME text."""
    spec = json.loads(text)
    raw = zlib.decompress(base64.b64decode(spec["data"]))
    sizes = [len(a["options"]) if "options" in a else math.prod(a["point"]) for a in spec["axes"]]
    found = {}
    for view in spec["views"]:
        table = view["table"]
        states = math.prod(n for n, s in zip(sizes, table["strides"], strict=True) if s)
        kind = np.dtype(table["type"]).newbyteorder("<")
        count = states * math.prod(view["shape"])
        numbers = np.frombuffer(raw, kind, count, table["offset"]).astype(np.float64)
        step = 1e-5 * np.abs(numbers).max()
        if kind.kind != "f":
            step = table["mantissa"] / 10.0 ** table["decimals"]
            numbers = (table["base"] + numbers) * step
        allowed = 0.0 if step == 1 else 1.001 * step  # a count is exact
        found[view["name"]] = numbers, np.array(view["limits"]), allowed
    return found


def difference(stored: str, computed: str) -> str:
    """What sets two figures' numbers apart, in words; '' if nothing that counts."""
    old, new = views(stored), views(computed)
    if old.keys() != new.keys() or any(old[k][0].shape != new[k][0].shape for k in old):
        return f"views {list(old)} of other names or shapes than {list(new)}"
    steps = {tuple(limits): 0.0 for _, limits, _ in old.values()}
    for _, limits, allowed in old.values():  # views on one scale share the coarsest one's limits
        steps[tuple(limits)] = max(steps[tuple(limits)], allowed)
    for name, (numbers, limits, allowed) in old.items():
        count = np.sum(np.abs(numbers - new[name][0]) > allowed)
        if count:
            return f"view {name!r}: {count} of {numbers.size} numbers differ"
        if np.any(np.abs(limits - new[name][1]) > steps[tuple(limits)]):
            return f"view {name!r}: limits {limits} and {new[name][1]}"
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
