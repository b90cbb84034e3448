"""What came out of a study: its runs, and intervals over their seeds."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

FOLDER = Path(__file__).parent / "results"
METHOD = "Student's t over seeds"


@dataclass(frozen=True)
class Interval:
    """A mean and an interval about it, which holds the true mean in `level` of all studies.

    n: the number of runs. method: how the interval was found.
    """

    mean: float
    low: float
    high: float
    n: int
    level: float
    method: str = METHOD

    @property
    def half(self) -> float:
        """Half of the interval's length, the number after ±."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Curve:
    """A measure over the steps of training, as means and intervals over seeds: (S,) each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int
    method: str = METHOD


def student(values, level: float = 0.95) -> Interval:
    """The mean of n numbers and its interval by Student's t, with n − 1 degrees of freedom.

    mean ± t·s/√n, where s² = Σ (value − mean)² / (n − 1). It supposes that the numbers are drawn
    independently, from something near a normal distribution.

    Raises:
        ValueError: fewer than two numbers, which tell nothing about how far they scatter.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least 2 runs, got {values.size}")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be above 0 and below 1")
    mean, n = values.mean(), len(values)
    half = stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half), n, level)


@dataclass(frozen=True)
class Study:
    """The runs of a study that are finished, and what they were for.

    question: what they are to answer. piloted: what was tried before the recipe was fixed.
    planned: how many runs there will be. runs: one dict each, with what sets it apart from the
    others (such as "form", "images", "seed"), "accuracy" (held out, 0 to 1), "test_loss",
    "parameters", "steps", "curves", "seconds", "device", "threads", "versions", "recipe".
    """

    name: str
    scale: str
    question: str
    piloted: str
    planned: int
    runs: list[dict]

    def where(self, **cell) -> list[dict]:
        """The runs that have these values, in order of their seeds.

        Raises:
            ValueError: there is no such column, or no such run.
        """
        for name in cell:
            if not any(name in run for run in self.runs):
                raise ValueError(
                    f"study {self.name!r} has no column {name!r}; "
                    f"choose from {', '.join(self.columns)}"
                )
        found = [run for run in self.runs if all(run.get(k) == v for k, v in cell.items())]
        if not found:
            choices = "; ".join(
                f"{name}: {', '.join(map(str, self.values(name)))}" for name in cell
            )
            raise ValueError(f"study {self.name!r} has no run with {cell}; choose from {choices}")
        return sorted(found, key=lambda run: run["seed"])

    @property
    def columns(self) -> list[str]:
        """What sets runs apart, the seed last; a run's measures stand after it."""
        if not self.runs:
            return []
        names = list(self.runs[0])
        return names[: names.index("seed") + 1]

    def values(self, column: str) -> list:
        """The values of a column, each once, in the order of the runs."""
        return list(dict.fromkeys(run[column] for run in self.runs if column in run))

    def interval(self, measure: str = "accuracy", level: float = 0.95, **cell) -> Interval:
        """The mean of a measure over the runs of one cell, and its interval.

        Args:
            measure: "accuracy", "test_loss", "seconds" or any other number of a run.
            cell: such as form="pre", images=300; runs that differ in their seed only.
        """
        return student([run[measure] for run in self.cell(cell, measure)], level)

    def difference(
        self, one: dict, other: dict, measure: str = "accuracy", level: float = 0.95, **cell
    ) -> Interval:
        """The mean over seeds of one cell's measure minus another's, run by run of one seed.

        Both are trained on the same images, in an order that follows from the seed.
        `difference({"form": "post"}, {"form": "pre"}, images=300)`.
        """
        a, b = (
            {run["seed"]: run[measure] for run in self.cell({**cell, **part}, measure)}
            for part in (one, other)
        )
        return student([a[seed] - b[seed] for seed in a if seed in b], level)

    def curve(self, measure: str = "accuracy", level: float = 0.95, **cell) -> Curve:
        """A measure over the steps of training: "accuracy" (held out) or "loss" (training)."""
        runs = self.cell(cell)
        if measure not in runs[0]["curves"]:
            raise ValueError(
                f"study {self.name!r} has no curve {measure!r}; "
                f"choose from {', '.join(runs[0]['curves'])}"
            )
        curves = [run["curves"][measure] for run in runs]
        steps = [step for step in curves[0]["step"] if all(step in c["step"] for c in curves)]
        rows = [dict(zip(c["step"], c["value"], strict=True)) for c in curves]
        found = [student([row[step] for row in rows], level) for step in steps]
        columns = ([getattr(one, name) for one in found] for name in ("mean", "low", "high"))
        return Curve(np.array(steps), *map(np.array, columns), len(rows))

    def cell(self, cell: dict, measure: str = "accuracy") -> list[dict]:
        """The runs of one cell, which must differ in nothing but their seed, and have a measure."""
        runs = self.where(**cell)
        measures = [
            name
            for name, value in runs[0].items()
            if isinstance(value, int | float) and name not in self.columns
        ]
        if measure not in measures:
            raise ValueError(
                f"study {self.name!r} has no measure {measure!r}; choose from {', '.join(measures)}"
            )
        for name in self.columns[:-1]:
            if len(found := {run.get(name) for run in runs}) > 1:
                raise ValueError(
                    f"these runs differ in {name!r}; choose one of "
                    f"{', '.join(sorted(map(str, found)))}"
                )
        return runs


def table(found: Study) -> str:
    """The held-out accuracy of each cell in percent: mean, interval, number of runs."""
    lines = [
        f"study {found.name}: {len(found.runs)} of {found.planned} runs; held-out accuracy (%), "
        f"95 % intervals by {METHOD}"
    ]
    for values in dict.fromkeys(tuple(run[c] for c in found.columns[:-1]) for run in found.runs):
        runs = found.where(**dict(zip(found.columns, values, strict=False)))
        reached = [100 * run["accuracy"] for run in runs]
        text = f"{np.mean(reached):6.2f}"
        if len(reached) > 1:
            text += " [{0.low:6.2f}, {0.high:6.2f}]".format(student(reached))
        lines.append(f"  {text:23}  {len(reached)} runs  {', '.join(map(str, values))}")
    return "\n".join(lines)


def list_studies() -> list[str]:
    """The names of the studies whose results are here."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def study(name: str, folder: Path | None = None) -> Study:
    """The results of a study, from the package, or from a folder in which it was run.

    Args:
        name: one of `list_studies()`; results at scale gpu have "_gpu" after the study's name.
        folder: such as "runs/studies/bias_small".

    Raises:
        ValueError: there are no such results.
    """
    path = (FOLDER if folder is None else Path(folder)) / f"{name}.json"
    if not path.is_file():
        here = sorted(each.stem for each in path.parent.glob("*.json"))
        raise ValueError(
            f"no results of a study {name!r} in {path.parent}; "
            f"choose from {', '.join(here) or 'none'}"
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Study(stored.pop("study"), **stored)
