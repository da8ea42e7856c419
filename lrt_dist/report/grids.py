"""Numbers over layer pairs: what the heat maps show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import FitRow, Table, VectorRow
from lrt_dist.verdicts import WEAK


@dataclass(frozen=True)
class Grid:
    """Value per layer pair. Absent: not run. NaN: run, and undefined."""

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    values: Mapping[LayerPair, float]

    @classmethod
    def of(cls, values: Mapping[LayerPair, float]) -> Grid:
        """The grid of all layers that some pair names."""
        return cls(
            source_layers=tuple(sorted({pair.source for pair in values})),
            target_layers=tuple(sorted({pair.target for pair in values})),
            values=dict(values),
        )


def column_grid(table: Table[FitRow] | Table[VectorRow], column: str) -> Grid:
    """A column that has one row per layer pair, as a grid."""
    pairs = map(LayerPair, table.column("source_layer"), table.column("target_layer"))
    return Grid.of(dict(zip(pairs, table.column(column), strict=True)))


def mean_grid(grids: Iterable[Grid]) -> Grid:
    """Mean over grids of what is defined in each; NaN where it is undefined in all."""
    by_pair: dict[LayerPair, list[float]] = defaultdict(list)
    for grid in grids:
        for pair, value in grid.values.items():
            by_pair[pair].extend([value] if math.isfinite(value) else [])
    return Grid.of(
        {
            pair: sum(values) / len(values) if values else math.nan
            for pair, values in by_pair.items()
        }
    )


def cosine_grids(vectors: Table[VectorRow]) -> dict[str, Grid]:
    """Cosine of the transferred with the native vector, per concept."""
    return {
        concept: column_grid(vectors.filter(pc.field("concept") == concept), "cosine")
        for concept in sorted(set(vectors.column("concept")))
    }


def chosen_pairs(vectors: Table[VectorRow]) -> dict[LayerPair, list[str]]:
    """The concepts for which each layer pair was chosen on their development items."""
    concepts: dict[LayerPair, list[str]] = defaultdict(list)
    for row in vectors:
        if row.chosen:
            concepts[LayerPair(row.source_layer, row.target_layer)].append(row.concept)
    return dict(concepts)


def retention_grids(vectors: Table[VectorRow]) -> dict[str, Grid]:
    """Retention as predicted on the development items, per concept.

    This is what the pair was chosen by, so the best cell flatters: the test split judges. NaN where
    the native vector is predicted to have less than `WEAK` of its best effect: a share of little.
    """
    rows = defaultdict(list)
    for row in vectors:
        rows[row.concept].append(row)
    return {concept: _retention_grid(rows[concept]) for concept in sorted(rows)}


def _retention_grid(rows: Sequence[VectorRow]) -> Grid:
    known = [row.native_dev for row in rows if math.isfinite(row.native_dev)]
    least = WEAK * max(known, default=0.0)

    def value(row: VectorRow) -> float:
        enough = row.native_dev > 0 and row.native_dev >= least
        return row.transferred_dev / row.native_dev if enough else math.nan

    return Grid.of({LayerPair(row.source_layer, row.target_layer): value(row) for row in rows})
