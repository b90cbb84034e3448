"""The mutator: what mistakes it makes, what it calls noticed, and how it leaves the tree."""

import ast
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import ROOT
from tools import mutants
from tools.mutations import mutations

SOURCE = '''
"""A docstring of 2 lines, - and +."""

LIMIT = 3


def half(x: list[int], flip=False, kind="mean"):
    """Not 5."""
    if x is None or not x[-1] < LIMIT:
        raise ValueError(f"{x} is over {LIMIT + 1}")
    # a + b
    total = sum(x) + 2.5
    return -total // 2 if kind == "mean" else total
'''
CHANGES = """
3 → 4
False → True
"mean" → 'mean_'
x is None or not x[-1] < LIMIT → (not (x is None or not x[-1] < LIMIT))
is → is not
or → and
not x[-1] < LIMIT → (x[-1] < LIMIT)
-1 → (1)
1 → 2
< → <=
raise ValueError(f"{x} is over {LIMIT + 1}") → pass
+ → -
2.5 → 5.0
-total // 2 if kind == "mean" else total → None
-total → (total)
// → *
2 → 3
kind == "mean" → (not (kind == "mean"))
== → !=
"mean" → 'mean_'
""".strip().splitlines()


def test_every_mistake_is_made_once_and_no_other():
    found = mutations(SOURCE)
    assert sorted(m.change for m in found) == sorted(CHANGES)
    changed = {ast.dump(ast.parse(m.apply(SOURCE))) for m in found}
    assert len(changed) == len(found) and ast.dump(ast.parse(SOURCE)) not in changed
    assert all(SOURCE.splitlines()[m.lines[0] - 1].strip() == m.code for m in found)


def test_the_same_change_twice_in_a_line_is_told_apart():
    assert [m.change for m in mutations("α = [1, '→', 1]\n")] == ["1 → 2", "1 → 2 (2)"]


def test_what_spans_lines_is_of_all_of_them_and_said_in_one():
    (mutation,) = (m for m in mutations("def f(x):\n    return g(\n        x)\n") if "g(" in m.old)
    assert mutation.lines == (2, 3) and mutation.change == "g( x) → None"


def test_inputs_of_an_exercise_are_left_alone():
    source = "def _blurs(rng):\n    return [2 + 3]\n\n\ndef _blur(x):\n    return x + 1\n"
    assert {m.lines for m in mutations(source, "coatnet_mini/exercises/ch02.py")} == {(6,)}
    assert {m.lines for m in mutations(source, "coatnet_mini/shapes.py")} == {(2,), (6,)}


def test_that_lists_are_of_one_length_is_left_alone():
    assert [m.change for m in mutations("x = list(zip(a, b[1:], strict=True))\n")] == ["1 → 2"]


def test_every_mutation_of_the_package_is_python():
    found = mutants.candidates(ROOT, ["weighted_sum", "cpu/lean"])
    assert {m.file for m in found} == {
        "coatnet_mini/weighted_sum.py",
        "coatnet_mini/cpu/lean.py",
    }
    for mutation in found[::3]:
        ast.parse(mutation.apply((ROOT / mutation.file).read_text(encoding="utf-8")))


def test_an_unknown_module_is_named():
    with pytest.raises(SystemExit, match="no module attentoin; there are"):
        mutants.candidates(ROOT, ["attentoin"])


def test_equivalents_have_reasons_and_name_mutations_that_exist():
    known = {mutants.key(m) for m in mutants.candidates(ROOT, [])}
    assert mutants.equivalents().keys() <= known


def test_an_equivalent_without_a_reason_is_refused(tmp_path):
    path = tmp_path / "equivalent.txt"
    path.write_text("# comment\n\na.py ⇒ x = 1 ⇒ 1 → 2\n")
    with pytest.raises(ValueError, match=r"equivalent\.txt: not `file ⇒ code ⇒ change ⇒ reason`"):
        mutants.equivalents(path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small package: `double` is tested, `square` and `forever` are run.

    `stored` is seen in a chapter only, `lost` nowhere.
    """
    root = tmp_path / "root"
    (root / "coatnet_mini").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "coatnet_mini" / "__init__.py").write_text("")
    (root / "coatnet_mini" / "m.py").write_text(
        "def double(x):\n    return x + x\n\n\ndef square(x):\n    return x * x\n\n\n"
        "def forever(n):\n    while n > 0:\n        n -= 1\n\n\n"
        "def stored():\n    return [4]\n\n\ndef lost():\n    return [6]\n"
    )
    (root / "chapters").mkdir()
    sources = ("from coatnet_mini.m import stored", "print(stored())")
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.cells[1].update(execution_count=2, outputs=[new_output("stream", text="[4]\n")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, root / "chapters" / "01_small.ipynb")
    (root / "pytest.ini").write_text("[pytest]\naddopts = -p nbval.plugin --nbval\n")
    (root / "tests" / "test_m.py").write_text(
        "import pytest\nfrom coatnet_mini.m import double, forever, square\n\n\n"
        "@pytest.fixture(scope='module')\ndef four():\n    return double(2)\n\n\n"
        "def test_filled(four):\n    pass\n\n\ndef test_double(four):\n    assert four == 4\n\n\n"
        "def test_square():\n    square(3)\n\n\ndef test_forever():\n    forever(2)\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(mutants, "KEPT", tmp_path / "kept")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return root


def test_mutants_are_tried_in_a_copy(checkout, tmp_path, capsys):
    before = {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()}
    tree = mutants.copy_tree(tmp_path / "copy", checkout)
    measured = mutants.measure(tree)
    found = mutants.candidates(checkout, ["m"])
    tried = {m.code + ": " + m.change: m for m in found}
    wanted = {
        "return x + x: + → -": "killed",  # by a test that reads what another's fixture computed
        "return x * x: * → /": "survived",
        "return [4]: 4 → 5": "killed",  # by the chapter that prints it
        "return [6]: 6 → 7": "survived",
    }
    results = {tried[name]: mutants.attempt(tree, tried[name], measured) for name in wanted}
    assert {m.code + ": " + m.change: result for m, result in results.items()} == wanted
    (line,) = [r for r in mutants.report(results).splitlines() if r.startswith("all")]
    assert line.split() == ["all", "2", "0", "2", "0", "50.0%"]
    no_time = {"seconds": dict.fromkeys(measured["seconds"], -10.0)}
    endless = tried["n -= 1: -= → +="]
    assert mutants.attempt(tree, endless, measured | no_time) == "in time"
    assert {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()} == before
    module = "coatnet_mini/m.py"
    assert (tree / module).read_bytes() == before[checkout / module]
    assert len(list(mutants.KEPT.glob("*.json"))) == 1
    assert "once for this state" in capsys.readouterr().out
    mutants.measure(tree)
    assert capsys.readouterr().out == ""


def test_a_suite_that_fails_unmutated_is_said(checkout, tmp_path):
    (checkout / "tests" / "test_m.py").write_text("def test_no():\n    assert False\n")
    tree = mutants.copy_tree(tmp_path / "copy", checkout)
    with pytest.raises(SystemExit, match="the tests fail without any mutation"):
        mutants.measure(tree)
