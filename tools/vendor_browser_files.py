r"""Fetch the browser files that the site carries, or check that they are what was fetched.

    python tools/vendor_browser_files.py            # needs npm; rewrites book/vendor/
    python tools/vendor_browser_files.py --check    # offline: the tree against its manifests

Nothing under book/vendor/ is edited by hand. A package's archive is accepted only with the
checksum pinned here; the files named here are taken out of it unchanged, and MANIFEST.json
beside them lists every one with its SHA-256.
"""

import argparse
import base64
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "book" / "vendor"

PACKAGES = {
    "mathjax": {
        "version": "3.2.2",
        "licence": "Apache-2.0",
        "integrity": "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0"
        "/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        "folder": "es5/",  # left out of the paths in book/vendor/mathjax/
        # Not here: what a formula's own menu loads (speech, SVG); the menu is off in _config.yml.
        "files": [
            "LICENSE",
            "es5/tex-chtml.js",  # what a page loads
            "es5/output/chtml/fonts/woff-v2/*.woff",  # of these, the fonts its formulas use
            # Loaded on the first \boldsymbol, \color, \require, ...: one that is missing leaves
            # every formula of that page as its source. (all-packages.js is the same once more.)
            "es5/input/tex/extensions/[!a]*.js",
            "es5/input/tex/extensions/a[!l]*.js",
        ],
    },
}


def fetch(name: str, package: dict, folder: Path) -> Path:
    """Download the package's archive into ``folder``; SystemExit unless its checksum is right."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm not found; install Node.js (Debian: apt-get install npm)")
    spec = f"{name}@{package['version']}"
    command = [npm, "pack", spec, "--silent", "--pack-destination", str(folder)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"npm could not fetch {spec}")
    (archive,) = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package["integrity"]:
        raise SystemExit(f"{spec} has sha512-{digest}, the pin is {package['integrity']}")
    return archive


def extract(archive: Path, package: dict, target: Path) -> None:
    """Write the archive's chosen files below ``target``; each pattern must match one."""
    unmatched = set(package["files"])
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = member.name.removeprefix("package/")
            matched = {p for p in package["files"] if fnmatch.fnmatchcase(path, p)}
            if matched and member.isfile():
                unmatched -= matched
                destination = target / path.removeprefix(package["folder"])
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.write_bytes(tar.extractfile(member).read())
    if unmatched:
        raise SystemExit(f"{archive.name} holds nothing that matches {sorted(unmatched)}")


def manifest(name: str, package: dict, folder: Path) -> dict:
    """The manifest of the files that lie in ``folder`` now."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "MANIFEST.json")
    return {
        "package": f"npm:{name}@{package['version']}",
        "integrity": package["integrity"],
        "licence": package["licence"],
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }


def vendor(name: str, package: dict, root: Path) -> None:
    """Replace ``root/name`` by the package's chosen files and their manifest."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        extract(fetch(name, package, Path(temporary)), package, folder)
        text = json.dumps(manifest(name, package, folder), indent=1)
        (folder / "MANIFEST.json").write_text(text + "\n")
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(folder, root / name)


def problems(root: Path) -> list[str]:
    """One line for each difference between ``root`` and its manifests or the pins above."""
    found = [
        f"{p.name}: not vendored by this script" for p in root.iterdir() if p.name not in PACKAGES
    ]
    for name, package in PACKAGES.items():
        path = root / name / "MANIFEST.json"
        if not path.is_file():
            found.append(f"{name}: no MANIFEST.json")
            continue
        written, actual = json.loads(path.read_text()), manifest(name, package, root / name)
        for key in ("package", "integrity", "licence"):
            if written.get(key) != actual[key]:
                found.append(f"{name}: {key} is {written.get(key)}, the pin is {actual[key]}")
        old, new = written["files"], actual["files"]
        found += [f"{name}: {p} is missing" for p in sorted(old.keys() - new.keys())]
        found += [f"{name}: {p} is not in the manifest" for p in sorted(new.keys() - old.keys())]
        found += [
            f"{name}: {p} was changed" for p in sorted(old.keys() & new.keys()) if old[p] != new[p]
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Vendor the browser files of the site.")
    parser.add_argument("--check", action="store_true", help="only compare, offline")
    if not parser.parse_args().check:
        for name, package in PACKAGES.items():
            vendor(name, package, VENDOR)
    found = problems(VENDOR)
    print("\n".join(found) or f"book/vendor: {', '.join(PACKAGES)} as in the manifest")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
