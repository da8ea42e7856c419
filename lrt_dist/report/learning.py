"""Does more text help? What maps trained on growing parts of the rows explain."""

from __future__ import annotations

from dataclasses import dataclass

from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import FitRow, Table

WORTH_MORE_TEXT = 0.01
"""A rise of R² from the last doubling of the rows that is worth another one."""
_MOST_LINES = 8


@dataclass(frozen=True)
class LearningCurve:
    """One layer pair: `points` of (rows, held-out R²), ascending, all tested on the same rows."""

    pair: LayerPair
    points: tuple[tuple[int, float], ...]

    @property
    def rise(self) -> float:
        """Of R², from the last point but one to the last."""
        return self.points[-1][1] - self.points[-2][1]


def learning_curves(fits: Table[FitRow]) -> list[LearningCurve]:
    """The curves that were made, one for each source layer, the highest first."""
    curves = [
        LearningCurve(LayerPair(row.source_layer, row.target_layer), row.learning)
        for row in fits
        if len(row.learning) > 1
    ]
    return sorted(curves, key=lambda curve: -curve.points[-1][1])[:_MOST_LINES]


def advice(curves: list[LearningCurve]) -> str:
    """Whether to add text, in a sentence; empty where there is no curve."""
    if not curves:
        return ""
    best = curves[0]
    (few, _), (many, _) = best.points[-2:]
    pair = f"{best.pair.source} → {best.pair.target}"
    rise = f"From {few:,} to {many:,} rows the held-out R² of layers {pair} rose by {best.rise:.3f}"
    if best.rise >= WORTH_MORE_TEXT:
        return f"{rise}: more text would still give better maps."
    return f"{rise}: more text would change little."
