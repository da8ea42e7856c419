"""The report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lrt_dist.files import written_whole
from lrt_dist.report.answer import Verdict, answer, data_warnings, verdict
from lrt_dist.report.curves import strength_curves
from lrt_dist.report.figures import ARM_COLOURS, retention_figure, strength_figure
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
from lrt_dist.report.samples import Prompt, prompts_of
from lrt_dist.report.tables import (
    ConceptSummary,
    RunTables,
    percent,
    percent_range,
    read_tables,
    summarise,
)

# All pairs of two deep models are thousands of lines; the Parquet file beside the page has them.
_MOST_FIT_LINES = 200


@dataclass(frozen=True)
class Card:
    """All that the page says of one concept."""

    summary: ConceptSummary
    verdict: Verdict
    figure: Markup
    heat_map: HeatMap | None
    prompts: tuple[Prompt, ...]


def write_report(out: Path, *, warnings: Sequence[str], facts: Mapping[str, str]) -> Path:
    """Write `out/report.html` from the run directory's tables and return its path.

    `warnings` come first on the page, before those that follow from the numbers; `facts` (versions,
    times, rows) are shown as given. The file is replaced at once: a reader sees the old or the new.
    Raises UserError where there is no table to report, CorruptionError where one cannot be read.
    """
    html = render(read_tables(out), warnings=warnings, facts=facts)
    path = out / "report.html"
    with written_whole(path) as partial:
        partial.write_text(html, "utf-8")
    return path


def render(tables: RunTables, *, warnings: Sequence[str], facts: Mapping[str, str]) -> str:
    """The page as text, a function of its arguments alone."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, signed=_signed, percent=percent)
    summaries = summarise(tables)
    kept_grids = (
        retention_grids(tables.scores, tables.vectors)
        if tables.scores is not None and tables.vectors is not None
        else {}
    )
    return environment.get_template("page.html.jinja").render(
        title=str(tables.config.get("name") or "steering transfer"),
        models=_models(tables),
        answer=answer(tables, summaries),
        warnings=[*warnings, *data_warnings(tables, summaries)],
        cards=[_card(tables, summary, kept_grids.get(summary.concept)) for summary in summaries],
        overview=Markup(retention_figure(summaries)) if summaries else None,
        heat_maps=_heat_maps(tables, kept_grids),
        learning=(curves := learning_curves(tables.fits)),
        advice=advice(curves),
        other_maps=_other_maps(tables),
        fits=_fit_lines(tables.fits),
        fit_count=0 if tables.fits is None else tables.fits.num_rows,
        what_was_run=_what_was_run(tables),
        facts=dict(facts),
        config=yaml.safe_dump(dict(tables.config), sort_keys=False, allow_unicode=True)
        if tables.config
        else "",
        colours=ARM_COLOURS,
        percent_range=percent_range,
    )


def _card(tables: RunTables, summary: ConceptSummary, kept: Grid | None) -> Card:
    pair = (summary.source_layer, summary.target_layer)
    test = item_scores(
        tables.scores,
        concept=summary.concept,
        split="test",
        metric="propensity",
        source_layer=pair[0],
        target_layer=pair[1],
    )
    figure = strength_figure(strength_curves(test), chosen=summary.strength, label=summary.concept)
    map_of_pairs = None
    if kept is not None and len(kept.values) > 1:
        map_of_pairs = heat_map(
            kept,
            title=f"Retention by layer pair, in per cent: {summary.concept}",
            note="On the development items, by which the ringed pair was chosen: it flatters.",
            in_percent=True,
            chosen={pair: [summary.concept]},
        )
    samples = () if tables.samples is None else prompts_of(tables.samples, summary.concept)
    return Card(summary, verdict(summary), Markup(figure), map_of_pairs, samples)


def _heat_maps(tables: RunTables, kept: Mapping[str, Grid]) -> list[HeatMap]:
    rings = {} if tables.vectors is None else chosen_pairs(tables.vectors)
    maps = []
    if kept:
        maps.append(
            heat_map(
                mean_grid(kept.values()),
                title="Retention, in per cent",
                note="Transfer itself: mean over concepts, on development items. Rings: chosen.",
                in_percent=True,
                chosen=rings,
            )
        )
    if tables.vectors is not None and tables.vectors.num_rows:
        maps.append(
            heat_map(
                mean_grid(cosine_grids(tables.vectors).values()),
                title="Cosine",
                note="Of the transferred with the native vector, mean over concepts.",
                chosen=rings,
            )
        )
    if tables.fits is not None and tables.fits.num_rows:
        for column, title, note in (
            ("r2", "R², total", "Of held-out rows; belongs to the dimensions that vary most."),
            ("r2_median", "R², median dimension", "Of held-out rows, over target dimensions."),
            ("r2_shuffled", "R², shuffled rows", "The null: the same fit, rows paired at random."),
        ):
            grid = column_grid(tables.fits, column)
            maps.append(heat_map(grid, title=title, note=note, chosen=rings))
    return maps


