"""All small mistakes that can be made in a Python file, each as one replacement of its text."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
LOGIC = {ast.And: ("and", "or"), ast.Or: ("or", "and")}


@dataclass(frozen=True)
class Mutation:
    """`new` in place of the bytes `start` to `end` of a file, whose line numbers are `lines`."""

    file: str
    lines: tuple[int, ...]
    start: int
    end: int
    old: str
    new: str
    code: str  # the first of the lines, to know the mutation by when lines move
    nth: int = 1  # of the same change in one line of code

    def apply(self, source: str) -> str:
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()

    @property
    def change(self) -> str:
        """In one line: `1 → 2`, or `1 → 2 (2)` where the line has a second 1."""
        text = " ".join(f"{self.old} → {self.new}".split())
        return text if self.nth == 1 else f"{text} ({self.nth})"


class _Finder:
    """Collects (start, end, new) for every node of a file's syntax tree."""

    def __init__(self, source: str, of_exercises: bool = False):
        self.of_exercises = of_exercises
        self.data, self.starts = source.encode(), [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[tuple]:
        """Replace the operator that stands between two operands."""
        low, high = self.span(left)[1], self.span(right)[0]
        gap = self.data[low:high].decode()
        pattern = r"\s+".join(map(re.escape, old.split()))
        if "#" not in gap and (found := re.search(pattern, gap)):
            start = low + len(gap[: found.start()].encode())
            yield start, start + len(found[0].encode()), new

    def walk(self, node: ast.AST) -> Iterator[tuple]:
        if self.of_exercises and isinstance(node, ast.FunctionDef) and draws_inputs(node):
            return
        yield from self.of(node)
        for name, field in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params"):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.keyword) and child.arg == "strict":
                    continue  # zip's: it says what is so, for who reads
                # What a message says is no behaviour.
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Raise):
                    yield from self.walk(child)
                elif isinstance(child, ast.Raise):
                    yield from self.of(child)

    def of(self, node: ast.AST) -> Iterator[tuple]:
        """The mistakes that can be made at this very node."""
        match node:
            case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
                yield from self.between(left, right, *ARITHMETIC[type(operator)])
            case ast.AugAssign(target, operator, value) if type(operator) in ARITHMETIC:
                old, new = ARITHMETIC[type(operator)]
                yield from self.between(target, value, f"{old}=", f"{new}=")
            case ast.Compare(left, operators, right):
                for a, operator, b in zip([left, *right], operators, right, strict=False):
                    yield from self.between(a, b, *COMPARISONS[type(operator)])
            case ast.BoolOp(operator, values):
                for a, b in pairwise(values):
                    yield from self.between(a, b, *LOGIC[type(operator)])
            case ast.UnaryOp(ast.Not() | ast.USub(), operand):
                yield *self.span(node), f"({self.text(operand)})"
            case ast.If(test) | ast.IfExp(test):
                yield *self.span(test), f"(not ({self.text(test)}))"
            case ast.Return(ast.AST() as value) if not isinstance(value, ast.Constant):
                yield *self.span(value), "None"
            case ast.Raise() | ast.Expr(ast.Call()):
                yield *self.span(node), "pass"
            case ast.Constant(value):
                if (new := _other(value)) is not None:
                    yield *self.span(node), new


def draws_inputs(function: ast.FunctionDef) -> bool:
    """Which inputs an exercise is tried on is free: another number there is no mistake."""
    return "rng" in [argument.arg for argument in function.args.args]


def _other(value: object) -> str | None:
    """Another constant of the same kind; None for what has none."""
    match value:
        case bool():
            return str(not value)
        case int():
            return str(value + 1)
        case float():
            return repr(2 * value if value else 1.0)
        case str() if value.isidentifier():
            return repr(value + "_")
    return None


def mutations(source: str, file: str = "") -> list[Mutation]:
    """Every mutation of `source`, in the order of the text."""
    finder = _Finder(source, "/exercises/" in file)
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    tree = _Without(docstrings).visit(tree)
    text, seen, found = source.splitlines(), Counter(), []
    for start, end, new in sorted(set(finder.walk(tree))):
        old = finder.data[start:end].decode()
        first = finder.data[:start].count(b"\n")
        lines = tuple(range(first + 1, first + 2 + old.count("\n")))
        mutation = Mutation(file, lines, start, end, old, new, text[first].strip())
        seen[mutation.code, mutation.change] += 1
        found.append(replace(mutation, nth=seen[mutation.code, mutation.change]))
    return found


class _Without(ast.NodeTransformer):
    def __init__(self, gone: set[int]):
        self.gone = gone

    def visit_Expr(self, node):
        return None if id(node.value) in self.gone else self.generic_visit(node)
