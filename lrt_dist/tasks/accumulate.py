"""Moments of a leaf of units for a tile of layer pairs, and the merging of leaves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrt_dist.errors import CorruptionError, IncompleteError, LrtError
from lrt_dist.linear.fit import pair_moments
from lrt_dist.linear.moments import Accumulator, NonFiniteError, Pair, RowBuffer
from lrt_dist.plan.tiles import Tile
from lrt_dist.sites import Side
from lrt_dist.store.moments import MomentFile, load_sums, merge_files, save_sums, sums_parts
from lrt_dist.tasks.blocks import Leaf, SortedBlock, read_blocks, variable

ROWS_PER_PRODUCT = 4096
"""Rows of a fold that are multiplied at once, about: fewer waste time on the sums."""
KEPT_EVERY = 1800.0
"""Seconds after which what there is of a leaf is kept: what a kill costs at most."""


MOMENTS, KEPT = ".safetensors", ".kept"
"""How the names end of a node's moments, and of what was kept of a leaf that is not whole yet."""


@dataclass(frozen=True)
class AccumulateTask:
    """A leaf of units, for one tile.

    Attributes:
        tile: what is wanted.
        leaf: the rows.
        folds: number of folds.
        path: where the moments go.
        merged: whether they are there already, of more than this leaf.
        device: where products are made.
    """

    tile: Tile
    leaf: Leaf
    folds: int
    path: Path
    merged: bool = False
    device: str = "cpu"


def tile_moments(tile: Tile) -> list[Pair]:
    """The second moments of a tile."""
    return [
        *((name, name) for name in (variable(Side.SOURCE, layer) for layer in tile.own.source)),
        *((name, name) for name in (variable(Side.TARGET, layer) for layer in tile.own.target)),
        *((variable(Side.SOURCE, a), variable(Side.SOURCE, b)) for a, b in tile.within),
        *(
            moment
            for pair in tile.pairs
            for moment in pair_moments(
                variable(Side.SOURCE, pair.source), variable(Side.TARGET, pair.target), tile.draws
            )
        ),
    ]


class TileSums:
    """Moments of a tile in the making, fold by fold; see `Accumulator`."""

    def __init__(self, tile: Tile, folds: int, index_digest: str, buffer: RowBuffer) -> None:
        """
        Args:
            index_digest: of the row index, under which units are counted.
            buffer: for rows, on the device where products are made.
        """
        self._index_digest = index_digest
        pairs = tile_moments(tile)
        self._names = {name for pair in pairs for name in pair}
        self._folds = Accumulator.for_folds(pairs, folds, buffer)
        self._units: set[int] = set()

    @property
    def units(self) -> frozenset[int]:
        """Units whose rows are in."""
        return frozenset(self._units)

    def add(self, block: SortedBlock, rows_per_unit: int) -> None:
        """Take a block in.

        Raises:
            LrtError: a hidden state that is not finite, with its layer, row and unit.
            ValueError: a unit that is in already.
        """
        # Rows come sorted by fold, so each fold is a slice.
        edges = np.searchsorted(block.folds, np.arange(len(self._folds) + 1))
        for number, accumulator in enumerate(self._folds):
            chosen = slice(edges[number], edges[number + 1])
            part = {
                name: states[chosen]
                for name, states in block.variables.items()
                if name in self._names
            }
            try:
                accumulator.add(part, *(self._part(unit, number) for unit in block.units))
            except NonFiniteError as error:
                row = int(block.rows[error.variable][chosen][error.row])
                raise LrtError(
                    f"{error.variable.partition('~')[0]} is not finite in row {row} (unit "
                    f"{row // rows_per_unit}); `lrt-dist verify --repair` and `lrt-dist extract` "
                    "redo what is damaged"
                ) from error
        self._units.update(block.units)

    def keep(self, path: Path) -> None:
        """Write it as it is now, to go on from there."""
        save_sums(path, self._folds)

    def take_up(self, path: Path) -> None:
        """Go on from what was kept, if anything was.

        Raises:
            CorruptionError: it is of another row index.
        """
        if not path.exists():
            return
        for number, (accumulator, sums) in enumerate(
            zip(self._folds, load_sums(path), strict=True)
        ):
            accumulator.take_up(sums)
            units = {int(part.split("/")[1]) for part in sums.parts}
            if sums.parts != {self._part(unit, number) for unit in units}:
                raise CorruptionError(f"{path} holds moments of another row index; delete it")
            self._units = units

    def write(self, path: Path) -> None:
        """Write the moments; this object is at its end, so that memory holds little twice."""
        MomentFile.write(path, [self._folds.pop(0).freeze() for _ in range(len(self._folds))])

    def _part(self, unit: int, fold: int) -> str:
        """The id of the rows of a unit that are in a fold."""
        return f"{self._index_digest}/{unit}/{fold}"


