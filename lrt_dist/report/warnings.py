"""The warnings that the numbers themselves call for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lrt_dist.formatting import percent
from lrt_dist.report.results import Results
from lrt_dist.report.summary import FEW_ITEMS, ConceptSummary
from lrt_dist.report.text import interval, names, number, signed
from lrt_dist.store.tables import FitRow
from lrt_dist.verdicts import LEVEL, WEAK, Word

FEW_ROWS_PER_DIMENSION = 5
NEAR_CHANCE = 0.05


def data_warnings(results: Results, summaries: Sequence[ConceptSummary]) -> list[str]:
    """What a reader must know before believing the numbers."""
    return [
        *_evidence_warnings(summaries),
        *(warning for summary in summaries for warning in _concept_warnings(summary)),
        *_fit_warnings(list(results.fits)),
    ]


def _evidence_warnings(summaries: Sequence[ConceptSummary]) -> Iterator[str]:
    """What the verdicts of several concepts have in common."""
    few = [f"{s.concept} {s.verdict.items}" for s in summaries if s.few_items]
    if few:
        yield (
            f"Fewer than {FEW_ITEMS} test items ({', '.join(few)}): the intervals are rough, and "
            "narrower than they should be."
        )
    if any(not s.verdict.screened for s in summaries):
        yield _not_screened(summaries)
    if still := [s.concept for s in summaries if not s.verdict.pairs_vary]:
        yield (
            f"The intervals of {names(still)} leave out that other contrast pairs would have given "
            "other vectors, since effects of this score cannot be predicted. They are too narrow."
        )
    if still := [s.concept for s in summaries if not s.verdict.documents_vary]:
        yield (
            f"The intervals of {names(still)} leave out that other documents would have given "
            "another map. They are too narrow. (That takes effects that can be predicted, and kept "
            "moments: fit.keep_moments.)"
        )


def _not_screened(summaries: Sequence[ConceptSummary]) -> str:
    """Controls were steered, which allows few draws of them."""
    known = [s for s in summaries if math.isfinite(s.verdict.agreement)]
    if known:
        values = ", ".join(f"{s.concept} {signed(s.verdict.agreement)}" for s in known)
        why = f"predicted and measured effects do not agree well enough (r: {values})"
    else:
        why = "effects of this score cannot be predicted"
    draws = min((c.draws for s in summaries for c in s.drawn), default=0)
    smallest = min(1.0, len(summaries) / (1 + draws))
    reach = (
        f" With {draws} draws, and Holm's method over {len(summaries)} concepts, the smallest "
        f"p-value may stay at {number(smallest, 2)}; raise evaluate.exact_draws."
        if smallest > LEVEL
        else ""
    )
    return f"Controls were steered, not predicted, since {why}.{reach}"


def _concept_warnings(s: ConceptSummary) -> Iterator[str]:
    row = s.verdict
    where = f"at layer {row.target_layer}, strength ±{row.strength:g}"
    if s.word is Word.NO_EFFECT:
        yield (
            f"{s.concept}: the native vector does not steer {where} (mean effect "
            f"{signed(row.native)}, an interval that includes zero). No share of it is defined."
        )
    if s.word is Word.NATIVE_REVERSES:
        yield (
            f"{s.concept}: the native vector steers away from the concept {where} (mean effect "
            f"{signed(row.native)}). Look at the items: do positive and negative belong so?"
        )
    if s.defined and not s.native_share >= WEAK:
        yield (
            f"{s.concept}: the native vector has only {percent(s.native_share)} of its best effect "
            f"(layer {row.best_layer}, ±{row.best_strength:g}) {where}, so a retention of "
            f"{percent(s.retention)} is a share of little."
        )
    if s.defined and not all(map(math.isfinite, row.retention_interval)):
        yield (
            f"{s.concept}: the interval of retention has no end ({interval(row.retention_interval)}"
            "), since the native effect is too uncertain. More test items would help."
        )
    if row.overlap:
        yield (
            f"{s.concept}: the map was fitted on its own texts ({row.pairs} contrast pairs for "
            "its vector). With no more rows than dimensions a minimum-norm map returns the "
            "native vector by algebra, whatever the two models are; with several times more the "
            "bias remains. Its scores are no evidence of transfer."
        )


def _fit_warnings(fits: Sequence[FitRow]) -> list[str]:
    warnings = []
    few = [f for f in fits if f.n < FEW_ROWS_PER_DIMENSION * f.d_source]
    if few:
        worst = min(few, key=lambda f: f.n / f.d_source)
        warnings.append(
            f"Few rows: {_count(len(few), len(fits))} fitted on fewer than "
            f"{FEW_ROWS_PER_DIMENSION} rows per source dimension (least: {worst.n:,} rows for "
            f"{worst.d_source:,} dimensions). More text would give better maps."
        )
    edge = [f for f in fits if f.ridge_at_edge]
    if edge:
        warnings.append(
            f"{_count(len(edge), len(fits))} fitted with a λ at an end of what there was to choose "
            f"from (first at {edge[0].source_layer} → {edge[0].target_layer}: "
            f"{edge[0].ridge_relative:g} × the median eigenvalue); a better one may lie beyond."
        )
    near = [f for f in fits if f.r2 - f.r2_mismatched < NEAR_CHANCE]
    if near:
        pairs = ", ".join(f"{f.source_layer} → {f.target_layer}" for f in near[:6])
        more = f" and {len(near) - 6} more" if len(near) > 6 else ""
        warnings.append(
            f"{_count(len(near), len(fits))} no better than chance: held-out R² within "
            f"{NEAR_CHANCE} of that on mismatched documents ({pairs}{more})."
        )
    return warnings


def _count(part: int, total: int) -> str:
    if total == 1:
        return "the map is"
    return f"{part} of {total} maps {'is' if part == 1 else 'are'}"
