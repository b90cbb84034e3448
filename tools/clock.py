"""What a chapter takes to read, computed from its notebook.

    python -m tools.clock              # a table of all chapters
    python -m tools.clock --write      # stamps the line where a chapter has one already
    python -m tools.clock --write 05   # ... and into the head of chapter 5

The line is `core 30 · deeper 20 · exercises 45 minutes`. A reader takes 180 words or 12 lines, of
code or of what it prints, a minute; two minutes for a live figure, half a minute for a picture or
a guess. *Deeper* is the section "Going deeper", *exercises* the section "Exercises", whose
exercises state their minutes, *core* every other section. What the page folds counts nothing:
code in hidden cells, hidden outputs, and text in <details>.
"""

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.home import dumps, write

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 12
PLAY, LOOK = 2, 0.5  # minutes for a live figure; for a picture or a guess
MOST_CORE, MOST_LINES = 30, 5  # minutes of core; visible lines of code down to the first figure
SECTIONS = {"## Going deeper": "deeper", "## Exercises": "exercises"}
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
HIDDEN_OUTPUT = {"hide-output", "hide-cell", "remove-output", "remove-cell"}
LIVE = "application/vnd.coatnet-mini."
LINE = re.compile(r"^core \d+ · deeper \d+ · exercises \d+ minutes$", re.M)
STATED = re.compile(r"^Difficulty \d of 5 · (\d+) min", re.M)
FENCE = re.compile(r"^(```+|~~~+)[^\n]*\n(.*?)^\1\s*$", re.M | re.S)
FORMULA = re.compile(r"\$\$(.*?)\$\$", re.S)
FOLDED = re.compile(r"<details\b.*?</details>", re.S)


@dataclass(frozen=True)
class Clock:
    """Minutes to read each part of a chapter, and what stands above its first figure."""

    core: int
    deeper: int
    exercises: int
    tour: int  # the head, and the live figures with the text before and after each
    lines_above: int  # visible lines of code down to the first figure, its own cell's included

    @property
    def line(self) -> str:
        return f"core {self.core} · deeper {self.deeper} · exercises {self.exercises} minutes"


def clock(notebook: dict) -> Clock:
    """The clock of a chapter, from its notebook's JSON."""
    minutes = {"core": 0.0, "deeper": 0.0, "exercises": 0.0}
    section = "core"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for heading, text in by_section(source(cell)):
                section = SECTIONS.get(heading, "core") if heading else section
                minutes[section] += reading(text)
                if section == "exercises":
                    minutes[section] += sum(map(int, STATED.findall(text)))
        else:
            minutes[section] += reading_of_code(cell)
    whole = {name: math.ceil(value) for name, value in minutes.items()}
    return Clock(**whole, tour=math.ceil(tour(notebook)), lines_above=lines_above(notebook))


def by_section(text: str) -> list[tuple[str, str]]:
    """(heading, text) of each part of a Markdown cell; '' for what stands above a heading."""
    fenced = [(found.start(), found.end()) for found in FENCE.finditer(text)]
    starts = [
        found
        for found in re.finditer(r"^## .*$", text, re.M)
        if not any(low <= found.start() < high for low, high in fenced)
    ]
    ends = [*(found.start() for found in starts), len(text)]
    parts = [("", text[: ends[0]])]
    for found, end in zip(starts, ends[1:], strict=True):
        parts.append((found[0].rstrip(), text[found.start() : end]))
    return parts


def reading(text: str) -> float:
    """Minutes for Markdown; a line of a fenced block or of a formula counts as one of code."""
    text = FOLDED.sub(" ", LINE.sub("", text))
    lines = sum(lines_of(found[2]) for found in FENCE.finditer(text))
    text = FENCE.sub(" ", text)
    lines += sum(lines_of(found) for found in FORMULA.findall(text))
    text = re.sub(r"\$[^$]+\$", " formula ", FORMULA.sub(" ", text))
    text = re.sub(r"</?[a-z][^>]*>|\]\([^)]*\)", " ", text)
    return words_of(text) / WORDS_A_MINUTE + lines / LINES_A_MINUTE


