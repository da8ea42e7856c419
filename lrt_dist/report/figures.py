"""Figures as inline SVG: small, deterministic, in one fixed colour per arm."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lrt_dist.errors import UserError
from lrt_dist.plan.conditions import Arm
from lrt_dist.registry import Registry
from lrt_dist.report.curves import Curve
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn, in every figure."""

    colour: str
    marker: str
    line: str


# Okabe and Ito's palette: told apart with any colour vision. Markers say the same once more.
STYLES = {
    Arm.NONE: ArmStyle("#1b1f24", "", "-"),
    Arm.NATIVE: ArmStyle("#0072b2", "o", "-"),
    Arm.TRANSFERRED: ArmStyle("#d55e00", "s", "-"),
    Arm.MISMATCHED: ArmStyle("#a8518a", "D", "--"),
    Arm.RANDOM: ArmStyle("#7a7f87", "", ":"),
}

RunFigure = Callable[[Results], Figure]
"""A figure about a whole run, which `report.figures` names; its docstring is its caption."""

FIGURES: Registry[RunFigure] = Registry("figure", callable, "a function")

# The page scales a figure to its column: at 5 inches, 11 points stay 9 on a telephone.
_WIDTH = 5.0
_INK, _SOFT, _RULE = "#1b1f24", "#5b6470", "#d9dde3"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
}


def run_figure(name: str, results: Results) -> tuple[str, str]:
    """A further figure as SVG, and its caption.

    Raises:
        UserError: there is no figure of that name, or it draws something else.
    """
    draw = FIGURES.find(name)
    caption = (draw.__doc__ or name).strip().split("\n\n")[0]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = draw(results)
        if not isinstance(figure, Figure):
            raise UserError(
                f"report.figures: {name} returned a {type(figure).__name__}, not a matplotlib "
                "Figure"
            )
        return _svg(figure, caption), caption


def strength_figure(curves: Sequence[Curve], *, chosen: float, label: str, change: str) -> str:
    """Mean change of the score over strength, all arms; the chosen ±strength is marked.

    Args:
        change: what the vertical axis is called, e.g. `change of log-odds`.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"strength {label}"}):
        figure = Figure(figsize=(_WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=STYLES[Arm.NONE].colour, linewidth=0.8)
        for sign in (-1, 1):
            axes.axvline(sign * chosen, color=_RULE, linewidth=1, zorder=0)
        for curve in reversed(curves):
            _draw_curve(axes, curve)
        axes.set_xlabel("strength α (share of the layer's median norm)")
        axes.set_ylabel(change)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axes.tick_params(length=0)
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        return _svg(figure, f"{change.capitalize()} over strength, by arm: {label}")


def _draw_curve(axes: Any, curve: Curve) -> None:
    strengths = [point.strength for point in curve.points]
    style = STYLES[curve.arm]
    axes.fill_between(
        strengths,
        [point.low for point in curve.points],
        [point.high for point in curve.points],
        color=style.colour,
        alpha=0.14,
        linewidth=0,
    )
    axes.plot(
        strengths,
        [point.mean for point in curve.points],
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=4.5,
        linewidth=1.8,
        label=curve.arm,
    )


def retention_figure(summaries: Sequence[ConceptSummary]) -> str:
    """Retention of each concept with its interval, beside the range that the controls reach."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "retention"}):
        figure = Figure(figsize=(_WIDTH, 0.9 + 0.42 * len(summaries)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=STYLES[Arm.NONE].colour, linewidth=0.8)
        axes.axvline(1, color=STYLES[Arm.NATIVE].colour, linewidth=1.4)
        for y, summary in enumerate(summaries):
            _draw_retention(axes, y, summary)
        ticks = axes.set_yticks(
            range(len(summaries)), [_short(summary.concept) for summary in summaries]
        )
        for tick in ticks:
            # A name is text, whatever dollar signs it holds.
            tick.label1.set_parse_math(False)
            tick.label1.set_color(_INK)
        axes.set_ylim(len(summaries) - 0.5, -0.5)
        axes.set_xlabel("share of the native effect")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        return _svg(figure, "Retention per concept with intervals and controls")


def _draw_retention(axes: Any, y: int, summary: ConceptSummary) -> None:
    random, mismatched, kept = summary.random, summary.mismatched, summary.retention
    if random is not None:
        axes.barh(
            y,
            random.high - random.low,
            left=random.low,
            height=0.5,
            color=STYLES[Arm.RANDOM].colour,
            alpha=0.35,
            linewidth=0,
        )
    if mismatched.defined:
        style = STYLES[Arm.MISMATCHED]
        axes.plot(mismatched.value, y, style.marker, color=style.colour, markersize=5)
    if kept.defined:
        style = STYLES[Arm.TRANSFERRED]
        axes.plot([kept.low, kept.high], [y, y], color=style.colour, linewidth=2.2)
        axes.plot(kept.value, y, style.marker, color=style.colour, markersize=6.5)
    else:
        axes.text(0.5, y, "undefined", color=_SOFT, ha="center", va="center")


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _svg(figure: Figure, label: str) -> str:
    """The bare element: no prologue, no metadata, no date, sized by the page."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    # Several figures share a page: ids that nothing refers to, and a style that would reach all of
    # the page, stay out. (Clip paths and markers have ids salted with the figure's own name.)
    body = re.sub(r"<style.*?</style>", "", element.split(">", 1)[1], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    view_box = f'viewBox="0 0 {width} {height}"'
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box} role="img" ' + (
        f'aria-label="{_attribute(label)}">{body}'
    )


def _attribute(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    )
