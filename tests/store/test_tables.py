"""Rows come back as they went, from files that say what they are and what they were made from."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lrt_dist.errors import CorruptionError
from lrt_dist.linear.fit import FitMetrics
from lrt_dist.store import tables
from lrt_dist.store.tables import (
    FitRow,
    GeneratedRow,
    JointFitRow,
    LayerRow,
    ScoreRow,
    Table,
    concat,
    is_current,
    schema,
)

ROWS = [
    kind
    for name, kind in sorted(vars(tables).items())
    if is_dataclass(kind) and name.endswith("Row")
]


@dataclass(frozen=True, kw_only=True)
class EveryKind:
    """A row with a field of every type that a column may have."""

    text: str
    number: int
    value: float
    truth: bool
    layers: tuple[int, ...]
    curve: tuple[tuple[int, float], ...]


def value_of(hint: Any, chance: random.Random) -> Any:
    """Some value of a type."""
    number = chance.randrange(10**6)
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[1] is ...:
            return tuple(value_of(items[0], chance) for _ in range(number % 4))
        return tuple(value_of(item, chance) for item in items)
    if hint is float:
        return math.nan if number % 3 == 0 else number / 7
    if hint is bool:
        return bool(number % 2)
    return f"Ω {number}\n" if hint is str else number * 10**9


def some_rows(row: type[Any], count: int = 20) -> list[Any]:
    chance = random.Random(0)
    hints = get_type_hints(row)
    return [
        row(**{f.name: value_of(hints[f.name], chance) for f in fields(row)}) for _ in range(count)
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    """Of the same types and values; NaN is NaN."""
    return [repr(row) for row in one] == [repr(row) for row in other]


def test_all_tables_are_here() -> None:
    assert {FitRow, JointFitRow, LayerRow, GeneratedRow, ScoreRow} < set(ROWS)


@pytest.mark.parametrize("count", [0, 1, 20])
@pytest.mark.parametrize("row", [*ROWS, EveryKind])
def test_rows_come_back_as_they_went(tmp_path: Path, row: type[Any], count: int) -> None:
    """A copy: equal bits, NaN and types included."""
    path = tmp_path / "deep" / "t.parquet"
    rows = some_rows(row, count)
    table = Table.of(row, rows)
    table.save(path, "f")
    again = Table.read(path, row)
    assert len(table) == len(again) == count
    assert same(list(table), rows)
    assert same(list(again), rows)
    assert again.arrow.schema.equals(schema(row), check_metadata=True)
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_the_rows_that_are_tried_have_nan_and_curves() -> None:
    """The control of the test above."""
    rows = some_rows(FitRow)
    numbers = [value for row in rows for value in asdict(row).values() if isinstance(value, float)]
    assert any(map(math.isnan, numbers))
    assert not all(map(math.isnan, numbers))
    assert any(len(row.learning) > 1 for row in rows)
    assert any(not row.learning for row in rows)
    assert any(len(row.source_layers) > 1 for row in some_rows(JointFitRow))


def test_a_missing_float_is_nan(tmp_path: Path) -> None:
    """As other writers of Parquet have it."""
    columns = {"side": ["source"], "layer": [1], "median_norm": [None], "usual_norm": [1.5]}
    columns |= {"shrunk": [2], "shrunk_share": [0.5]}
    pq.write_table(pa.table(columns, schema=schema(LayerRow)), tmp_path / "t.parquet")
    (row,) = Table.read(tmp_path / "t.parquet", LayerRow)
    assert math.isnan(row.median_norm)


def test_columns_are_the_fields_with_a_rows_own_first() -> None:
    names = schema(FitRow).names
    assert sorted(names) == sorted(f.name for f in fields(FitRow))
    assert names[0] == "source_layer"
    inherited = [f.name for f in fields(FitMetrics)]
    assert [name for name in names if name in inherited] == inherited
    assert schema(EveryKind) == pa.schema(
        [
            ("text", pa.string()),
            ("number", pa.int64()),
            ("value", pa.float64()),
            ("truth", pa.bool_()),
            ("layers", pa.list_(pa.int64())),
            ("curve", pa.list_(pa.list_(pa.float64()))),
        ]
    )


def test_columns_are_read_by_name_and_further_ones_left_out(tmp_path: Path) -> None:
    rows = some_rows(GeneratedRow)
    columns = Table.of(GeneratedRow, rows).arrow.append_column("new", pa.array([1] * len(rows)))
    path = tmp_path / "t.parquet"
    pq.write_table(columns.select(columns.column_names[::-1]), path)
    assert same(list(Table.read(path, GeneratedRow)), rows)


@pytest.mark.parametrize("row", ROWS)
def test_a_missing_column_is_named_with_the_file(tmp_path: Path, row: type[Any]) -> None:
    path = tmp_path / "t.parquet"
    complete = Table.of(row, some_rows(row)).arrow
    gone = complete.column_names[-1]
    pq.write_table(complete.drop_columns([gone]), path)
    with pytest.raises(CorruptionError, match=f"^{path} has no column {gone}: .* run its step"):
        Table.read(path, row)


@pytest.mark.parametrize("damage", ["empty", "no parquet", "torn", "overwritten"])
def test_a_damaged_file_is_named_and_never_current(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    Table.of(GeneratedRow, some_rows(GeneratedRow, 500)).save(path, "f")
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "no parquet": b"text",
        "torn": content[: len(content) // 2],
        "overwritten": b"PAR1" + bytes(len(content) - 8) + b"PAR1",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(CorruptionError, match=f"^{path} cannot be read as Parquet"):
        Table.read(path, GeneratedRow)
    assert not is_current(path, "f")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Table.read(tmp_path / "none.parquet", GeneratedRow)


def test_tables_know_what_they_were_made_from(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    Table.of(GeneratedRow, []).save(path, "f")
    assert is_current(path, "f")
    assert not is_current(path, "g")
    assert not is_current(tmp_path / "none.parquet", "f")
    Table.read(path, GeneratedRow).save(path, "g")
    assert is_current(path, "g")
    pq.write_table(Table.of(GeneratedRow, []).arrow, path)
    assert not is_current(path, "f")


def test_filter_column_and_concat() -> None:
    rows = some_rows(ScoreRow)
    table = Table.of(ScoreRow, rows)
    assert table.column("item") == [row.item for row in rows]
    middle = sorted(row.draw for row in rows)[10]
    chosen = table.filter(pc.field("draw") > middle)
    assert same(list(chosen), [row for row in rows if row.draw > middle])
    assert len(chosen) == 9
    parts = [Table.of(ScoreRow, rows[:2]), Table.of(ScoreRow, []), Table.of(ScoreRow, rows[2:])]
    assert same(list(concat(parts, ScoreRow)), rows)
