"""What an audit says: one line for each check, and the line that says why it matters."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

PASSED, FAILED, UNKNOWN = "passed", "failed", "cannot tell"
MARKS = {PASSED: "+", FAILED: "✗", UNKNOWN: "?"}


@dataclass(frozen=True)
class Result:
    """One check: its name, "passed", "failed" or "cannot tell", what was found, why it matters."""

    check: str
    status: str
    found: str
    why: str

    def __str__(self) -> str:
        return f"{MARKS[self.status]} {self.check:12} {self.found}"


@dataclass(frozen=True)
class Report:
    """The results of all checks, in the order of the network."""

    results: tuple[Result, ...]

    def __getitem__(self, check: str) -> Result:
        return next(result for result in self.results if result.check == check)

    def named(self, status: str) -> list[str]:
        return [result.check for result in self.results if result.status == status]

    @property
    def failed(self) -> list[str]:
        return self.named(FAILED)

    @property
    def passed(self) -> list[str]:
        return self.named(PASSED)

    @property
    def unknown(self) -> list[str]:
        return self.named(UNKNOWN)

    def counts(self) -> str:
        parts = {PASSED: self.passed, FAILED: self.failed, UNKNOWN: self.unknown}
        return ", ".join(f"{len(names)} {status}" for status, names in parts.items())

    def __str__(self) -> str:
        """Every check; under what failed, why it matters."""
        lines = []
        for result in self.results:
            lines += textwrap.wrap(str(result), 76, subsequent_indent=" " * 15)
            if result.status == FAILED:
                lines += textwrap.wrap(
                    result.why, 76, initial_indent=" " * 15, subsequent_indent=" " * 15
                )
        return "\n".join([*lines, self.counts()])

    __repr__ = __str__
