"""Store the front page's live network, as a notebook would store it: `python -m tools.live_figure`.

The site is built without torch, so what the figure shows at the start is computed here once;
tests/test_live.py compares it with the package.
"""

import json
from pathlib import Path

from coatnet_mini import load
from coatnet_mini.explore.live import live_network
from coatnet_mini.images import digits

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "book" / "live_network.json"


def one_of_each():
    """(10, 8, 8): the first held-out picture of each digit."""
    images, labels = digits()
    held_out = range(2, len(images), 3)
    return images[[next(k for k in held_out if labels[k] == digit) for digit in range(10)]]


def bundle(small: bool = True) -> dict:
    """What a notebook stores of the figure."""
    data, _ = live_network(load("digits"), one_of_each(), small)._repr_mimebundle_()
    return {mime: value for mime, value in data.items() if "widget-view" not in mime}


def main() -> None:
    STORED.write_text(json.dumps(bundle(), indent=1) + "\n", encoding="utf-8")
    print(f"{STORED.relative_to(ROOT)}: {STORED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
