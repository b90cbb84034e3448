"""What this book alone asks of Sphinx; what any book may use is `coatnet_mini.explore.sphinx_ext`.

Directives for the Markdown pages, each filled in when the page is written:

    ```{book-map}         the network, every part a link to its chapter
    ```{book-routes}      three ways through the book, with the hours that they take
    ```{book-chapters}    all chapters by part, with the minutes of each
    ```{book-exercises}   every exercise, with difficulty and minutes, a link to where it stands
    ```{book-lessons}     every figure with controls and every guess, by chapter; on this page the
                          titles of figures in italics lead there too

The map of a chapter's cell is drawn again here, so that its links lead to pages. The first time a
chapter uses a term of the glossary, the term leads there, and says what it means under the mouse;
the first time it names another chapter, the number leads there.
And what the theme gets wrong is put right: requests to other hosts, and the roles of the
bibliography.
"""

from __future__ import annotations

import html
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # for `tools`, which no one installs

from coatnet_mini.book_map import CHAPTERS, PARTS_OF_THE_BOOK, Chapter, you_are_here  # noqa: E402
from tools.clock import LINE, Clock, clock  # noqa: E402

Link = Callable[[Chapter], str | None]
Read = Callable[[Chapter], nodes.document]  # the tree of a chapter's page
Place = tuple[int, int, nodes.reference]  # from where to where in a text a link stands
MAP = re.compile(r'<nav class="book-map"(?: data-chapter="(\d+)")?.*?</nav>', re.S)
# The theme asks another host for these; the book has no use for live cells in the page.
FOREIGN = ("thebe", "unpkg.com")
GLOSSARY = "book/glossary"
DIFFICULTY = re.compile(r"Difficulty (\d) of 5 · (\d+) min")
QUESTION = re.compile(r"<p><b>Guess\.</b> (.*?)</p>", re.S)
FIGURE = re.compile(r'<a href="([^"]*#figure-[^"]*)">(.*?)</a>')
# "chapter 5", "Chapters 5 and 10", "chapters 2, 4 and 8"
NAMED = re.compile(r"\b([Cc]hapters?)\s(\d+(?:(?:, | and | or | to )\d+)*)\b")
# Also everyday words: a link at each of them would say nothing.
SAID_TOO_OFTEN = {"content", "contents", "roll", "rolls", "window", "windows", "stage", "stages"}
NO_LINK_IN = (  # raw: the attributes of a link that sets a figure
    nodes.reference,
    nodes.title,
    nodes.literal,
    nodes.math,
    nodes.raw,
    nodes.Admonition,
)


# ---- What the directives show --------------------------------------------------------------------


def clocks() -> dict[int, Clock]:
    """The clock of every written chapter, by its number."""
    found = {}
    for chapter in CHAPTERS:
        if chapter.written:
            text = (ROOT / "chapters" / f"{chapter.slug}.ipynb").read_text(encoding="utf-8")
            found[chapter.number] = clock(json.loads(text))
    return found


def hours(minutes: int) -> str:
    """A duration in words, rounded up: to five minutes below 90, to half an hour above."""
    if minutes < 90:
        return f"{5 * math.ceil(minutes / 5)} minutes"
    whole, half = divmod(math.ceil(minutes / 30), 2)
    return f"{whole}{'½' if half else ''} hours"


def map_html(link: Link, read: Read) -> str:
    return you_are_here().to_html(link)


def routes_html(link: Link, read: Read) -> str:
    times = list(clocks().values())
    tour = sum(c.tour for c in times)
    core = sum(c.core for c in times)
    every = core + sum(c.deeper + c.exercises for c in times)
    rows = {
        "Tour": (tour, "The figures with controls, and the text above and below each."),
        "Core": (core, "The chapters without <em>Going deeper</em> and without exercises."),
        "Everything": (every, "Every section, and the exercises at the time each states."),
    }
    items = "".join(
        f"<li><p>{name}<b>{hours(minutes)}</b></p>{what}</li>"
        for name, (minutes, what) in rows.items()
    )
    return f'<ul class="book-routes">{items}</ul>'


def chapters_html(link: Link, read: Read) -> str:
    times, parts = clocks(), []
    for caption, (first, last) in PARTS_OF_THE_BOOK.items():
        rows = (
            chapter_row(c, link(c), times.get(c.number))
            for c in CHAPTERS
            if first <= c.number <= last
        )
        parts.append(f"<div><p>{html.escape(caption)}</p><ul>{''.join(rows)}</ul></div>")
    return f'<div class="book-chapters">{"".join(parts)}</div>'


def chapter_row(chapter: Chapter, address: str | None, read: Clock | None) -> str:
    name = html.escape(chapter.name)
    if address is None or read is None:
        return f"<li>{name} <small>being written</small></li>"
    return f'<li><a href="{html.escape(address)}">{name}</a> <small>{read.core} min</small></li>'


