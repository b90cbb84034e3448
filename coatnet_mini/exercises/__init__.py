"""Checks for the exercises: `check("1.1", my_function)` says how far an answer is.

It prints "not attempted yet", "passed", or the first case that fails, with a hint. The hint is
keyed to the mistake: each exercise lists plausible wrong answers as functions, and an answer that
gives the same results as one of them, in every case, has made that mistake. Expected values come
from the exercise's own reference, never from the reader's function.

The exercises of chapter NN are the list `EXERCISES` in `coatnet_mini.exercises.chNN`.
"""

import importlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 25  # tensors of at most so many numbers are printed in full
FREE = 1e-6  # the tolerance where no input dictates a dtype: float32 will do


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that readers are likely to give, and the hint that leads out of it."""

    hint: str
    answer: Callable


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number, its reference, the inputs to try, the mistakes to recognise."""

    number: str  # "1.2" is the second exercise of chapter 1
    reference: Callable  # takes one case as keyword arguments
    cases: Callable[[torch.Generator], Sequence[dict]]  # small legible ones first, then random
    mistakes: Sequence[Mistake]
    tolerance: float = 1e-10  # where inputs are float64; never below `FREE` where none is a tensor


def check(number: str, answer: Callable) -> None:
    """Print the verdict on `answer`, the reader's function for exercise `number` ("1.2")."""
    print(f"Exercise {number}: {verdict(find(number), answer)}")


def find(number: str) -> Exercise:
    """The exercise called `number`, such as "1.2"; ValueError if there is none."""
    try:
        chapter = int(number.split(".")[0])
        module = importlib.import_module(f"coatnet_mini.exercises.ch{chapter:02d}")
        return next(exercise for exercise in module.EXERCISES if exercise.number == number)
    except (ValueError, ModuleNotFoundError, StopIteration):
        raise ValueError(f'there is no exercise {number!r}: a number looks like "1.2"') from None


def verdict(exercise: Exercise, answer: Callable) -> str:
    """One of "not attempted yet.", "passed (n cases).", "not yet. ...", the last with a hint."""
    if not callable(answer):
        return f"not yet. Give the function itself, not its result ({type(answer).__name__})."
    cases = exercise.cases(torch.Generator().manual_seed(0))
    results = [_call(answer, case) for case in cases]
    if all(given is None and error is None for given, error in results):
        return "not attempted yet."
    for case, (given, error) in zip(cases, results, strict=True):
        right = exercise.reference(**_copy(case))
        fault = error or _fault(given, right, case, exercise.tolerance)
        if fault:
            hint = _hint(exercise, cases, results)
            return f"not yet. {_with(case)}{fault}" + (f"\n  Hint: {hint}" if hint else "")
    return f"passed ({len(cases)} cases)."


def _copy(case: dict) -> dict:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in case.items()}


def _call(answer: Callable, case: dict) -> tuple[object, str | None]:
    """The answer's result on a copy of `case`, and what went wrong (None if nothing did)."""
    copy = _copy(case)
    try:
        result = answer(**copy)
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0]
        return None, f"your function stopped with {type(error).__name__}: {message}"
    for name, value in case.items():
        if isinstance(value, Tensor) and not torch.equal(value, copy[name]):
            return result, f"your function changed its input {name}; work on a copy."
    return result, None


def _fault(given: object, right: object, case: dict, tolerance: float) -> str | None:
    """What is wrong with the result `given`, or None."""
    if not isinstance(right, Tensor):
        return None if _equal(given, right) else f"expected {_plain(right)}, got {_plain(given)}."
    if not _is_plain_tensor(given):
        return f"expected a dense tensor of real numbers, got {_plain(given)}."
    if given.shape != right.shape:
        return f"expected shape {tuple(right.shape)}, got {tuple(given.shape)}."
    free = not any(isinstance(v, Tensor) for v in case.values())
    if not free and given.dtype != right.dtype:
        return f"expected {right.dtype} like the input, got {given.dtype}."
    return _gap(given, right, max(tolerance, FREE) if free else tolerance)


def _gap(given: Tensor, right: Tensor, tolerance: float) -> str | None:
    """Where the numbers of `given` leave those of `right` by more than `tolerance`, or None."""
    given, right = given.detach().cpu().double(), right.double()
    gap = (given - right).abs()
    if bool((gap <= tolerance).all()):  # False for NaN
        return None
    if gap.max() < 1e-4 * right.abs().max():  # the printed numbers would look the same
        near = f"right to {gap.max():.0e}, but "
        if tolerance >= FREE:
            return near + f"{tolerance:g} is asked for."
        return near + f"float64 should agree to {tolerance:g}: did you compute in float32?"
    if right.numel() <= SMALL:
        return f"expected\n{_table(right)}\n  got\n{_table(given)}"
    worst = gap.nan_to_num(torch.inf).argmax()
    place = tuple(int(k) for k in torch.unravel_index(worst, gap.shape))
    return f"at {list(place)} expected {float(right[place]):.4g}, got {float(given[place]):.4g}."


def _hint(exercise: Exercise, cases: Sequence[dict], results: list) -> str | None:
    """The hint of the listed mistake that gives the reader's results in every case."""
    for mistake in exercise.mistakes:
        wrong = (_call(mistake.answer, case) for case in cases)
        if all(_same(a, b) for a, b in zip(results, wrong, strict=True)):
            return mistake.hint
    return None


def _same(a: tuple[object, str | None], b: tuple[object, str | None]) -> bool:
    """Whether two outcomes of `_call` agree: equal values, or errors of the same type."""
    (left, left_error), (right, right_error) = a, b
    if left_error or right_error:
        return str(left_error).split(":")[0] == str(right_error).split(":")[0]
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return (
            _is_plain_tensor(left)
            and _is_plain_tensor(right)
            and left.shape == right.shape
            and torch.allclose(
                left.detach().cpu().double(), right.double(), rtol=1e-5, atol=1e-6, equal_nan=True
            )
        )
    return type(left) is type(right) and _equal(left, right)


def _equal(left: object, right: object) -> bool:
    """left == right; False where that has no single answer, as for arrays."""
    try:
        return bool(left == right)
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_plain_tensor(value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return dense and not value.is_complex()


def _with(case: dict) -> str:
    """The case in words: numbers as they are, tensors by shape, small ones in full."""
    if not case:
        return ""
    words = [
        f"{k} of shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"{k} = {v!r}"
        for k, v in case.items()
    ]
    tables = [
        f"\n  {k} =\n{_table(v)}\n  "
        for k, v in case.items()
        if isinstance(v, Tensor) and v.ndim <= 2 and v.numel() <= SMALL
    ]
    return f"With {', '.join(words)}:{''.join(tables) or ' '}"


def _plain(value: object) -> str:
    """A value in one line; the order of a set does not change from run to run."""
    if isinstance(value, set):
        return "{" + ", ".join(sorted(map(repr, value))) + "}" if value else "set()"
    if isinstance(value, Tensor):
        return f"a {value.layout} tensor of {value.dtype}".replace("torch.", "")
    if callable(value) or hasattr(value, "__array__"):
        return type(value).__name__
    return textwrap.shorten(repr(value), 80, placeholder=" ...")


def _table(tensor: Tensor) -> str:
    """A small tensor as indented rows of short numbers."""
    rows = tensor.detach().reshape(-1, tensor.shape[-1] if tensor.ndim else 1).tolist()
    return "\n".join("    " + " ".join(f"{float(v):7.3g}" for v in row) for row in rows)
