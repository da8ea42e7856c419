"""Whether memory stays constant: what a fit adds to a process's peak, at eight times the rows.

Each fit is a process of its own, since a peak is never taken back. Its rows are made block by block
when they are read: those of a memory-mapped file would count as memory wherever the system keeps
them cached. The allocator gives back what is freed, so that the peak is what the fit holds and not
what the allocator kept. The least size is one at which a block of rows lies within one fold, since
smaller ones are read in smaller pieces. `python -m benchmarks.memory ROWS D_X D_Y` is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Result, peak_bytes, result, threads, versions
from lrt_dist.maps.arrays import BLOCK_ROWS, fit

NAMES = ("memory_constant",)
PERIOD = 512
"""Rows that one seed makes; slices are put together of these."""


class Rows:
    """An array of random rows `[rows, width]`, float32, that are made when they are sliced."""

    def __init__(self, rows: int, width: int, seed: int) -> None:
        self.shape = (rows, width)
        self._seed = seed

    def __getitem__(self, wanted: slice) -> np.ndarray:
        start, stop, _ = wanted.indices(self.shape[0])
        first = start - start % PERIOD
        made = np.empty((stop - first + -(stop - first) % PERIOD, self.shape[1]), np.float32)
        for begin in range(0, len(made), PERIOD):
            rng = np.random.default_rng((self._seed, first + begin))
            rng.standard_normal(dtype=np.float32, out=made[begin : begin + PERIOD])
        return made[start - first : stop - first]


def measure(_wanted: Sequence[str], *, quick: bool) -> list[Result]:
    least, widths = 24 * BLOCK_ROWS + 100, (16, 24) if quick else (128, 160)
    runs = []
    for _ in range(1 if quick else 3):
        once, more = (_in_a_process(rows, *widths) for rows in (least, 8 * least))
        runs.append(
            {
                "seconds": {"1": once["seconds"], "8": more["seconds"]},
                "MiB": {"1": once["MiB"], "8": more["MiB"]},
                "ratio": more["MiB"] / once["MiB"],
                "setting": f"{least} rows and 8 times them, {widths[0]} → {widths[1]}; "
                f"{versions('torch')}",
            }
        )
    return [result(NAMES[0], runs, 1.1, higher_is_better=False)]


def _in_a_process(rows: int, d_x: int, d_y: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", *map(str, (rows, d_x, d_y))]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _fit(rows: int, d_x: int, d_y: int) -> dict[str, float]:
    """What the fit adds to the peak of a process that has fitted something small before."""
    fit(Rows(50, 4, 0), Rows(50, 4, 1))
    before = peak_bytes()
    start = time.perf_counter()
    fit(Rows(rows, d_x, 0), Rows(rows, d_y, 1))
    took = time.perf_counter() - start
    return {"MiB": (peak_bytes() - before) / 2**20, "seconds": took}


if __name__ == "__main__":
    with threads():
        print(json.dumps(_fit(*map(int, sys.argv[1:]))))
