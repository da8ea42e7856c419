"""Moments of a leaf of units for a tile of layer pairs, and the merging of leaves."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.errors import LrtError
from lrt_dist.linear.fit import pair_moments, shuffled
from lrt_dist.linear.moments import Accumulator, NonFiniteError, Pair
from lrt_dist.plan.tiles import Tile
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.moments import MomentFile, merge_files

LEFT_OUT = -1
"""In the place of a fold: the row is left out of everything, so that all pairs of layers rest on
the same rows."""

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
        strangers: for each of them another unit, far away in the corpus, whose target rows are
            paired with its source rows for the null.
        corpus: digest of the row index, part of the name of every part.
        folds_path: for every row of the corpus its fold, or `LEFT_OUT`; .npy, int16 `[rows]`.
        stores: urls of the (source, target) stores.
        crcs: for every unit and side what the ledger says of its chunks.
        folds: number of folds.
        path: where the moments go.
    """

    tile: Tile
    units: tuple[int, ...]
    strangers: tuple[int, ...]
    corpus: str
    folds_path: Path
    stores: tuple[str, str]
    crcs: dict[int, tuple[dict[str, str], dict[str, str]]]
    folds: int
    path: Path


def source_variable(layer: int) -> str:
    """Name of a source layer among the variables of the moments."""
    return f"source/{layer}"


def target_variable(layer: int) -> str:
    """Name of a target layer among the variables of the moments."""
    return f"target/{layer}"


def tile_moments(tile: Tile) -> list[Pair]:
    """The second moments of a tile."""
    return [
        *((source_variable(layer), source_variable(layer)) for layer in tile.own[0]),
        *((target_variable(layer), target_variable(layer)) for layer in tile.own[1]),
        *((source_variable(a), source_variable(b)) for a, b in tile.within),
        *(
            moment
            for pair in tile.pairs
            for moment in pair_moments(source_variable(pair.source), target_variable(pair.target))
        ),
    ]


def accumulate(task: AccumulateTask) -> Path:
    """Write the moments of each fold over the rows of a leaf; the next rows are read meanwhile.

    What is there already is left as it is.

    Raises:
        LrtError: a hidden state that is not finite, with its place.
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
                accumulator.add(part, *(f"{task.corpus}/{unit}/{number}" for unit in units))
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
    places = list(zip(task.units, task.strangers, strict=True))
    blocks = [places[i : i + size] for i in range(0, len(places), size)]
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(reader.block, blocks[0])
        for block, following in itertools.zip_longest(blocks, blocks[1:]):
            found = coming.result()
            if following is not None:
                coming = ahead.submit(reader.block, following)
            yield tuple(unit for unit, _ in block), found


class _Reader:
    """Reads units of both stores."""

    def __init__(self, task: AccumulateTask) -> None:
        self._task = task
        self._folds = np.load(task.folds_path, mmap_mode="r")
        self._stores = tuple(ActivationStore.open(url) for url in task.stores)
        self.rows_per_unit = self._stores[0].rows_per_unit

    def block(self, places: Sequence[tuple[int, int]]) -> Block:
        """Kept rows of some units sorted by fold: their numbers, folds, and the tile's variables.

        The null pairs source rows with target rows of a stranger. Shuffling within a unit would
        not do: where a unit is one long document, rows of the same document would still be
        paired, and what they share would look like a map.

        Args:
            places: units, each with its stranger.
        """
        parts = [self._rows(unit, stranger) for unit, stranger in places]
        units, strangers = zip(*places, strict=True)
        own, far = ([part[which] for part in parts] for which in (0, 1))
        starts = [self._stores[0].unit_rows(unit).start for unit in units]
        rows = np.concatenate([start + some for start, some in zip(starts, own, strict=True)])
        order = np.argsort(self._folds[rows], kind="stable")
        rows = rows[order]
        sources, targets = self._task.tile.layers
        variables = {
            source_variable(layer): self._states(0, layer, units, own, order) for layer in sources
        }
        for layer in targets:
            name = target_variable(layer)
            variables[name] = self._states(1, layer, units, own, order)
            variables[shuffled(name)] = self._states(1, layer, strangers, far, order)
        return rows, self._folds[rows], variables

    def _rows(self, unit: int, stranger: int) -> tuple[Rows, Rows]:
        """Kept rows of a unit, and the stranger's rows that are paired with them."""
        kept, far = (
            np.flatnonzero(self._folds[self._stores[0].unit_rows(u)] != LEFT_OUT)
            for u in (unit, stranger)
        )
        if len(far) == 0:
            kept = kept[:0]  # nothing to pair with: the unit cannot count
        return kept, _cycle(far, len(kept), unit)

    def _states(
        self, side: int, layer: int, units: Sequence[int], rows: Sequence[Rows], order: Rows
    ) -> torch.Tensor:
        """States of some rows of some units, in a wanted order."""
        name = f"layers/{layer}"
        found = [
            self._stores[side].states(layer, unit, self._task.crcs[unit][side][name])
            for unit in units
        ]
        lengths = [len(states) for states in found]
        starts = np.cumsum([0, *lengths[:-1]])
        places = np.concatenate([start + some for start, some in zip(starts, rows, strict=True)])
        return torch.cat(found)[torch.from_numpy(places[order])]


def _cycle(rows: Rows, count: int, unit: int) -> Rows:
    """`count` of some rows in random order, each as often as any other; seeded by the unit."""
    digest = hashlib.sha256(f"unit {unit}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    return np.resize(rng.permutation(rows), count) if len(rows) else rows
