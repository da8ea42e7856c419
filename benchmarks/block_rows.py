"""A block's rows from its units into float64, mismatched rows of three draws included.

`block_rows`: the time of that, as a process does it which holds moments of one source layer with
two target layers of models with Llama-3 8B's and 70B's widths, over a bare conversion of as many
numbers from bfloat16 into float64 that lie in order. Both write into memory that is there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Result, result, versions
from lrt_dist.linear.moments import RowBuffer
from lrt_dist.models.host_allocator import keep_freed_memory
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.blocks import FOLDS, GROUPS, Block, BlockSorter, RowFacts

TARGET = 3.0
ROWS, SEGMENT, DRAWS, NUMBER_OF_FOLDS = 4096, 512, 3, 5
LAYERS = Sided((1,), (1, 2))
OWN, FURTHER = tuple(range(5)), tuple(range(5, 10))


class _Units:
    """See `lrt_dist.tasks.blocks.Units`; all units hold the same numbers."""

    def __init__(self, widths: Sided[int], rows: int) -> None:
        random = np.random.default_rng(0)
        self._states = Sided.of(
            lambda side: random.integers(0, 1 << 14, (rows, widths[side]), dtype=np.uint16)
        )
        self._norms = np.ones(rows, dtype=np.float32)

    def states(self, side: Side, layer: int, unit: int) -> NDArray[Any]:
        return self._states[side]

    def norms(self, side: Side, layer: int, unit: int) -> NDArray[np.float32]:
        return self._norms


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """In turn, on one thread. Target rows of the block's own units are there already, as a rule;
    so as many are copied as the next block's units have."""
    keep_freed_memory()
    rows, widths = (64, Sided(64, 128)) if quick else (ROWS, Sided(4096, 8192))
    units, threads = _Units(widths, rows), torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        facts = _facts(Path(folder), rows)
        sorter, buffer = BlockSorter(facts, LAYERS, DRAWS), RowBuffer()
        own = sorter.gather(units, OWN, Side.TARGET)
        numbers = widths.source + (1 + DRAWS) * 2 * widths.target
        in_order = torch.zeros(rows, numbers, dtype=torch.bfloat16)
        runs = []
        for _ in range(3 if quick else 8):
            began = time.perf_counter()
            source = sorter.gather(units, OWN, Side.SOURCE).source
            whole = replace(own, source=source)
            pool = [whole, sorter.gather(units, FURTHER, Side.TARGET)]
            block = sorter.sort(Block(OWN, FURTHER), whole, pool)
            edges = np.searchsorted(block.folds, np.arange(NUMBER_OF_FOLDS + 1))
            for chosen in map(slice, edges[:-1], edges[1:]):
                out, column = buffer.rows(chosen.stop - chosen.start, numbers), 0
                for picked in block.variables.values():
                    picked[chosen].copy_to(out[:, column : column + picked.shape[1]])
                    column += picked.shape[1]
            ours = time.perf_counter() - began
            began = time.perf_counter()
            for _unit in OWN:
                buffer.rows(rows, numbers).copy_(in_order)
            bare = time.perf_counter() - began
            setting = f"{len(block.folds):,} rows, {numbers:,} numbers each; " + versions("torch")
            runs.append({"ours": ours, "bare": bare, "ratio": ours / bare, "setting": setting})
    torch.set_num_threads(threads)
    return [result(name, runs[1:], TARGET, higher_is_better=False) for name in names]


def _facts(folder: Path, rows: int) -> RowFacts:
    count = rows * (len(OWN) + len(FURTHER))
    folds = np.random.default_rng(1).integers(0, NUMBER_OF_FOLDS, count, dtype=np.int16)
    np.save(folder / FOLDS, folds)
    np.save(folder / GROUPS, np.arange(count) // min(SEGMENT, rows // 4))
    return RowFacts(folder, rows, "digest", 0.5, 4.0, Sided({1: 1.0}, {1: 1.0, 2: 1.0}))
