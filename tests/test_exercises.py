"""Every exercise of every chapter: its solution as printed passes, wrong answers get their hint.

The solutions are taken from the notebooks, the wrong answers from `wrong_answers/chNN.py` (written
as a reader might, not with the package's own mistakes).
"""

import importlib.util
import re
from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

from coatnet_mini.attention import MultiHeadAttention
from coatnet_mini.audit.defects import SMALL, of_kind
from coatnet_mini.exercises import Exercise, Mistake, check, find, verdict
from coatnet_mini.exercises.ch17 import suspect
from tests import CHAPTERS

HERE = Path(__file__).parent
HEADING = re.compile(r"^### Exercise (\d+\.\d+) · \S.*$", re.M)
EFFORT = re.compile(r"^difficulty [1-5] of 5 · \d+ min$", re.M | re.I)
CHECK = re.compile(r'^check\("([^"]+)", (\w+)\)$', re.M)
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.S)


def parse(path):
    """{number: {"statement", "stub", "name", "solution"}} of one notebook, and its import cell."""
    cells = nbformat.read(path, as_version=4).cells
    imports = next(c.source for c in cells if c.id.endswith("imports"))
    exercises, current, last_code = {}, None, ""
    for cell in cells:
        if cell.cell_type == "markdown":
            if heading := HEADING.search(cell.source):
                current = exercises[heading[1]] = {"statement": cell.source, "solution": ""}
            if current is not None:
                current["solution"] += "".join(SOLUTION.findall(cell.source))
        else:
            if found := CHECK.search(cell.source):
                exercises[found[1]].update(stub=last_code, name=found[2], printed=str(cell.outputs))
            last_code = cell.source
    return exercises, imports


PARSED = {path: parse(path) for path in CHAPTERS}
PRINTED = [
    pytest.param(number, parts, imports, id=number)
    for exercises, imports in PARSED.values()
    for number, parts in exercises.items()
]


def wrong_answers():
    for path in sorted((HERE / "wrong_answers").glob("ch[0-9][0-9].py")):
        spec = importlib.util.spec_from_file_location(f"wrong_answers_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for number, answers in module.WRONG.items():
            for k, (answer, words) in enumerate(answers):
                yield pytest.param(number, answer, words, id=f"{number}-{k}")


WRONG = list(wrong_answers())
EXERCISES = [find(p.id) for p in PRINTED]


def function(source, name, imports):
    """The function `name` that `source` defines, after the chapter's import cell."""
    namespace = {}
    exec(imports, namespace)
    exec(source, namespace)
    return namespace[name]


def test_every_chapter_has_exercises_and_none_is_missing():
    assert CHAPTERS, "no chapters found"
    for path, (exercises, _) in PARSED.items():
        chapter = int(path.name[:2])
        expected = [f"{chapter}.{k + 1}" for k in range(len(exercises))]
        assert exercises, f"{path.name} has no exercise"
        assert list(exercises) == expected, path.name
        module = importlib.import_module(f"coatnet_mini.exercises.ch{chapter:02d}")
        assert [e.number for e in module.EXERCISES] == expected, path.name


@pytest.mark.parametrize(("number", "parts", "imports"), PRINTED)
def test_exercise_has_the_anatomy(number, parts, imports):
    assert EFFORT.search(parts["statement"]), "difficulty and minutes are missing"
    assert "not attempted yet" in parts["printed"]
    assert f"Exercise {number}" in parts["printed"]
    assert "->" in parts["stub"].split("\n")[0] + parts["stub"], "the stub has no types"
    assert verdict(find(number), function(parts["stub"], parts["name"], imports)) == (
        "not attempted yet."
    )


@pytest.mark.parametrize(("number", "parts", "imports"), PRINTED)
def test_the_printed_solution_passes(number, parts, imports):
    assert parts["solution"], "no solution in the notebook"
    solution = function(parts["solution"], parts["name"], imports)
    assert verdict(find(number), solution).startswith("passed")


def test_every_exercise_has_a_wrong_answer():
    assert {p.id for p in PRINTED} == {p.id.split("-")[0] for p in WRONG}


@pytest.mark.parametrize(("number", "answer", "words"), WRONG)
def test_wrong_answer_gets_its_hint(number, answer, words):
    text = verdict(find(number), answer)
    assert text.startswith("not yet."), text
    assert words in text, text


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_each_listed_mistake_fails_with_its_own_hint(exercise):
    assert exercise.mistakes
    for mistake in exercise.mistakes:
        assert verdict(exercise, mistake.answer).endswith(f"Hint: {mistake.hint}")


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_every_listed_mistake_is_known_by_an_answer_that_was_written_apart(exercise):
    numbered = [replace(m, hint=f"mistake {k}") for k, m in enumerate(exercise.mistakes)]
    numbered = replace(exercise, mistakes=numbered)
    answers = [p.values[1] for p in WRONG if p.values[0] == exercise.number]
    told = {verdict(numbered, answer).rpartition("Hint: ")[2] for answer in answers}
    assert {m.hint for m in numbered.mistakes} <= told


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_cases_are_reproducible_float64_and_not_all_square(exercise):
    first, again = (exercise.cases(torch.Generator().manual_seed(0)) for _ in range(2))
    assert len(first) >= 3
    shapes = set()
    for a, b in zip(first, again, strict=True):
        for left, right in zip(a.values(), b.values(), strict=True):
            if isinstance(left, torch.Tensor):
                assert torch.equal(left, right)
                assert left.dtype == torch.float64
                shapes.add(tuple(left.shape))
            else:
                assert left == right
                shapes.add(left)
    assert len(shapes) > 1


def test_check_prints_one_verdict(capsys):
    check("1.1", lambda n: None)
    assert capsys.readouterr().out == "Exercise 1.1: not attempted yet.\n"
    check("1.1", find("1.1").reference)
    assert capsys.readouterr().out.startswith("Exercise 1.1: passed (")
    check("1.1", torch.eye(3))
    assert "the function itself" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["1.99", "99.1", "one", ""])
