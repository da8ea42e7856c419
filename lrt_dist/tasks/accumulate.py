"""Moments of a leaf of units for a tile of layer pairs, and the merging of leaves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrt_dist.errors import IncompleteError, LrtError
from lrt_dist.linear.fit import pair_moments
from lrt_dist.linear.moments import Accumulator, Moments, NonFiniteError, Pair, merge_all
from lrt_dist.plan.tiles import Tile, section_ends
from lrt_dist.sites import Side
from lrt_dist.store.moments import MomentFile, merge_files
from lrt_dist.tasks.blocks import Leaf, SortedBlock, read_blocks, variable

ROWS_PER_PRODUCT = 4096
"""Rows of a fold that are multiplied at once, about: fewer waste time on the sums."""
KEPT_EVERY = 1800.0
"""Seconds after which the sections of a leaf that are done are kept: what a kill costs at most."""


MOMENTS, SECTIONS = ".safetensors", ".sections"
"""How the names end of a node's moments, and of those of a leaf that is not whole yet."""


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


def accumulate(task: AccumulateTask) -> Path:
    """Write the moments of each fold over the rows of a leaf; the next rows are read meanwhile.

    A file that exists is left as it is. A leaf of several sections is kept after one of them
    whenever `KEPT_EVERY` seconds have passed, and taken up there.

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
    leaf = task.leaf
    ends = section_ends([block.units for block in leaf.blocks], leaf.rows_per_unit)
    kept = kept_path(task.path)
    done, moments = _taken_up(task, kept, ends)
    last_kept = time.monotonic()
    accumulators = _accumulators(task)
    blocks = read_blocks(leaf, task.tile.layers, task.tile.draws, done)
    for number, block in enumerate(blocks, start=done + 1):
        _add(task, accumulators, block)
        if number not in ends:
            continue
        for fold in range(task.folds):  # one by one, so that memory holds little twice
            found = accumulators.pop(0).freeze()
            moments[fold] = merge_all([moments[fold], found]) if moments[fold].parts else found
        if number < len(leaf.blocks):
            accumulators = _accumulators(task)
            if time.monotonic() - last_kept >= KEPT_EVERY:
                MomentFile.write(kept, moments)
                last_kept = time.monotonic()
    MomentFile.write(task.path, moments)
    kept.unlink(missing_ok=True)
    return task.path


def _accumulators(task: AccumulateTask) -> list[Accumulator]:
    return Accumulator.for_folds(tile_moments(task.tile), task.folds, task.device)


def _taken_up(task: AccumulateTask, kept: Path, ends: Sequence[int]) -> tuple[int, list[Moments]]:
    """How many blocks of a leaf are in what was kept of it, and their moments by fold."""
    if not kept.exists():
        return 0, [Moments()] * task.folds
    file = MomentFile(kept)
    moments = [file.fold(fold) for fold in range(file.folds)]
    inside = {part for fold in moments for part in fold.parts}
    expected: set[str] = set()
    for begin, end in itertools.pairwise([0, *ends]):
        for block in task.leaf.blocks[begin:end]:
            expected |= {_part(task, u, fold) for u in block.units for fold in range(task.folds)}
        if expected == inside:
            return end, moments
    return 0, [Moments()] * task.folds


def _part(task: AccumulateTask, unit: int, fold: int) -> str:
    """The id of the rows of a unit that are in a fold."""
    return f"{task.leaf.index_digest}/{unit}/{fold}"


def _add(task: AccumulateTask, accumulators: Sequence[Accumulator], block: SortedBlock) -> None:
    # Rows come sorted by fold, so each fold is a slice.
    edges = np.searchsorted(block.folds, np.arange(task.folds + 1))
    for number, accumulator in enumerate(accumulators):
        chosen = slice(edges[number], edges[number + 1])
        part = {name: states[chosen] for name, states in block.variables.items()}
        try:
            accumulator.add(part, *(_part(task, unit, number) for unit in block.units))
        except NonFiniteError as error:
            row = int(block.rows[error.variable][chosen][error.row])
            raise LrtError(
                f"{error.variable.partition('~')[0]} is not finite in row {row} (unit "
                f"{row // task.leaf.rows_per_unit}); `lrt-dist verify --repair` and `lrt-dist "
                "extract` redo what is damaged"
            ) from error


def kept_path(path: Path) -> Path:
    """Where the moments of the sections of a leaf lie that are done."""
    return path.with_suffix(SECTIONS)


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
