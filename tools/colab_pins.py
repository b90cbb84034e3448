"""Set the Colab twin's pins to what Colab has: `python -m tools.colab_pins colab-freeze.txt`.

The argument is a `pip freeze` of Colab's runtime (googlecolab/backend-info publishes one). Each
package of tests/colab_twin.txt takes the version found there; one that Colab lacks keeps its own.
Colab's torch is pinned too, so that the twin installs it instead of linking the book's.
"""

import re
import sys
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "tests" / "colab_twin.txt"
# As `name==1.2`, or `name @ https://.../name-1.2+cu128-cp313-...whl`; a local version is left out.
PINNED = re.compile(r"^([\w.-]+)==([^\s+#]+)")
LINKED = re.compile(r"^([\w.-]+) @ \S+/[\w.]+-(\d[\w.]*?)(?:\+|%2B|-)\S*\.whl")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(freeze: str) -> dict[str, str]:
    """Canonical name and version of each package in the text of a `pip freeze`."""
    found = (PINNED.match(line) or LINKED.match(line) for line in freeze.splitlines())
    return {canonical(match[1]): match[2] for match in found if match}


def update(pins: str, freeze: str) -> str:
    """The text of the pins with Colab's versions; ValueError if the freeze is not Colab's."""
    colab = versions(freeze)
    if missing := {"ipywidgets", "ipython", "ipykernel", "numpy", "torch"} - colab.keys():
        raise ValueError(f"not a freeze of Colab: it has no {', '.join(sorted(missing))}")
    lines = []
    for line in pins.splitlines():
        if match := PINNED.match(line):
            line = f"{match[1]}=={colab.get(canonical(match[1]), match[2])}"
        if canonical(line.partition("==")[0]) != "torch":
            lines.append(line)
    return "\n".join([*lines, f"torch=={colab['torch']}"]) + "\n"


def main() -> None:
    old = PINS.read_text(encoding="utf-8")
    try:
        new = update(old, Path(sys.argv[1]).read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(str(error))
    PINS.write_text(new, encoding="utf-8")
    print(*sorted(set(new.splitlines()) - set(old.splitlines())), sep="\n")


if __name__ == "__main__":
    main()
