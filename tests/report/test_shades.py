"""Heat maps can be read in every colour that they take."""

from __future__ import annotations

import re
from pathlib import Path

from synthetic_run import exact_run

from lrt_dist.report.page import write_report


def test_text_is_readable_on_every_shade(tmp_path: Path) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), on a light page and on a dark one."""
    results = exact_run(tmp_path)
    page = write_report(results, change="change", warnings=(), facts={}, provenance={}).read_text()
    schemes = re.findall(r":root \{(.*?)\n\s*\}", page, flags=re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", scheme))
        for end in ("heat-up", "heat-down"):
            for heat in range(101):
                cell = mixed(colours[end], colours["card"], heat / 100)
                assert contrast(cell, linear(colours["ink"])) >= 4.5


def linear(colour: str) -> tuple[float, ...]:
    """Linear light of `#rrggbb`."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    dark, light = sorted(0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2] for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


def mixed(a: str, b: str, share: float) -> tuple[float, ...]:
    """As `color-mix(in oklab, a share, b)`; without the last, linear step, which mixing commutes
    with."""
    to_lms = (
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    )
    roots = [
        [sum(w * c for w, c in zip(row, linear(colour), strict=True)) ** (1 / 3) for row in to_lms]
        for colour in (a, b)
    ]
    lms = [(share * x + (1 - share) * y) ** 3 for x, y in zip(*roots, strict=True)]
    to_rgb = (
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    )
    return tuple(sum(w * c for w, c in zip(row, lms, strict=True)) for row in to_rgb)
