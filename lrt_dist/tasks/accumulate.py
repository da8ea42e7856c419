"""Moments of a leaf of units for a tile of layer pairs, and the merging of leaves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.errors import LrtError
from lrt_dist.linear.fit import mismatched, pair_moments
from lrt_dist.linear.moments import Accumulator, NonFiniteError, Pair
from lrt_dist.plan.tiles import Tile
from lrt_dist.sites import Side, Sided, seed_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.moments import MomentFile, merge_files

LEFT_OUT = -1
"""Stands for a fold: the row is left out of everything, so that all pairs of layers rest on the
same rows."""

ROWS_PER_PRODUCT = 4096
"""Rows of a fold that are multiplied at once, about: fewer waste time on the sums."""

Rows = NDArray[np.int64]
Block = tuple[Rows, NDArray[np.int16], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class AccumulateTask:
    """A leaf of units, for one tile.

    Attributes:
        tile: what is wanted.
        units: numbers of the units.
        mismatched_units: for each of them another unit, far away in the corpus, whose target rows
            are paired with its source rows as a control.
        index_digest: of the row index, in the name of every part.
        folds_path: for every row of the corpus its fold, or `LEFT_OUT`; .npy, int16 `[rows]`.
        stores: urls of both stores.
        checksums: for every unit and side what the ledger says of its chunks.
        folds: number of folds.
        path: where the moments go.
    """

    tile: Tile
    units: tuple[int, ...]
    mismatched_units: tuple[int, ...]
    index_digest: str
    folds_path: Path
    stores: Sided[str]
    checksums: dict[int, Sided[dict[str, str]]]
    folds: int
    path: Path


def variable(side: Side, layer: int) -> str:
    """Name of a layer among the variables of the moments."""
    return f"{side}/{layer}"


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
                variable(Side.SOURCE, pair.source), variable(Side.TARGET, pair.target)
            )
        ),
    ]


def accumulate(task: AccumulateTask) -> Path:
    """Write the moments of each fold over the rows of a leaf; the next rows are read meanwhile.

    A file that exists is left as it is.

    Raises:
        LrtError: a hidden state that is not finite, with its layer, row and units.
    """
    if task.path.exists():
        return task.path
    accumulators = Accumulator.for_folds(tile_moments(task.tile), task.folds)
    for units, (rows, folds, variables) in _read_ahead(task):
        # Rows come sorted by fold, so each fold is a slice.
        edges = np.searchsorted(folds, np.arange(task.folds + 1))
        for number, accumulator in enumerate(accumulators):
            chosen = slice(edges[number], edges[number + 1])
            part = {name: states[chosen] for name, states in variables.items()}
            try:
                accumulator.add(part, *(f"{task.index_digest}/{unit}/{number}" for unit in units))
            except NonFiniteError as error:
                raise LrtError(
                    f"{error.variable} is not finite in row {rows[chosen][error.row]} (units "
                    f"{units[0]} … {units[-1]}); `lrt-dist verify --repair` and `lrt-dist extract` "
                    "redo what is damaged"
                ) from error
    frozen = []
    while accumulators:  # one by one: memory holds the moments once, not twice
        frozen.append(accumulators.pop(0).freeze())
    MomentFile.write(task.path, frozen)
    return task.path


def node_path(folder: Path, level: int, number: int) -> Path:
    """Where the moments of a node of a tile's tree lie; leaves have level 0."""
    return folder / f"{level}-{number}.safetensors"


def node_of(path: Path) -> tuple[int, int]:
    """Level and number of the node at a `node_path`."""
    level, number = path.stem.split("-")
    return int(level), int(number)


