"""The book's table of chapters, and the map: CoAtNet drawn from its configuration.

`you_are_here(5)`, the last line of a cell, shows the network with the parts of chapter 5 lit. The
map is HTML without a script; every part is a link to the chapter that explains it, once that
chapter is written. The front page, the chapters and the tests read the one table below.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from coatnet_mini.coatnet import FAMILY, CoAtNetConfig

STAGES = ("S0", "S1", "S2", "S3", "S4")
WHOLE = (*STAGES, "head")
MBCONV = ("expand", "depthwise", "squeeze", "project")
ATTENTION = ("scores", "bias", "softmax")
PARTS = (*WHOLE, *MBCONV, *ATTENTION, "ffn", "shortcut", "halve")
EXPLAINED_IN = {  # chapter: the parts of the network whose links lead to it
    2: ("depthwise",),
    3: ("scores",),
    5: ("softmax",),
    6: ("bias",),
    7: ("S1", "S2", "expand", "squeeze", "project", "ffn"),
    8: ("S3", "S4", "shortcut", "halve"),
    10: ("S0",),
    11: ("head",),
}


@dataclass(frozen=True)
class Chapter:
    """One chapter: its file, what it is called, and the parts of the network that it lights."""

    slug: str
    title: str
    lights: str  # names from PARTS

    @property
    def number(self) -> int:
        return int(self.slug[:2])

    @property
    def name(self) -> str:
        return f"{self.number} · {self.title}"

    @property
    def written(self) -> bool:
        return self.number in WRITTEN


WRITTEN = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}
CHAPTERS = (
    Chapter("01_weighted_sums", "One sum, many weights", "depthwise scores"),
    Chapter("02_depthwise_convolution", "Depthwise convolution", "depthwise"),
    Chapter("03_self_attention", "Self-attention", "scores softmax"),
    Chapter("04_three_properties", "Three properties, measured", "depthwise scores bias"),
    Chapter("05_pre_and_post_normalization", "Before or after the softmax", "bias softmax"),
    Chapter("06_relative_bias", "The relative bias table", "bias"),
    Chapter(
        "07_mbconv_and_ffn",
        "Two inverted bottlenecks",
        "S1 S2 expand depthwise squeeze project ffn shortcut",
    ),
    Chapter(
        "08_relative_transformer_block",
        "The relative-attention block",
        "S3 S4 scores bias softmax ffn shortcut halve",
    ),
    Chapter("09_cost_of_attention", "The price of looking everywhere", "S1 S2 S3 S4 scores"),
    Chapter("10_vertical_layout", "Vertical layout", "S0 S1 S2 S3 S4"),
    Chapter("11_the_family", "CoAtNet-0 to CoAtNet-7", "S0 S1 S2 S3 S4 head"),
    Chapter("12_training", "Training it", "S0 S1 S2 S3 S4 head"),
    Chapter("13_finetuning", "From small to large images", "bias head"),
    Chapter("14_ablations", "Ablations", "S2 S3 scores bias"),
    Chapter("15_inside", "Inside a trained network", "S3 S4 scores bias"),
    Chapter("16_ceit", "CeiT: another marriage", "S0 depthwise ffn"),
    Chapter(
        "17_reading_implementations",
        "Reading other people's CoAtNets",
        "S0 expand squeeze scores bias softmax halve head",
    ),
    Chapter("18_results", "The results, as maps", "S0 S1 S2 S3 S4 head"),
)
PARTS_OF_THE_BOOK = {  # caption: its first and its last chapter
    "Part I · Two operators, one sum": (1, 4),
    "Part II · The marriage": (5, 6),
    "Part III · The blocks": (7, 9),
    "Part IV · The network": (10, 15),
    "Part V · Relatives and readers": (16, 18),
}
KINDS = {"S": "convolution 3×3", "C": "MBConv", "T": "Transformer"}
# Greys with alpha and the colour of the text around it: legible on any background.
STYLE = """
.book-map { max-width: 46em; margin: 1em 0; font-size: .95rem; line-height: 1.3 }
.book-map-columns { display: grid; gap: .3em 1.5em;
  grid-template-columns: repeat(auto-fit, minmax(15.5em, 1fr)) }
