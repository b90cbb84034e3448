"""Cells of a chapter, run in this process: each with the earlier cells that it needs, no others.

That a whole chapter gives what it stores is strict nbval's business. Here single cells are run
again, with the package as it is or with a mistake in it.
"""

import ast
import contextlib
import dis
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from unittest import mock

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
from IPython.lib.pretty import pretty
from nbval.plugin import get_sanitize_patterns

import coatnet_mini.explore as explore_module
from coatnet_mini.explore import live
from conftest import figures
from tests import ROOT

mpl.use("agg")

PATTERNS = get_sanitize_patterns((ROOT / "tests" / "nbval_sanitize.cfg").read_text("utf-8"))
READS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}


@dataclass
class Cell:
    """A code cell with what it stores, and the names it takes from and leaves to other cells."""

    id: str
    source: str
    text: str  # printed, then the value of its last expression
    specs: list[str]  # of its explorable figures
    reads: set[str]
    binds: set[str]
    functions: dict[str, set[str]]  # the names that each function defined here reads when called


@dataclass
class Ran:
    """What a cell did when it was run here."""

    text: str
    made: list  # [(figure, the function it evaluates)]
    error: Exception | None


def reads_of(code: CodeType) -> set[str]:
    """The global names that a function reads, and those defined inside it."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in READS}
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return found.union(*map(reads_of, inner))


def names(source: str) -> tuple[set[str], set[str], dict[str, set[str]]]:
    """`reads`, `binds` and `functions` of a Cell."""
    reads, binds, code = set(), set(), compile(source, "cell", "exec")
    for step in dis.get_instructions(code):
        if step.opname in READS and step.argval not in binds:
            reads.add(step.argval)
        elif step.opname == "STORE_NAME":
            binds.add(step.argval)
    functions = {}
    for inner in (const for const in code.co_consts if isinstance(const, CodeType)):
        reads |= reads_of(inner) - binds
        if inner.co_name in binds:  # not a comprehension or a lambda
            functions.setdefault(inner.co_name, set()).update(reads_of(inner))
    return reads, binds, functions


def sanitized(text: str) -> str:
    """`text` without what strict nbval lets pass."""
    for pattern, replacement in PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text


def stored_text(cell) -> str:
    printed = [o.text for o in cell.outputs if o.output_type == "stream"]
    values = [o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result"]
    return sanitized("".join(printed + values))


@cache
def cells_of(chapter: Path) -> list[Cell]:
    """The code cells, without the set-up cell and those whose output nbval does not compare."""
    found = []
    for cell in nbformat.read(chapter, as_version=4).cells:
        tags = {"raises-exception", "nbval-ignore-output"} & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and cell.id != "setup" and not tags:
            stored = stored_text(cell), figures(cell.outputs)
            found.append(Cell(cell.id, cell.source, *stored, *names(cell.source)))
    return found


def needed(cells: list[Cell], wanted: set[str]) -> list[Cell]:
    """The cells with the ids `wanted` and all that they build on, in the chapter's order."""
    functions = {name: reads for cell in cells for name, reads in cell.functions.items()}
    kept, missing = [], set()
    for cell in reversed(cells):
        if cell.id in wanted or cell.binds & missing:
            kept.append(cell)
            missing = missing - cell.binds | cell.reads
            while more := set().union(*(functions.get(n, ()) for n in missing)) - missing:
                missing |= more
    return kept[::-1]


def execute(cell: Cell, namespace: dict) -> tuple[str, Exception | None]:
    """Run one cell in `namespace`, as a notebook would: what it printed and returned, its error."""
    out, body = io.StringIO(), ast.parse(cell.source).body
    last = [body.pop()] if isinstance(body[-1], ast.Expr) else []  # its value is shown

    def show(value):
        if value is not None:
            out.write(pretty(value))

    with contextlib.redirect_stdout(out), mock.patch.object(sys, "displayhook", show):
        try:
            exec(compile(ast.Module(body, []), cell.id, "exec"), namespace)
            exec(compile(ast.Interactive(last), cell.id, "single"), namespace)
        except Exception as error:
            return sanitized(out.getvalue()), error
        finally:
            plt.close("all")
    return sanitized(out.getvalue()), None


def run(chapter: Path, wanted: set[str]) -> Iterator[tuple[Cell, Ran]]:
    """Run the cells `wanted` and what they need, in a namespace of their own."""
    namespace, made, explore = {"__name__": "__main__"}, [], explore_module.explore

    def recording(function, title, **axes):
        figure = explore(function, title, **axes)
        made.append((figure, function))
        return figure

    def recording_live(make):
        def recording(*arguments, **options):
            figure = make(*arguments, **options)
            made.append((figure, figure.function))
            return figure

        return recording

    with mpl.rc_context(), contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(explore_module, "explore", recording))
        for name in ("live_heads", "live_network", "live_silence"):
            instead = recording_live(getattr(live, name))
            patches.enter_context(mock.patch.object(live, name, instead))
        for cell in needed(cells_of(chapter), wanted):
            before = len(made)
            text, error = execute(cell, namespace)
            yield cell, Ran(text, made[before:], error)


@cache
def figures_of(chapter: Path) -> list:
    """[(figure, the function it evaluates)] of the chapter's explorables, computed now."""
    wanted, found = {cell.id for cell in cells_of(chapter) if cell.specs}, []
    for cell, ran in run(chapter, wanted):
        if ran.error:
            raise ran.error
        found += ran.made if cell.id in wanted else []
    return found


def stored_specs(chapter: Path) -> list[str]:
    """The explorables' data as the notebook holds them, in order."""
    return [spec for cell in cells_of(chapter) for spec in cell.specs]
