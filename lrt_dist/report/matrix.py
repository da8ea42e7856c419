"""The specificity matrix: what every concept's vector does to every concept's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.summary import ConceptSummary


@dataclass(frozen=True)
class Matrix:
    """Values by (concept of the items, concept of the vector); absent: not steered.

    A value is the mean effect of the transferred vector over the native effect of the items' own
    concept, at the pair of layers and the strength that were chosen for the items' concept.
    """

    concepts: tuple[str, ...]
    values: Mapping[tuple[str, str], float]


def specificity(summaries: Sequence[ConceptSummary]) -> Matrix:
    """The matrix of a run; the diagonal is retention."""
    values = {(s.concept, s.concept): s.retention for s in summaries}
    for s in summaries:
        foreign = (control for control in s.steered if control.arm is Arm.FOREIGN)
        values |= {(s.concept, control.vector): control.retention for control in foreign}
    return Matrix(tuple(s.concept for s in summaries), values)
