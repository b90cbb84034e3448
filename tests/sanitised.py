"""HTML as a host leaves it that trusts nobody: GitHub, or Jupyter before the notebook has run."""

from bs4 import BeautifulSoup

KEPT = {
    "a",
    "b",
    "br",
    "code",
    "details",
    "div",
    "em",
    "i",
    "li",
    "ol",
    "p",
    "small",
    "span",
    "strong",
    "sub",
    "summary",
    "sup",
}
REMOVED = {"style", "script", "svg"}  # with all that is in them
ATTRIBUTES = {"href", "title", "open"}


def sanitised(text: str) -> str:
    """`text` without styles, pictures, scripts, other tags than KEPT, and other attributes."""
    soup = BeautifulSoup(text, "html.parser")
    for node in soup.find_all(REMOVED):
        node.decompose()
    for node in soup.find_all(True):
        if node.name not in KEPT:
            node.unwrap()
        node.attrs = {key: node[key] for key in node.attrs.keys() & ATTRIBUTES}
    return str(soup)