def merge(left: Path, right: Path) -> Path:
    """Merge two neighbours into the node above the left one, and delete them."""
    level, number = node_of(left)
    merged = node_path(left.parent, level + 1, number // 2)
    if not merged.exists():  # else a merge that was killed before it had deleted them
        merge_files(left, right, merged)
    for path in (left, right):
        path.unlink(missing_ok=True)
    return merged


def _read_ahead(task: AccumulateTask) -> Iterator[tuple[tuple[int, ...], Block]]:
    """Some units at a time, each block read while the one before is worked on."""
    reader = _Reader(task)
    size = max(1, task.folds * ROWS_PER_PRODUCT // reader.rows_per_unit)
    paired = list(zip(task.units, task.mismatched_units, strict=True))
    blocks = [paired[i : i + size] for i in range(0, len(paired), size)]
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(reader.block, blocks[0])
        for block, following in itertools.zip_longest(blocks, blocks[1:]):
            content = coming.result()
            if following is not None:
                coming = ahead.submit(reader.block, following)
            yield tuple(unit for unit, _ in block), content


class _Reader:
    """Reads units of both stores."""

    def __init__(self, task: AccumulateTask) -> None:
        self._task = task
        self._folds = np.load(task.folds_path, mmap_mode="r")
        self._stores = Sided.of(lambda side: ActivationStore.open(task.stores[side]))
        self.rows_per_unit = self._stores.source.rows_per_unit

    def block(self, paired: Sequence[tuple[int, int]]) -> Block:
        """Kept rows of some units sorted by fold: their numbers, folds, and the tile's variables.

        Mismatched target rows come from another unit. Shuffling within a unit would not do: where
        a unit is one long document, rows of the same document would still be paired, and what they
        share would look like a map.

        Args:
            paired: units, each with its mismatched unit.
        """
        units, mismatched_units = zip(*paired, strict=True)
        chosen = [self._rows(unit, other) for unit, other in paired]
        own = [rows for rows, _ in chosen]
        distant = [rows for _, rows in chosen]
        starts = [self._stores.source.unit_rows(unit).start for unit in units]
        rows = np.concatenate([start + kept for start, kept in zip(starts, own, strict=True)])
        order = np.argsort(self._folds[rows], kind="stable")
        rows = rows[order]
        sources, targets = self._task.tile.layers
        variables = {
            variable(Side.SOURCE, layer): self._states(Side.SOURCE, layer, units, own, order)
            for layer in sources
        }
        for layer in targets:
            name = variable(Side.TARGET, layer)
            variables[name] = self._states(Side.TARGET, layer, units, own, order)
            variables[mismatched(name)] = self._states(
                Side.TARGET, layer, mismatched_units, distant, order
            )
        return rows, self._folds[rows], variables

    def _rows(self, unit: int, mismatched_unit: int) -> tuple[Rows, Rows]:
        """Kept rows of a unit, and the rows of its mismatched unit that are paired with them."""
        kept, distant = (
            np.flatnonzero(self._folds[self._stores.source.unit_rows(u)] != LEFT_OUT)
            for u in (unit, mismatched_unit)
        )
        if len(distant) == 0:
            kept = kept[:0]  # nothing to pair with: the unit cannot count
        return kept, _cycle(distant, len(kept), unit)

    def _states(
        self, side: Side, layer: int, units: Sequence[int], rows: Sequence[Rows], order: Rows
    ) -> torch.Tensor:
        """States of some rows of some units, in a wanted order."""
        array = f"layers/{layer}"
        by_unit = [
            self._stores[side].states(layer, unit, self._task.checksums[unit][side][array])
            for unit in units
        ]
        lengths = [len(states) for states in by_unit]
        starts = np.cumsum([0, *lengths[:-1]])
        index = np.concatenate([start + kept for start, kept in zip(starts, rows, strict=True)])
        return torch.cat(by_unit)[torch.from_numpy(index[order])]


def _cycle(rows: Rows, count: int, unit: int) -> Rows:
    """`count` of some rows in random order, each as often as any other; seeded by the unit."""
    rng = np.random.Generator(np.random.PCG64(seed_of(f"unit {unit}", bits=128)))
    return np.resize(rng.permutation(rows), count) if len(rows) else rows
