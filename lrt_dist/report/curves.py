"""Strength curves: mean change of the score over strength, one curve per arm."""

from __future__ import annotations

from dataclasses import dataclass

from lrt_dist.effects import mean_interval
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.items import ItemScores


@dataclass(frozen=True)
class CurvePoint:
    """Mean change at one strength. low..high is the 95% bootstrap interval over items; for the
    random arm the range of the draws' means, since there the vector is what varies."""

    strength: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    arm: Arm
    points: tuple[CurvePoint, ...]


def strength_curves(test: ItemScores) -> tuple[Curve, ...]:
    """One curve per arm that was run, through (0, 0) by definition."""
    curves = []
    for arm in Arm:  # `none` has no strengths: it is the zero line
        points = [p for s in test.strengths if (p := _point(test, arm, s)) is not None]
        if points:
            points.append(CurvePoint(0.0, 0.0, 0.0, 0.0))
            curves.append(Curve(arm, tuple(sorted(points, key=lambda point: point.strength))))
    return tuple(curves)


def _point(test: ItemScores, arm: Arm, strength: float) -> CurvePoint | None:
    changes = [
        change
        for draw in test.draws(arm)
        if (change := test.change(arm, strength, draw)) is not None
    ]
    if not changes:
        return None
    means = [float(change.mean()) for change in changes]
    low, high = (min(means), max(means)) if arm is Arm.RANDOM else mean_interval(changes[0])
    return CurvePoint(strength, sum(means) / len(means), low, high)
