"""Checks for the exercises: `check("1.1", my_function)` says how far an answer is.

It prints "not attempted yet", "passed", or the first case that fails, with a hint. The hint is keyed
to the mistake: each exercise lists plausible wrong answers as functions, and an answer that gives
the same results as one of them, in every case, has made that mistake. Expected values always come
from the exercise's own reference, never from the reader's function.

The exercises of chapter NN are the list `EXERCISES` in `coatnet_mini.exercises.chNN`.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that readers are likely to give, and the hint that leads out of it."""

    hint: str
    answer: Callable


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number, the reference, the inputs to try, and the mistakes to recognise."""

    number: str  # "1.2": the second exercise of chapter 1
    reference: Callable  # takes one case as keyword arguments
    cases: Callable[[torch.Generator], Sequence[dict]]  # small legible cases first, then random ones
    mistakes: Sequence[Mistake] = ()
    tolerance: float = 1e-10  # the inputs are float64
    show: bool = True  # whether small results are printed when a case fails


def check(number: str, answer: Callable) -> None:
    """Print the verdict on `answer`, the reader's function for exercise `number` ("1.2")."""
    print(f"Exercise {number}: {verdict(find(number), answer)}")


def find(number: str) -> Exercise:
    """The exercise called `number`, such as "1.2"."""
    chapter = number.split(".")[0]
    try:
        module = importlib.import_module(f"coatnet_mini.exercises.ch{int(chapter):02d}")
        return next(exercise for exercise in module.EXERCISES if exercise.number == number)
    except (ValueError, ModuleNotFoundError, StopIteration):
        raise ValueError(f'there is no exercise {number!r}: numbers look like "1.2"') from None


def verdict(exercise: Exercise, answer: Callable) -> str:
    """ "not attempted yet", "passed (...)", or the first failing case with a hint."""
    if not callable(answer):
        return f"give the function itself, without calling it (got {type(answer).__name__})."
    cases = exercise.cases(torch.Generator().manual_seed(0))
    expected = [exercise.reference(**case) for case in cases]
    for case, right in zip(cases, expected, strict=True):
        given, error = _call(answer, case)
        if given is None and error is None:
            return "not attempted yet."
        fault = error or _fault(given, right, case, exercise)
        if fault:
            hint = _hint(exercise, answer, cases)
            return f"not yet. With {_describe(case)}: {fault}" + (f"\n  Hint: {hint}" if hint else "")
    return f"passed ({len(cases)} cases)."


def _call(answer: Callable, case: dict) -> tuple[object, str | None]:
    """The answer's result on a copy of `case`, or None and what went wrong."""
    copy = {k: v.clone() if isinstance(v, Tensor) else v for k, v in case.items()}
    try:
        result = answer(**copy)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        return None, f"your function stopped with {type(error).__name__}: {first_line}"
    for name, value in case.items():
        if isinstance(value, Tensor) and not torch.equal(value, copy[name]):
            return result, f"your function changed its input {name}; work on a copy."
    return result, None


def _fault(given: object, right: object, case: dict, exercise: Exercise) -> str | None:
    """What is wrong with the result `given`, or None."""
    if not isinstance(right, Tensor):
        return None if given == right else f"expected {right}, got {given}."
    if not isinstance(given, Tensor):
        return f"expected a tensor, got {type(given).__name__}."
    if given.shape != right.shape:
        return f"expected shape {tuple(right.shape)}, got {tuple(given.shape)}."
    if any(isinstance(value, Tensor) for value in case.values()) and given.dtype != right.dtype:
        kinds = (str(right.dtype)[6:], str(given.dtype)[6:])
        return f"expected {kinds[0]} like the input, got {kinds[1]}: create tensors in x's dtype."
    if not bool(torch.isfinite(given).all()):
        return "the result has NaN or infinity."
    gap = (given.double() - right.double()).abs()
    if gap.numel() == 0 or float(gap.max()) <= exercise.tolerance:
        return None
    if exercise.show and right.numel() <= 25:
        return f"expected\n{_table(right)}\n  got\n{_table(given)}"
    place = tuple(int(k) for k in torch.unravel_index(gap.argmax(), gap.shape))
    return f"at {list(place)} expected {float(right[place]):.6g}, got {float(given[place]):.6g}."


def _hint(exercise: Exercise, answer: Callable, cases: Sequence[dict]) -> str | None:
    """The hint of the one listed mistake that gives what `answer` gives in every case."""
    results = [_call(answer, case) for case in cases]
    for mistake in exercise.mistakes:
        wrong = [_call(mistake.answer, case) for case in cases]
        if all(_same(a, b) for a, b in zip(results, wrong, strict=True)):
            return mistake.hint
    return None


def _same(a: tuple[object, str | None], b: tuple[object, str | None]) -> bool:
    """Whether two outcomes of `_call` agree: the same values, or both errors of one kind."""
    (left, left_error), (right, right_error) = a, b
    if left_error or right_error:
        return bool(left_error and right_error) and left_error.split(":")[0] == right_error.split(":")[0]
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.allclose(
            left.double(), right.double(), rtol=1e-6, atol=1e-8, equal_nan=True
        )
    return type(left) is type(right) and left == right


def _describe(case: dict) -> str:
    """The case in words: numbers as they are, tensors by shape."""
    return ", ".join(
        f"{name} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name} = {value!r}"
        for name, value in case.items()
    )


def _table(tensor: Tensor) -> str:
    """A small tensor as indented rows of short numbers."""
    rows = tensor.detach().reshape(-1, tensor.shape[-1] if tensor.ndim else 1).tolist()
    return "\n".join("    " + " ".join(f"{float(value):6.4g}" for value in row) for row in rows)
