"""The report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lrt_dist.files import atomic_write
from lrt_dist.formatting import format_layers, percent, percent_range
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.report.answer import Verdict, answer, data_warnings, verdict
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.figures import STYLES, retention_figure, run_figure, strength_figure
from lrt_dist.report.grids import (
    Grid,
    chosen_pairs,
    column_grid,
    cosine_grids,
    mean_grid,
    retention_grids,
)
from lrt_dist.report.heatmap import HeatMap, heat_map
from lrt_dist.report.items import item_scores
from lrt_dist.report.learning import advice, learning_curves
from lrt_dist.report.results import Results
from lrt_dist.report.samples import Samples, samples_of
from lrt_dist.report.summary import ConceptSummary, summarise
from lrt_dist.sites import Direction, Side
from lrt_dist.store.tables import FitRow, MapRow

# All pairs of two deep models are thousands of rows; the Parquet file beside the page has them.
_MOST_FITS = 200


@dataclass(frozen=True)
class Card:
    """All that the page says of one concept."""

    summary: ConceptSummary
    verdict: Verdict
    figure: Markup
    heat_map: HeatMap | None
    samples: Samples | None


@dataclass(frozen=True)
class OtherMap:
    """A joint or reverse map; `best_single` is the best R² of the joint map's layers alone."""

    direction: Direction
    begin: str
    fit: MapRow
    best_single: float


def write_report(
    results: Results, *, change: str, warnings: Sequence[str], facts: Mapping[str, str]
) -> Path:
    """Write the page of a run and return its path; a reader sees the old page or the new one.

    Args:
        change: what figures call a change of the score, e.g. `change of log-odds`.
        warnings: come first on the page, before those that follow from the numbers.
        facts: versions, times and counts, shown as they are.

    Raises:
        DiskFullError: there is no space left.
    """
    html = render(results, change=change, warnings=warnings, facts=facts)
    with atomic_write(results.report) as partial:
        partial.write_text(html, "utf-8")
    return results.report


def render(
    results: Results, *, change: str, warnings: Sequence[str], facts: Mapping[str, str]
) -> str:
    """The page as text, a function of its arguments alone."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, signed=_signed, percent=percent)
    config = results.config
    summaries = summarise(results)
    kept = retention_grids(results.scores, results.vectors, config.evaluate.score)
    curves = learning_curves(results.fits)
    return environment.get_template("page.html.jinja").render(
        title=config.name,
        score=config.evaluate.score,
        models=[_model_name(results, side) for side in Side],
        answer=answer(results, summaries),
        warnings=[*warnings, *data_warnings(results, summaries)],
        cards=[_card(results, summary, kept.get(summary.concept), change) for summary in summaries],
        overview=Markup(retention_figure(summaries)) if summaries else None,
        heat_maps=_heat_maps(results, kept),
        figures=[_run_figure(name, results) for name in config.report.figures],
        learning=curves,
        advice=advice(curves),
        other_maps=_other_maps(results),
        fits=_best_first(results.fits)[:_MOST_FITS],
        fit_count=len(results.fits),
        what_was_run=_what_was_run(results),
        facts=dict(facts),
        config=yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True),
        colours={arm.value: style.colour for arm, style in STYLES.items()},
        percent_range=percent_range,
    )


def _card(results: Results, summary: ConceptSummary, kept: Grid | None, change: str) -> Card:
    metric = results.config.evaluate.score
    test = item_scores(results.scores, summary.concept, "test", metric, summary.pair)
    figure = strength_figure(
        strength_curves(test), chosen=summary.strength, label=summary.concept, change=change
    )
    map_of_pairs = None
    if kept is not None and len(kept.values) > 1:
        map_of_pairs = heat_map(
            kept,
            title=f"Retention by layer pair, in per cent: {summary.concept}",
            note="On the development items, by which the ringed pair was chosen: it flatters.",
            in_percent=True,
            chosen={summary.pair: [summary.concept]},
        )
    samples = samples_of(results.samples, summary.concept)
    return Card(summary, verdict(summary), Markup(figure), map_of_pairs, samples)


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
                title="Retention, in per cent",
                note="Mean over concepts, on development items. Rings: chosen, by the weaker of "
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
                "A control: the same fit to rows of other documents, far away in the corpus.",
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
    rows["Corpus"] = config.corpus.dataset or ", ".join(config.corpus.paths)
    if fits:
        sources = format_layers([fit.source_layer for fit in fits])
        targets = format_layers([fit.target_layer for fit in fits])
        left_out = (
            f"{_range(fit.rows_left_out for fit in fits)}, of norms far above the layer's median; "
            f"they hold {_percents(fit.left_out_share_source for fit in fits)} of the squared "
            "norms in the source's layers, "
            f"{_percents(fit.left_out_share_target for fit in fits)} in the target's"
        )
        rows |= {
            "Layers": f"{sources} → {targets}",
            "Dimensions": f"{fits[0].d_source} → {fits[0].d_target}",
            "Rows fitted": f"{_range(fit.n for fit in fits)} of "
            f"{_number(fits[0].documents)} documents",
            "Rows left out": left_out,
            "Method": fits[0].method,
            "Rank": _range(fit.rank for fit in fits),
        }
        if FIT_METHODS.find(config.fit.method).penalised:
            rows["Ridge λ"] = (
                f"{_range(fit.ridge_relative for fit in fits)} × the median eigenvalue, by "
                f"cross-validation in {fits[0].folds} folds of whole documents"
            )
    sites = config.sites.model_dump(mode="json")
    rows["Sites"] = ", ".join(f"{key} {value}" for key, value in sites.items())
    return rows


def _range(values: Iterable[float]) -> str:
    known = list(values)
    low, high = min(known), max(known)
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


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


def _number(value: float, digits: int = 3) -> str:
    """Whole numbers with separators, others to significant digits; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 10**digits):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float, digits: int = 2) -> str:
    """A fixed number of decimals and always a sign; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
