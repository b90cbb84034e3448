"""Find the browser that the site is tested in: `python -m tools.find_chromium` prints its path."""

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = (
    "no Chromium found: install one (Debian and Ubuntu: apt-get install chromium; anywhere: "
    ".venv/bin/python -m playwright install chromium) or set CHROMIUM to the path of yours"
)


def playwrights_own() -> str:
    """Where Playwright keeps its Chromium, installed or not; '' without Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return ""
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def find_chromium() -> str:
    """The path of a Chromium: $CHROMIUM, an installed one, or Playwright's; else RuntimeError."""
    if chosen := os.environ.get("CHROMIUM"):
        if path := shutil.which(chosen):
            return path
        raise RuntimeError(f"CHROMIUM={chosen} is not a program")
    candidates = [shutil.which(name) for name in NAMES] + list(APPS)
    for path in candidates:
        if path and Path(path).is_file():
            return path
    if Path(own := playwrights_own()).is_file():
        return own
    raise RuntimeError(MISSING)


if __name__ == "__main__":
    try:
        print(find_chromium())
    except RuntimeError as error:
        sys.exit(str(error))
