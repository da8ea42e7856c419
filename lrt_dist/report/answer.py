"""The answer in plain words, and the warnings that the numbers themselves call for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.effects import Retention
from lrt_dist.formatting import percent, percent_range
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.store.tables import FitRow

FEW_ROWS_PER_DIMENSION = 5
NEAR_CHANCE = 0.05
FEW_ITEMS = 10


@dataclass(frozen=True)
class Verdict:
    """`kind` is one of transfers, overlap, unclear, fails, reverses, undefined."""

    kind: str
    label: str
    sentence: str


@dataclass(frozen=True)
class Answer:
    headline: str
    text: str


def verdict(summary: ConceptSummary) -> Verdict:
    """Transferred, where the whole interval of retention lies above zero and above every control.

    The bar is the largest absolute value of the mismatched map and of any single random draw, so a
    lucky draw counts against the map. Without controls nothing is shown.
    """
    kept = summary.retention
    if not kept.defined:
        return Verdict(
            "undefined",
            "cannot be said",
            f"The target model's own vector does not steer it here: {kept.reason}. "
            "So there is no effect to transfer.",
        )
    controls = [abs(summary.mismatched.value)] if summary.mismatched.defined else []
    if summary.random is not None:
        controls += [abs(summary.random.low), abs(summary.random.high)]
    numbers = f"{percent(kept.value)} of the native effect (95% interval {_interval(kept)})"
    if not controls:
        return Verdict(
            "unclear",
            "no controls",
            f"It gives {numbers}, but no control arm was run, so nothing follows from it.",
        )
    bar = max(controls)
    reach = f"the best control reaches {percent(bar)}"
    if kept.high < -bar:
        return Verdict(
            "reverses",
            "reverses",
            f"It pushes the other way: {numbers}; {reach}.",
        )
    if kept.low <= bar:
        weak = kept.value <= bar
        return Verdict(
            "fails" if weak else "unclear",
            "does not transfer" if weak else "not shown",
            f"It gives {numbers}, {'no more than' if weak else 'not clearly more than'} chance: "
            f"{reach}.",
        )
    if summary.overlap:
        return Verdict(
            "overlap",
            "proves nothing",
            f"It gives {numbers}, but the map was fitted on this concept's own texts.",
        )
    return Verdict("transfers", "transfers", f"It keeps {numbers}; {reach}.")


def answer(results: Results, summaries: Sequence[ConceptSummary]) -> Answer:
    """Headline and one paragraph, from the test scores; of the fits alone where there are none."""
    if not summaries:
        return Answer("Transfer was not tested", _fit_sentence(list(results.fits)))
    kinds = [verdict(summary).kind for summary in summaries]
    yes, total = kinds.count("transfers"), len(kinds)
    concepts = "the one concept" if total == 1 else f"all {total} concepts"
    if yes == total:
        headline = f"Yes: the vector transfers for {concepts} tested"
    elif yes:
        headline = f"In part: the vector transfers for {yes} of {total} concepts"
    elif kinds.count("undefined") == total:
        headline = "Not answered: the target model's own vectors do not steer it"
    else:
        headline = f"No: transfer is not shown for {'any of ' if total > 1 else ''}" + (
            f"the {total} concepts tested" if total > 1 else "the one concept tested"
        )
    sentences = [_transferred_sentence(summaries)]
    sentences += [_group_sentence(summaries, kind) for kind in _GROUPS]
    sentences.append(_fit_sentence(list(results.fits)))
    return Answer(headline, " ".join(sentence for sentence in sentences if sentence))


def _transferred_sentence(summaries: Sequence[ConceptSummary]) -> str:
    shown = [s for s in summaries if verdict(s).kind == "transfers"]
    if not shown:
        return ""
    kept = sorted(s.retention.value for s in shown)
    share = percent(kept[0]) if len(kept) == 1 else percent_range(kept[0], kept[-1])
    controls = []
    if spreads := [s.random for s in shown if s.random is not None]:
        top = max(max(abs(r.low), abs(r.high)) for r in spreads)
        controls.append(f"random vectors of the same length reach {percent(top)} at most")
    if mismatched := [abs(s.mismatched.value) for s in shown if s.mismatched.defined]:
        controls.append(f"a map fitted on mismatched documents {percent(max(mismatched))} at most")
    return (
        "Added to the target model, the vector that was mapped from the source model keeps "
        f"{share} of the effect that the target's own vector has ({_names(shown)}; test items, at "
        "layers and strength chosen on other items). In comparison, in either direction, "
        f"{' and '.join(controls)}."
    )


_GROUPS = {
    "overlap": "For {names} the map had seen the concept's own texts, so its score proves nothing.",
    "unclear": "For {names} the effect is not clearly larger than that of the controls.",
    "fails": "For {names} it does no better than the controls.",
    "reverses": "For {names} it steers the wrong way round.",
    "undefined": "For {names} the target's own vector has no clear effect, so none can be kept.",
}


def _group_sentence(summaries: Sequence[ConceptSummary], kind: str) -> str:
    group = [s for s in summaries if verdict(s).kind == kind]
    return _GROUPS[kind].format(names=_names(group)) if group else ""


def _fit_sentence(fits: Sequence[FitRow]) -> str:
    rows = [row for row in fits if math.isfinite(row.r2)]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row.r2)
    pairs = "the one layer pair" if len(rows) == 1 else f"{len(rows)} layer pairs"
    control = max(
        (row.r2_mismatched for row in rows if math.isfinite(row.r2_mismatched)), default=None
    )
    against = (
        "" if control is None else f" (maps of mismatched documents: {percent(control)} at most)"
    )
    pair = f"{best.source_layer} → {best.target_layer}"
    where = "" if len(rows) == 1 else f", best for layers {pair}"
    return (
        f"The maps of {pairs} explain up to {percent(best.r2)} of the variance of held-out "
        f"hidden states{where}{against}."
    )


def data_warnings(results: Results, summaries: Sequence[ConceptSummary]) -> list[str]:
    """What a reader must know before believing the numbers."""
    warnings = _fit_warnings(list(results.fits))
    few = [s for s in summaries if s.items < FEW_ITEMS]
    if few:
        counts = ", ".join(f"{s.concept} {s.items}" for s in few)
        warnings.append(
            f"Fewer than {FEW_ITEMS} test items ({counts}): the intervals are rough, and narrower "
            "than they should be."
        )
    for s in summaries:
        if not s.retention.defined:
            warnings.append(
                f"{s.concept}: the native arm does not steer at layer {s.pair.target}, strength "
                f"±{s.strength:g}: {s.retention.reason}. Retention is undefined there."
            )
        if s.overlap:
            warnings.append(
                f"{s.concept}: its texts are in the corpus that the map was fitted on. With no "
                "more rows than dimensions a minimum-norm map returns the native vector by "
                "algebra, whatever the two models are; with several times more the bias remains. "
                "Its scores are no evidence of transfer."
            )
    named = {s.concept for s in summaries}
    unscored = sorted(set(results.vectors.column("concept")) - named)
    if unscored:
        warnings.append(f"No test scores, so not in the tables: {', '.join(unscored)}.")
    return warnings


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


def _interval(kept: Retention) -> str:
    return percent_range(kept.low, kept.high)


def _names(group: Sequence[ConceptSummary]) -> str:
    names = [summary.concept for summary in group]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
