"""Predicted beside measured effects: how well gradients foretell steering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.effects import Agreement
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary


@dataclass(frozen=True)
class StrengthAgreement:
    """One concept at one strength.

    Attributes:
        concept: its name.
        strength: the positive strength.
        vectors: number of vectors that were compared.
        r: Pearson correlation over them.
        slope: of measured over predicted effects, through zero.
        chosen: whether this is the strength that was chosen for the concept.
    """

    concept: str
    strength: float
    vectors: int
    r: float
    slope: float
    chosen: bool


def agreements(results: Results, summaries: Sequence[ConceptSummary]) -> list[StrengthAgreement]:
    """By concept and strength; at the chosen strength as the verdict has it."""
    rows = list(results.agreement)
    found = []
    for summary in summaries:
        verdict = summary.verdict
        own = [row for row in rows if row.concept == summary.concept]
        for strength in sorted({row.strength for row in own}):
            here = [row for row in own if row.strength == strength]
            chosen = math.isclose(strength, verdict.strength, rel_tol=1e-6)
            known = (
                Agreement(verdict.agreement, verdict.slope)
                if chosen
                else Agreement.of([row.predicted for row in here], [row.measured for row in here])
            )
            found.append(
                StrengthAgreement(
                    summary.concept, strength, len(here), known.r, known.slope, chosen
                )
            )
    return found
