"""Build the website into _build/html: `make book`.

Sphinx keeps what it read of unchanged pages. Two things it does not notice, and this does:
a changed static file or extension (built clean then), and a page whose warning ended the
last build (its reading is thrown away, so that the warning comes again until it is mended).
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
# Everything that shapes every page; the pages themselves are Sphinx's to watch.
STATIC = (
    "_config.yml",
    "_toc.yml",
    "requirements.txt",
    "coatnet_mini/explore",
    "coatnet_mini/checkpoints/digits",
    "coatnet_mini/book_map.py",
    "tools/clock.py",
    "book/sphinx",
    "book/style",
    "book/vendor",
    "book/*.bib",
)


def fingerprint(root: Path = ROOT) -> str:
    """SHA-256 over the names and bytes of the static sources."""
    digest = hashlib.sha256()
    for pattern in STATIC:
        for top in sorted(root.glob(pattern)):
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and path.suffix != ".pyc":
                    digest.update(f"{path.relative_to(root)}\0".encode())
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def build() -> int:
    """Build; returns Jupyter Book's exit status."""
    stamp = BUILD / "static.sha256"
    now = fingerprint()
    if not stamp.is_file() or stamp.read_text() != now:
        shutil.rmtree(BUILD, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ".", "-W", "-n", "--keep-going", "-q"]
    quiet = subprocess.DEVNULL  # warnings and errors go to stderr
    status = subprocess.run(command, cwd=ROOT, stdin=quiet, stdout=quiet).returncode
    if status:
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    else:
        stamp.write_text(now)
    return status


def main() -> None:
    start = time.perf_counter()
    if build():
        sys.exit("the book is not built: mend the warnings and errors above")
    index = BUILD / "html" / "index.html"
    if not index.is_file():
        sys.exit(f"the build ended without an error, but wrote no {index}")
    print(f"The book is built ({time.perf_counter() - start:.0f} s). Open {index}")
    print("or run `make serve`.")


if __name__ == "__main__":
    main()
