"""The figures of one concept: its strength curve, and its items one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.controls import STEERED
from lrt_dist.report.curves import Curve
from lrt_dist.report.drawing import RULE, STYLES, WIDTH, drawn_as, plain, svg
from lrt_dist.report.item_effects import ItemEffects


def strength_figure(
    curves: Sequence[Curve], *, chosen: float, label: str, change: str, unit: str
) -> str:
    """Mean change of the score over strength; the chosen ±strength is marked.

    Args:
        change: what the vertical axis is called, e.g. `change of log-odds`.
        unit: of strengths, see `concept_cards.UNITS`.
    """
    with drawn_as(f"strength {label}"):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=STYLES[Arm.NONE].colour, linewidth=0.8)
        for sign in (-1, 1):
            axes.axvline(sign * chosen, color=RULE, linewidth=1, zorder=0)
        for curve in reversed(curves):
            _draw_curve(axes, curve)
        axes.set_xlabel(f"strength α ({unit})")
        axes.set_ylabel(change)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        plain(axes, grid="y")
        return svg(figure, f"{change.capitalize()} over strength, by arm: {label}")


def _draw_curve(axes: Any, curve: Curve) -> None:
    strengths = [point.strength for point in curve.points]
    style = STYLES[curve.arm]
    if curve.arm not in STEERED:
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
        linestyle="none" if curve.arm in STEERED else "-",
        marker=style.marker,
        markersize=4.5,
        linewidth=1.8,
    )


def scatter_figure(effects: Sequence[ItemEffects], *, label: str) -> str:
    """Native against transferred effect of every item; pointing at one shows its text."""
    style = STYLES[Arm.TRANSFERRED]
    with drawn_as(f"items {label}"):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for draw in (axes.axhline, axes.axvline):
            draw(0, color=STYLES[Arm.NONE].colour, linewidth=0.8)
        axes.axline((0, 0), slope=1, color=STYLES[Arm.NATIVE].colour, linewidth=1.2)
        for place, each in enumerate(effects):
            axes.plot(
                each.native,
                each.transferred,
                "o",
                color=style.colour,
                alpha=0.65,
                markersize=5,
                markeredgewidth=0,
                gid=f"item-{place}",
            )
        axes.set_xlabel("native effect")
        axes.set_ylabel("transferred effect")
        plain(axes, grid="both")
        hints = {f"item-{place}": each.hint for place, each in enumerate(effects)}
        return svg(figure, f"Transferred over native effect, item by item: {label}", hints)
