"""A page that holds figures and nothing else, as the site build writes them, in a folder."""

import html
from pathlib import Path

from coatnet_mini.explore.scripts import HERE
from coatnet_mini.explore.sphinx_ext import classic_script, figure

PAGE = """<!doctype html><html lang="en"{theme}><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Figures</title><link rel="stylesheet" href="explore.css"><script src="explore.js"></script>
<style>body {{ max-width: 800px; margin: 1em auto; padding: 0 12px; }}
html[data-theme=dark] {{ background: #121212; color: #ced6dd; }}</style>
<body><article>{body}</article></body></html>"""


def write_page(folder: Path, *figures, name="page.html", body="", theme="light") -> Path:
    """Writes the page, its script and its style; returns the path of the page."""
    script = classic_script()
    hosts = [
        "".join(node.rawsource or node.astext() for node in figure(shown.spec, still=[]))
        for shown in figures
    ]
    text = PAGE.format(body="".join(hosts) + body, theme=f' data-theme="{html.escape(theme)}"')
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "explore.js").write_text(script, encoding="utf-8")
    (folder / "explore.css").write_text((HERE / "explore.css").read_text(), encoding="utf-8")
    return folder / name
