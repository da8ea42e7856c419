"""Units out of tables of segments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.corpus.segment_tables import fill_units, segments_of, table_of
from lrt_dist.sites import Segment, Side, Sided


def units_of(tables: list[list[Segment]], rows_per_unit: int) -> list[list[Segment]]:
    return [segments_of(unit) for unit in fill_units(map(table_of, tables), rows_per_unit)]


def segment(name: str, sites: int) -> Segment:
    ends = tuple(range(1, sites + 1))
    both = Sided(ends, ends)
    return Segment(name, 0, "x" * sites, ends, -1, both, both)


@given(st.lists(st.lists(st.integers(1, 12), max_size=9), max_size=9), st.integers(1, 20))
def test_units_hold_exactly_their_rows_and_rows_are_dense(
    counts: list[list[int]], rows_per_unit: int
) -> None:
    """However the segments come in tables."""
    tables = [
        [segment(f"{t}-{n}", count) for n, count in enumerate(counts[t])]
        for t in range(len(counts))
    ]
    units = units_of(tables, rows_per_unit)
    sizes = [sum(len(s.char_ends) for s in unit) for unit in units]
    assert all(size == rows_per_unit for size in sizes[:-1])
    assert all(1 <= size <= rows_per_unit for size in sizes)
    rows = [
        row
        for unit in units
        for s in unit
        for row in range(s.first_row, s.first_row + len(s.char_ends))
    ]
    assert rows == list(range(sum(sizes)))


@given(st.lists(st.lists(st.integers(1, 12), max_size=9), max_size=9), st.integers(1, 20))
def test_segments_stay_whole_and_only_the_last_of_a_unit_loses_sites(
    counts: list[list[int]], rows_per_unit: int
) -> None:
    """However the segments come in tables."""
    tables = [
        [segment(f"{t}-{n}", count) for n, count in enumerate(counts[t])]
        for t in range(len(counts))
    ]
    units = units_of(tables, rows_per_unit)
    segments = [s for table in tables for s in table]
    assert [s.document for unit in units for s in unit] == [s.document for s in segments]
    before = {s.document: s for s in segments}
    for unit in units:
        for number, kept in enumerate(unit):
            whole = before[kept.document]
            count = len(kept.char_ends)
            assert (kept.text, kept.ids) == (whole.text, whole.ids)
            assert kept.char_ends == whole.char_ends[:count]
            for side in Side:
                assert kept.positions[side] == whole.positions[side][:count]
            if number < len(unit) - 1:
                assert count == len(whole.char_ends)
