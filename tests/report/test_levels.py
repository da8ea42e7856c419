"""Scores as LRT compares them: the numbers of numpy, and why they mislead."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import exact_run, realistic_run

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.levels import COMPARED, Spread, levels
from lrt_dist.report.summary import summarise
from lrt_dist.report.tables_to_copy import as_csv, as_latex

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)


def test_without_noise_everything_correlates(tmp_path: Path) -> None:
    """Scores are base + share · 40 · α, so even no steering has r = 1; errors are by hand."""
    (summary,) = summarise(exact_run(tmp_path))
    found = {each.arm: each for each in summary.levels}
    assert tuple(found) == COMPARED
    for arm, share in ((Arm.TRANSFERRED, 0.7), (Arm.MISMATCHED, -0.02), (Arm.NONE, 0.0)):
        errors = [(40 * (1 - share) * alpha) ** 2 for alpha in STRENGTHS]
        assert found[arm].pearson.mean == pytest.approx(1)
        assert found[arm].pearson.sd == pytest.approx(0, abs=1e-12)
        assert found[arm].mean_squared_error.mean == pytest.approx(np.mean(errors))
        assert found[arm].mean_squared_error.sd == pytest.approx(np.std(errors, ddof=1))
        assert found[arm].strengths == 4


def test_the_numbers_are_those_of_numpy(tmp_path: Path) -> None:
    for summary in summarise(realistic_run(tmp_path)):
        for each in summary.levels:
            pairs = [
                (
                    summary.test.values[Arm.NATIVE, 0, alpha].numpy(),
                    summary.test.values[
                        each.arm, 0, 0.0 if each.arm is Arm.NONE else alpha
                    ].numpy(),
                )
                for alpha in STRENGTHS
            ]
            r = [np.corrcoef(one, two)[0, 1] for one, two in pairs]
            errors = [np.mean((one - two) ** 2) for one, two in pairs]
            assert each.pearson.mean == pytest.approx(np.mean(r))
            assert each.pearson.sd == pytest.approx(np.std(r, ddof=1))
            assert each.mean_squared_error.mean == pytest.approx(np.mean(errors))


def test_what_was_not_steered_at_every_strength_is_left_out(tmp_path: Path) -> None:
    (summary,) = summarise(exact_run(tmp_path))
    summary.test.values.pop((Arm.MISMATCHED, 0, -0.1))
    assert [each.arm for each in levels(summary.test)] == [Arm.TRANSFERRED, Arm.NONE]
    assert math.isnan(Spread.of([math.nan]).mean)
    assert math.isnan(Spread.of([0.5]).sd)


def test_tables_to_copy_have_them(tmp_path: Path) -> None:
    summaries = summarise(exact_run(tmp_path))
    (row,) = csv.DictReader(io.StringIO(as_csv(summaries)))
    assert float(row["scores_pearson_none"]) == pytest.approx(1)
    error = float(row["scores_mean_squared_error_transferred"])
    assert error == pytest.approx(np.mean([(12 * alpha) ** 2 for alpha in STRENGTHS]))
    assert (row["length"], row["native_length"]) == ("3.1", "3.1")
    line = as_latex(summaries).split(r"\midrule")[2].strip().splitlines()[0]
    assert line.startswith(r"mood & $1.000 \pm 0.000$ & $0.900 \pm 0.6")
    assert line.count(" & ") == 6
