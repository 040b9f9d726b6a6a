"""Pages as a real browser sees them: Chromium without a screen, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# no sandbox: it needs rights that containers lack, and the pages are our own; no names: nothing can be reached
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000"),
)
_CONSOLE = re.compile(r'CONSOLE[:(]\d+\)?\] "(.*)", source: ', re.DOTALL)
_MEASURE = """
<script>
function box(part) { const b = part.getBoundingClientRect(); return [b.width, b.height]; }
function told(part) {
  const inside = part.querySelector('svg, img, video');
  return {kind: inside.tagName.toLowerCase(), box: box(inside), caption: box(part.querySelector('figcaption')),
          own: [inside.naturalWidth || inside.videoWidth || 0, inside.naturalHeight || inside.videoHeight || 0]};
}
function write() {
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  const figures = Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.id, told(f)]));
  const found = {window: innerWidth, content: document.documentElement.scrollWidth, figures: figures,
                 ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color};
  parent.document.documentElement.setAttribute('data-found', JSON.stringify(found));
}
addEventListener('load', write);
for (const film of document.querySelectorAll('video')) film.addEventListener('loadedmetadata', write);
</script>
"""


@dataclass(frozen=True)
class Seen:
    """What happened while a page was open."""

    html: str  # as the browser holds it
    console: list[str]  # complaints and messages
    requests: list[str]  # addresses the page asked for besides itself and what it carries


def browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page: Path, scratch: Path, *flags: str, query: str = "") -> Seen:
    """Open a page from its file.

    Args:
        page: the file.
        scratch: an empty folder for what the browser writes.
        flags: further ones of Chromium.
        query: behind the address, such as ``?q=word``.
    """
    program, log = browser(), scratch / "net.json"
    assert program is not None
    address = page.resolve().as_uri() + query
    told = (f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", "--dump-dom", address)
    done = subprocess.run([program, *FLAGS, *flags, *told], capture_output=True, text=True, timeout=120, check=True)
    lines = re.split(r"\n(?=\[\d+:\d+:)", done.stderr)
    console = [found[1] for line in lines if (found := _CONSOLE.search(line))]
    return Seen(done.stdout, console, _requests(log))


def measure(page: Path, scratch: Path, width: int, *flags: str) -> dict[str, Any]:
    """How a page is laid out in so many pixels, told by a script that a copy of it is given.

    The copy lies in a frame: a window of Chromium's is never as narrow as a phone.

    Returns:
        ``window`` and ``content`` width in pixels, colours of ``ground`` and ``ink``, and of each of the ``figures``
        its ``kind``, the ``box`` (width, height) it fills, that of its ``caption``, and the size of a picture's own.
    """
    html = page.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in html  # it forbids scripts
    free = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", f"{_MEASURE}</body>")
    copy = scratch / "measured.html"
    frame = f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{escape(free)}"></iframe>'
    copy.write_text(f"<!DOCTYPE html><html><body>{frame}</body></html>", encoding="utf-8")
    seen = look(copy, scratch, "--window-size=1600,900", *flags)
    assert seen.console == []
    found = re.search(r'^<!DOCTYPE html>\s*<html data-found="([^"]*)"', seen.html)
    assert found is not None
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


def _requests(log: Path) -> list[str]:
    """Those of the page, not the browser's own, out of the browser's record."""
    text = log.read_text(encoding="utf-8").rstrip()
    events = json.loads(text if text.endswith("}") and text.count("]") else text.rstrip(",") + "]}")["events"]
    asked = [event.get("params", {}) for event in events]
    urls = [told["url"] for told in asked if str(told.get("network_isolation_key", "")).startswith("file:")]
    return sorted({url for url in urls if urlsplit(url).scheme not in ("file", "data")})
