"""The report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from markupsafe import Markup

from lrt_dist.config import EvaluateConfig
from lrt_dist.files import atomic_write
from lrt_dist.formatting import format_layers, percent, percent_range
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.agreement import agreements
from lrt_dist.report.agreement_figure import agreement_figure
from lrt_dist.report.answer import MEANINGS, answer
from lrt_dist.report.bands import band_lines
from lrt_dist.report.concept_cards import concept_card, strength_unit
from lrt_dist.report.controls import ARM_MEANINGS
from lrt_dist.report.drawing import STYLES
from lrt_dist.report.environment import environment
from lrt_dist.report.figures import run_figure
from lrt_dist.report.forest import forest_figure
from lrt_dist.report.grids import (
    Grid,
    chosen_pairs,
    column_grid,
    cosine_grids,
    mean_grid,
    retention_grids,
)
from lrt_dist.report.heatmap import HeatMap, heat_map, matrix_map
from lrt_dist.report.learning import advice, learning_curves
from lrt_dist.report.matrix import map_texts_matrix, specificity
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary, summarise
from lrt_dist.report.tables_to_copy import write_tables
from lrt_dist.report.text import number
from lrt_dist.report.warnings import data_warnings
from lrt_dist.sites import Direction, Side
from lrt_dist.store.tables import FitRow, MapRow
from lrt_dist.verdicts import WEAK

# All pairs of two deep models are thousands of rows; the Parquet file beside the page has them.
_MOST_FITS = 200


SCORE_MEANINGS = {
    "propensity": "Log-odds of the positive against the negative continuation of a prompt.",
    "letter_logits": "Log-odds of the first token in which the positive and the negative "
    "continuation of a prompt differ: the difference of its two logits.",
    "probability": "Probability of the positive one of the first two tokens in which the "
    "continuations of a prompt differ, as if there were no third.",
    "refusal": "Log-odds that a prompt is continued with the first token of a positive "
    "continuation.",
    "words": "Share of a text's words that are in a list.",
    "refusal_phrases": "1 for a text that holds a phrase by which refusals are known, else 0.",
    "classifier": "Probability that a text classifier gives to a label.",
    "judge": "Number from 0 to 10 that a chat model gives to a text by a rubric.",
}
"""What each score of the package is, for the reader of the page."""


@dataclass(frozen=True)
class OtherMap:
    """A joint or reverse map; `best_single` is the best R² of the joint map's layers alone."""

    direction: Direction
    begin: str
    fit: MapRow
    best_single: float


def write_report(
    results: Results,
    *,
    change: str,
    warnings: Sequence[str],
    facts: Mapping[str, str],
    provenance: Mapping[str, str],
) -> Path:
    """Write the page of a run, and its tables to copy beside it; return the page's path.

    A reader sees the old page or the new one.

    Args:
        change: what figures call a change of the score, e.g. `change of log-odds`.
        warnings: come first on the page, before those that follow from the numbers.
        facts: times and counts, shown as they are.
        provenance: versions, machines, seeds and hashes, shown as they are.

    Raises:
        DiskFullError: there is no space left.
    """
    summaries = summarise(results)
    files = write_tables(results.report, summaries)
    html = _render(results, summaries, change, warnings, facts, provenance, files)
    with atomic_write(results.report) as partial:
        partial.write_text(html, "utf-8")
    return results.report


def _render(
    results: Results,
    summaries: Sequence[ConceptSummary],
    change: str,
    warnings: Sequence[str],
    facts: Mapping[str, str],
    provenance: Mapping[str, str],
    files: Sequence[str],
) -> str:
    """The page as text, a function of its arguments alone."""
    config = results.config
    kept = retention_grids(results.vectors)
    curves = learning_curves(results.fits)
    compared = list(results.agreement) if summaries else []
    template = environment().get_template("page.html.jinja")
    return template.render(
        title=config.name,
        score=config.evaluate.score.title,
        scores=_meanings(config.evaluate),
        scale=config.evaluate.scale,
        unit=strength_unit(config.evaluate),
        operator=config.evaluate.operator,
        models=[_model_name(results, side) for side in Side],
        answer=answer(results, summaries),
        warnings=[*warnings, *data_warnings(results, summaries)],
        files=files,
        cards=[concept_card(results, s, kept.get(s.concept), change) for s in summaries],
        forest=Markup(forest_figure(summaries)) if summaries else None,
        forest_arms=_arms_of(summaries),
        matrices=_matrices(summaries) if len(summaries) > 1 else [],
        heat_maps=_heat_maps(results, kept),
        agreements=agreements(results, summaries),
        bands=band_lines(results.bands) if summaries else [],
        levels=[(s.concept, each) for s in summaries for each in s.levels],
        agreement_figure=Markup(agreement_figure(compared)) if compared else None,
        agreement_arms=_in_order({row.arm for row in compared}),
        figures=[_run_figure(name, results) for name in config.report.figures],
        learning=curves,
        advice=advice(curves),
        other_maps=_other_maps(results),
        fits=_best_first(results.fits)[:_MOST_FITS],
        fit_count=len(results.fits),
        what_was_run=_what_was_run(results),
        facts=dict(facts),
        provenance=dict(provenance),
        config=yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True),
        styles=STYLES,
        meanings=MEANINGS,
        arms=ARM_MEANINGS,
    )


def _meanings(config: EvaluateConfig) -> dict[str, str]:
    """What the run's scores are, those of the package, by what the run calls them."""
    used = (config.score, *config.generate.scores)
    return {s.title: SCORE_MEANINGS[s.method] for s in used if s.method in SCORE_MEANINGS}


