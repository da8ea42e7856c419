"""Verdicts, headlines and warnings against the evidence that calls for them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic_rows import vector_row, verdict_row
from synthetic_run import PAIR, exact_run, save_run

from lrt_dist.report.answer import MEANINGS, answer, headline
from lrt_dist.report.summary import summarise, word_of
from lrt_dist.report.warnings import data_warnings
from lrt_dist.verdicts import Word

BY_EVIDENCE: list[tuple[dict[str, Any], Word]] = [
    ({}, Word.TRANSFERS),
    ({"retention_interval": (0.3, 0.4)}, Word.PARTLY),
    ({"best_native": 20.0}, Word.WEAKLY),
    ({"p_adjusted": 0.06}, Word.UNCLEAR),
    ({"retention_interval": (-1.45, 1.66)}, Word.UNCLEAR),
    ({"retention_interval": (-math.inf, math.inf)}, Word.UNCLEAR),
    ({"retention_interval": (-0.1, 0.15), "p_adjusted": 0.7}, Word.FAILS),
    ({"retention_interval": (-0.6, -0.4), "p_adjusted": 1.0}, Word.REVERSES),
    ({"native_interval": (-0.2, 2.2)}, Word.NO_EFFECT),
    ({"native": -2.0, "native_interval": (-2.2, -1.8)}, Word.NATIVE_REVERSES),
    ({"overlap": True}, Word.OVERLAP),
]


@pytest.mark.parametrize(("evidence", "word"), BY_EVIDENCE)
def test_a_verdict_follows_from_the_row(evidence: dict[str, Any], word: Word) -> None:
    assert word_of(verdict_row("mood", PAIR, **evidence)) is word


def test_every_word_can_be_reached_and_has_a_meaning() -> None:
    assert {word for _, word in BY_EVIDENCE} == set(Word) == set(MEANINGS)


@pytest.mark.parametrize(
    "undefined",
    [
        {"retention_interval": (math.nan, math.nan)},
        {"native_interval": (math.nan, math.nan)},
        {"p_adjusted": math.nan},
        {"best_native": math.nan},
        {"best_native": 0.0},
        {"native": math.nan, "native_interval": (math.nan, math.nan)},
    ],
)
def test_what_is_undefined_is_never_good_news(undefined: dict[str, Any]) -> None:
    assert word_of(verdict_row("mood", PAIR, **undefined)) not in (Word.TRANSFERS, Word.PARTLY)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([Word.TRANSFERS] * 3, "Yes: the vector transfers for all 3 concepts tested"),
        ([Word.TRANSFERS], "Yes: the vector transfers for the one concept tested"),
        ([Word.TRANSFERS, Word.FAILS], "In part: the vector transfers for 1 of 2 concepts"),
        ([Word.PARTLY, Word.UNCLEAR], "In part: part of the effect, or little of it, transfers"),
        ([Word.WEAKLY], "In part: "),
        ([Word.UNCLEAR] * 2, "Cannot be told: transfer is shown for none of 2 concepts"),
        ([Word.UNCLEAR], "Cannot be told: "),
        ([Word.UNCLEAR, Word.FAILS], "Cannot be told: transfer is shown for none of 2 concepts, "),
        ([Word.NO_EFFECT, Word.NATIVE_REVERSES], "Cannot be told: the target model's own vectors"),
        ([Word.OVERLAP], "Cannot be told: the maps were fitted on the concepts' own texts"),
        ([Word.FAILS] * 2, "No: the vector does not transfer for any of the 2 concepts tested"),
        ([Word.FAILS, Word.REVERSES], "No: "),
    ],
)
def test_headlines(words: list[Word], said: str) -> None:
    assert headline(words).startswith(said)


@pytest.mark.parametrize("word", [word for word in Word if word not in (Word.FAILS, Word.REVERSES)])
def test_no_is_only_said_where_an_upper_bound_says_so(word: Word) -> None:
    assert not headline([Word.FAILS, word]).startswith("No")


def test_the_first_paragraph_says_what_was_searched(tmp_path: Path) -> None:
    results = exact_run(tmp_path)
    said = answer(results, summarise(results))
    assert "The verdict on 1 concept: “transfers” for 1." in said.text
    assert "we searched 9 pairs of layers and 2 strengths" in said.text
    assert "each of 101 draws of every control (permuted labels, " in said.text
    assert "p-values include the search" in said.text
    assert "5% is the level" in said.text
    assert "70% (95% interval: 62 to 78%) of the native effect" in said.text
    assert said.details == (f"mood – transfers: {MEANINGS[Word.TRANSFERS]}.",)


def test_controls_that_are_not_ruled_out_are_named(tmp_path: Path) -> None:
    results = exact_run(tmp_path, p_random=0.19, p_covariance=math.nan, p_adjusted=0.19)
    (summary,) = summarise(results)
    assert summary.word is Word.UNCLEAR
    said = answer(results, [summary]).text
    assert (
        "Not ruled out: covariance-matched directions for mood; random directions for mood." in said
    )


def test_a_share_of_little_is_told_apart_from_a_share_of_much(tmp_path: Path) -> None:
    """393 % where the native vector does next to nothing, 104 % where it does its best."""
    weak = verdict_row(
        "weak", PAIR, native=0.1, native_interval=(0.08, 0.12), retention=3.93,
        retention_interval=(3.36, 5.04), best_native=2.0, best_layer=4,
    )  # fmt: skip
    strong = verdict_row("strong", PAIR, retention=1.04, retention_interval=(0.76, 1.44))
    exact_run(tmp_path)
    vectors = [vector_row(row.concept, PAIR, chosen=True) for row in (weak, strong)]
    results = save_run(tmp_path, verdicts=[weak, strong], vectors=vectors)
    summaries = {summary.concept: summary for summary in summarise(results)}
    assert summaries["weak"].word is Word.WEAKLY
    assert summaries["strong"].word is Word.TRANSFERS
    assert answer(results, list(summaries.values())).headline.startswith("In part: the vector tra")
    warnings = data_warnings(results, list(summaries.values()))
    assert any("weak: the native vector has only 5% of its best effect" in w for w in warnings)
    assert not any(w.startswith("strong") for w in warnings)


def test_a_native_vector_that_steers_backwards_is_said_to(tmp_path: Path) -> None:
    """Both effects are negative, so their ratio is a good-looking one."""
    results = exact_run(
        tmp_path, native=-2.0, native_interval=(-2.2, -1.8), transferred=-1.4, best_native=-1.0
    )
    (summary,) = summarise(results)
    assert summary.word is Word.NATIVE_REVERSES
    assert math.isnan(summary.retention)
    assert all(math.isnan(control.retention) for control in summary.steered)
    assert answer(results, [summary]).headline.startswith("Cannot be told: ")
    (warning,) = data_warnings(results, [summary])
    assert "steers away from the concept at layer 9" in warning


def test_sound_data_give_no_warning(tmp_path: Path) -> None:
    results = exact_run(tmp_path)
    assert data_warnings(results, summarise(results)) == []


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"fit": {"n": 1000}}, "1 000 rows for 576 dimensions"),
        ({"fit": {"r2": 0.01}}, "within 0.05 of that on mismatched documents"),
        ({"fit": {"ridge_at_edge": True}}, "a λ at an end of what there was to choose"),
        ({"items": 29}, "Fewer than 30 test items (mood 29)"),
        ({"native_interval": (-0.1, 2.0)}, "the native vector does not steer at layer 9"),
        ({"overlap": True}, "returns the native vector by algebra"),
        ({"pairs_vary": False}, "leave out that other contrast pairs"),
        ({"documents_vary": False}, "keep_moments"),
        ({"retention_interval": (0.2, math.inf)}, "has no end (20% or more)"),
        ({"screened": False, "agreement": 0.84}, "do not agree well enough (r: mood +0.84)"),
        ({"screened": False, "agreement": math.nan}, "effects of this score cannot be predicted"),
        ({"screened": False, "draws": 10}, "With 10 draws"),
    ],
)
def test_the_numbers_call_for_their_warnings(
    tmp_path: Path, changed: dict[str, Any], warning: str
) -> None:
    results = exact_run(tmp_path, **changed)
    (text,) = data_warnings(results, summarise(results))
    assert warning in text.replace(",", " ").replace("\N{NARROW NO-BREAK SPACE}", " ") or (
        warning in text
    )
