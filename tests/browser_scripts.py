"""A headless Chromium, and the book's browser modules run in an empty page of it."""

import base64
from contextlib import contextmanager

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from coatnet_mini.explore.scripts import constant
from tools.find_chromium import find_chromium

FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # no other host is reached
]

# Typed arrays travel as { f32: base64 } both ways: JSON would take seconds for a network's maps.
TRAVEL = """
const pack = (value) => {
  if (ArrayBuffer.isView(value)) {
    const bytes = new Uint8Array(Float32Array.from(value).buffer);
    let text = '';
    for (let k = 0; k < bytes.length; k += 32768)
      text += String.fromCharCode(...bytes.subarray(k, k + 32768));
    return { f32: btoa(text) };
  }
  if (Array.isArray(value)) return value.map(pack);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, pack(v)]));
};
const unpack = (value) => {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== 'object') return value;
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  if ('f32' in value) return new Float32Array(bytes(value.f32).buffer);
  if ('u8' in value) return bytes(value.u8);
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, unpack(v)]));
};
"""


@contextmanager
def chromium():
    """A Browser; closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


def page_with(browser: Browser, *modules: str, **changed: str) -> Page:
    """An empty page in which the modules are constants; `changed` gives another text for some."""
    page = browser.new_page()
    script = "".join(constant(name, changed.get(name)) for name in modules)
    names = ", ".join(modules)
    page.add_script_tag(content=f"{script}{TRAVEL}Object.assign(globalThis, {{{names}}});")
    return page


def run(page: Page, function: str, *arguments):
    """What the JavaScript `function` makes of the arguments; typed arrays come back flat."""
    call = f"(packed) => pack(({function})(...unpack(packed)))"
    return _unpack(page.evaluate(call, _pack(list(arguments))))


def _pack(value):
    if isinstance(value, bytes):
        return {"u8": base64.b64encode(value).decode()}
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return {"f32": base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes()).decode()}
    if isinstance(value, dict):
        return {key: _pack(v) for key, v in value.items()}
    return [_pack(v) for v in value] if isinstance(value, list | tuple) else value


def _unpack(value):
    if isinstance(value, dict) and set(value) == {"f32"}:
        return np.frombuffer(base64.b64decode(value["f32"]), "<f4")
    if isinstance(value, dict):
        return {key: _unpack(v) for key, v in value.items()}
    return [_unpack(v) for v in value] if isinstance(value, list) else value
