"""What a chapter takes to read: the rules of the clock, and the chapters held to it."""

import json
import re
import sys

import pytest

from tests import CHAPTERS
from tools import clock, execute_chapters
from tools.clock import MOST_CORE, MOST_LINES, by_section

LIVE = "application/vnd.coatnet-mini.explorable"


# ---- The chapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_prints_its_clock_and_keeps_to_it(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    printed, found = clock.printed(notebook), clock.clock(notebook)
    assert printed == found.line, "run `python -m tools.clock --write`"
    assert found.core <= MOST_CORE
    assert found.lines_above <= MOST_LINES


# ---- The rules -----------------------------------------------------------------------------------


def text(source):
    return {"cell_type": "markdown", "id": "t", "metadata": {}, "source": source}


def code(source, *data, tags=(), caption=None):
    metadata = {"tags": list(tags)} if tags else {}
    if caption:
        metadata["mystnb"] = {"figure": {"caption": caption}}
    outputs = [{"output_type": "display_data", "data": d, "metadata": {}} for d in data]
    return {
        "cell_type": "code",
        "id": "c",
        "metadata": metadata,
        "outputs": outputs,
        "execution_count": 1,
        "source": source.splitlines(keepends=True),
    }


def minutes(*cells):
    found = clock.clock({"cells": list(cells)})
    return found.core, found.deeper, found.exercises


WORDS_4 = "word " * 720  # four minutes
LINES_3 = "x = 1\n\n" * 36  # three minutes; blank lines take none


def test_words_and_lines_have_their_pace():
    assert minutes(text(WORDS_4)) == (4, 0, 0)
    assert minutes(code(LINES_3)) == (3, 0, 0)
    assert minutes(text(WORDS_4), code(LINES_3)) == (7, 0, 0)
    assert minutes(text(WORDS_4 + "one more")) == (5, 0, 0)  # rounded up


@pytest.mark.parametrize("tag", ["hide-input", "hide-cell", "remove-input", "remove-cell"])
def test_hidden_code_does_not_count(tag):
    assert minutes(code(LINES_3, tags=[tag])) == (0, 0, 0)
    assert minutes(code(LINES_3, tags=["hide-output"])) == (3, 0, 0)


def test_sections_are_told_apart():
    cells = (
        text(f"# Title\n\n{WORDS_4}"),
        text(f"## Going deeper\n\n### A detail\n\n{WORDS_4}"),
        code(LINES_3),
        text("## Exercises\n\n### 1.1\n\nDifficulty 2 of 5 · 10 min\n\nDifficulty 3 of 5 · 25 min"),
        text(f"Difficulty 1 of 5 · 5 min\n\n## A question\n\n{WORDS_4}"),
    )
    core, deeper, exercises = minutes(*cells)
    assert (core, deeper) == (9, 8)  # the titles' words take their seconds
    assert exercises == 41  # 10 + 25 + 5, and the words themselves


def test_heading_inside_a_fence_is_code():
    fenced = "```python\n## Exercises\n```\n"
    assert by_section(fenced) == [("", fenced)]
    assert [heading for heading, _ in by_section("a\n## B\nc\n## D\n")] == ["", "## B", "## D"]


def test_folded_text_does_not_count():
    assert minutes(text(f"<details><summary>Hint</summary>\n\n{WORDS_4}\n</details>")) == (0, 0, 0)


def test_formulas_and_fences_count_as_lines_and_links_as_their_text():
    assert minutes(text("$$y = Wx$$\n\n" * 24)) == (2, 0, 0)
    assert minutes(text("```python\n" + LINES_3 + "```\n")) == (3, 0, 0)
    assert minutes(text("$a + b + c + d$ " * 720)) == (4, 0, 0)
    assert minutes(text("[word](a%20b c d e f.html) " * 720)) == (4, 0, 0)


def test_captions_and_guesses_are_read():
    assert minutes(code("x", tags=["hide-input"], caption=WORDS_4)) == (4, 0, 0)
    asked = {"text/html": '<div class="cm-guess">', "text/plain": f"{WORDS_4}\nAnswer: {WORDS_4}"}
    assert minutes(*[code("x", asked, tags=["hide-input"])] * 2) == (9, 0, 0)


