"""A table of numbers as coloured cells with the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lrt_dist.formatting import percent
from lrt_dist.report.grids import Grid
from lrt_dist.report.matrix import Matrix
from lrt_dist.sites import LayerPair

# Past this many columns colours and numbers are two tables, or nothing could be seen at once.
_MOST_NUMBERS = 40


@dataclass(frozen=True)
class Cell:
    """`heat` is 0..100, of the positive colour or, where `negative`, of the other one."""

    text: str
    hint: str
    heat: int = 0
    negative: bool = False
    chosen: bool = False
    defined: bool = True


@dataclass(frozen=True)
class HeatMap:
    """A table of cells; `dense` ones are shown as colours, and as numbers in a table below.

    `named`: rows and columns have names rather than numbers.
    """

    title: str
    note: str
    corner: tuple[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    named: bool = False

    @property
    def dense(self) -> bool:
        """Whether there is no room for numbers."""
        return len(self.columns) > _MOST_NUMBERS

    @property
    def wide(self) -> bool:
        """Whether it wants the page's full width rather than a column beside another one."""
        return len(self.columns) > 9


def heat_map(
    grid: Grid,
    *,
    title: str,
    note: str,
    in_percent: bool = False,
    chosen: Mapping[LayerPair, Collection[str]] | None = None,
) -> HeatMap:
    """Cells coloured from 0 (bare) to 1 (full), below 0 in another colour; chosen pairs ringed."""
    rings = chosen or {}

    def cell(pair: LayerPair) -> Cell:
        where = f"layer {pair.source} → {pair.target}"
        value = grid.values.get(pair)
        if value is None:
            return Cell("", f"{where}: not run", defined=False)
        concepts = ", ".join(rings.get(pair, ()))
        mark = f"chosen for {concepts}" if concepts else ""
        return _cell(value, where, in_percent=in_percent, mark=mark)

    return HeatMap(
        title,
        note,
        ("source ↓", "target →"),
        tuple(map(str, grid.target_layers)),
        tuple(
            (str(source), tuple(cell(LayerPair(source, target)) for target in grid.target_layers))
            for source in grid.source_layers
        ),
    )


def matrix_map(matrix: Matrix, *, title: str, note: str, column: str = "vector") -> HeatMap:
    """A matrix of concepts, in per cent; the diagonal is ringed.

    Args:
        column: what the concepts of the columns made.
    """

    def cell(items: str, vector: str) -> Cell:
        where = f"{column} of {vector} on items of {items}"
        value = matrix.values.get((items, vector))
        if value is None:
            return Cell("", f"{where}: not run", defined=False)
        return _cell(value, where, in_percent=True, mark="its own" if items == vector else "")

    return HeatMap(
        title,
        note,
        ("items ↓", f"{column} →"),
        matrix.concepts,
        tuple((i, tuple(cell(i, vector) for vector in matrix.concepts)) for i in matrix.concepts),
        named=True,
    )


def _cell(value: float, where: str, *, in_percent: bool, mark: str) -> Cell:
    """A cell; `mark` says why it is ringed, and is empty where it is not."""
    if not math.isfinite(value):
        reason = "undefined, too little native effect or a score that is not finite"
        return Cell("·", f"{where}: {reason}", chosen=bool(mark))
    text = percent(value) if in_percent else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return Cell(
        text=text.removesuffix("%"),
        hint=f"{where}: {text}{f'; {mark}' if mark else ''}",
        heat=round(100 * min(1.0, abs(value))),
        negative=value < 0,
        chosen=bool(mark),
    )
