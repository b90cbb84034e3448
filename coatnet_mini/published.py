"""What others have published: accuracies on ImageNet-1K, each with the table that it is from.

`rows()` reads `published.csv`, which lies beside this module: one line for every printed accuracy,
with the size and the cost printed beside it, what kind of "FLOPs" these are, and the slip, where
the sources contradict one another or themselves. `front` says which points no other betters.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).with_name("published.csv")
REGIMES = {  # what was seen before ImageNet-1K, in the words of a control
    "1K": "1K alone",
    "12K": "21K first",
    "21K": "21K first",
    "JFT": "JFT first",
}
KINDS = {  # what a printed number of "FLOPs" counts, as far as counting again can tell
    "CoAtNet's": "multiply-adds and 1 to 4 % besides, as if softmax and bias were counted",
    "without attention": "multiply-adds without the products q·k and A·v",
    "multiply-adds": "all multiply-adds, counted by timm's or PyTorch's counter",
    "counted here": "all multiply-adds, counted by `coatnet_mini.cost`; the source has none",
    "unexplained": "neither with nor without the products of attention",
    "not known": "printed beside CoAtNet's; the network is none of this package's",
}


@dataclass(frozen=True)
class Row:
    """One published accuracy.

    Args:
        model, variant: what was trained, and what sets it apart from its namesakes; † is the
            paper's mark of a stride in the depthwise convolution.
        family: whose design it is.
        data: what it saw before ImageNet-1K: "1K" nothing else, "12K", "21K", "JFT".
        resolution: pixels along a side, when tested.
        parameters: millions. operations: thousand millions, of the `kind` that `KINDS` explains.
        top1: percent of ImageNet-1K's validation pictures.
        cost: of the training, in thousand TPUv3-core-days, where it is printed.
        source, table: where the accuracy is printed.
        member, downsample: the network in this package, where it has it.
        slip: where the sources contradict themselves about this row; note: what else to know.
    """

    model: str
    family: str
    variant: str
    data: str
    resolution: int
    parameters: float
    operations: float
    kind: str
    top1: float
    cost: float | None
    source: str
    table: str
    member: str
    downsample: str
    slip: str
    note: str

    @property
    def name(self) -> str:
        """Such as "CoAtNet-0† 224" or "CoAtNet-2 384 21K": unlike that of any other row."""
        dagger = self.variant == "†"  # the paper's mark of a stride in the depthwise convolution
        parts = [self.model + self.variant * dagger, self.variant * (not dagger)]
        data = "" if self.data == "1K" else self.data
        return " ".join(filter(None, (*parts, str(self.resolution), data)))

    @property
    def regime(self) -> str:
        return REGIMES[self.data]

    @property
    def said(self) -> str:
        """Where it is from, what its operations count, and what is wrong with it."""
        many = "s" * (" and " in self.table)
        table = f"Table{many} {self.table}" if self.table[0].isdigit() else self.table
        parts = [f"{self.source}, {table}", f"operations: {self.kind}"]
        return "; ".join([*parts, *filter(None, (self.slip and f"slip: {self.slip}", self.note))])


@cache
def rows() -> tuple[Row, ...]:
    """All published accuracies, in the order of the file."""
    kinds = {"resolution": int, "parameters": float, "operations": float, "top1": float}
    kinds["cost"] = lambda text: float(text) if text else None
    with DATA.open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(**{name: kinds.get(name, str)(text) for name, text in line.items()})
            for line in csv.DictReader(file)
        )


def front(x, y) -> np.ndarray:
    """(n,) booleans: the points that no other betters, with x (n,) to be small and y (n,) large.

    A point is bettered by one that is no worse in both and better in one (Pareto). Points that
    coincide better nobody; where x is NaN there is no point.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    no_worse = (x <= x[:, None]) & (y >= y[:, None])  # row: the point; column: its rival
    better = (x < x[:, None]) | (y > y[:, None])
    return ~np.isnan(x) & ~(no_worse & better).any(1)


def counted(row: Row, head: str = "tanh") -> tuple[float, float, float]:
    """(parameters, multiply-adds, those of q·k and A·v) of a row's network, counted by `cost`.

    In the row's units. A CoAtNet gets the head that fits the printed parameters best, see
    `CoAtNetConfig`.

    Raises:
        ValueError: the package does not have that network.
    """
    import torch

    from coatnet_mini.cost import cost
    from coatnet_mini.models import create_model

    if not row.member:
        raise ValueError(f"{row.name} is none of this package's networks: it can only be quoted")
    options = {"downsample": row.downsample, "head": head} if row.downsample else {}
    with torch.device("meta"):
        whole = cost(create_model(row.member, image_size=row.resolution, **options))[-1]
    giga = (whole.multiply_adds / 1e9, whole.attention_multiply_adds / 1e9)
    return whole.parameters / 1e6, *giga