def exercises_html(link: Link, read: Read) -> str:
    rows = []
    for chapter in CHAPTERS:
        if (address := link(chapter)) is None:
            continue
        rows.append(f'<tr><th colspan="3" scope="rowgroup">{html.escape(chapter.name)}</th></tr>')
        for section in read(chapter).findall(nodes.section):
            title = section.next_node(nodes.title).astext()
            if title.startswith("Exercise ") and (stated := DIFFICULTY.search(section.astext())):
                name = html.escape(title.removeprefix("Exercise "))
                rows.append(
                    f'<tr><td><a href="{address}#{section["ids"][0]}">{name}</a></td>'
                    f"<td>{stated[1]} of 5</td><td>{stated[2]} min</td></tr>"
                )
    return (
        '<table class="table book-exercises"><thead><tr><th>Exercise</th><th>Difficulty</th>'
        f"<th>Time</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def lessons_html(link: Link, read: Read) -> str:
    parts = []
    for chapter in CHAPTERS:
        if (address := link(chapter)) is not None:
            items = "".join(lesson_items(address, read(chapter)))
            parts.append(f"<p>{html.escape(chapter.name)}</p><ul>{items}</ul>")
    return f'<div class="book-lessons">{"".join(parts)}</div>'


def lesson_items(address: str, page: nodes.document):
    """A list item for each live figure and each guess of a page, in their order."""
    for node in page.findall(nodes.raw):
        if spec := node.get("spec"):
            figure = json.loads(spec)
            name = html.escape(figure["title"])
            yield f'<li><a href="{address}#figure-{figure["id"]}">{name}</a></li>'
        elif found := QUESTION.search(node.astext()):
            section = node.parent
            while not isinstance(section, nodes.section):
                section = section.parent
            yield f'<li>Guess: <a href="{address}#{section["ids"][0]}">{found[1]}</a></li>'


FILLED = {
    "book-map": map_html,
    "book-routes": routes_html,
    "book-chapters": chapters_html,
    "book-exercises": exercises_html,
    "book-lessons": lessons_html,
}


# ---- Sphinx --------------------------------------------------------------------------------------


class BookDirective(SphinxDirective):
    """A place for what FILLED names; the page is read again when a chapter changes."""

    def run(self) -> list[nodes.Node]:
        for chapter in CHAPTERS:
            if chapter.written:
                self.env.note_dependency(f"chapters/{chapter.slug}.ipynb")
        return [nodes.raw("", "", format="html", filled_by=self.name)]


class FillIn(SphinxPostTransform):
    """Writes the places of BookDirective, and every map with links that lead to pages."""

    default_priority = 500

    def run(self, **kwargs) -> None:
        for node in list(self.document.findall(nodes.raw)):
            if name := node.get("filled_by"):
                text = FILLED[name](self.link, self.read)
                self.replace(node, text)
                if name == "book-lessons":
                    self.link_figures(text)
            elif MAP.search(node.astext()):
                self.replace(node, MAP.sub(self.draw, node.astext()))

    def draw(self, found: re.Match) -> str:
        number = int(found[1]) if found[1] else None
        return you_are_here(number).to_html(self.link)

    def link(self, chapter: Chapter) -> str | None:
        target = f"chapters/{chapter.slug}"
        if target not in self.env.found_docs:
            return None
        return self.app.builder.get_relative_uri(self.env.docname, target)

    def read(self, chapter: Chapter) -> nodes.document:
        return self.env.get_doctree(f"chapters/{chapter.slug}")

    @staticmethod
    def replace(node: nodes.raw, text: str) -> None:
        node[:] = [nodes.Text(text)]

    def link_figures(self, lessons: str) -> None:
        """The title of a live figure in italics leads where it leads in the list of lessons."""
        figures = {html.unescape(title): address for address, title in FIGURE.findall(lessons)}
        for italic in list(self.document.findall(nodes.emphasis)):
            if address := figures.get(italic.astext()):
                link = nodes.reference("", "", internal=True, refuri=address)
                italic.replace_self(link)
                link += nodes.inline("", "", italic)


def link_words(document: nodes.document, find: Callable[[str], Iterable[Place]]) -> None:
    """Put the links that `find` yields in the place of their words, in every paragraph."""
    for paragraph in list(document.findall(nodes.paragraph)):
        for text in texts_of(paragraph, NO_LINK_IN):
            if sets_a_figure(text):
                continue
            words, parts, end = text.astext(), [], 0
            for start, stop, link in find(words):
                link += nodes.Text(words[start:stop])
                parts += [nodes.Text(words[end:start]), link]
                end = stop
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(words[end:])])


