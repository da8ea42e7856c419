"""The forest plot: what every concept's vector does, beside all of its controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.controls import DrawnControl, SteeredControl
from lrt_dist.report.drawing import INK, SOFT, STYLES, WIDTH, drawn_as, plain, svg
from lrt_dist.report.summary import ConceptSummary

_ROW = 0.17
"""Inches of a line."""
_FARTHEST = (-2.0, 3.0)
"""What lies outside is cut off; the tables have it."""


def forest_figure(summaries: Sequence[ConceptSummary]) -> str:
    """One block of lines a concept: transferred with its interval, drawn controls with the range
    of their draws, and all others as points of one line."""
    heights = [
        2 + (len(summary.drawn) + bool(summary.steered) if summary.defined else 0)
        for summary in summaries
    ]
    with drawn_as("forest"):
        figure = Figure(figsize=(WIDTH, 0.6 + _ROW * sum(heights)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=STYLES[Arm.NONE].colour, linewidth=0.8)
        axes.axvline(1, color=STYLES[Arm.NATIVE].colour, linewidth=1.4)
        top, places = 0, []
        for summary, height in zip(summaries, heights, strict=True):
            places.append(top + (height - 2) / 2)
            _draw_block(axes, top, summary)
            top += height
        ticks = axes.set_yticks(places, [_short(summary.concept) for summary in summaries])
        for tick in ticks:
            # A name is text, whatever dollar signs it holds.
            tick.label1.set_parse_math(False)
            tick.label1.set_color(INK)
        axes.set_ylim(top - 1, -1)
        axes.set_xlim(*_limits(summaries))
        axes.set_xlabel("share of the best native effect")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.spines["left"].set_visible(False)
        plain(axes, grid="x")
        return svg(figure, "Share of the best native effect, by concept, with all controls")


def _draw_block(axes: Any, top: int, summary: ConceptSummary) -> None:
    if not summary.defined:
        axes.text(0.5, top, "no native effect", color=SOFT, ha="center", va="center", fontsize=9)
        return
    style = STYLES[Arm.TRANSFERRED]
    low, high = summary.share_interval
    if not (math.isnan(low) or math.isnan(high)):
        axes.plot([_drawn(low), _drawn(high)], [top, top], color=style.colour, linewidth=2.2)
    axes.plot(summary.share, top, style.marker, color=style.colour, markersize=6)
    for place, control in enumerate(summary.drawn, start=top + 1):
        _draw_range(axes, place, control)
    for point in summary.steered:
        _draw_point(axes, top + 1 + len(summary.drawn), point)


def _draw_range(axes: Any, y: int, control: DrawnControl) -> None:
    colour = STYLES[control.arm].colour
    least, low, middle, high, most = map(_drawn, control.quantiles)
    axes.plot([least, most], [y, y], color=colour, linewidth=0.9)
    axes.plot([low, high], [y, y], color=colour, linewidth=3.6, solid_capstyle="butt")
    axes.plot(middle, y, "|", color=colour, markersize=6)


def _drawn(value: float) -> float:
    """A number that can be drawn, however far outside of the figure."""
    return max(-1e3, min(1e3, value))


def _draw_point(axes: Any, y: int, control: SteeredControl) -> None:
    style = STYLES[control.arm]
    if math.isfinite(control.share):
        axes.plot(control.share, y, style.marker, color=style.colour, markersize=4.5)


def _limits(summaries: Sequence[ConceptSummary]) -> tuple[float, float]:
    """All that is finite, within `_FARTHEST`; every point of a transferred vector in any case."""
    kept = [s.share for s in summaries if math.isfinite(s.share)]
    seen = [end for s in summaries for end in s.share_interval]
    for summary in summaries:
        seen += [q for control in summary.drawn for q in control.quantiles]
        seen += [control.share for control in summary.steered]
    finite = [min(max(value, _FARTHEST[0]), _FARTHEST[1]) for value in seen if math.isfinite(value)]
    low, high = min([0.0, *finite, *kept]), max([1.0, *finite, *kept])
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