def test_figures_and_pictures_are_looked_at():
    assert minutes(*[code("x", {LIVE: "", "image/png": ""}, tags=["hide-input"])] * 3) == (6, 0, 0)
    assert minutes(*[code("x", {"image/png": ""}, tags=["hide-input"])] * 4) == (2, 0, 0)


def test_what_a_cell_prints_is_read_unless_it_is_hidden():
    shown = code("x", tags=["hide-input"])
    shown["outputs"] = [{"output_type": "stream", "name": "stdout", "text": LINES_3}]
    assert minutes(shown) == (3, 0, 0)
    assert minutes(code("x", {"text/plain": LINES_3}, tags=["hide-input"])) == (3, 0, 0)
    for tag in clock.HIDDEN_OUTPUT:
        hidden = shown | {"metadata": {"tags": ["hide-input", tag]}}
        assert minutes(hidden) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["image/png", LIVE])
def test_lines_above_the_first_figure(kind):
    above = [code("a\nb\n\nc"), code("d", {"text/plain": "1"}), code("e\nf", tags=["hide-input"])]
    figure, below = code("g", {kind: ""}), code("h\ni", {kind: ""})
    assert clock.clock({"cells": [*above, figure, below]}).lines_above == 5
    assert clock.clock({"cells": above}).lines_above == 4


def test_tour_is_the_head_and_the_live_figures_with_their_text():
    live, still = code("x", {LIVE: ""}), code("x", {"image/png": ""})
    cells = [text(WORDS_4), text(WORDS_4), text("one"), live, text("two"), text(WORDS_4), still]
    assert clock.clock({"cells": cells}).tour == 4 + clock.PLAY + 1


# ---- The line in the head ------------------------------------------------------------------------


@pytest.mark.parametrize("as_lines", [True, False])
@pytest.mark.parametrize("badge", ["", "[Open in Colab](https://x) · [Source](https://y)\n\n"])
def test_stamp_stands_below_the_title_and_is_replaced(badge, as_lines):
    source = f"# Title\n\n{badge}*Why?*\n\n{WORDS_4}"
    notebook = {"cells": [text(source.splitlines(keepends=True) if as_lines else source)]}
    clock.stamp(notebook)
    once = clock.source(notebook["cells"][0])
    line = "core 5 · deeper 0 · exercises 0 minutes"
    assert once == source.replace("*Why?*", f"{line}\n\n*Why?*")
    assert isinstance(notebook["cells"][0]["source"], list if as_lines else str)
    clock.stamp(notebook)
    assert clock.source(notebook["cells"][0]) == once, "the line itself is not read"


@pytest.fixture
def folder(tmp_path):
    for name, line in (("01_old", ""), ("02_new", "core 1 · deeper 2 · exercises 3 minutes\n\n")):
        cells = [text(f"# {name}\n\n{line}{WORDS_4}"), code(LINES_3)]
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / f"{name}.ipynb").write_text(clock.dumps(notebook), encoding="utf-8")
    return tmp_path


def run(folder, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["clock", *arguments])
    clock.main(folder)
    return [clock.printed(json.loads(p.read_text())) for p in sorted(folder.iterdir())]


def test_table_says_what_is_wrong_and_writes_nothing(folder, monkeypatch, capsys):
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    run(folder, monkeypatch)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before
    _, old, new = capsys.readouterr().out.splitlines()
    assert re.match(r"01_old +8 +0 +0 +5 +not yet in the new form, 36 visible lines", old)
    assert "prints 'core 1 · deeper 2 · exercises 3 minutes'" in new


def test_write_stamps_what_has_a_line_and_what_is_named(folder, monkeypatch, capsys):
    line = "core 8 · deeper 0 · exercises 0 minutes"
    assert run(folder, monkeypatch, "--write") == [None, line]
    assert run(folder, monkeypatch, "--write", "01") == [line, line]
    with pytest.raises(SystemExit, match="--write 07 names no chapter; there are 01_old, 02_new"):
        run(folder, monkeypatch, "--write", "07")


def test_executing_a_chapter_stamps_its_clock(folder):
    old, new = sorted(folder.iterdir())
    assert clock.printed(execute_chapters.execute(old, "")) is None
    executed = execute_chapters.execute(new, "")
    assert clock.printed(executed) == "core 8 · deeper 0 · exercises 0 minutes"