.book-map p { margin: .3em 0 }
.book-map ol { list-style: none; margin: 0 0 .6em; padding: 0 }
.book-map li { display: flex; gap: .6em; align-items: center; min-height: 1.9em; margin: 3px 0;
  padding: .1em .6em; border: 1px solid #8886; border-radius: 5px }
.book-map .book-map-tower li { border-color: transparent; margin: 0; padding: 0 .6em 0 0;
  height: 52px }
.book-map .book-map-around { border: 0 solid #888a; border-right-width: 2px; border-radius: 12px;
  padding-right: 14px }
.book-map li.book-map-here { border-color: #c8500a; background: #c8500a22; font-weight: 600 }
.book-map li span { flex: 1 }
.book-map a { color: inherit; text-decoration: underline; text-underline-offset: 2px }
.book-map a:hover { text-decoration-thickness: 2px }
.book-map small { font-size: .85em; font-weight: 400; white-space: nowrap }
.book-map svg { flex: none; width: 64px; height: 52px; overflow: visible; stroke: currentColor;
  fill: none }
.book-map svg rect, .book-map svg polygon { fill: #8883; stroke-linejoin: round }
.book-map .book-map-here svg rect { fill: #c8500a88 }
"""


def chapter(number: int) -> Chapter:
    """Chapter `number` of the table; ValueError for one that the book has not."""
    for found in CHAPTERS:
        if found.number == number:
            return found
    raise ValueError(f"there is no chapter {number!r}; the book has 1 to {len(CHAPTERS)}")


def explained_in(part: str) -> Chapter:
    """The chapter that a part of the network is explained in."""
    return next(chapter(number) for number, parts in EXPLAINED_IN.items() if part in parts)


def part_words(config: CoAtNetConfig) -> dict[str, str]:
    """What each part of the network is, in a few words made from the configuration."""
    heads = [stage.width // config.head_dim for stage in config.stages if stage.kind == "T"]
    words = {
        "expand": f"widen ×{config.expansion}, each position alone",
        "depthwise": "depthwise 3×3: one kernel everywhere",
        "squeeze": "squeeze and excite: weigh the channels",
        "project": "project back",
        "scores": f"compare all pairs of positions, by {' or '.join(map(str, heads))} heads",
        "bias": "add the bias of their offset",
        "softmax": "softmax, and average",
        "ffn": f"FFN: widen ×{config.expansion}, project back",
        "shortcut": "adds its result to what came in (the brackets)",
        "halve": "halves rows and columns, if it is the first of its stage",
        "head": f"average the grid, then {config.num_classes:,} scores",
    }
    for name, stage, (rows, columns) in zip(
        config.stage_names, config.stages, config.grids, strict=True
    ):
        words[name] = (
            f"{stage.depth} × {KINDS[stage.kind]} · {rows}×{columns} positions, "
            f"{stage.width} channels"
        )
    return words


@dataclass(frozen=True)
class BookMap:
    """The map with the parts of one chapter lit, or with none."""

    here: Chapter | None
    config: CoAtNetConfig

    def __repr__(self) -> str:
        words = part_words(self.config)
        lines = (f"{'▶' if self.lit(part) else ' '} {part}: {words[part]}" for part in PARTS)
        return "\n".join((self.headline(), *lines))

    def _repr_html_(self) -> str:
        return self.to_html(notebook_link)

    def lit(self, part: str) -> bool:
        return self.here is not None and part in self.here.lights.split()

    def headline(self) -> str:
        rows, columns = self.config.image_size
        where = f" You are here: {self.here.name}." if self.here else ""
        return f"CoAtNet-0, for {rows}×{columns} pixels; [n] is the chapter.{where}"

    def to_html(self, link: Callable[[Chapter], str | None]) -> str:
        """The drawing; `link` gives the address of a chapter, or None for plain text."""

        def items(kind: str, *parts: str) -> str:
            return f'<ol class="{kind}">{"".join(self.item(part, link) for part in parts)}</ol>'

        number = f' data-chapter="{self.here.number}"' if self.here else ""
        return (
            f'<nav class="book-map"{number} aria-label="Map of CoAtNet"><style>{STYLE}</style>\n'
            f"<p>{html.escape(self.headline())}</p>\n"
            f'<div class="book-map-columns">\n<div><p><b>The network</b>, top to bottom</p>\n'
            f"{items('book-map-tower', *WHOLE)}\n<p><b>Every block</b></p>\n"
            f"{items('book-map-all', 'shortcut', 'halve')}</div>\n"
            f"<div><p><b>An MBConv</b> (S1, S2): a position reads 3×3 around it</p>\n"
            f"{items('book-map-around', *MBCONV)}\n"
            f"<p><b>A Transformer block</b> (S3, S4): a position reads all</p>\n"
            f"{items('book-map-around', *ATTENTION)}\n{items('book-map-around', 'ffn')}"
            f"</div>\n</div>\n</nav>"
        )

    def item(self, part: str, link: Callable[[Chapter], str | None]) -> str:
        first, _, rest = part_words(self.config)[part].partition(" · ")
        name = f"<b>{part}</b> " if part in STAGES else ""
        about = explained_in(part)
        text = name + html.escape(first) + (f"<br><small>{rest}</small>" if rest else "")
        text += f" <small>[{about.number}]</small>"
        address = link(about) if about is not self.here else None
        if address is not None:
            title = html.escape(f"Chapter {about.name}")
            text = f'<a href="{html.escape(address)}" title="{title}">{text}</a>'
        mark, kind = ("▶ ", ' class="book-map-here"') if self.lit(part) else ("", "")
        return f"<li{kind}>{self.picture(part)}<span>{mark}{text}</span></li>"

    def picture(self, part: str) -> str:
        """A stage as a slab: its side and its depth grow with the logs of positions and width."""
        if part not in STAGES:
            return ""
        n = STAGES.index(part)
        stage, (rows, _) = self.config.stages[n], self.config.grids[n]
        side = 5 * (rows.bit_length() - 1)  # 7 → 10, 112 → 30
        depth = 2 * (stage.width.bit_length() - 6)  # 64 → 2, 768 → 8
        return slab(side, depth, reads_all=stage.kind == "T")


def you_are_here(number: int | None = None) -> BookMap:
    """The map of CoAtNet-0 at 224×224 pixels, with the parts of chapter `number` lit."""
    config = CoAtNetConfig(**FAMILY["coatnet_0"])
    return BookMap(None if number is None else chapter(number), config)


def notebook_link(target: Chapter) -> str | None:
    """Where a notebook finds another chapter: beside itself or, in Colab, in the book's home."""
    if not target.written:
        return None
    file = f"{target.slug}.ipynb"
    if "google.colab" not in sys.modules:
        return file
    home = installed_from()
    colab = "https://colab.research.google.com/github"
    return f"{colab}/{home}/blob/main/chapters/{file}" if home else None


def installed_from() -> str:
    """owner/name of the GitHub repository that pip installed this package from, or ''."""
    try:
        record = distribution("coatnet-mini").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    _, found, home = json.loads(record or "{}").get("url", "").partition("https://github.com/")
    return home.removesuffix(".git") if found else ""


def slab(side: int, depth: int, reads_all: bool) -> str:
    """One stage drawn on 64×52: lines to the whole border, or a square of near positions."""
    left, top = 32 - side // 2, 26 - side // 2
    right, bottom = left + side, top + side
    x, y = (left + right) / 2, (top + bottom) / 2
    edge = f"{left},{top} {left + depth},{top - depth} {right + depth},{top - depth} "
    edge += f"{right + depth},{bottom - depth} {right},{bottom} {right},{top}"
    ends = [(a, b) for a in (left, x, right) for b in (top, y, bottom)]
    rays = "".join(f"M{x:g} {y:g}L{a:g} {b:g}" for a, b in ends if (a, b) != (x, y))
    near = f"M{x - 4:g} {y - 4:g}h8v8h-8z"
    return (
        '<svg viewBox="0 0 64 52" aria-hidden="true">'
        f'<path d="M32 0V{top - depth}M32 {bottom}V52"/><polygon points="{edge}"/>'
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'
        f'<path d="{rays if reads_all else near}"/></svg>'
    )
