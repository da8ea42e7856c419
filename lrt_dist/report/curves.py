"""Strength curves: mean change of the score over strength, one curve per arm."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.controls import STEERED
from lrt_dist.report.items import ItemScores


@dataclass(frozen=True)
class CurvePoint:
    """Mean change at one strength; `low` to `high` holds the middle half of the items (of a
    control, of its vectors' means)."""

    strength: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """The points of an arm, by strength; of a control only where all its vectors were steered."""

    arm: Arm
    points: tuple[CurvePoint, ...]


def strength_curves(test: ItemScores) -> tuple[Curve, ...]:
    """One curve per arm that was steered; those of vectors go through (0, 0) by definition."""
    curves = []
    for arm in (Arm.NATIVE, Arm.TRANSFERRED, *STEERED):
        points = [p for s in test.strengths if (p := _point(test, arm, s)) is not None]
        if points and arm not in STEERED:
            points.append(CurvePoint(0.0, 0.0, 0.0, 0.0))
        if points:
            curves.append(Curve(arm, tuple(sorted(points, key=lambda point: point.strength))))
    return tuple(curves)


def _point(test: ItemScores, arm: Arm, strength: float) -> CurvePoint | None:
    changes = [
        change
        for draw in test.draws(arm)
        if (change := test.change(arm, strength, draw)) is not None
    ]
    if len(changes) < len(test.draws(arm)) or not changes:
        return None
    spread = torch.stack([c.mean() for c in changes]) if arm in STEERED else changes[0]
    low, high = torch.quantile(spread, torch.tensor([0.25, 0.75], dtype=spread.dtype)).tolist()
    return CurvePoint(strength, float(spread.mean()), low, high)
