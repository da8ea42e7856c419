"""From the run directory's tables to one summary per concept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.linear.scores import (
    Retention,
    mean_interval,
    mean_squared_error,
    pearson,
    retention,
    steerability,
)
from lrt_dist.report.items import ItemScores, item_scores

_COLUMNS = {
    "fits": "source_model source_layer target_model target_layer method n documents d_source "
    "d_target rows_left_out folds ridge_relative ridge rank condition r2 r2_median r2_q10 r2_q90 "
    "r2_shuffled r2_identity cka cka_unbiased effective_rank map_rank learning "
    "left_out_share_source left_out_share_target seconds",
    "fits-back": "source_layer target_layer r2 r2_median r2_shuffled n",
    "fits-together": "source_layers target_layer r2 r2_median r2_shuffled n",
    "scores": "concept split item source_layer target_layer arm draw strength metric value",
    "vectors": "concept source_layer target_layer cosine cosine_shuffled chosen strength pairs "
    "overlap",
    "samples": "concept prompt arm strength text",
}


@dataclass(frozen=True)
class RunTables:
    """What a run left behind. A table is None where its stage was not run."""

    config: Mapping[str, Any]
    fits: pa.Table | None = None
    fits_back: pa.Table | None = None
    fits_together: pa.Table | None = None
    scores: pa.Table | None = None
    vectors: pa.Table | None = None
    samples: pa.Table | None = None


@dataclass(frozen=True)
class Spread:
    """Mean and range of one number over the draws of the random arm."""

    mean: float
    low: float
    high: float
    draws: int


@dataclass(frozen=True)
class ConceptSummary:
    """One concept at the layer pair and strength chosen on its development items.

    All scores are of the test items. Changes are against the unsteered model; a *swing* is
    (change at +strength - change at -strength) / 2, and retention is a ratio of mean swings.
    `cost_*` is the rise of cross-entropy on neutral text, in nats per token, mean of both signs.
    NaN stands for what was not run.
    """

    concept: str
    source_layer: int
    target_layer: int
    strength: float
    items: int
    pairs: int
    overlap: bool
    native_up: float
    native_down: float
    native_swing: float
    native_interval: tuple[float, float]
    transferred_up: float
    transferred_down: float
    transferred_swing: float
    retention: Retention
    shuffled: Retention
    random: Spread | None
    pearson: float
    mean_squared_error: float
    steerability_native: float
    steerability_transferred: float
    cosine: float
    cosine_shuffled: float
    cost_native: float
    cost_transferred: float
    cost_random: float


def read_tables(out: Path) -> RunTables:
    """Read what is there of `run.yaml` and the Parquet files of a run directory."""
    found = {name: _read(out / f"{name}.parquet", columns) for name, columns in _COLUMNS.items()}
    if found["fits"] is None and found["scores"] is None:
        raise UserError(
            f"{out} holds neither fits.parquet nor scores.parquet, so there is nothing to report: "
            "run the stages fit and evaluate there first"
        )
    config_path = out / "run.yaml"
    config = yaml.safe_load(config_path.read_text("utf-8")) if config_path.exists() else {}
    if not isinstance(config, dict):
        raise CorruptionError(f"{config_path} is not a mapping of settings")
    return RunTables(config=config, **{n.replace("-", "_"): t for n, t in found.items()})


def _read(path: Path, columns: str) -> pa.Table | None:
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise CorruptionError(
            f"{path} cannot be read as Parquet ({error}): delete it and run its stage again"
        ) from error
    missing = [name for name in columns.split() if name not in table.column_names]
    if missing:
        raise CorruptionError(
            f"{path} has no column {', '.join(missing)}: it was written by another version; "
            "delete it and run its stage again"
        )
    return table.select(columns.split())


def summarise(tables: RunTables) -> list[ConceptSummary]:
    """One summary per concept that has a chosen layer pair and test scores there, by name."""
    if tables.scores is None or tables.vectors is None:
        return []
    lines = tables.vectors.filter(pc.field("chosen")).to_pylist()
    summaries = (
        summarise_concept(tables.scores, line)
        for line in sorted(lines, key=lambda line: str(line["concept"]))
    )
    return [summary for summary in summaries if summary is not None]


def summarise_concept(scores: pa.Table, vector: Mapping[str, Any]) -> ConceptSummary | None:
    """The summary of one chosen line of the vector table; None without test scores."""
    pair = {
        "concept": vector["concept"],
        "source_layer": vector["source_layer"],
        "target_layer": vector["target_layer"],
    }
    test = item_scores(scores, split="test", metric="propensity", **pair)
    neutral = item_scores(scores, split="neutral", metric="cross_entropy", **pair)
    strength = float(vector["strength"])
    native = test.swing("native", strength)
    transferred = test.swing("transferred", strength)
    if native is None or transferred is None:
        return None
    native_all, strengths = _all_changes(test, "native")
    transferred_all, _ = _all_changes(test, "transferred")
    same = native_all.shape == transferred_all.shape
    return ConceptSummary(
        **pair,
        strength=strength,
        items=len(test.items),
        pairs=vector["pairs"],
        overlap=vector["overlap"],
        native_up=_mean(test.change("native", strength)),
        native_down=_mean(test.change("native", -strength)),
        native_swing=_mean(native),
        native_interval=mean_interval(native),
        transferred_up=_mean(test.change("transferred", strength)),
        transferred_down=_mean(test.change("transferred", -strength)),
        transferred_swing=_mean(transferred),
        retention=retention(native, transferred),
        shuffled=_against(native, test.swing("shuffled", strength), "shuffled"),
        random=_random_spread(test, native, strength),
        pearson=pearson(native_all, transferred_all) if same else math.nan,
        mean_squared_error=mean_squared_error(native_all, transferred_all) if same else math.nan,
        steerability_native=_slope(strengths, native_all),
        steerability_transferred=_slope(strengths, transferred_all),
        cosine=vector["cosine"],
        cosine_shuffled=vector["cosine_shuffled"],
        cost_native=_cost(neutral, "native", strength),
        cost_transferred=_cost(neutral, "transferred", strength),
        cost_random=_cost(neutral, "random", strength),
    )


def _mean(values: Tensor | None) -> float:
    return math.nan if values is None else float(values.mean())


def _against(native: Tensor, other: Tensor | None, arm: str) -> Retention:
    return (
        Retention.undefined(f"the {arm} arm was not run")
        if other is None
        else retention(native, other)
    )


def _all_changes(test: ItemScores, arm: str) -> tuple[Tensor, Tensor]:
    """Changes [strengths, items] of one arm, and the strengths [strengths] at which it was run."""
    found = [(s, c) for s in test.strengths if (c := test.change(arm, s)) is not None]
    return torch.stack([c for _, c in found]), torch.tensor([s for s, _ in found]).double()


def _slope(strengths: Tensor, changes: Tensor) -> float:
    """Steerability, through the origin's point too: at strength 0 the change is 0 by definition."""
    origin = torch.zeros(1, changes.shape[1], dtype=torch.float64)
    return steerability(
        torch.cat([torch.zeros(1).double(), strengths]), torch.cat([origin, changes])
    )


