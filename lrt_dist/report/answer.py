"""The answer in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.formatting import percent
from lrt_dist.report.controls import LABELS
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.report.text import interval, names, number
from lrt_dist.store.tables import FitRow
from lrt_dist.verdicts import LEVEL, LITTLE, MOST, WEAK, Word

MEANINGS = {
    Word.TRANSFERS: f"controls are ruled out (adjusted p at most {LEVEL:g}), and the whole 95% "
    f"interval of retention lies at or above {percent(MOST)}",
    Word.PARTLY: f"controls are ruled out, and the whole interval of retention lies above zero, "
    f"but not above {percent(MOST)}",
    Word.WEAKLY: f"controls are ruled out, but the native vector has less than {percent(WEAK)} of "
    "the best native effect at the chosen layers, so what is kept is a share of little",
    Word.UNCLEAR: "neither transfer nor its absence is shown; more items or fewer searched pairs "
    "may tell",
    Word.FAILS: f"the whole interval of retention lies below {percent(LITTLE)}, so little is kept "
    "at best",
    Word.REVERSES: "the whole interval of retention lies below zero: the transferred vector pushes "
    "the other way",
    Word.NO_EFFECT: "the target model's own vector has no effect distinct from zero, so there is "
    "none to keep",
    Word.NATIVE_REVERSES: "the target model's own vector steers away from the concept, so keeping "
    "its effect says nothing",
    Word.OVERLAP: "the map was fitted on the concept's own texts",
}
"""What each word says, after a colon."""

_NO_ANSWER = {Word.NO_EFFECT, Word.NATIVE_REVERSES}
_RULED_OUT = {Word.FAILS, Word.REVERSES}
_IN_PART = {Word.PARTLY, Word.WEAKLY}


@dataclass(frozen=True)
class Answer:
    """What stands on top of the page; `text` is one paragraph, `details` one sentence a verdict."""

    headline: str
    text: str
    details: tuple[str, ...]


def answer(results: Results, summaries: Sequence[ConceptSummary]) -> Answer:
    """From the verdicts; of the fits alone where there are none."""
    fits = _fit_sentence(list(results.fits))
    if not summaries:
        return Answer("Transfer was not tested", fits, ())
    sentences = (
        _counts_sentence(summaries),
        _retention_sentence(summaries),
        _open_sentence(summaries),
        _search_sentence(results, summaries),
        fits,
    )
    return Answer(
        headline([summary.word for summary in summaries]),
        " ".join(sentence for sentence in sentences if sentence),
        tuple(_group_sentence(summaries, word) for word in Word if _named(summaries, word)),
    )


def headline(words: Sequence[Word]) -> str:
    """`Yes` if all transfer, `No` if an upper bound says so of all, and else what lies between."""
    total = len(words)
    yes = words.count(Word.TRANSFERS)
    part = sum(word in _IN_PART for word in words)
    out = sum(word in _RULED_OUT for word in words)
    if yes == total:
        return f"Yes: the vector transfers for {_all(total)} tested"
    if yes:
        return f"In part: the vector transfers for {yes} of {total} concepts"
    if part:
        where = "the one concept" if total == 1 else f"{part} of {total} concepts"
        return f"In part: part of the effect, or little of it, transfers for {where}"
    if out == total:
        subject = "the one concept" if total == 1 else f"any of the {total} concepts"
        return f"No: the vector does not transfer for {subject} tested"
    if all(word in _NO_ANSWER for word in words):
        return "Cannot be told: the target model's own vectors do not steer towards their concepts"
    if all(word is Word.OVERLAP for word in words):
        return "Cannot be told: the maps were fitted on the concepts' own texts"
    if total == 1:
        return "Cannot be told: transfer is neither shown nor ruled out for the one concept tested"
    ruled_out = f", and ruled out for {out}" if out else ""
    return f"Cannot be told: transfer is shown for none of {total} concepts{ruled_out}"


def _all(total: int) -> str:
    return "the one concept" if total == 1 else f"all {total} concepts"


def _named(summaries: Sequence[ConceptSummary], word: Word) -> list[str]:
    return [summary.concept for summary in summaries if summary.word is word]


def _counts_sentence(summaries: Sequence[ConceptSummary]) -> str:
    counts = [
        f"“{word}” for {count}" for word in Word if (count := len(_named(summaries, word))) > 0
    ]
    noun = "concept" if len(summaries) == 1 else "concepts"
    return f"The verdict on {len(summaries)} {noun}: {names(counts)}."


def _search_sentence(results: Results, summaries: Sequence[ConceptSummary]) -> str:
    """What was searched, and that the p-values pay for it."""
    row = summaries[0].verdict
    pairs = "the one pair" if row.pairs_searched == 1 else f"{number(row.pairs_searched)} pairs"
    strengths = len([s for s in results.config.evaluate.strengths if s > 0])
    searched = f"{pairs} of layers and {_many(strengths, 'strength')}"
    drawn = {control.arm: control.draws for each in summaries for control in each.drawn}
    if not drawn:
        return f"For every concept we searched {searched} on development items."
    draws = number(min(drawn.values()))
    kinds = names([LABELS[arm] for arm in drawn])
    holm = (
        f"they are adjusted for {len(summaries)} concepts (Holm)"
        if len(summaries) > 1
        else "there is one concept, so nothing else is adjusted"
    )
    return (
        f"For every concept we searched {searched} on development items, and each of {draws} draws "
        f"of every control ({kinds}) likewise; test items judged. So the p-values include the "
        f"search; {holm}, and {LEVEL:.0%} is the level."
    )


def _open_sentence(summaries: Sequence[ConceptSummary]) -> str:
    """Which controls do as well as the claim."""
    concepts: dict[str, list[str]] = {}
    for summary in summaries:
        for control in summary.open_controls:
            concepts.setdefault(control.label, []).append(summary.concept)
    if not concepts:
        return ""
    listed = [f"{label} for {names(of)}" for label, of in concepts.items()]
    return f"Not ruled out: {'; '.join(listed)}."


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _retention_sentence(summaries: Sequence[ConceptSummary]) -> str:
    known = sorted(
        (s for s in summaries if math.isfinite(s.retention)), key=lambda each: each.retention
    )
    if not known:
        return ""
    low, high = known[0], known[-1]
    if len(known) == 1:
        return f"The transferred vector keeps {_kept(low)} of the native effect ({low.concept})."
    return (
        f"The transferred vectors keep from {_kept(low)} of the native effect ({low.concept}) to "
        f"{_kept(high)} ({high.concept})."
    )


def _kept(summary: ConceptSummary) -> str:
    return f"{percent(summary.retention)} (95% interval: {interval(summary.retention_interval)})"


def _group_sentence(summaries: Sequence[ConceptSummary], word: Word) -> str:
    """One sentence on all concepts with the same verdict."""
    return f"{names(_named(summaries, word))} – {word}: {MEANINGS[word]}."


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
