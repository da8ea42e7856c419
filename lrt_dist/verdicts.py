"""Graded words for what an evaluation found of one concept, with their thresholds.

A word is a function of a few numbers alone, so that its error rate can be measured
(docs/calibration.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LEVEL = 0.05
"""Largest adjusted p-value at which controls are ruled out."""

MOST = 0.5
"""Retention above which a vector transfers, where its whole interval lies there."""

LITTLE = 0.2
"""Retention below which a vector does not transfer, where its whole interval lies there."""

WEAK = 0.25
"""Share of the best native effect below which the native vector hardly steers at the chosen pair,
so that a large share of it is a share of little."""


class Word(StrEnum):
    """What is said of a concept."""

    TRANSFERS = "transfers"
    """Controls are ruled out, and the interval of retention lies above `MOST`."""
    PARTLY = "transfers in part"
    """Controls are ruled out, and the interval of retention lies above zero."""
    WEAKLY = "transfers where little steers"
    """Controls are ruled out, but the native vector hardly steers at the chosen pair."""
    UNCLEAR = "cannot be told"
    """Nothing of the others: more items or fewer searched pairs may tell."""
    FAILS = "does not transfer"
    """The interval of retention lies below `LITTLE`, whatever the controls do."""
    REVERSES = "steers backwards"
    """The interval of retention lies below zero: the transferred vector steers the other way."""
    NO_EFFECT = "no native effect"
    """The native vector's effect is not distinct from zero, so there is none to keep."""
    NATIVE_REVERSES = "native steers backwards"
    """The native vector steers away from its own concept, so keeping its effect says nothing."""
    OVERLAP = "proves nothing"
    """The map was fitted on the concept's own texts."""


@dataclass(frozen=True)
class Evidence:
    """What a word rests on.

    Attributes:
        native: interval of the native vector's effect, in units of the score.
        retention: interval of the transferred over the native effect.
        p: adjusted p-value against the controls.
        share_of_best: native effect at the chosen pair over the best native effect anywhere.
        overlap: whether the map was fitted on the concept's own texts.
    """

    native: tuple[float, float]
    retention: tuple[float, float]
    p: float
    share_of_best: float
    overlap: bool = False


def word(found: Evidence) -> Word:
    """The word for what was found; comparisons with NaN are false, so what is undefined is never
    good news."""
    low, high = found.native
    if high < 0:
        return Word.NATIVE_REVERSES
    if not low > 0:
        return Word.NO_EFFECT
    if found.overlap:
        return Word.OVERLAP
    least, most = found.retention
    if most < 0:
        return Word.REVERSES
    if most < LITTLE:
        return Word.FAILS
    if found.p <= LEVEL and least > 0:
        if not found.share_of_best >= WEAK:
            return Word.WEAKLY
        return Word.TRANSFERS if least >= MOST else Word.PARTLY
    return Word.UNCLEAR
