"""From a run's tables to one summary per concept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable
from torch import Tensor

from lrt_dist.effects import (
    Retention,
    mean_interval,
    mean_squared_error,
    pearson,
    retention,
    steerability,
)
from lrt_dist.formatting import percent, percent_range
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.items import ItemScores, item_scores
from lrt_dist.report.results import Results
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import ScoreRow, Table, VectorRow


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

    All scores are of the test items. Changes are against the unsteered model; an *effect* is
    (change at +strength - change at -strength) / 2, and retention is a ratio of mean effects.
    `cost_*` is the rise of cross-entropy on neutral text, in nats per token, mean of both signs.
    NaN stands for what was not run.
    """

    concept: str
    pair: LayerPair
    strength: float
    items: int
    pairs: int
    overlap: bool
    native_up: float
    native_down: float
    native_effect: float
    native_interval: tuple[float, float]
    transferred_up: float
    transferred_down: float
    transferred_effect: float
    retention: Retention
    mismatched: Retention
    random: Spread | None
    pearson: float
    mean_squared_error: float
    steerability_native: float
    steerability_transferred: float
    cosine: float
    cosine_mismatched: float
    cost_native: float
    cost_transferred: float
    cost_random: float


def summarise(results: Results) -> list[ConceptSummary]:
    """One summary per concept that has a chosen layer pair and test scores there, by name."""
    chosen = sorted((row for row in results.vectors if row.chosen), key=lambda row: row.concept)
    summaries = (
        summarise_concept(results.scores, row, results.config.evaluate.score) for row in chosen
    )
    return [summary for summary in summaries if summary is not None]


def summarise_concept(
    scores: Table[ScoreRow], vector: VectorRow, metric: str
) -> ConceptSummary | None:
    """The summary of one chosen row of the vector table; None without test scores."""
    pair = LayerPair(vector.source_layer, vector.target_layer)
    test = item_scores(scores, vector.concept, "test", metric, pair)
    neutral = item_scores(scores, vector.concept, "neutral", "cross_entropy", pair)
    strength = vector.strength
    native = test.effect(Arm.NATIVE, strength)
    transferred = test.effect(Arm.TRANSFERRED, strength)
    if native is None or transferred is None:
        return None
    native_all, strengths = _all_changes(test, Arm.NATIVE)
    transferred_all, _ = _all_changes(test, Arm.TRANSFERRED)
    same = native_all.shape == transferred_all.shape
    return ConceptSummary(
        concept=vector.concept,
        pair=pair,
        strength=strength,
        items=len(test.items),
        pairs=vector.pairs,
        overlap=vector.overlap,
        native_up=_mean(test.change(Arm.NATIVE, strength)),
        native_down=_mean(test.change(Arm.NATIVE, -strength)),
        native_effect=_mean(native),
        native_interval=mean_interval(native),
        transferred_up=_mean(test.change(Arm.TRANSFERRED, strength)),
        transferred_down=_mean(test.change(Arm.TRANSFERRED, -strength)),
        transferred_effect=_mean(transferred),
        retention=retention(native, transferred),
        mismatched=_against(native, test.effect(Arm.MISMATCHED, strength), Arm.MISMATCHED),
        random=_random_spread(test, native, strength),
        pearson=pearson(native_all, transferred_all) if same else math.nan,
        mean_squared_error=mean_squared_error(native_all, transferred_all) if same else math.nan,
        steerability_native=_slope(strengths, native_all),
        steerability_transferred=_slope(strengths, transferred_all),
        cosine=vector.cosine,
        cosine_mismatched=vector.cosine_mismatched,
        cost_native=_cost(neutral, Arm.NATIVE, strength),
        cost_transferred=_cost(neutral, Arm.TRANSFERRED, strength),
        cost_random=_cost(neutral, Arm.RANDOM, strength),
    )


def _mean(values: Tensor | None) -> float:
    return math.nan if values is None else float(values.mean())


def _against(native: Tensor, other: Tensor | None, arm: Arm) -> Retention:
    return (
        Retention.undefined(f"the {arm} arm was not run")
        if other is None
        else retention(native, other)
    )


def _all_changes(test: ItemScores, arm: Arm) -> tuple[Tensor, Tensor]:
    """Changes [strengths, items] of one arm, and the strengths [strengths] at which it was run."""
    by_strength = [(s, c) for s in test.strengths if (c := test.change(arm, s)) is not None]
    strengths = torch.tensor([s for s, _ in by_strength]).double()
    return torch.stack([c for _, c in by_strength]), strengths


def _slope(strengths: Tensor, changes: Tensor) -> float:
    """Steerability, through the origin's point too: at strength 0 the change is 0 by definition."""
    origin = torch.zeros(1, changes.shape[1], dtype=torch.float64)
    return steerability(
        torch.cat([torch.zeros(1).double(), strengths]), torch.cat([origin, changes])
    )


def _random_spread(test: ItemScores, native: Tensor, strength: float) -> Spread | None:
    """Mean effect of each random draw ÷ mean native effect, as retention is of the transferred."""
    effects = [test.effect(Arm.RANDOM, strength, draw) for draw in test.draws(Arm.RANDOM)]
    ratios = [float(effect.mean() / native.mean()) for effect in effects if effect is not None]
    if not ratios or not retention(native, native).defined:
        return None
    return Spread(sum(ratios) / len(ratios), min(ratios), max(ratios), len(ratios))


def _cost(neutral: ItemScores, arm: Arm, strength: float) -> float:
    changes = [
        float(change.mean())
        for draw in neutral.draws(arm)
        for sign in (-1, 1)
        if (change := neutral.change(arm, sign * strength, draw)) is not None
    ]
    return sum(changes) / len(changes) if changes else math.nan


def terminal_table(summaries: Sequence[ConceptSummary]) -> RichTable:
    """The small final table: retention with its interval, beside random and mismatched."""
    title = "Share of the native effect kept, on test items"
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("concept", overflow="fold", min_width=14)
    for heading in ("layers", "α", "kept (95% interval)", "mismatched", "random"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        kept, random = summary.retention, summary.random
        table.add_row(
            # Names come from the user's file: brackets in them are not console markup.
            escape(summary.concept),
            f"{summary.pair.source} → {summary.pair.target}",
            f"±{summary.strength:g}",
            f"{percent(kept.value)} ({percent_range(kept.low, kept.high)})"
            if kept.defined
            else "undefined",
            percent(summary.mismatched.value),
            "–" if random is None else percent(random.mean),
        )
    return table