def _random_spread(test: ItemScores, native: Tensor, strength: float) -> Spread | None:
    """What retention would call the random vectors: mean swing of each draw ÷ mean native swing."""
    swings = [test.swing("random", strength, draw) for draw in test.draws("random")]
    ratios = [float(swing.mean() / native.mean()) for swing in swings if swing is not None]
    if not ratios or not retention(native, native).defined:
        return None
    return Spread(sum(ratios) / len(ratios), min(ratios), max(ratios), len(ratios))


def _cost(neutral: ItemScores, arm: str, strength: float) -> float:
    changes = [
        float(change.mean())
        for draw in neutral.draws(arm)
        for sign in (-1, 1)
        if (change := neutral.change(arm, sign * strength, draw)) is not None
    ]
    return sum(changes) / len(changes) if changes else math.nan


def percent(value: float) -> str:
    """A ratio as whole per cent with a real minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{round(100 * value)}%".replace("-", "\N{MINUS SIGN}")


def percent_range(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{percent(low).removesuffix('%')} to {percent(high)}"


def terminal_table(summaries: Sequence[ConceptSummary]) -> Table:
    """The small final table: retention with its interval, beside random and shuffled."""
    title = "Share of the native effect kept, on test items"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("concept", overflow="fold", min_width=14)
    for heading in ("layers", "α", "kept (95% interval)", "shuffled", "random"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        kept, random = summary.retention, summary.random
        table.add_row(
            # Names come from the user's file: brackets in them are not console markup.
            escape(summary.concept),
            f"{summary.source_layer} → {summary.target_layer}",
            f"±{summary.strength:g}",
            f"{percent(kept.value)} ({percent_range(kept.low, kept.high)})"
            if kept.defined
            else "undefined",
            percent(summary.shuffled.value),
            "–" if random is None else percent(random.mean),
        )
    return table
