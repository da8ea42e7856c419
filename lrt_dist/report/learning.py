"""Does more text help? What maps trained on growing parts of the rows explain."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

WORTH_MORE_TEXT = 0.01
"""A rise of R² from the last doubling of the rows that is worth another one."""
_MOST_LINES = 8


@dataclass(frozen=True)
class LearningCurve:
    """One layer pair: `points` of (rows, held-out R²), ascending, all tested on the same rows."""

    source_layer: int
    target_layer: int
    points: tuple[tuple[int, float], ...]

    @property
    def rise(self) -> float:
        """Of R², from the last point but one to the last."""
        return self.points[-1][1] - self.points[-2][1]


def learning_curves(fits: pa.Table | None) -> list[LearningCurve]:
    """The curves that were made, one for each source layer, the highest first."""
    if fits is None:
        return []
    curves = [
        LearningCurve(
            line["source_layer"],
            line["target_layer"],
            tuple((int(rows), float(r2)) for rows, r2 in line["learning"]),
        )
        for line in fits.select(["source_layer", "target_layer", "learning"]).to_pylist()
        if len(line["learning"]) > 1
    ]
    return sorted(curves, key=lambda curve: -curve.points[-1][1])[:_MOST_LINES]


def advice(curves: list[LearningCurve]) -> str:
    """Whether to add text, in a sentence; empty where there is no curve."""
    if not curves:
        return ""
    best = curves[0]
    (few, _), (many, _) = best.points[-2:]
    pair = f"{best.source_layer} → {best.target_layer}"
    found = (
        f"From {few:,} to {many:,} rows the held-out R² of layers {pair} rose by {best.rise:.3f}"
    )
    if best.rise >= WORTH_MORE_TEXT:
        return f"{found}: more text would still give better maps."
    return f"{found}: more text would change little."
