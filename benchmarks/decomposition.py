"""The eigendecomposition of a wide layer's moments, beside NumPy's, at the width of a 70B model.

`eigh_time`: seconds of `numpy.linalg.eigh` ÷ ours, at d = 8192 in float64. `eigh_memory`: what ours
holds at its peak ÷ what a plan counts for it (`S_xx` of all rows, its eigenvectors, and as much
again to work in). Each is a process of its own, since a peak is never
taken back; `python -m benchmarks.decomposition ours 8192` is one.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.harness import Result, result, threads, versions
from lrt_dist.linear.moments import Moments
from lrt_dist.linear.ridge import Spectrum

TARGETS = {"eigh_time": 0.9, "eigh_memory": 1.05}
WIDTH = 8192
ROWS = 256
"""That are multiplied at once."""
PLANNED = 4
"""Matrices of d² that `plan.cost.solve_bytes` counts for the decomposition of all rows."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Once: a decomposition takes minutes."""
    width = 512 if quick else WIDTH
    theirs, ours = (_in_a_process(who, width) for who in ("numpy", "ours"))
    ratios = {
        "eigh_time": theirs["seconds"] / ours["seconds"],
        "eigh_memory": ours["bytes"] / (PLANNED * 8 * width**2),
    }
    setting = f"d = {width}; {versions('torch', 'numpy')}"
    return [
        result(
            name,
            [{"ratio": ratios[name], "ours": ours, "numpy": theirs, "setting": setting}],
            TARGETS[name],
            higher_is_better=name == "eigh_time",
        )
        for name in wanted
    ]


def _in_a_process(who: str, width: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decomposition", who, str(width)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _decompose(who: str, width: int) -> dict[str, float]:
    """Seconds, and bytes at the peak: the moments and what was added to them."""
    torch.manual_seed(0)
    second = torch.zeros(width, width, dtype=torch.float64)
    for _ in range(2 * width // ROWS):
        rows = torch.randn(ROWS, width, dtype=torch.float64)
        second.addmm_(rows.T, rows)
    train = Moments(2 * width, frozenset({"all"}), {"x": torch.zeros(width).double()},
                    {("x", "x"): second})  # fmt: skip
    before, began = _peak(), time.perf_counter()
    if who == "ours":
        Spectrum.of(train, "x", centred=True)
    else:
        np.linalg.eigh(second.numpy())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": 8 * width**2 + _peak() - before}


def _peak() -> int:
    """Bytes of memory that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    with threads():
        print(json.dumps(_decompose(sys.argv[1], int(sys.argv[2]))))
