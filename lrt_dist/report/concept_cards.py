"""All that the page says of one concept."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from lrt_dist.config import EvaluateConfig
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.answer import MEANINGS
from lrt_dist.report.concept_figures import scatter_figure, strength_figure
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.grids import Grid
from lrt_dist.report.heatmap import HeatMap, heat_map
from lrt_dist.report.item_effects import ItemEffects, item_effects, worst
from lrt_dist.report.judged import Judged, judged_of
from lrt_dist.report.results import Results
from lrt_dist.report.samples import Samples, samples_of
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.verdicts import Word

_GOOD = {Word.TRANSFERS}
_BAD = {Word.FAILS, Word.REVERSES, Word.NATIVE_REVERSES, Word.OVERLAP}


@dataclass(frozen=True)
class Card:
    """One concept, with its figures drawn."""

    summary: ConceptSummary
    meaning: str
    curves: Markup
    curve_arms: tuple[Arm, ...]
    scatter: Markup | None
    worst: tuple[ItemEffects, ...]
    heat_map: HeatMap | None
    samples: Samples | None
    judged: Judged | None


UNITS = {
    "median_norm": "share of the layer's median norm",
    "unit": "length",
    "raw": "multiple of the vector itself",
    "equalised": "multiple of the native vectors' mean length",
}
"""Of strengths, by `evaluate.scale`."""


def strength_unit(evaluate: EvaluateConfig) -> str:
    """Of strengths, for figures."""
    if evaluate.operator == "ablate":
        return "share of the component along the vector"
    return UNITS[evaluate.scale]


def tone(word: Word) -> str:
    """How the page colours a verdict: good, bad, or neither."""
    return "good" if word in _GOOD else "bad" if word in _BAD else ""


def concept_card(results: Results, summary: ConceptSummary, kept: Grid | None, change: str) -> Card:
    """The card of a concept; `kept` is its retention by pair of layers."""
    curves = strength_curves(summary.test)
    drawn = strength_figure(
        curves,
        chosen=summary.verdict.strength,
        label=summary.concept,
        change=change,
        unit=strength_unit(results.config.evaluate),
    )
    effects = item_effects(results, summary)
    return Card(
        summary=summary,
        meaning=MEANINGS[summary.word],
        curves=Markup(drawn),
        curve_arms=tuple(curve.arm for curve in curves),
        scatter=Markup(scatter_figure(effects, label=summary.concept)) if effects else None,
        worst=tuple(worst(effects)),
        heat_map=_pairs_map(summary, kept),
        samples=samples_of(results.generated, summary.concept),
        judged=judged_of(results, summary.concept),
    )


def _pairs_map(summary: ConceptSummary, kept: Grid | None) -> HeatMap | None:
    if kept is None or len(kept.values) < 2:
        return None
    return heat_map(
        kept,
        title=f"Retention by layer pair, in per cent, as predicted: {summary.concept}",
        note="On the development items, by which the ringed pair was chosen: it flatters. Blank: "
        "too little native effect.",
        in_percent=True,
        chosen={summary.pair: [summary.concept]},
    )
