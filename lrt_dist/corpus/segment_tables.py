"""Segments as Arrow tables: in the row index, and on the way to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lrt_dist.corpus.segments import Cut
from lrt_dist.sites import Segment, Side, Sided

_INTEGERS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("document", pa.string()),
        ("start", pa.int64()),
        ("text", pa.string()),
        ("char_ends", _INTEGERS),
        ("first_row", pa.int64()),
        ("source_ids", _INTEGERS),
        ("target_ids", _INTEGERS),
        ("source_positions", _INTEGERS),
        ("target_positions", _INTEGERS),
    ]
)

OF_SITES = ("char_ends", "source_positions", "target_positions")
"""Columns whose lists have a number for each site."""


def table_of(segments: Sequence[Segment | Cut]) -> pa.RecordBatch:
    """Segments as a table, a line each."""
    sided = {
        f"{side}_{name}": _lists([getattr(segment, name)[side] for segment in segments])
        for name in ("ids", "positions")
        for side in Side
    }
    alike = {
        "document": [segment.document for segment in segments],
        "start": [segment.start for segment in segments],
        "text": [segment.text for segment in segments],
        "char_ends": _lists([segment.char_ends for segment in segments]),
        "first_row": [segment.first_row for segment in segments],
    }
    return pa.RecordBatch.from_pydict(alike | sided, schema=SCHEMA)


def segments_of(table: pa.RecordBatch) -> list[Segment]:
    """The segments of a table."""
    documents, starts, texts, first_rows = (
        table.column(name).to_pylist() for name in ("document", "start", "text", "first_row")
    )
    char_ends = _tuples(table, "char_ends")
    ids, positions = (
        Sided.of(partial(_sided_tuples, table, name)) for name in ("ids", "positions")
    )
    return [
        Segment(
            document=documents[n],
            start=starts[n],
            text=texts[n],
            char_ends=char_ends[n],
            first_row=first_rows[n],
            ids=Sided(ids.source[n], ids.target[n]),
            positions=Sided(positions.source[n], positions.target[n]),
        )
        for n in range(len(table))
    ]


def fill_units(tables: Iterable[pa.RecordBatch], rows_per_unit: int) -> Iterator[pa.RecordBatch]:
    """Group segments into units of exactly `rows_per_unit` sites, and number the rows.

    A unit holds whole segments; sites beyond its last row are dropped, so rows are dense. Only
    the last unit may be short. `first_row` of the input is ignored.
    """
    waiting: list[pa.RecordBatch] = []
    rows = first = 0
    for table in tables:
        reach = lengths(table, "char_ends").cumsum()
        begin = done = 0  # segments of this table, and sites, that are in units
        while begin < len(table):
            last = int(np.searchsorted(reach, done + rows_per_unit - rows))
            waiting.append(table.slice(begin, last + 1 - begin))
            if last == len(table):
                rows += int(reach[-1]) - done
                break
            yield _unit(waiting, first, rows_per_unit)
            begin, done = last + 1, int(reach[last])
            first, waiting, rows = first + rows_per_unit, [], 0
    if waiting:
        yield _unit(waiting, first, rows)


def lengths(table: pa.RecordBatch, name: str) -> NDArray[np.int32]:
    """How long each list of a column is."""
    offsets: NDArray[np.int32] = table.column(name).offsets.to_numpy()
    return np.diff(offsets)


def _unit(tables: Sequence[pa.RecordBatch], first: int, rows: int) -> pa.RecordBatch:
    """One table of several, with its rows numbered from `first`, and no sites beyond `rows`."""
    whole = pa.Table.from_batches(tables).combine_chunks().to_batches()[0]
    columns = {}
    for name in SCHEMA.names:
        column = whole.column(name)
        if pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
            if name in OF_SITES:
                offsets[-1] = rows
            # Copied, so that the file is the same whatever the tables were.
            values = column.flatten().to_numpy()[: offsets[-1]].copy()
            columns[name] = pa.ListArray.from_arrays(offsets, values)
        else:
            columns[name] = column.take(np.arange(len(column)))  # copied as well
    begins = columns["char_ends"].offsets.to_numpy()[:-1].astype(np.int64)
    columns["first_row"] = pa.array(first + begins)
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _lists(values: Sequence[Sequence[int] | NDArray[np.integer]]) -> pa.ListArray:
    """Lists of int32, without an object for each number."""
    lengths = np.fromiter(map(len, values), dtype=np.int32, count=len(values))
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), lengths.cumsum(dtype=np.int32)])
    flat = [np.zeros(0, dtype=np.int32), *(np.asarray(v, dtype=np.int32) for v in values)]
    return pa.ListArray.from_arrays(offsets, np.concatenate(flat))


def _tuples(table: pa.RecordBatch, name: str) -> list[tuple[int, ...]]:
    column = table.column(name)
    offsets, values = column.offsets.to_pylist(), column.values.to_pylist()
    return [tuple(values[begin:end]) for begin, end in itertools.pairwise(offsets)]


def _sided_tuples(table: pa.RecordBatch, name: str, side: Side) -> list[tuple[int, ...]]:
    return _tuples(table, f"{side}_{name}")