def texts_of(tree: nodes.Element, without: tuple) -> list[nodes.Text]:
    """The texts in a tree that stand in no element of the kinds `without`."""
    # Sphinx leaves the names of some links without a parent.
    in_place = [text for text in tree.findall(nodes.Text) if text.parent is not None]
    return [text for text in in_place if not is_within(text, without)]


def is_within(node: nodes.Node, kinds: tuple) -> bool:
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


def sets_a_figure(text: nodes.Text) -> bool:
    """Whether the last tag before the text is one whose words set a figure: no link in a link."""
    tag = ""
    for node in text.parent.children:
        if node is text:
            break
        if isinstance(node, nodes.raw):
            tag = node.astext()
    return "cm-set" in tag


class LinkTerms(SphinxPostTransform):
    """The first use of each glossary term in a chapter becomes a link to its entry."""

    default_priority = 510

    def run(self, **kwargs) -> None:
        if not self.env.docname.startswith("chapters/") or GLOSSARY not in self.env.found_docs:
            return
        if entries := glossary(self.env):
            names = sorted(entries, key=len, reverse=True)
            terms = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-])", re.I)
            link_words(self.document, partial(self.find, terms, entries, set()))

    def find(self, terms: re.Pattern, entries: dict, used: set, words: str) -> Iterator[Place]:
        page = self.app.builder.get_relative_uri(self.env.docname, GLOSSARY)
        for found in terms.finditer(words):
            anchor, meaning = entries[found[0].lower()]
            if anchor in used:
                continue
            used.add(anchor)
            link = nodes.reference(refuri=f"{page}#{anchor}", internal=True, classes=["book-term"])
            if not re.search(r"[\\^_{]", meaning):  # a formula under the mouse is no help
                link["reftitle"] = meaning
            yield *found.span(), link


class LinkChapters(SphinxPostTransform):
    """The first time a page names another chapter in its text, the number leads there."""

    default_priority = 505

    def run(self, **kwargs) -> None:
        there = {c.number: c for c in CHAPTERS if f"chapters/{c.slug}" in self.env.found_docs}
        others = {n: c for n, c in there.items() if f"chapters/{c.slug}" != self.env.docname}
        link_words(self.document, partial(self.find, others))

    def find(self, unnamed: dict[int, Chapter], words: str) -> Iterator[Place]:
        for named in NAMED.finditer(words):
            for digits in re.finditer(r"\d+", named[2]):
                if (chapter := unnamed.pop(int(digits[0]), None)) is None:
                    continue
                start, stop = (named.start(2) + place for place in digits.span())
                if not named[1].endswith("s"):  # "chapter 5" is one link
                    start = named.start()
                to = f"chapters/{chapter.slug}"
                page = self.app.builder.get_relative_uri(self.env.docname, to)
                link = nodes.reference(refuri=page, internal=True, reftitle=chapter.name)
                yield start, stop, link


class KeepTogether(SphinxPostTransform):
    """No line ends between a number and its per cent sign."""

    default_priority = 520

    def run(self, **kwargs) -> None:
        for text in texts_of(self.document, (nodes.literal, nodes.FixedTextElement)):
            kept = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
            if kept != text:
                text.parent.replace(text, nodes.Text(kept))


def glossary(env) -> dict[str, tuple[str, str]]:
    """{term in lower case: (its anchor, its first sentence)}, with the usual plurals."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        terms = [child for child in item.children if isinstance(child, nodes.term)]
        meaning = item.children[-1].astext().split(". ")[0].strip().rstrip(".") + "."
        for term in terms:
            name = term.astext().lower()
            for word in {name, f"{name}s", f"{name}es"} - SAID_TOO_OFTEN:
                found[word] = (term["ids"][0], meaning)
    return found


def name_clocks(app: Sphinx, doctree: nodes.document) -> None:
    """A class for the line of minutes in a chapter's head."""
    for paragraph in doctree.findall(nodes.paragraph):
        if LINE.fullmatch(paragraph.astext()):
            paragraph["classes"].append("book-clock")


def mend_page(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    # docutils calls its citations a list but not its entries list items: axe finds that serious
    body = context.get("body", "")
    context["body"] = body.replace(
        '<div role="list" class="citation-list">', '<div class="citation-list">'
    )
    context["script_files"] = [s for s in context.get("script_files", []) if not foreign(s)]


def foreign(script) -> bool:
    told = f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', '')}"
    return any(word in told for word in FOREIGN)


def setup(app: Sphinx) -> dict:
    for name in FILLED:
        app.add_directive(name, BookDirective)
    app.add_post_transform(FillIn)
    app.add_post_transform(LinkChapters)
    app.add_post_transform(LinkTerms)
    app.add_post_transform(KeepTogether)
    app.connect("doctree-read", name_clocks)
    app.connect("html-page-context", mend_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
