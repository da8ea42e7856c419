"""The benchmarks run, and write what they promise; what they measure is no matter for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_quick_benchmark_writes_its_figure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "path_of_100", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "path_of_100" in done.stdout
    (written,) = tmp_path.iterdir()
    figure = json.loads(written.read_text())
    assert list(figure) == ["name", "ratio", "target", "higher_is_better", "runs"]
    assert (figure["name"], figure["target"]) == ("path_of_100", 1.2)
    assert figure["ratio"] > 0
    assert all({"λ=10", "λ=100"} == run["seconds"].keys() for run in figure["runs"])
