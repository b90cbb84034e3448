"""Guess, then see: a question whose outcome a cell computes, and that the reader answers first.

    guess(
        "Which mends the roof best?",
        ["blur", "attention", "both"],
        answer=max(psnr, key=psnr.get),
        because=f"{psnr['both']:.1f} dB, against {psnr['blur']:.1f} for the blur",
    )

It is HTML without a script: each option unfolds into its verdict and the reason. So it is the
same in Jupyter, in Colab and on a page, works by keyboard, and keeps nothing about the reader.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INLINE = ("b", "i", "em", "strong", "code", "sub", "sup")
TAG = re.compile(rf"<(/?)({'|'.join(INLINE)})>")
ESCAPED = re.compile(rf"&lt;(/?)({'|'.join(INLINE)})&gt;")
# Greys with alpha and the colour of the text around it: legible on any background.
STYLE = """
.cm-guess { border: 1px solid #8888; border-radius: 8px; padding: .6em 1em .7em; margin: 1em 0;
  max-width: 44em; font-size: 1rem; line-height: 1.5 }
.cm-guess p { margin: .2em 0 .5em }
.cm-guess details { border: 1px solid #8886; border-radius: 6px; margin: .35em 0; padding: 0 .8em }
.cm-guess details[open] { background: #8881; border-color: #888 }
.cm-guess summary { cursor: pointer; padding: .35em 0; min-height: 24px }
.cm-guess details[open] summary { font-weight: 600 }
.cm-guess summary:hover { text-decoration: underline }
.cm-guess summary:focus-visible { outline: 2px solid #3a7ec9; outline-offset: 3px }
.cm-guess .cm-guess-show { border-color: transparent; font-size: .9em; margin-bottom: 0 }
"""


@dataclass(frozen=True)
class Guess:
    """What `guess` returns; shown as the last line of a cell."""

    question: str
    options: tuple[str, ...]
    answer: str
    because: str
    wrong: Mapping[str, str]

    def __repr__(self) -> str:
        options = " · ".join(self.options)
        text = f"Guess: {self.question}\n  {options}\nAnswer: {self.answer}. {self.because}"
        return TAG.sub("", text)

    def _repr_html_(self) -> str:
        asked = "\n".join((self.question, *self.options))
        name = "guess-" + hashlib.sha256(asked.encode()).hexdigest()[:8]
        found = f"The answer: <b>{html.escape(self.answer)}</b>. {inline(self.because)}"
        folds = [fold(name, option, self.verdict(option, found)) for option in self.options]
        folds.append(fold(name, "Show me", found, "cm-guess-show"))
        return (
            f'<div class="cm-guess" role="group" aria-label="Guess, then see">'
            f"<style>{STYLE}</style>\n"
            f"<p><b>Guess.</b> {inline(self.question)}</p>\n" + "\n".join(folds) + "\n</div>"
        )

    def verdict(self, option: str, found: str) -> str:
        if option == self.answer:
            return f"<b>✓ Right.</b> {inline(self.because)}"
        why = f"{inline(self.wrong[option])} " if option in self.wrong else ""
        return f"<b>✗ Not this one.</b> {why}{found}"


def guess(
    question: str,
    options: Sequence,
    *,
    answer: Any,
    because: str,
    wrong: Mapping[Any, str] | None = None,
) -> Guess:
    """A question with two to four options, to be answered before the outcome is shown.

    Args:
        question: what to predict, in one sentence.
        options: two to four strings or numbers.
        answer: what the cell computed: one of the options, or the place of one, counted from 0.
        because: the reason, with the numbers that decide it. Text; the tags b, i, em, strong,
            code, sub and sup are kept, everything else is shown as it is written.
        wrong: why not, for some of the other options.

    Raises:
        ValueError: in one line, for too few, too many or equal options, an answer that is none
            of them, a reason for no option, or TeX, which no page sets inside an output.
    """
    labels = tuple(str(option) for option in options)
    if isinstance(options, str) or not 2 <= len(labels) <= 4:
        raise ValueError(f"a guess has two to four options, not {options!r}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"two options are the same: {', '.join(labels)}")
    right = label_of(answer, labels)
    wrong = {str(option): why for option, why in (wrong or {}).items()}
    for option in wrong:
        if option not in labels or option == right:
            others = ", ".join(label for label in labels if label != right)
            raise ValueError(f"wrong= explains {option!r}; the other options are {others}")
    for text in (question, because, *wrong.values()):
        check_text(text)
    return Guess(question, labels, right, because, wrong)


def label_of(answer: Any, labels: tuple[str, ...]) -> str:
    """The label of `answer`, which is an option or a place."""
    answer = answer.item() if hasattr(answer, "item") else answer  # of torch, of NumPy
    if str(answer) in labels:
        return str(answer)
    if type(answer) is not int or not 0 <= answer < len(labels):
        raise ValueError(f"answer is {answer!r}; choose one of {', '.join(labels)}, or its place")
    return labels[answer]


def check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("the question and every reason need some words")
    if "$" in text:
        raise ValueError(f"TeX is not set here; write x<sub>i</sub> for it: {text!r}")
    opened = []
    for closing, tag in TAG.findall(text):
        if not closing:
            opened.append(tag)
        elif not opened or opened.pop() != tag:
            raise ValueError(f"</{tag}> closes no <{tag}>: {text!r}")
    if opened:
        raise ValueError(f"<{opened[-1]}> is not closed: {text!r}")


def inline(text: str) -> str:
    """HTML of the text: the few tags of INLINE stay tags, everything else is escaped."""
    return ESCAPED.sub(r"<\1\2>", html.escape(text, quote=False))


def fold(name: str, summary: str, content: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return (
        f'<details name="{name}"{kind}><summary>{html.escape(summary)}</summary>'
        f"<p>{content}</p></details>"
    )
