"""Stamp the home repository into the book: `make home REPO=owner/name`.

The home is where Colab fetches the package and the site's buttons lead. Until it is stamped no
address is in the tree, so none that a stranger could claim. What is stamped: _config.yml, every
notebook's set-up cell and badge, README.md and CITATION.cff. All of it is computed before any of
it is written. Needs Python alone, so that a workflow can run it before anything is installed:

    python -m tools.home --check owner/name    # is the checkout stamped with just this home?
"""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
# GitHub's rules: letters, digits and single inner hyphens; a name that is no dots and no .git.
OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,38}")
NAME = re.compile(r"(?!\.{1,2}$)(?!.*\.(?:git|wiki)$)[A-Za-z0-9._-]{1,100}", re.IGNORECASE)

SETUP_CELL = """\
# Set-up, the same in every chapter: fetches the package in Colab.
from importlib.util import find_spec

HOME = "{home}"  # stamped once by `make home REPO=owner/name`

if not find_spec("coatnet_mini"):
    if not (find_spec("google") and find_spec("google.colab")):
        raise ImportError("coatnet_mini is not installed: "
                          "run `pip install -e .` in the checkout")
    if not HOME:
        raise RuntimeError("no home repository yet: run `make home "
                           "REPO=owner/name` in a checkout, commit, push")
    %pip install --quiet --no-deps git+https://github.com/{{HOME}}"""


def check_repo(repo: str) -> str:
    """``repo`` itself; ValueError unless it is owner/name by GitHub's rules."""
    owner, slash, name = repo.partition("/")
    if not (slash and OWNER.fullmatch(owner) and NAME.fullmatch(name)):
        raise ValueError(f"REPO={repo!r} is not owner/name, as in REPO=ada/engine")
    return repo


def setup_cell(home: str) -> str:
    """The source of the set-up cell for the home ``home`` ('' while there is none)."""
    return SETUP_CELL.format(home=home)


def badge(home: str, file: str) -> str:
    """The Markdown line below a chapter's title: Colab and source, as text, not as pictures."""
    blob = f"{home}/blob/main/chapters/{file}"
    return f"[Open in Colab]({COLAB}/github/{blob}) · [Source](https://github.com/{blob})"


def site(home: str) -> str:
    """Where GitHub Pages publishes the home's site."""
    owner, name = home.split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def stamp_notebook(notebook: dict, file: str, home: str) -> None:
    """Put the set-up cell and, if there is a home, the badge into a notebook's JSON, in place."""
    cells = notebook["cells"]
    setup = next((cell for cell in cells if cell.get("id") == "setup"), None)
    if setup is None:
        setup = {"id": "setup", "cell_type": "code", "outputs": [], "execution_count": None}
        cells.insert(next((i for i, c in enumerate(cells) if c["cell_type"] == "code"), 0), setup)
    setup["metadata"] = {"tags": ["remove-cell"]}  # from the page, where nothing runs
    setup["source"] = setup_cell(home).splitlines(keepends=True)
    first = cells[0]
    if first["cell_type"] != "markdown":
        raise ValueError(f"{file}: the first cell must be Markdown and start with the title")
    title, _, rest = "".join(first["source"]).partition("\n")
    rest = re.sub(r"\n*\[Open in Colab\]\(.*\n*", "", "\n" + rest).lstrip("\n")
    parts = [title, badge(home, file), rest] if home else [title, rest]
    first["source"] = "\n\n".join(part for part in parts if part).splitlines(keepends=True)


def dumps(notebook: dict) -> str:
    """A notebook's JSON as text, in the form in which nbformat writes it."""
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def stamp_config(text: str, home: str) -> str:
    """_config.yml with the repository and the Colab button of ``home``, or without any."""
    text = re.sub(r"^repository:\n(?: .*\n)*\n?", "", text, flags=re.M)
    text = re.sub(r"^  colab_url:.*\n", "", text, flags=re.M)
    if not home:
        return text
    repository = f"repository:\n  url: https://github.com/{home}\n  branch: main\n\n"
    launch = f"launch_buttons:\n  colab_url: {COLAB}\n"
    stamped, count = re.subn(r"^launch_buttons:\n", repository + launch, text, flags=re.M)
    if count != 1:
        raise ValueError("_config.yml needs one line `launch_buttons:`")
    return stamped