def test_unknown_exercise_is_named(number):
    with pytest.raises(ValueError, match="there is no exercise"):
        check(number, lambda: None)


def test_float32_will_do_where_no_input_dictates_a_dtype():
    for number in ("1.1", "1.4"):
        right = find(number).reference
        for noise, word in ((0.0, "passed"), (1.5e-6, "not yet.")):

            def answer(right=right, noise=noise, **case):
                return (right(**case) + noise).float()

            assert verdict(find(number), answer).startswith(word)


@pytest.mark.parametrize(
    ("number", "tolerance"), [("2.1", 1e-10), ("3.2", 1e-6), ("5.2", 1e-8), ("5.3", 1e-7)]
)
def test_answers_within_the_tolerance_pass_and_no_others(number, tolerance):
    right = find(number).reference
    assert verdict(find(number), lambda **case: right(**case) + 0.9 * tolerance).startswith(
        "passed"
    )
    assert verdict(find(number), lambda **case: right(**case) + 1.1 * tolerance).startswith(
        "not yet"
    )


def test_images_of_chapter_2_are_not_square():
    for number in ("2.1", "2.2", "2.3"):
        for case in cases(number):
            H, W = case["x"].shape[2:] if "x" in case else (case["height"], case["width"])
            assert H != W


def given_back(x, mistakes=(), tolerance=1e-10):
    """An exercise whose right answer is its input."""
    cases = [{"x": torch.as_tensor(x, dtype=torch.float64)}]
    return Exercise("0.1", lambda x: x, lambda rng: cases, mistakes, tolerance)


@pytest.mark.parametrize(
    ("exercise", "answer", "text"),
    [
        (given_back([1, 2]), lambda x: x, "passed (1 cases)."),
        (given_back([1, 2], tolerance=0.5), lambda x: x - 0.5, "passed (1 cases)."),
        (
            given_back([[1, 20], [3, 4]]),
            lambda x: x.flip(0),
            "not yet. With x of shape (2, 2):\n  x =\n          1      20\n          3       4\n  "
            "expected\n          1      20\n          3       4\n  got\n"
            "          3       4\n          1      20",
        ),
        (
            given_back(2.5),
            lambda x: x.long(),
            "not yet. With x of shape ():\n  x =\n        2.5\n  "
            "expected torch.float64 like the input, got torch.int64.",
        ),
        (
            given_back(torch.zeros(1, 1, 2)),
            lambda x: x[0],
            "not yet. With x of shape (1, 1, 2): expected shape (1, 1, 2), got (1, 2).",
        ),
        (
            given_back(torch.ones(2, 13)),
            lambda x: x + torch.eye(2, 13),
            "not yet. With x of shape (2, 13): at [0, 0] expected 1, got 2.",
        ),
        (
            given_back(torch.full((26,), 1000.0)),
            lambda x: x + 0.09,
            "not yet. With x of shape (26,): right to 9e-02, but float64 should agree to 1e-10: "
            "did you compute in float32?",
        ),
        (
            given_back(torch.full((26,), 1000.0), tolerance=1e-6),
            lambda x: x + 0.09,
            "not yet. With x of shape (26,): right to 9e-02, but 1e-06 is asked for.",
        ),
        (
            given_back(torch.full((26,), 10_000.0)),
            lambda x: x + 1,
            "not yet. With x of shape (26,): at [0] expected 1e+04, got 1e+04.",
        ),
    ],
)
def test_the_verdict_word_for_word(exercise, answer, text):
    assert verdict(exercise, answer) == text


def test_as_many_as_25_numbers_are_shown():
    square, more = given_back(torch.zeros(5, 5)), given_back(torch.zeros(2, 13))
    table = "\n".join(5 * ["    " + " ".join(5 * ["      0"])])
    other = table.replace("0", "1")
    assert verdict(square, lambda x: x + 1) == (
        f"not yet. With x of shape (5, 5):\n  x =\n{table}\n  expected\n{table}\n  got\n{other}"
    )
    assert verdict(more, lambda x: x + 1).count("\n") == 0


