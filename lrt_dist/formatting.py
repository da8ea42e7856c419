"""Bytes, durations, shares and layers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def format_bytes(n: float) -> str:
    """`1536` -> `"1.5 KiB"`."""
    for suffix in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} B" if suffix == "B" else f"{n:.1f} {suffix}"
        n /= 1024
    return f"{n:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """`4000` -> `"1 h 07 min"`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def percent(value: float) -> str:
    """A ratio as whole per cent with a real minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{round(100 * value)}%".replace("-", "\N{MINUS SIGN}")


def percent_range(low: float, high: float) -> str:
    """`"77 to 93%"`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{percent(low).removesuffix('%')} to {percent(high)}"


def format_layers(layers: Sequence[int]) -> str:
    """`"0 to 29"`, or `"9, 15, 21"`."""
    chosen = sorted(set(layers))
    if len(chosen) > 2 and chosen == list(range(chosen[0], chosen[-1] + 1)):
        return f"{chosen[0]} to {chosen[-1]}"
    return ", ".join(map(str, chosen))
