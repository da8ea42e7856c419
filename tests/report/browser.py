"""A page as a real browser lays it out."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        if (path := shutil.which(name))
    ),
    None,
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome binary on PATH")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--virtual-time-budget=2000",
]

# A frame has exactly the width it is given; a browser's window has its own idea of a minimum.
HARNESS = """<!doctype html><body>
<iframe id="frame" style="border:0;width:{width}px;height:2000px" srcdoc="{page}"></iframe>
<pre id="seen"></pre><script>
document.getElementById("frame").addEventListener("load", (event) => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  inside.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
  const boxes = [...inside.querySelectorAll(".scroll")];
  const rows = [...inside.querySelectorAll(".heat tbody tr")];
  const text = [...inside.querySelectorAll("svg text")].map((one) => one.getBoundingClientRect());
  document.getElementById("seen").textContent = [
    "seen", event.target.contentWindow.innerWidth, root.scrollWidth,
    Math.max(0, ...boxes.map((one) => one.scrollWidth)),
    Math.round(Math.min(1000, ...text.map((box) => box.height))),
    Math.round(Math.max(0, ...rows.map((row) => row.getBoundingClientRect().height))),
    text.filter((box) => box.left < 0 || box.right > root.clientWidth).length,
    boxes.filter((one) => one.tabIndex < 0).length,
  ].join(" ");
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """Sizes in CSS pixels.

    Attributes:
        inner: width of the window.
        page_width: width that the page takes; more than the window's means scrolling sideways.
        widest_box: of what scrolls within a box of its own.
        smallest_text: height of the smallest text in a figure; 1000 where there is none.
        tallest_row: of the heat maps.
        outside: texts of figures that are cut off.
        unreachable: boxes that scroll and cannot be reached with the keyboard.
    """

    inner: int
    page_width: int
    widest_box: int
    smallest_text: int
    tallest_row: int
    outside: int
    unreachable: int


def seen_in_browser(page: str, width: int, folder: Path) -> Seen:
    """Lay a page out in a window of some width; `folder` is for files of the browser."""
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(width=width, page=html.escape(page)), "utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *OPTIONS,
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,2200",
            "--dump-dom",
            harness.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seen = re.search(r'<pre id="seen">seen ([\d ]+)<', done.stdout)
    assert seen is not None, done.stderr[-2000:]
    return Seen(*map(int, seen.group(1).split()))
