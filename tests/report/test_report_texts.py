"""What the page says of texts that were judged is what the table says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_rows import generated_row
from synthetic_run import exact_run, save_run

from lrt_dist.plan.conditions import NONE, Arm, Condition, conditions_of
from lrt_dist.report.judged import judged_of
from lrt_dist.report.page import write_report
from lrt_dist.store.tables import GeneratedRow

SHARE = {Arm.NONE: 0.0, Arm.NATIVE: 2.0, Arm.TRANSFERRED: 1.5, Arm.RANDOM: 0.0}


def texts(concept: str, items: int = 10) -> list[GeneratedRow]:
    """Value = 5 + item ÷ 10 + share × sign; samples and draws differ by what cancels in their mean.
    A second score is the first one's tenth."""
    both = (-0.05, 0.05)
    conditions: list[Condition] = [
        NONE,
        *conditions_of(Arm.NATIVE, both),
        *conditions_of(Arm.TRANSFERRED, both, source=15),
        *conditions_of(Arm.RANDOM, both, source=15, draws=range(2)),
    ]
    rows = []
    for c in conditions:
        for item in range(items):
            for sample in range(2):
                off = (sample - 0.5) + (c.draw - 0.5 if c.arm is Arm.RANDOM else 0)
                value = 5 + item / 10 + SHARE[c.arm] * math.copysign(1, c.strength) + off
                rows.append(
                    generated_row(
                        concept=concept, item=item, question=f"film {item}", sample=sample,
                        arm=c.arm, draw=c.draw, strength=c.strength, prompt=f"Film {item} was",
                        text=f" text {sample}",
                        scores=("warmth", "tenth"), values=(value, value / 10),
                    )
                )  # fmt: skip
    return rows


def test_means_are_over_items(tmp_path: Path) -> None:
    exact_run(tmp_path)
    judged = judged_of(save_run(tmp_path, generated=texts("mood")), "mood")
    assert judged is not None
    assert (judged.items, judged.texts) == (10, (1 + 2 + 2 + 4) * 10 * 2)
    warmth, tenth = judged.scores
    assert (warmth.title, tenth.title) == ("warmth", "tenth")
    assert warmth.unsteered == pytest.approx(5.45)
    assert [each.arm for each in warmth.arms] == [Arm.NATIVE, Arm.TRANSFERRED, Arm.RANDOM]
    for each, less in zip(warmth.arms, tenth.arms, strict=True):
        share = SHARE[each.arm]
        assert (each.low, each.high) == pytest.approx((5.45 - share, 5.45 + share))
        assert each.effect == pytest.approx(share)
        assert less.effect == pytest.approx(share / 10)
        assert each.interval == pytest.approx((share, share))  # items do not differ in it


def test_what_was_not_judged_has_no_scores(tmp_path: Path) -> None:
    exact_run(tmp_path)
    rows = [replace(row, scores=(), values=()) for row in texts("mood")]
    results = save_run(tmp_path, generated=rows)
    assert judged_of(results, "mood") is None
    assert judged_of(results, "calm") is None


def test_the_page_shows_scores(tmp_path: Path) -> None:
    exact_run(tmp_path)
    results = save_run(tmp_path, generated=texts("mood"))
    path = write_report(results, change="change", warnings=(), facts={}, provenance={})
    page = path.read_text("utf-8")
    assert "How its texts are judged" in page
    assert "warmth of the texts of mood" in page
    assert "+1.500</b>" in page
