"""The Sphinx half of `explore`: live explorable figures on a static page.

Any Jupyter Book can use it: list `coatnet_mini.explore.sphinx_ext` under `sphinx:`, in its
`extra_extensions:`. It renders the MIME type of `explore`, moves the still picture of the same
output behind it for readers without JavaScript, and adds the directive `explorable`, which shows a
chapter's figure on another page:

    ```{explorable} ../chapters/01_weighted_sums.ipynb
    :cell: ch01-explore
    ```

or one that is stored by itself, as JSON: `{explorable} live_network.json`.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset

from coatnet_mini.explore import MIME
from coatnet_mini.explore.live import network_script
from coatnet_mini.explore.scripts import constant, module

HERE = Path(__file__).parent
SCRIPT, STYLE = "explore.js", "explore.css"


class ExplorableRenderer:
    """myst-nb's plug-in (entry point `myst_nb.mime_renderers`): the figure instead of its still."""

    mime_priority_overrides = (("html", MIME, 0),)

    @staticmethod
    def handle_mime(renderer, data, inline: bool) -> list[nodes.Element] | None:
        if data.mime_type != MIME:
            return None
        return figure(data.string, still=[])


class MoveStill(SphinxPostTransform):
    """Puts the picture of an output that holds an explorable into that figure's <noscript>."""

    default_priority = 3  # before myst-nb keeps one MIME type of each output

    def run(self, **kwargs) -> None:
        for bundle in self.document.findall(nodes.container):
            if bundle.get("nb_element") != "mime_bundle":
                continue
            found = {child["mime_type"]: child for child in bundle.children}
            if MIME in found and "image/png" in found:
                opening, spec = found[MIME].children[0], found[MIME].children[1]
                still = list(found["image/png"].findall(nodes.image))
                for picture in still:
                    picture["alt"] = json.loads(spec["spec"])["words"]
                found[MIME].children[:] = [opening, *still, spec]


class ExplorableDirective(SphinxDirective):
    """`explorable`: the figure that a chapter's cell holds, shown on this page too."""

    required_arguments = 1
    option_spec = {"cell": directives.unchanged_required}  # noqa: RUF012 (docutils' protocol)

    def run(self) -> list[nodes.Node]:
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        for data in outputs_of(stored, self.options.get("cell")):
            if MIME in data:
                still = f"data:image/png;base64,{''.join(data['image/png']).strip()}"
                words = html.escape("".join(data["text/plain"]), quote=True)
                picture = nodes.raw("", f'<img src="{still}" alt="{words}">', format="html")
                return figure("".join(data[MIME]), still=[picture])
        cell = self.options.get("cell")
        raise self.error(f"{self.arguments[0]} has no explorable figure in cell {cell!r}")


def outputs_of(stored: dict, cell_id: str | None) -> list[dict]:
    """The outputs' data of a notebook, or of one of its cells; or the one that a file is."""
    if "cells" not in stored:
        return [stored]
    cells = [c for c in stored["cells"] if cell_id in (None, c["id"])]
    return [output.get("data", {}) for c in cells for output in c.get("outputs", [])]


def figure(spec: str, still: list[nodes.Node]) -> list[nodes.Element]:
    """Host element, still picture, and the figure's data as a script that is not run."""
    inert = spec.replace("</", "<\\/")
    name = f"figure-{json.loads(spec)['id']}"
    host = f'<div class="cm-explorable-host" id="{name}"><noscript>'
    opening = nodes.raw("", host, format="html")
    closing = f'</noscript><script type="application/json">{inert}</script></div>'
    return [opening, *still, nodes.raw("", closing, format="html", spec=spec)]


def classic_script() -> str:
    """The modules and their host as one classic script: none can be loaded from file://."""
    parts = [constant(name) for name in ("operators", "twins", "computing")]
    parts += [constant("explorable", module("explore")), module("explore_host")]
    return f"(() => {{\n{''.join(parts)}}})();\n"


def write_assets(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    static.mkdir(exist_ok=True)
    (static / SCRIPT).write_text(classic_script(), encoding="utf-8")
    (static / "digits.js").write_text(network_script("digits"), encoding="utf-8")
    copy_asset(str(HERE / STYLE), str(static))


def load_where_used(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Script and style only on pages that hold a figure."""
    if doctree and any("cm-explorable-host" in n.astext() for n in doctree.findall(nodes.raw)):
        app.add_css_file(STYLE)
        app.add_js_file(SCRIPT, loading_method="async")


def setup(app: Sphinx) -> dict:
    app.add_directive("explorable", ExplorableDirective)
    app.add_post_transform(MoveStill)
    app.connect("html-page-context", load_where_used)
    app.connect("build-finished", write_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
