"""What the driver pays to find a unit's work in the row index, and whether that grows.

`index_unit`: milliseconds in which the lengths of a unit's segments are found, at random, in an
index of 25,000 units (100 million tokens in units of 4,096 rows); target 1.
`index_growth`: that time, and that of a worker which reads the unit's texts and tokens, divided by
the same in an index of 250 units.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from benchmarks.harness import Result, result
from lrt_dist.corpus.rows import RowIndex, write_index, write_units
from lrt_dist.corpus.segment_tables import table_of
from lrt_dist.sites import Segment, Side, Sided

TARGETS = {"index_unit": 1.0, "index_growth": 1.5}
UNITS, FEW = 25_000, 250
SEGMENTS = 16
"""Of a unit: as many as 256 tokens each make of 4,096 rows."""
TOKENS = 16
"""Of a segment here: how many there are plays no part in finding a unit."""
LOOKS = 400


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """Medians over random units, in rounds."""
    units = UNITS // 50 if quick else UNITS
    with TemporaryDirectory() as folder:
        large, small = (made_index(Path(folder) / str(n), n) for n in (units, FEW))
        rounds = [
            {
                "ms": 1e3 * _seconds(large, _lengths),
                "growth": max(_seconds(large, f) / _seconds(small, f) for f in (_lengths, _unit)),
            }
            for _ in range(3)
        ]
    setting = f"{units:,} units of {SEGMENTS} segments"
    keys = {"index_unit": "ms", "index_growth": "growth"}
    return [
        result(
            name,
            [{"ratio": one[keys[name]], "setting": setting} for one in rounds],
            TARGETS[name],
            higher_is_better=False,
        )
        for name in wanted
    ]


def _lengths(index: RowIndex, unit: int) -> object:
    return index.lengths(unit, Side.SOURCE)


def _unit(index: RowIndex, unit: int) -> object:
    return RowIndex.open(index.path).unit(unit)


def _seconds(index: RowIndex, look: Callable[[RowIndex, int], object]) -> float:
    random.seed(0)
    times = []
    for unit in random.choices(range(index.units), k=LOOKS):
        began = time.perf_counter()
        look(index, unit)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def made_index(path: Path, units: int, tokens: int = TOKENS) -> RowIndex:
    """An index of so many units of `SEGMENTS` segments, each of so many tokens."""
    written = write_units(path, _tables(units, tokens), SEGMENTS * tokens)
    return write_index(path, written, "benchmark")


def _tables(units: int, tokens: int) -> Iterator[pa.RecordBatch]:
    some = tuple(range(tokens))
    for unit in range(units):
        yield table_of(
            [
                Segment(
                    document=f"corpus.jsonl#{unit}-{number}",
                    start=0,
                    text="word " * tokens,
                    char_ends=tuple(range(5, 5 * tokens + 1, 5)),
                    first_row=0,
                    ids=Sided(some, some),
                    positions=Sided(some, some),
                )
                for number in range(SEGMENTS)
            ]
        )
