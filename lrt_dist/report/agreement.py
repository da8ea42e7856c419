"""Predicted beside measured effects: how well gradients foretell steering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.effects import pearson, slope
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.store.tables import AgreementRow


@dataclass(frozen=True)
class Agreement:
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


def agreements(results: Results, summaries: Sequence[ConceptSummary]) -> list[Agreement]:
    """By concept and strength; at the chosen strength as the verdict has it."""
    rows = list(results.agreement)
    found = []
    for summary in summaries:
        verdict = summary.verdict
        own = [row for row in rows if row.concept == summary.concept]
        for strength in sorted({row.strength for row in own}):
            here = [row for row in own if row.strength == strength]
            chosen = math.isclose(strength, verdict.strength, rel_tol=1e-6)
            r, ratio = (verdict.agreement, verdict.slope) if chosen else _fitted(here)
            found.append(Agreement(summary.concept, strength, len(here), r, ratio, chosen))
    return found


def _fitted(rows: Sequence[AgreementRow]) -> tuple[float, float]:
    predicted = torch.tensor([row.predicted for row in rows], dtype=torch.float64)
    measured = torch.tensor([row.measured for row in rows], dtype=torch.float64)
    return pearson(predicted, measured), slope(predicted, measured)
