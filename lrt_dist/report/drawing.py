"""How figures look: one fixed colour per arm, and inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lrt_dist.plan.conditions import Arm


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn, in every figure; `dark` is its colour on a dark page."""

    colour: str
    dark: str
    marker: str


# Mostly Okabe and Ito's palette: told apart with any colour vision. Markers say the same once more.
STYLES = {
    Arm.NONE: ArmStyle("#1b1f25", "#e6e8eb", ""),
    Arm.NATIVE: ArmStyle("#0072b2", "#4aa8e0", "o"),
    Arm.TRANSFERRED: ArmStyle("#d55e00", "#f08a3c", "s"),
    Arm.FOREIGN: ArmStyle("#00805d", "#2fbf95", "^"),
    Arm.PERMUTED: ArmStyle("#b04a8a", "#dd8fc0", "|"),
    Arm.RANDOM_SOURCE: ArmStyle("#2f8fc4", "#7cc6ee", "|"),
    Arm.COVARIANCE: ArmStyle("#8a7a00", "#cdbb3c", "|"),
    Arm.RANDOM: ArmStyle("#71767e", "#a3a9b2", "|"),
    Arm.MISMATCHED: ArmStyle("#7b4fa3", "#b692d8", "D"),
    Arm.CONCEPT_MAP: ArmStyle("#3f6b3a", "#8fbf88", "v"),
    Arm.DETOUR: ArmStyle("#9c3848", "#e08a97", "<"),
    Arm.MEAN: ArmStyle("#7a4a2b", "#c8977a", "P"),
    Arm.IDENTITY: ArmStyle("#a87400", "#e6b23c", "X"),
}

INK, SOFT, RULE = "#1b1f24", "#5b6470", "#d9dde3"
# The page scales a figure to its column: at 5 inches, 11 points stay 9 on a telephone.
WIDTH = 5.0

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
}
_VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule"} | {
    style.colour: f"--arm-{arm}" for arm, style in STYLES.items()
}


def drawn_as(name: str) -> AbstractContextManager[None]:
    """The style of every figure; equal names give equal ids inside the SVG."""
    context: AbstractContextManager[None] = matplotlib.rc_context({**_STYLE, "svg.hashsalt": name})
    return context


def plain(axes: Any, *, grid: str) -> None:
    """No ticks, and a grid along one axis only."""
    axes.tick_params(length=0)
    axes.grid(axis=grid, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def svg(
    figure: Figure, label: str, hints: Mapping[str, str] | None = None, *, themed: bool = True
) -> str:
    """The bare element: no prologue, no metadata, no date, sized and coloured by the page.

    Args:
        label: what it shows, for those who cannot see it.
        hints: what is said of an artist when one points at it, by its gid.
        themed: whether colours follow the page, which may be dark; else they stay as drawn.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    # Several figures share a page: ids that nothing refers to, and a style that would reach all of
    # the page, stay out. (Clip paths and markers have ids salted with the figure's own name.)
    body = re.sub(r"<style.*?</style>", "", element.split(">", 1)[1], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items() if themed else ():
        body = re.sub(rf"\b(fill|stroke): {colour}\b", rf"\1: var({variable})", body)
    known = hints or {}

    def group(match: re.Match[str]) -> str:
        hint = known.get(match[1])
        return "<g>" if hint is None else f"<g><title>{_escaped(hint)}</title>"

    body = re.sub(r'<g id="([^"]*)">', group, body)
    view_box = f'viewBox="0 0 {width} {height}"'
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box} role="img" ' + (
        f'aria-label="{_escaped(label)}">{body}'
    )


def _escaped(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    )
