"""Every chapter is clean, and every rule of what clean means can be broken."""

import base64
import copy
import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4.rwbase import split_lines

from tests import CHAPTERS, ROOT
from tools import clock
from tools.execute_chapters import CELL_METADATA, DEAD, KERNEL, LANGUAGE
from tools.home import badge, read_home, setup_cell

EXPLORABLE = "application/vnd.coatnet-mini.explorable"
TAGS = clock.HIDDEN | {"hide-output", "raises-exception", "nbval-ignore-output"}
WIDTH, CODE_CELLS, WORDS, BYTES = 76, 40, 3000, 1_000_000
MACHINE = re.compile(r"/(?:home|root|Users|tmp|work)/|[A-Z]:\\\\|site-packages|ipykernel_\d")
TIMING = re.compile(r"perf_counter|\btime\.time\(|timeit|^\s*%%?time\b|torch\.__version__", re.M)
DIRECTIVE = re.compile(r"^\s*(?:```+|~~~+|:::+)\s*\{|\{[a-z-]+\}`", re.M)
PLUMBING = re.compile(r"\b(?:plt|plots)\.|\b(?:explore|guess|you_are_here)\(")
FORMULA = re.compile(r"\$\$(.*?)\$\$|\$([^$]+)\$", re.S)
CLASHES = {  # in a formula, what book/notation.md calls by another letter
    r"W[_^]\{?(?:\\text\{|\\mathrm\{)?[qkvQKV]\b": "U_q, U_k, U_v",
    r"/\s*T\b|\\frac\{[^{}]*\}\{T\}": "\\tau, the temperature",
    r"P_\{i[jk]\}": "another letter: P is the table of biases",
    r"\bk\s*\\times\s*k\b|\bk\^2": "K, the side of a kernel",
    r"\bs\s*(?:\\[,;]\s*)?(?:e\^|B\b|w_)": "\\beta, the strength of the bias",
    r"\bc\s*(?:\\[,;]\s*)?x_i": "\\gamma, the strength of the content",
}
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.M | re.S)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [(cell, output) for cell in code_cells(notebook) for output in cell.outputs]


def metadata(notebook):
    extra = notebook.metadata.keys() - {"kernelspec", "language_info", "accelerator"}
    if extra:
        yield f"notebook metadata {sorted(extra)}"
    if notebook.metadata.get("kernelspec") != KERNEL:
        yield "kernelspec is not python3's"
    if notebook.metadata.get("language_info") != LANGUAGE:
        yield "language_info names a machine's Python"
    for cell in notebook.cells:
        if extra := cell.metadata.keys() - set(CELL_METADATA):
            yield f"cell {cell.id}: metadata {sorted(extra)}"
        if extra := set(cell.metadata.get("tags", [])) - TAGS:
            yield f"cell {cell.id}: tags {sorted(extra)}"


