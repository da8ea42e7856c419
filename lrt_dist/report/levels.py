"""Scores under two vectors compared as they are, which is what LRT reports.

LRT (arXiv 2506.00653, Table 1) takes the scores of all items under the native and under the
transferred vector at one strength, not their changes, and gives Pearson correlation and mean
squared error, each as mean and standard deviation over strengths. Both share the unsteered score of
each item, so they are alike whatever a vector does. What a map that learnt nothing, and what no
steering at all, give by the same rule says how much.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.effects import mean_squared_error, pearson
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.items import ItemScores

COMPARED = (Arm.TRANSFERRED, Arm.MISMATCHED, Arm.NONE)
"""Arms whose scores are held against those of the native vector."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over strengths; NaN where nothing is defined."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value for each strength."""
        known = [value for value in values if math.isfinite(value)]
        if not known:
            return cls(math.nan, math.nan)
        return cls(statistics.fmean(known), statistics.stdev(known) if known[1:] else math.nan)


@dataclass(frozen=True)
class Levels:
    """Scores of the test items under one arm beside those under the native vector.

    Attributes:
        arm: transferred, the first mismatched map, or none.
        strengths: number of strengths.
        pearson: correlation over items.
        mean_squared_error: in squared units of the score.
    """

    arm: Arm
    strengths: int
    pearson: Spread
    mean_squared_error: Spread


def levels(test: ItemScores) -> tuple[Levels, ...]:
    """Every arm of `COMPARED` that was steered at every strength of the native vector."""
    native = {s: v for (arm, _, s), v in test.values.items() if arm is Arm.NATIVE}
    found = []
    for arm in COMPARED:
        other = {
            strength: test.values.get((arm, 0, 0.0 if arm is Arm.NONE else strength))
            for strength in native
        }
        pairs = [(native[s], values) for s, values in other.items() if values is not None]
        if pairs and len(pairs) == len(native):
            r = Spread.of([pearson(one, two) for one, two in pairs])
            error = Spread.of([mean_squared_error(one, two) for one, two in pairs])
            found.append(Levels(arm, len(pairs), r, error))
    return tuple(found)
