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

from lrt_dist.effects import mean_squared_error, pearson
from lrt_dist.formatting import percent
from lrt_dist.plan.conditions import CROSS_ENTROPY, Arm
from lrt_dist.report.controls import (
    DrawnControl,
    SteeredControl,
    drawn_controls,
    steered_controls,
)
from lrt_dist.report.items import ItemScores, item_scores
from lrt_dist.report.levels import Levels, levels
from lrt_dist.report.results import Results
from lrt_dist.report.text import interval, number
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import VectorRow, VerdictRow
from lrt_dist.verdicts import LEVEL, Evidence, Word, word

FEW_ITEMS = 30
"""Fewer test items than this are warned of beside the verdict."""


@dataclass(frozen=True)
class ConceptSummary:
    """One concept at the layer pair and strength chosen on its development items.

    NaN stands for what was not run.

    Attributes:
        verdict: all statistics.
        word: what they say.
        vector: the vectors at the chosen pair.
        drawn: controls of which there are many draws.
        steered: the other controls.
        test: scores of the test items at the chosen pair.
        pearson: of the native and transferred changes, over items and strengths.
        mean_squared_error: of the same.
        levels: scores under the native vector beside those of others, as LRT compares them.
        cost_native: rise of cross-entropy on neutral text, in nats per token, mean of both signs.
        cost_transferred: the same.
        cost_random: the same.
    """

    verdict: VerdictRow
    word: Word
    vector: VectorRow
    drawn: tuple[DrawnControl, ...]
    steered: tuple[SteeredControl, ...]
    test: ItemScores
    pearson: float
    mean_squared_error: float
    levels: tuple[Levels, ...]
    cost_native: float
    cost_transferred: float
    cost_random: float

    @property
    def concept(self) -> str:
        """Its name."""
        return self.verdict.concept

    @property
    def pair(self) -> LayerPair:
        """The chosen pair of layers."""
        return LayerPair(self.verdict.source_layer, self.verdict.target_layer)

    @property
    def defined(self) -> bool:
        """Whether there is a native effect of which something can be a share."""
        return has_native_effect(self.word)

    @property
    def retention(self) -> float:
        """Transferred over native effect; NaN where no share is defined."""
        return self.verdict.retention if self.defined else math.nan

    @property
    def retention_interval(self) -> tuple[float, float]:
        """Of the same."""
        return self.verdict.retention_interval if self.defined else (math.nan, math.nan)

    @property
    def share(self) -> float:
        """Transferred effect over the best native effect anywhere; NaN where that is none."""
        return self.verdict.share_of_best if self._has_best else math.nan

    @property
    def share_interval(self) -> tuple[float, float]:
        """Of the same."""
        return self.verdict.share_interval if self._has_best else (math.nan, math.nan)

    @property
    def _has_best(self) -> bool:
        return self.defined and self.verdict.best_native > 0

    @property
    def native_share(self) -> float:
        """Native effect at the chosen pair over the best native effect anywhere."""
        return native_share(self.verdict)

    @property
    def few_items(self) -> bool:
        """Whether the verdict rests on too few items."""
        return self.verdict.items < FEW_ITEMS

    @property
    def open_controls(self) -> list[DrawnControl]:
        """The drawn controls that are not ruled out, each asked alone."""
        return [c for c in self.drawn if self.defined and not c.p <= LEVEL]

    @property
    def best_control(self) -> DrawnControl | None:
        """The drawn control whose draws reach farthest."""
        known = [control for control in self.drawn if math.isfinite(control.high)]
        return max(known, key=lambda control: control.high, default=None)


def native_share(row: VerdictRow) -> float:
    """Native effect at the chosen pair over the best native effect; NaN where that is none."""
    return row.native / row.best_native if row.best_native > 0 else math.nan


def word_of(row: VerdictRow) -> Word:
    """The word for a row of the verdict table."""
    return word(
        Evidence(
            native=row.native_interval,
            retention=row.retention_interval,
            p=row.p_adjusted,
            share_of_best=native_share(row),
            overlap=row.overlap,
        )
    )


def has_native_effect(said: Word) -> bool:
    """Whether a word leaves a native effect of which something can be a share."""
    return said not in (Word.NO_EFFECT, Word.NATIVE_REVERSES)


def summarise(results: Results) -> list[ConceptSummary]:
    """One summary per concept that was evaluated, by name."""
    chosen = {row.concept: row for row in results.vectors if row.chosen}
    verdicts = sorted(results.verdicts, key=lambda row: row.concept)
    return [_summary(results, row, chosen[row.concept]) for row in verdicts]


def _summary(results: Results, row: VerdictRow, vector: VectorRow) -> ConceptSummary:
    pair = LayerPair(row.source_layer, row.target_layer)
    metric = results.config.evaluate.score.title
    test = item_scores(results.scores, row.concept, "test", metric, pair)
    neutral = item_scores(results.scores, row.concept, "neutral", CROSS_ENTROPY, pair)
    native, transferred = _all_changes(test, Arm.NATIVE), _all_changes(test, Arm.TRANSFERRED)
    same = native.shape == transferred.shape and native.numel() > 0
    said = word_of(row)
    defined = has_native_effect(said)
    return ConceptSummary(
        verdict=row,
        word=said,
        vector=vector,
        drawn=drawn_controls(results.controls, row, defined=defined),
        steered=steered_controls(test, row, defined=defined),
        test=test,
        pearson=pearson(native, transferred) if same else math.nan,
        mean_squared_error=mean_squared_error(native, transferred) if same else math.nan,
        levels=levels(test),
        cost_native=_cost(neutral, Arm.NATIVE, row.strength),
        cost_transferred=_cost(neutral, Arm.TRANSFERRED, row.strength),
        cost_random=_cost(neutral, Arm.RANDOM, row.strength),
    )


def _all_changes(test: ItemScores, arm: Arm) -> Tensor:
    """Changes `[strengths, items]` of one arm."""
    changes = [c for s in test.strengths if (c := test.change(arm, s)) is not None]
    return torch.stack(changes) if changes else torch.empty(0, 0)


def _cost(neutral: ItemScores, arm: Arm, strength: float) -> float:
    changes = [
        float(change.mean())
        for draw in neutral.draws(arm)
        for sign in (-1, 1)
        if (change := neutral.change(arm, sign * strength, draw)) is not None
    ]
    return sum(changes) / len(changes) if changes else math.nan


def terminal_table(summaries: Sequence[ConceptSummary]) -> RichTable:
    """The small final table: what is kept, beside the best control, and the verdict."""
    table = RichTable(
        title="Share of the native effect kept, on test items",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    table.add_column("concept", overflow="fold", min_width=9)
    headings = ("layers", "α", "native", "kept (95% interval)", "control", "p")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    for summary in summaries:
        row, control = summary.verdict, summary.best_control
        table.add_row(
            # Names come from the user's file: brackets in them are not console markup.
            escape(summary.concept),
            f"{row.source_layer} → {row.target_layer}",
            f"±{row.strength:g}",
            f"{row.native:+.2f}".replace("-", "\N{MINUS SIGN}"),
            f"{percent(summary.retention)} ({interval(summary.retention_interval)})"
            if summary.defined
            else "undefined",
            "–" if control is None else percent(control.high),
            number(row.p_adjusted, 2),
            str(summary.word),
        )
    table.caption = "control: share that 95% of the best control's draws stay below; p: adjusted"
    table.caption_justify = "left"
    return table