def reading_of_code(cell: dict) -> float:
    """Minutes for what the page shows of a code cell: its source, and its outputs."""
    lines = visible_lines(cell)
    if HIDDEN_OUTPUT & tags(cell):
        return lines / LINES_A_MINUTE
    lines += sum(lines_of(text_of(output.get("text", ""))) for output in cell.get("outputs", []))
    words = words_of(cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", ""))
    seeing = 0.0
    for data in outputs(cell):
        if is_live(data):
            seeing += PLAY
        elif is_picture(data):
            seeing += LOOK
        elif 'class="cm-guess"' in text_of(data.get("text/html", "")):
            seeing += LOOK
            words += words_of(text_of(data["text/plain"]).partition("\nAnswer: ")[0])
        elif list(data) == ["text/plain"]:
            lines += lines_of(text_of(data["text/plain"]))
    return words / WORDS_A_MINUTE + lines / LINES_A_MINUTE + seeing


def tour(notebook: dict) -> float:
    """Minutes for the head, and for each live figure with the text before and after it."""
    cells, read = notebook["cells"], {0}
    live = [n for n, cell in enumerate(cells) if any(map(is_live, outputs(cell)))]
    for n in live:
        read |= {m for m in (n - 1, n + 1) if m < len(cells)}
    texts = (source(cells[n]) for n in read if cells[n]["cell_type"] == "markdown")
    return sum(map(reading, texts)) + PLAY * len(live)


def lines_above(notebook: dict) -> int:
    """Visible lines of code down to the first figure and its own cell; all, without a figure."""
    lines = 0
    for cell in notebook["cells"]:
        lines += visible_lines(cell) if cell["cell_type"] == "code" else 0
        if any(
            is_live(data) or any(k.startswith("image/") for k in data) for data in outputs(cell)
        ):
            break
    return lines


def visible_lines(cell: dict) -> int:
    return 0 if HIDDEN & tags(cell) else lines_of(source(cell))


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def outputs(cell: dict) -> list[dict]:
    return [output["data"] for output in cell.get("outputs", []) if "data" in output]


def is_live(data: dict) -> bool:
    return any(kind.startswith(LIVE) for kind in data)


def is_picture(data: dict) -> bool:
    return any(kind.startswith("image/") for kind in data)


def source(cell: dict) -> str:
    return text_of(cell["source"])


def text_of(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def lines_of(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def words_of(text: str) -> int:
    return len(re.findall(r"\S*\w\S*", text))


def printed(notebook: dict) -> str | None:
    """The line in the chapter's head, None if there is none."""
    found = LINE.search(source(notebook["cells"][0]))
    return found[0] if found else None


def stamp(notebook: dict) -> None:
    """Put the computed line into the chapter's head, in place: below the title and its links."""
    first, line = notebook["cells"][0], clock(notebook).line
    text = source(first)
    if printed(notebook):
        text = LINE.sub(line, text, count=1)
    else:
        parts = text.split("\n\n")
        place = 2 if len(parts) > 1 and parts[1].startswith("[Open in Colab]") else 1
        text = "\n\n".join([*parts[:place], line, *parts[place:]])
    as_text = isinstance(first["source"], str)
    first["source"] = text if as_text else text.splitlines(keepends=True)


def report(name: str, notebook: dict) -> str:
    """One line of the table: the minutes, and what is wrong with them."""
    found, line = clock(notebook), printed(notebook)
    notes = []
    if line is None:
        notes.append("not yet in the new form")
    elif line != found.line:
        notes.append(f"prints {line!r}")
    if found.core > MOST_CORE:
        notes.append(f"core above {MOST_CORE}")
    if found.lines_above > MOST_LINES:
        notes.append(f"{found.lines_above} visible lines down to the first figure")
    numbers = (found.core, found.deeper, found.exercises, found.tour)
    return f"{name:32}" + "".join(f"{n:10}" for n in numbers) + "   " + ", ".join(notes)


def main(folder: Path = CHAPTERS) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.clock", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--write", nargs="*", metavar="NN", help="stamp the line into chapters")
    asked = parser.parse_args().write
    books = {p: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.ipynb"))}
    for name in asked or ():
        if not any(path.name.startswith(name) for path in books):
            sys.exit(
                f"--write {name} names no chapter; there are {', '.join(p.stem for p in books)}"
            )
    if asked is not None:
        for path, notebook in books.items():
            if printed(notebook) or path.name.startswith(tuple(asked)):
                stamp(notebook)
                write({path: dumps(notebook)})
    print(f"{'minutes':32}" + "".join(f"{n:>10}" for n in ("core", "deeper", "exercises", "tour")))
    for path, notebook in books.items():
        print(report(path.stem, notebook))


if __name__ == "__main__":
    main()
