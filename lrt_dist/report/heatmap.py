"""A grid as coloured table cells with the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lrt_dist.formatting import percent
from lrt_dist.report.grids import Grid
from lrt_dist.sites import LayerPair

# Past this many columns the numbers move to the cells' tooltips, or nothing could be seen at once.
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
    title: str
    note: str
    target_layers: tuple[int, ...]
    rows: tuple[tuple[int, tuple[Cell, ...]], ...]
    dense: bool

    @property
    def wide(self) -> bool:
        """Whether it wants the page's full width rather than a column beside another one."""
        return len(self.target_layers) > 9


def heat_map(
    grid: Grid,
    *,
    title: str,
    note: str,
    in_percent: bool = False,
    chosen: Mapping[LayerPair, Collection[str]] | None = None,
) -> HeatMap:
    """Cells coloured from 0 (bare) to 1 (full), below 0 in another colour; chosen pairs ringed."""
    dense = len(grid.target_layers) > _MOST_NUMBERS
    rings = chosen or {}

    def cell(pair: LayerPair) -> Cell:
        where = f"layer {pair.source} → {pair.target}"
        value = grid.values.get(pair)
        if value is None:
            return Cell("", f"{where}: not run", defined=False)
        if not math.isfinite(value):
            return Cell(
                "·", f"{where}: undefined, no clear native effect or a score that is not finite"
            )
        text = percent(value) if in_percent else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
        concepts = rings.get(pair, ())
        mark = f"; chosen for {', '.join(concepts)}" if concepts else ""
        return Cell(
            text="" if dense else text.removesuffix("%"),
            hint=f"{where}: {text}{mark}",
            heat=round(100 * min(1.0, abs(value))),
            negative=value < 0,
            chosen=bool(concepts),
        )

    rows = tuple(
        (source, tuple(cell(LayerPair(source, target)) for target in grid.target_layers))
        for source in grid.source_layers
    )
    return HeatMap(title, note, grid.target_layers, rows, dense)
