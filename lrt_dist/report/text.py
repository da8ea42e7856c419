"""Numbers as the page and the terminal print them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrt_dist.formatting import percent, percent_range

_MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 3) -> str:
    """Whole numbers with separators, others to significant digits; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 10**digits):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.{digits}g}".replace("-", _MINUS)


def signed(value: float, digits: int = 2) -> str:
    """A fixed number of decimals and always a sign; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def interval(ends: tuple[float, float]) -> str:
    """Of a ratio, in per cent: `"77 to 93%"`; in words where an end is missing."""
    low, high = ends
    if math.isnan(low) or math.isnan(high):
        return "undefined"
    if math.isfinite(low) and math.isfinite(high):
        return percent_range(low, high)
    if math.isfinite(low):
        return f"{percent(low)} or more"
    return f"{percent(high)} or less" if math.isfinite(high) else "without end"


def signed_interval(ends: tuple[float, float], digits: int = 2) -> str:
    """Of an effect: `"+3.10 to +3.95"`."""
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high)):
        return "without end"
    return f"{signed(low, digits)} to {signed(high, digits)}"


def names(listed: Sequence[str]) -> str:
    """`"a, b and c"`."""
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"