def _models(tables: RunTables) -> tuple[str, str]:
    found = []
    for side in ("source", "target"):
        named = tables.config.get(side)
        name = named.get("model") if isinstance(named, Mapping) else None
        if not name and tables.fits is not None and tables.fits.num_rows:
            name = tables.fits[f"{side}_model"][0].as_py()
        # A folder on one machine says nothing to a reader elsewhere; its last part is the name.
        local = Path(str(name))
        found.append(local.name if local.is_absolute() else str(name or f"the {side} model"))
    return found[0], found[1]


def _what_was_run(tables: RunTables) -> dict[str, str]:
    """The lines of the section that says what was run, from the fits and the configuration."""
    source, target = _models(tables)
    said = {"Source model": source, "Target model": target}
    corpus = tables.config.get("corpus")
    if isinstance(corpus, Mapping) and corpus.get("paths"):
        paths = corpus["paths"]
        said["Corpus"] = paths if isinstance(paths, str) else ", ".join(map(str, paths))
    fits = tables.fits
    if fits is not None and fits.num_rows:
        dimensions = f"{_range(fits, 'd_source')} → {_range(fits, 'd_target')}"
        said |= {
            "Layers": f"{_layers(fits, 'source_layer')} → {_layers(fits, 'target_layer')}",
            "Dimensions": dimensions,
            "Rows fitted": f"{_range(fits, 'n')} of {_range(fits, 'documents')} documents",
            "Rows left out": f"{_range(fits, 'rows_left_out')}, of norms far above the layer's "
            f"median; they hold {_percents(fits, 'left_out_share_source')} of the squared norms in "
            f"the source's layers, {_percents(fits, 'left_out_share_target')} in the target's",
            "Method": ", ".join(sorted(fits["method"].unique().to_pylist())),
            "Ridge λ": f"{_range(fits, 'ridge_relative')} × the median eigenvalue, by "
            f"cross-validation in {_range(fits, 'folds')} folds of whole documents",
            "Rank": _range(fits, "rank"),
        }
    sites = tables.config.get("sites")
    if isinstance(sites, Mapping):
        said["Sites"] = ", ".join(f"{key} {value}" for key, value in sites.items())
    return said


def _range(table: pa.Table, column: str) -> str:
    low, high = pc.min_max(table[column]).as_py().values()
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _percents(table: pa.Table, column: str) -> str:
    low, high = pc.min_max(table[column]).as_py().values()
    return percent(low) if percent(low) == percent(high) else percent_range(low, high)


def _other_maps(tables: RunTables) -> list[dict[str, Any]]:
    """Maps from several layers together and maps back, the best first of each kind, with the best
    single layer's R² beside those from several."""
    found = []
    if tables.fits_together is not None and tables.fits is not None:
        single = tables.fits.to_pylist()
        for line in tables.fits_together.sort_by([("r2", "descending")]).to_pylist():
            rivals = [
                fit["r2"]
                for fit in single
                if fit["target_layer"] == line["target_layer"]
                and fit["source_layer"] in line["source_layers"]
            ]
            layers = " + ".join(map(str, line["source_layers"]))
            found.append({**line, "from": layers, "kind": "together", "best_single": max(rivals)})
    if tables.fits_back is not None:
        lines = tables.fits_back.sort_by([("r2", "descending")]).to_pylist()
        found += [
            {**line, "from": line["source_layer"], "kind": "back", "best_single": None}
            for line in lines[:_MOST_FIT_LINES]
        ]
    return found


def _layers(table: pa.Table, column: str) -> str:
    layers = sorted(table[column].unique().to_pylist())
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _fit_lines(fits: pa.Table | None) -> list[dict[str, Any]]:
    """The fits with the best held-out R², best first."""
    if fits is None:
        return []
    lines: list[dict[str, Any]] = fits.sort_by([("r2", "descending")]).to_pylist()
    return lines[:_MOST_FIT_LINES]


def _number(value: float | None, digits: int = 3) -> str:
    """Whole numbers with separators, others to significant digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 10**digits):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float | None, digits: int = 2) -> str:
    """A fixed number of decimals and always a sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