@pytest.mark.parametrize(("message", "shown"), [("first\nsecond", "first"), ("", "")])
def test_what_an_answer_stops_with_is_told_in_a_line(message, shown):
    def stops(x):
        raise ValueError(message)

    text = verdict(given_back(torch.zeros(1, 26)), stops)
    told = f"your function stopped with ValueError: {shown}"
    assert text == f"not yet. With x of shape (1, 26): {told}"


def test_a_hint_is_given_to_the_same_error_and_to_the_same_kind_of_value_only():
    def stops(kind):
        def answer(x):
            raise kind("no")

        return answer

    def asked(wrong, answer):
        mistakes = [Mistake("this one.", wrong)]
        exercise = Exercise("0.1", lambda x: 2, lambda rng: [{"x": 1}], mistakes)
        return verdict(exercise, answer).endswith("\n  Hint: this one.")

    assert asked(stops(ValueError), stops(ValueError))
    assert not asked(stops(ValueError), stops(TypeError))
    assert not asked(stops(ValueError), lambda x: 1)
    assert not asked(lambda x: 1, stops(ValueError))
    assert asked(lambda x: 1, lambda x: 1)
    assert not asked(lambda x: 1, lambda x: True)
    assert not asked(lambda x: 1, lambda x: 3)


def test_exercises_cannot_be_changed_by_an_answer():
    exercise = find("1.1")
    for thing, name in ((exercise, "number"), (exercise.mistakes[0], "hint")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, "another")


def test_nan_is_no_answer():
    text = verdict(find("1.1"), lambda n: torch.full((n, n), float("nan")))
    assert text.startswith("not yet.")


# ---- The references themselves, against PyTorch's operators -------------------------------------


def cases(number):
    return find(number).cases(torch.Generator().manual_seed(1))


def test_reference_1_4_is_average_pooling_that_leaves_padding_out():
    for case in cases("1.4"):
        height, width, radius = case.values()
        x = torch.randn(1, 1, height, width, dtype=torch.float64)
        y = F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)
        torch.testing.assert_close(find("1.4").reference(**case) @ x.flatten(), y.flatten())


@pytest.mark.parametrize(("height", "width", "k"), [(4, 5, 3), (5, 5, 5)])
def test_reference_2_2_returns_the_kernel_that_made_the_matrix(height, width, k):
    kernel, N = torch.randn(k, k, dtype=torch.float64), height * width
    basis = torch.eye(N, dtype=torch.float64).view(N, 1, height, width)
    W = F.conv2d(basis, kernel[None, None], padding=k // 2).view(N, N).T
    assert torch.equal(find("2.2").reference(W, height, width, k), kernel)


def test_reference_2_3_is_separable_and_keeps_the_mean_inside():
    for case in cases("2.3"):
        x, sigma, radius = case.values()
        line = torch.exp(-(torch.arange(-radius, radius + 1).to(x) ** 2) / (2 * sigma**2))
        line = (line / line.sum()).expand(x.shape[1], 1, 1, -1)
        y = F.conv2d(x, line, padding=(0, radius), groups=x.shape[1])
        y = F.conv2d(y, line.mT, padding=(radius, 0), groups=x.shape[1])
        torch.testing.assert_close(find("2.3").reference(**case), y)


def test_reference_2_4_does_what_the_two_layers_do_on_a_torus():
    for case in cases("2.4"):
        first, second = case.values()
        D = len(first)
        x = torch.randn(1, D, 7, 8, dtype=torch.float64)

        def layer(x, weight, D=D):
            x = F.pad(x, (weight.shape[-1] // 2,) * 4, mode="circular")
            return F.conv2d(x, weight[:, None], groups=D)

        once = layer(x, find("2.4").reference(**case))
        torch.testing.assert_close(once, layer(layer(x, first), second))


def test_reference_11_2_names_the_stage_whose_next_block_costs_most_by_the_count_of_11_1():
    block, sides = find("11.1").reference, range(32, 640, 32)
    for widths, side in product(((96, 192, 384, 768), (64, 80, 96, 112)), sides):
        stages = zip("CCTT", widths, (side // 4, side // 8, side // 16, side // 32), strict=True)
        costs = [block(kind, D, n) for kind, D, n in stages]
        assert find("11.2").reference("CCTT", widths, side) == costs.index(max(costs)) + 1


# ---- The network of exercise 17.4 ----------------------------------------------------------------


def test_the_suspect_is_small_but_for_its_three_mistakes():
    net = suspect()
    assert net.config == SMALL
    for stage in net.stages.values():
        layers = of_kind(stage, MultiHeadAttention)
        assert len({id(a.relative_bias_table) for a in layers}) == bool(layers)  # one for all
        for a in layers:
            torch.nn.init.normal_(a.relative_bias_table)
            sound = deepcopy(a)
            sound.__class__ = MultiHeadAttention
            for numbers in (sound.qkv.weight, sound.qkv.bias):  # whose scores are √d as large
                numbers.data[: a.out.in_features] *= a.head_dim**0.5
            x = torch.randn(2, a.grid[0] * a.grid[1], a.qkv.in_features)
            torch.testing.assert_close(a(x), sound(x))  # on a square offsets do not share biases