def stamp_citation(text: str, home: str) -> str:
    """CITATION.cff with the addresses of ``home``, or without any."""
    text = re.sub(r"^(?:repository-code|url):.*\n", "", text, flags=re.M)
    addresses = f"repository-code: https://github.com/{home}\nurl: {site(home)}\n" if home else ""
    return text + addresses


def stamp_readme(text: str, home: str) -> str:
    """README.md with the site's address between its two `home` comments, or with nothing there."""
    line = f"\nRead it at {site(home)}\n" if home else "\n"
    opening, closing = "<!-- home -->\n", "<!-- /home -->"
    if text.count(opening) != 1 or text.count(closing) != 1:
        raise ValueError(f"README.md needs one {opening.strip()} and one {closing}")
    before, _, rest = text.partition(opening)
    return before + opening + line.lstrip("\n") + closing + rest.partition(closing)[2]


def read_home(root: Path = ROOT) -> str:
    """The home stamped in _config.yml, '' while there is none."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    found = re.search(r"^repository:\n  url: https://github\.com/(.+)\n", text, flags=re.M)
    return found[1] if found else ""


def stamped(root: Path, home: str) -> dict[Path, str]:
    """Path and new text of every file that a stamp with ``home`` changes; nothing is written."""
    new = {}
    for name, stamp in {
        "_config.yml": stamp_config,
        "CITATION.cff": stamp_citation,
        "README.md": stamp_readme,
    }.items():
        new[root / name] = stamp((root / name).read_text(encoding="utf-8"), home)
    for path in sorted((root / "chapters").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        stamp_notebook(notebook, path.name, home)
        new[path] = dumps(notebook)
    return {path: text for path, text in new.items() if text != path.read_text(encoding="utf-8")}


def write(files: dict[Path, str]) -> None:
    """Write every text beside its file first, then move each into place."""
    beside = {path: path.with_name(f".{path.name}.new") for path in files}
    try:
        for path, text in files.items():
            beside[path].write_text(text, encoding="utf-8")
        for path in files:
            beside[path].replace(path)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def stamp(repo: str, root: Path = ROOT, force: bool = False) -> list[Path]:
    """Stamp the checkout; returns the changed files. ValueError, and no change, if it must not."""
    check_repo(repo)
    home = read_home(root)
    if home and home != repo and not force:
        raise ValueError(f"the home is {home} already; to change it: make home REPO={repo} FORCE=1")
    files = stamped(root, repo)
    write(files)
    return list(files)


def check(repo: str, root: Path = ROOT) -> None:
    """ValueError unless the checkout is stamped with ``repo``, in every file, and with no other."""
    check_repo(repo)
    home = read_home(root)
    if not home:
        raise ValueError(f"no home is stamped: run `make home REPO={repo}`, commit and push")
    if home.lower() != repo.lower():  # GitHub does not tell them apart by case
        raise ValueError(
            f"the home is {home}, this is {repo}: run `make home REPO={repo} FORCE=1`, commit, push"
        )
    if files := stamped(root, home):
        names = ", ".join(path.name for path in files)
        raise ValueError(f"not stamped everywhere ({names}): run `make home REPO={home}`, commit")


def main() -> None:
    try:
        if sys.argv[1:2] == ["--check"]:
            check(sys.argv[2])
            return
        repo = os.environ.get("REPO", "")
        files = stamp(repo, force=os.environ.get("FORCE", "") not in ("", "0"))
    except ValueError as error:
        sys.exit(f"make home: {error}")
    print(f"The home is {repo}: {len(files)} files changed. Commit them.")


if __name__ == "__main__":
    main()