def kept_units(path: Path) -> set[int]:
    """Units that are in what `TileSums.keep` wrote; none without it.

    Raises:
        CorruptionError: the file holds no sums.
    """
    parts = sums_parts(path)[0] if path.exists() else ()
    return {int(part.split("/")[1]) for part in parts}


def accumulate(task: AccumulateTask) -> Path:
    """Write the moments of each fold over the rows of a leaf; the next rows are read meanwhile.

    A file that exists is left as it is. What there is of a leaf is kept whenever `KEPT_EVERY`
    seconds have passed, and taken up there.

    Raises:
        IncompleteError: merged moments are gone, since somebody else merged them further.
        LrtError: see `TileSums.add`.
    """
    if task.path.exists():
        return task.path
    if task.merged:
        raise IncompleteError(
            f"{task.path} is gone: a task of an earlier driver still worked on it; run the same "
            "command again"
        )
    leaf = task.leaf
    kept = kept_path(task.path)
    sums = _empty(task)
    sums.take_up(kept)
    done = sum(sums.units.issuperset(block.units) for block in leaf.blocks)
    if sums.units != {unit for block in leaf.blocks[:done] for unit in block.units}:
        sums, done = _empty(task), 0  # it was of a leaf that was cut otherwise
    last_kept = time.monotonic()
    blocks = read_blocks(leaf, task.tile.layers, task.tile.draws, done)
    for number, block in enumerate(blocks, start=done + 1):
        sums.add(block.on(task.device), leaf.facts.rows_per_unit)
        if number < len(leaf.blocks) and time.monotonic() - last_kept >= KEPT_EVERY:
            sums.keep(kept)
            last_kept = time.monotonic()
    sums.write(task.path)
    kept.unlink(missing_ok=True)
    return task.path


def _empty(task: AccumulateTask) -> TileSums:
    buffer = RowBuffer(task.device)
    return TileSums(task.tile, task.folds, task.leaf.facts.index_digest, buffer)


def kept_path(path: Path) -> Path:
    """Where a leaf is kept that is not whole yet."""
    return path.with_suffix(KEPT)


def node_path(folder: Path, level: int, number: int, leaves: int) -> Path:
    """Where the moments of a node of a tile's tree lie: in the tile's folder, and those of the
    root, which are the tile's, beside it.

    Args:
        level: 0 for a leaf.
        leaves: of the tree.
    """
    if 1 << level >= leaves:
        return folder.with_suffix(MOMENTS)
    return folder / f"{level}-{number}-of-{leaves}{MOMENTS}"


def nodes_of(leaves: int) -> str:
    """What the names of all nodes of a tree but the root match, whole or not."""
    return f"*-of-{leaves}.*"


def node_of(path: Path) -> tuple[int, int]:
    """Level and number of the node at a `node_path` that is no root."""
    level, number, *_ = path.stem.split("-")
    return int(level), int(number)


def merge(left: Path, right: Path, *, leaves: int) -> Path:
    """Merge two neighbours of a tree into the node above the left one, and delete them."""
    level, number = node_of(left)
    merged = node_path(left.parent, level + 1, number // 2, leaves)
    if not merged.exists():  # else a merge that was killed before it had deleted them
        merge_files(left, right, merged)
    for path in (left, right):
        path.unlink(missing_ok=True)
    return merged
