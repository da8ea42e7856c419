"""What every concept's vector, or a map fitted on its texts, does to every concept's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.summary import ConceptSummary


@dataclass(frozen=True)
class Matrix:
    """Values by (concept of the items, concept of the vector or of the map); absent: not steered.

    A value is the mean effect of the transferred vector over the native effect of the items' own
    concept, at the pair of layers and the strength that were chosen for the items' concept.
    """

    concepts: tuple[str, ...]
    values: Mapping[tuple[str, str], float]


def specificity(summaries: Sequence[ConceptSummary]) -> Matrix:
    """Of every concept's vector under one map; the diagonal is retention."""
    own = {(s.concept, s.concept): s.retention for s in summaries}
    return _matrix(summaries, Arm.FOREIGN, own)


def map_texts_matrix(summaries: Sequence[ConceptSummary]) -> Matrix | None:
    """Of every concept's own vector under maps fitted on each concept's texts, the matrix of
    L-Cross (arXiv 2501.02009); None where no such map was fitted. The diagonal is algebra."""
    matrix = _matrix(summaries, Arm.CONCEPT_MAP, {})
    return matrix if matrix.values else None


def _matrix(
    summaries: Sequence[ConceptSummary], arm: Arm, own: Mapping[tuple[str, str], float]
) -> Matrix:
    others = {
        (s.concept, point.vector): point.retention
        for s in summaries
        for point in s.steered
        if point.arm is arm
    }
    return Matrix(tuple(s.concept for s in summaries), {**own, **others})