def execution(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts {counts}: run `make chapters`"
    for cell, output in outputs(notebook):
        if output.get("name") == "stderr":
            yield f"cell {cell.id}: stderr"
        expected = "raises-exception" in cell.metadata.get("tags", [])
        if output.output_type == "error" and not expected:
            yield f"cell {cell.id}: {output.ename} that no tag expects"
        if DEAD in output.get("data", {}):
            yield f"cell {cell.id}: a dead widget model"
        binary = {"image/png", EXPLORABLE}  # base64 may spell anything
        data = {k: v for k, v in output.get("data", {}).items() if k not in binary}
        if MACHINE.search(json.dumps({**output, "data": data})):
            yield f"cell {cell.id}: a path of the machine in its output"


def sources(notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        if not cell.source.strip():
            yield f"cell {cell.id}: empty"
        if any(line.rstrip().endswith(";") for line in lines):
            yield f"cell {cell.id}: trailing semicolon"
        if re.search(r"\binteract(?:ive|ive_output|_manual)?\(", cell.source):
            yield f"cell {cell.id}: interact, which is dead on a page"
        if re.search(r"#\s*(?:NBVAL|nbval)|#\s*PYTEST", cell.source):
            yield f"cell {cell.id}: nbval comment; use the tag nbval-ignore-output"
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        if ignored and "assert" not in cell.source:
            yield f"cell {cell.id}: its output is not compared, and it asserts nothing"
        used = "\n".join(line for line in lines if not line.startswith(("import ", "from ")))
        if TIMING.search(used) and not ignored:
            yield f"cell {cell.id}: a timing or version in a compared cell"
        if MACHINE.search(cell.source):
            yield f"cell {cell.id}: a path of the machine in its source"


def widths(notebook):
    texts = [(cell.id, cell.source) for cell in code_cells(notebook)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            texts += [(cell.id, found[0]) for found in FENCE.finditer(cell.source)]
    for cell, output in outputs(notebook):
        if output.output_type == "stream":
            texts.append((cell.id, output.text))
        elif list(output.get("data", {})) == ["text/plain"]:
            texts.append((cell.id, output.data["text/plain"]))
    for name, text in texts:
        longest = max(map(len, text.splitlines()), default=0)
        if longest > WIDTH:
            yield f"cell {name}: a line of {longest} characters, {WIDTH} at most"


def pictures(notebook):
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        if "image/svg+xml" in data or "image/jpeg" in data:
            yield f"cell {cell.id}: a picture that is not a PNG"
        if "image/png" not in data or EXPLORABLE in data:  # an explorable words itself
            continue
        about = cell.metadata.get("mystnb", {})
        if len(about.get("image", {}).get("alt", "")) < 20:
            yield f"cell {cell.id}: a picture without alt text (mystnb.image.alt)"
        if not about.get("figure", {}).get("caption"):
            yield f"cell {cell.id}: a picture without a caption (mystnb.figure.caption)"
    for cell in notebook.cells:
        text = cell.source if cell.cell_type == "markdown" else ""
        if re.search(r"!\[\s*\]", text) or re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", text):
            yield f"cell {cell.id}: a picture without alt text"


def prose(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if DIRECTIVE.search(text):
        yield "a MyST directive or role, which Colab and GitHub show as source"
    text = re.sub(r"\$\$.*?\$\$|</?[a-z][^>]*>|\]\([^)]*\)", " ", FENCE.sub(" ", text), flags=re.S)
    words = len(re.findall(r"[^\W\d_][\w'’-]*", text))
    if words > WORDS:
        yield f"{words} words, {WORDS} at most"
    if len(code_cells(notebook)) > CODE_CELLS:
        yield f"{len(code_cells(notebook))} code cells, {CODE_CELLS} at most"


def folding(notebook):
    """In a chapter of the new form the page shows ideas; imports, plots and figures are folded."""
    if not clock.printed(notebook):
        return
    for cell in code_cells(notebook):
        if clock.HIDDEN & set(cell.metadata.get("tags", [])):
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if all(
            line.startswith(("import ", "from ", " ", ")", "plots.use_style")) for line in lines
        ):
            yield f"cell {cell.id}: imports that no tag folds (hide-input)"
        elif PLUMBING.search(cell.source):
            yield f"cell {cell.id}: plots or a figure, but no tag folds it (hide-input)"


def notation(notebook):
    """In a chapter of the new form a letter means one thing, as far as its formulas tell."""
    if not clock.printed(notebook):
        return
    for cell in notebook.cells:
        text = FENCE.sub(" ", cell.source) if cell.cell_type == "markdown" else ""
        for found in FORMULA.finditer(text):
            formula = found[1] or found[2]
            for clash, use in CLASHES.items():
                if re.search(clash, formula):
                    yield f"cell {cell.id}: ${formula.strip()}$: use {use}"


def home(notebook, name):
    stamped = read_home(ROOT)
    cells = code_cells(notebook)
    if not cells or cells[0].id != "setup" or cells[0].source != setup_cell(stamped):
        yield "the first code cell is not the set-up cell as tools/home.py has it"
    elif cells[0].outputs:
        yield "the set-up cell has an output"
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        yield "the first cell does not start with the title"
    line = badge(stamped, name) if stamped else None
    found = re.findall(r"^\[Open in Colab\].*$", first.source, flags=re.M)
    if found != ([line] if line else []):
        yield f"badges {found}, expected {line}"


def faults(path: Path) -> list[str]:
    """What is wrong with the notebook at ``path``, a line each."""
    if path.stat().st_size > BYTES:
        return [f"{path.stat().st_size:,} bytes, {BYTES:,} at most"]
    raw = json.loads(path.read_text(encoding="utf-8"))
    if (raw["nbformat"], raw["nbformat_minor"]) != (4, 5):
        return [f"nbformat {raw['nbformat']}.{raw['nbformat_minor']}, not 4.5"]
    if not all(cell.get("id") for cell in raw["cells"]):
        return ["a cell without an id"]
    if len({cell["id"] for cell in raw["cells"]}) < len(raw["cells"]):
        return ["two cells with one id"]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if path.read_text(encoding="utf-8") != nbformat.writes(notebook) + "\n":
        return ["not in the form in which `make chapters` writes it"]
    rules = (metadata, execution, sources, folding, notation, widths, pictures, prose)
    return [fault for rule in rules for fault in rule(notebook)] + list(home(notebook, path.name))


def test_there_are_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_clean(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    assert faults(path) == []


# ---- Each rule, broken -------------------------------------------------------------------------

PIXEL = base64.b64encode(b"\x89PNG").decode()


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data):
    kinds = {"png": "image/png", "svg": "image/svg+xml", "text": "text/plain", "dead": DEAD}
    data = {kinds[kind]: content for kind, content in data.items()}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def clean() -> dict:
    """A notebook that obeys every rule, as JSON."""
    about = {"image": {"alt": "A matrix of four cells, the upper left one dark"}}
    about["figure"] = {"caption": "One picture."}

    def code(name, count, source, outputs, **metadata):
        kind = {"cell_type": "code", "id": name, "execution_count": count}
        return kind | {"source": source, "outputs": outputs, "metadata": metadata}

    title = "# A title\n\ncore 1 · deeper 0 · exercises 0 minutes\n\nWhat does the rule ask?"
    stamped = read_home(ROOT)
    if stamped:
        title = title.replace("\n\n", f"\n\n{badge(stamped, '01_clean.ipynb')}\n\n")
    cells = [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": title},
        code("setup", 1, setup_cell(stamped), [], tags=["remove-cell"]),
        code("sum", 2, "print(1 + 1)", [printed("2\n")]),
        code("picture", 3, "draw()", [shown(png=PIXEL, text="<Figure>")], mystnb=about),
    ]
    kept = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    return {"cells": cells, "metadata": kept, "nbformat": 4, "nbformat_minor": 5}


def broken(where, key, value):
    def breaks(notebook):
        target = notebook if where is None else notebook["cells"][where]
        target[key] = value

    return breaks


TITLE, SETUP, SUM, PICTURE = range(4)


def formula(text):
    """Breaks the title's text by a formula, the line of minutes kept."""
    return lambda notebook: notebook["cells"][TITLE].update(
        source=notebook["cells"][TITLE]["source"] + f"\n\n${text}$"
    )


IGNORED = {"tags": ["nbval-ignore-output"]}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
BROKEN = {
    "nbformat 4.4": broken(None, "nbformat_minor", 4),
    "without an id": lambda nb: nb["cells"][SUM].pop("id"),
    "with one id": broken(SUM, "id", "picture"),
    "metadata ['widgets']": lambda nb: nb["metadata"].update(widgets={}),
    "metadata ['execution']": broken(SUM, "metadata", {"execution": {}}),
    "tags ['nbval-skip']": broken(SUM, "metadata", {"tags": ["nbval-skip"]}),
    "kernelspec": lambda nb: nb["metadata"]["kernelspec"].update(name="conda-env-x"),
    "language_info": lambda nb: nb["metadata"]["language_info"].update(version="3.11.7"),
    "execution counts [1, None, 3]": broken(SUM, "execution_count", None),
    "execution counts [1, 7, 3]": broken(SUM, "execution_count", 7),
    "stderr": broken(SUM, "outputs", [printed("careful\n") | {"name": "stderr"}]),
    "no tag expects": broken(SUM, "outputs", [ERROR]),
    "dead widget": broken(SUM, "outputs", [shown(text="w", dead={"model_id": "1"})]),
    "machine in its output": broken(SUM, "outputs", [printed("/home/ada/x.py\n")]),
    "machine in its source": broken(SUM, "source", "open('/tmp/x')"),
    "empty": broken(SUM, "source", " "),
    "semicolon": broken(SUM, "source", "plot();"),
    "interact": broken(SUM, "source", "interact(f, x=3)"),
    "nbval comment": broken(SUM, "source", "# NBVAL_SKIP\nprint(2)"),
    "asserts nothing": broken(SUM, "metadata", IGNORED),
    "timing": broken(SUM, "source", "start = perf_counter()"),
    "imports that no tag": broken(SUM, "source", "from math import (\n    sin,\n)\nimport json"),
    "plots or a figure, but": broken(SUM, "source", "x = 1\nplt.show()"),
    "a figure, but no tag folds": broken(SUM, "source", "guess('Why?', ['a', 'b'])"),
    "use U_q": formula(r"q = x\,W_q"),
    "use U_q, U_k": formula(r"W^{\mathrm{K}}"),
    "use \\tau": formula(r"e^{s_j / T}"),
    "use \\tau, the": formula(r"\frac{x_i \cdot x_j}{T}"),
    "P is the table": formula(r"A_{ij} P_{ij}"),
    "use K": formula(r"k \times k"),
    "use \\beta": formula(r"w_{i-j} = s\,e^{-1}"),
    "use \\gamma": formula(r"c\, x_i^\top x_j"),
    "line of 77": broken(SUM, "source", "x = " + "1" * 73),
    "line of 80": broken(SUM, "outputs", [printed("x" * 80 + "\n")]),
    "line of 90": broken(TITLE, "source", "# A title\n\n```python\n" + "x" * 90 + "\n```"),
    "not a PNG": broken(PICTURE, "outputs", [shown(svg="<svg/>", text="s")]),
    "mystnb.image.alt": broken(PICTURE, "metadata", {"mystnb": {"figure": {"caption": "c"}}}),
    "mystnb.figure.caption": broken(
        PICTURE, "metadata", {"mystnb": {"image": {"alt": "A matrix of four cells, one dark"}}}
    ),
    "without alt text": broken(TITLE, "source", "# A title\n\n![](x.png)"),
    "picture without alt": broken(TITLE, "source", '# A title\n\n<img src="x.png">'),
    "MyST": broken(TITLE, "source", "# A title\n\n```{note}\nx\n```"),
    "3004 words": broken(TITLE, "source", "# A title\n\n" + "word " * 3002),
    "3007 words": broken(TITLE, "source", "# A title\n\n`a <= b` " + "word " * 3001 + "`a > b`"),
    "41 code cells": lambda nb: nb["cells"].extend(
        copy.deepcopy(nb["cells"][SUM]) | {"id": f"more{n}", "execution_count": n}
        for n in range(4, 42)
    ),
    "set-up cell as": broken(SETUP, "source", "import coatnet_mini"),
    "set-up cell has": broken(SETUP, "outputs", [printed("ready\n")]),
    "start with the title": broken(TITLE, "source", "A title"),
    "badges": broken(TITLE, "source", "# A title\n\n[Open in Colab](elsewhere)\n"),
    "1,0": broken(SUM, "outputs", [printed("x\n" * 500_000)]),
}


def write(path, notebook):
    """As nbformat writes it, which would mend ids if it were asked to."""
    lines = split_lines(nbformat.from_dict(notebook))
    text = json.dumps(lines, ensure_ascii=False, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def test_letters_of_the_notation_are_no_fault(tmp_path):
    notebook, path = clean(), tmp_path / "01_clean.ipynb"
    table = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (\$.*?\$) \|", table, re.M):
        notebook["cells"][TITLE]["source"] += f"\n\n{row} and $f(Tx) = T f(x)$, $x_i / \\tau$"
    write(path, notebook)
    assert faults(path) == []


def test_clean_notebook_has_no_fault(tmp_path):
    path = tmp_path / "01_clean.ipynb"
    write(path, clean())
    assert faults(path) == []


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_notebook_has_its_fault(tmp_path, fault):
    notebook, path = clean(), tmp_path / "01_clean.ipynb"
    BROKEN[fault](notebook)
    write(path, notebook)
    found = faults(path)
    assert any(fault in line for line in found), found


def test_hand_edited_form_is_a_fault(tmp_path):
    path = tmp_path / "01_clean.ipynb"
    write(path, clean())
    path.write_text(path.read_text().replace("\n ", "\n    "))
    assert faults(path) == ["not in the form in which `make chapters` writes it"]


# ---- The tree ----------------------------------------------------------------------------------


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_large():
    def limit(path: Path) -> int:  # a trained network may take two megabytes
        return 2 * BYTES if path.suffix == ".safetensors" else BYTES

    mine = [p for p in tracked() if "book/vendor" not in str(p)]
    assert [p for p in mine if p.stat().st_size > limit(p)] == []


def test_no_file_points_out_of_the_tree():
    words = ("../" + "shared", "/work/" + "shared", "/work/" + "main")
    mine = [p for p in tracked() if "book/vendor" not in str(p)]
    found = [p.name for p in mine if any(word.encode() in p.read_bytes() for word in words)]
    assert found == []
