"""The browser's half as text: ES modules of one default export, and how they are put together.

A page from a folder on disk can load no module, and anywidget wants exactly one. So every file
here ends in its one `export default`, and `constant` turns it into a plain statement.
"""

from pathlib import Path

HERE = Path(__file__).parent


def module(name: str) -> str:
    """The text of the ES module `name`.js of this folder."""
    return (HERE / f"{name}.js").read_text(encoding="utf-8")


def constant(name: str, text: str | None = None) -> str:
    """`const name = …`: what the module exports, its other names kept to itself.

    text: the module's (default: that of the file `name`.js).
    """
    body, exported, value = (module(name) if text is None else text).partition("\nexport default ")
    if not exported or "\nexport " in body + value:
        raise ValueError(f"{name}.js must have one export, the default, at its end")
    return f"const {name} = (() => {{\n{body}\nreturn {value.rstrip()}\n}})();\n"
