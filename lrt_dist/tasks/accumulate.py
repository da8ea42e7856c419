"""Moments of a leaf of units for a tile of layer pairs, and the merging of leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrt_dist.errors import IncompleteError, LrtError
from lrt_dist.linear.fit import pair_moments
from lrt_dist.linear.moments import Accumulator, NonFiniteError, Pair
from lrt_dist.plan.tiles import Tile
from lrt_dist.sites import Side
from lrt_dist.store.moments import MomentFile, merge_files
from lrt_dist.tasks.blocks import Leaf, read_blocks, variable

ROWS_PER_PRODUCT = 4096
"""Rows of a fold that are multiplied at once, about: fewer waste time on the sums."""


@dataclass(frozen=True)
class AccumulateTask:
    """A leaf of units, for one tile.

    Attributes:
        tile: what is wanted.
        leaf: the rows.
        folds: number of folds.
        path: where the moments go.
        merged: whether they are there already, of more than this leaf.
    """

    tile: Tile
    leaf: Leaf
    folds: int
    path: Path
    merged: bool = False


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


def accumulate(task: AccumulateTask) -> Path:
    """Write the moments of each fold over the rows of a leaf; the next rows are read meanwhile.

    A file that exists is left as it is.

    Raises:
        IncompleteError: merged moments are gone, since somebody else merged them further.
        LrtError: a hidden state that is not finite, with its layer, row and units.
    """
    if task.path.exists():
        return task.path
    if task.merged:
        raise IncompleteError(
            f"{task.path} is gone: a task of an earlier driver still worked on it; run the same "
            "command again"
        )
    accumulators = Accumulator.for_folds(tile_moments(task.tile), task.folds)
    for block in read_blocks(task.leaf, task.tile.layers, task.tile.draws):
        # Rows come sorted by fold, so each fold is a slice.
        edges = np.searchsorted(block.folds, np.arange(task.folds + 1))
        for number, accumulator in enumerate(accumulators):
            chosen = slice(edges[number], edges[number + 1])
            part = {name: states[chosen] for name, states in block.variables.items()}
            parts = (f"{task.leaf.index_digest}/{unit}/{number}" for unit in block.units)
            try:
                accumulator.add(part, *parts)
            except NonFiniteError as error:
                row = int(block.rows[error.variable][chosen][error.row])
                raise LrtError(
                    f"{error.variable.partition('~')[0]} is not finite in row {row} (unit "
                    f"{row // block.rows_per_unit}); `lrt-dist verify --repair` and `lrt-dist "
                    "extract` redo what is damaged"
                ) from error
    frozen = []
    while accumulators:  # one by one: memory holds the moments once, not twice
        frozen.append(accumulators.pop(0).freeze())
    MomentFile.write(task.path, frozen)
    return task.path


def node_path(folder: Path, level: int, number: int, leaves: int) -> Path:
    """Where the moments of a node of a tile's tree lie: in the tile's folder, and those of the
    root, which are the tile's, beside it.

    Args:
        level: 0 for a leaf.
        leaves: of the tree.
    """
    if 1 << level >= leaves:
        return folder.with_suffix(".safetensors")
    return folder / f"{level}-{number}-of-{leaves}.safetensors"


def nodes_of(leaves: int) -> str:
    """What the names of all nodes of a tree but the root match."""
    return f"*-of-{leaves}.safetensors"


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