def _arms_of(summaries: Sequence[ConceptSummary]) -> list[Arm]:
    """The arms of the forest plot."""
    arms = {control.arm for s in summaries for control in s.drawn}
    arms |= {control.arm for s in summaries for control in s.steered}
    return _in_order({Arm.NATIVE, Arm.TRANSFERRED, *arms})


def _in_order(arms: Iterable[str]) -> list[Arm]:
    wanted = set(arms)
    return [arm for arm in Arm if arm in wanted]


def _matrices(summaries: Sequence[ConceptSummary]) -> list[HeatMap]:
    vectors = matrix_map(
        specificity(summaries),
        title="Whose vector moves whose items? In per cent of the native effect",
        note="Test items of a row's concept under the transferred vector of a column's, at the "
        "pair and strength chosen for the row; rings: its own, which is retention. Beside them "
        "stand the other concepts' vectors, which should do little.",
    )
    texts = map_texts_matrix(summaries)
    if texts is None:
        return [vectors]
    maps = matrix_map(
        texts,
        title="Whose texts was the map fitted on? In per cent of the native effect",
        note="Test items of a row's concept under its own vector, mapped by a map that was fitted "
        "on the contrast texts of a column's. Rings: on its own texts, where the native vector "
        "comes out by algebra if they are no more than the dimensions.",
        column="map",
    )
    return [vectors, maps]


def _run_figure(name: str, results: Results) -> tuple[Markup, str]:
    svg, caption = run_figure(name, results)
    return Markup(svg), caption


def _heat_maps(results: Results, kept: Mapping[str, Grid]) -> list[HeatMap]:
    rings = chosen_pairs(results.vectors)
    maps = []
    if kept:
        maps.append(
            heat_map(
                mean_grid(kept.values()),
                title="Retention, in per cent, as predicted",
                note="On development items, mean over concepts. Blank: the native vector has less "
                f"than {percent(WEAK)} of its best effect there. Rings: chosen, by the weaker of "
                "the native and the transferred effect.",
                in_percent=True,
                chosen=rings,
            )
        )
    if len(results.vectors):
        maps.append(
            heat_map(
                mean_grid(cosine_grids(results.vectors).values()),
                title="Cosine",
                note="Of the transferred with the native vector, mean over concepts.",
                chosen=rings,
            )
        )
    if len(results.fits):
        for column, title, note in (
            ("r2", "R², total", "Of held-out rows; belongs to the dimensions that vary most."),
            ("r2_median", "R², median dimension", "Of held-out rows, over target dimensions."),
            (
                "r2_mismatched",
                "R², mismatched documents",
                "A control: the same fit to random rows of other documents, mean of several draws.",
            ),
        ):
            grid = column_grid(results.fits, column)
            maps.append(heat_map(grid, title=title, note=note, chosen=rings))
    return maps


def _model_name(results: Results, side: Side) -> str:
    config = results.config
    name = (config.source if side is Side.SOURCE else config.target).model
    # A folder on one machine says nothing to a reader elsewhere; its last part is the name.
    return Path(name).name if Path(name).is_absolute() else name


def _what_was_run(results: Results) -> dict[str, str]:
    """The rows of the section that says what was run."""
    config, fits = results.config, list(results.fits)
    rows = {f"{side.capitalize()} model": _model_name(results, side) for side in Side}
    rows["Corpus"] = str(config.corpus)
    if fits:
        sources = format_layers([fit.source_layer for fit in fits])
        targets = format_layers([fit.target_layer for fit in fits])
        shrunk = (
            f"{_range(fit.rows_shrunk_source for fit in fits)} in the source's layers, with "
            f"{_percents(fit.shrunk_share_source for fit in fits)} of the squared norms, and "
            f"{_range(fit.rows_shrunk_target for fit in fits)} in the target's, with "
            f"{_percents(fit.shrunk_share_target for fit in fits)}: of norms far above the "
            "layer's median, to which they were scaled down"
        )
        rows |= {
            "Layers": f"{sources} → {targets}",
            "Dimensions": f"{fits[0].d_source} → {fits[0].d_target}",
            "Rows fitted": f"{_range(fit.n for fit in fits)} of "
            f"{number(fits[0].documents)} documents",
            "Rows scaled down": shrunk,
            "Method": fits[0].method,
            "Rank": _range(fit.rank for fit in fits),
        }
        if FIT_METHODS.find(config.fit.method).penalised:
            rows["Ridge λ"] = (
                f"{_range(fit.ridge_relative for fit in fits)} × the median eigenvalue, by "
                f"cross-validation in {fits[0].folds} folds of whole documents"
            )
    sites = config.sites.model_dump(mode="json", exclude_none=True)
    rows["Sites"] = ", ".join(f"{key} {value}" for key, value in sites.items())
    return rows


def _range(values: Iterable[float]) -> str:
    known = list(values)
    low, high = min(known), max(known)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _percents(values: Iterable[float]) -> str:
    known = list(values)
    low, high = min(known), max(known)
    return percent(low) if percent(low) == percent(high) else percent_range(low, high)


def _other_maps(results: Results) -> list[OtherMap]:
    """Joint and reverse maps, the best first of each kind."""
    maps = []
    for joint in sorted(results.joint, key=lambda row: -row.r2):
        singles = [
            fit.r2
            for fit in results.fits
            if fit.target_layer == joint.target_layer and fit.source_layer in joint.source_layers
        ]
        begin = " + ".join(map(str, joint.source_layers))
        maps.append(OtherMap(Direction.JOINT, begin, joint, max(singles)))
    for reverse in _best_first(results.reverse)[:_MOST_FITS]:
        maps.append(OtherMap(Direction.REVERSE, str(reverse.source_layer), reverse, math.nan))
    return maps


def _best_first(fits: Iterable[FitRow]) -> list[FitRow]:
    """By held-out R²."""
    return sorted(fits, key=lambda row: -row.r2)
