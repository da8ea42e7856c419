"""The demo itself, on its real models: what it claims, and what it must not."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.report.summary import summarise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out)
    return out


def run_demo(out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lrt_dist.cli", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_maps_predict_held_out_states_and_mismatched_ones_do_not(demo: Path) -> None:
    fits = list(Results.read(demo).fits)
    assert max(fit.r2 for fit in fits) > 0.4
    assert all(fit.r2 > fit.r2_mismatched + 0.2 for fit in fits)
    assert all(fit.r2_mismatched < 0.02 for fit in fits)


def test_sentiment_transfers_and_the_controls_do_not(demo: Path) -> None:
    (sentiment,) = [s for s in summarise(Results.read(demo)) if s.concept == "sentiment"]
    assert sentiment.retention > 0.7
    mismatched = [c.retention for c in sentiment.steered if c.arm is Arm.MISMATCHED]
    assert len(mismatched) == 3
    assert all(abs(kept) < 0.35 for kept in mismatched)


def test_a_second_demo_takes_seconds_and_says_the_same(demo: Path) -> None:
    began = time.monotonic()
    text = run_demo(demo)
    assert time.monotonic() - began < 60
    assert re.search(r"sentiment\s+\d+ → \d+", text)
