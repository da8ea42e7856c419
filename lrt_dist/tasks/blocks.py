"""Rows of a leaf of units, block by block: sorted by fold, and each with mismatched target rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.files import is_local
from lrt_dist.linear.fit import mismatched
from lrt_dist.plan.pairing import rows_of_other_groups
from lrt_dist.sites import Side, Sided, seed_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.tables import ShrunkRow, Table

FOLDS, GROUPS, SHRUNK = "folds.npy", "groups.npy", "shrunk.parquet"
"""What lies beside the moments: fold and group of every row, and rows that are scaled down."""

LEFT_OUT = -1
"""Stands for the fold and the group of a row that is in no fit: its unit was quarantined, or one of
the models has no token that ends there."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Units whose rows are taken in at once.

    Attributes:
        units: their numbers.
        partners: further units, whose target rows its source rows are paired with as a control,
            beside its own. Those of the next block of the leaf come first.
    """

    units: tuple[int, ...]
    partners: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """Rows that one task takes in.

    Attributes:
        blocks: all units of the leaf.
        own_share: share of the rows of a block that are paired with rows of the same block.
        rows_per_unit: of the row index.
        index_digest: of the row index; seeds the pairing.
        facts: folder with `FOLDS` (int16 `[rows]`), `GROUPS` (int64 `[rows]`) and `SHRUNK`.
        stores: urls of both stores.
        checksums: for every unit and side what the ledger says of its chunks.
    """

    blocks: tuple[Block, ...]
    own_share: float
    rows_per_unit: int
    index_digest: str
    facts: Path
    stores: Sided[str]
    checksums: dict[int, Sided[dict[str, str]]]


def variable(side: Side, layer: int) -> str:
    """Name of a layer among the variables of the moments."""
    return f"{side}/{layer}"


@dataclass(frozen=True)
class SortedBlock:
    """Rows of some units, sorted by fold.

    Attributes:
        units: their numbers.
        folds: of each row.
        variables: states of the wanted layers, target layers also with each draw of mismatched
            rows, `[rows, d]`.
        rows: for each variable the rows of the store that it holds.
    """

    units: tuple[int, ...]
    folds: NDArray[np.int16]
    variables: dict[str, torch.Tensor]
    rows: dict[str, Rows]


@dataclass(frozen=True)
class _States:
    """Rows of some units as they are stored, but for those that are scaled down.

    Attributes:
        rows: their numbers.
        source: `{layer: [rows, d]}`; empty where only the target was wanted.
        target: the same.
    """

    rows: Rows
    source: dict[int, torch.Tensor]
    target: dict[int, torch.Tensor]


def read_blocks(
    leaf: Leaf, layers: Sided[tuple[int, ...]], draws: int, first: int = 0
) -> Iterator[SortedBlock]:
    """The blocks of a leaf from the first wanted one on, each read while the one before is worked
    on.

    Args:
        layers: of each model.
        draws: of mismatched target rows.
    """
    reader = _Reader(leaf, layers, draws)
    numbers = range(first, len(leaf.blocks))
    with ThreadPoolExecutor(1) as ahead:
        # Of every block its states, and those of partners that no next block brings.
        coming = [ahead.submit(reader.read, number) for number in numbers[:2]]
        for number in numbers:
            sorted_block = _sort(reader, number, coming)
            coming.pop(0)
            if number + 2 < len(leaf.blocks):
                coming.append(ahead.submit(reader.read, number + 2))
            yield sorted_block


def _sort(
    reader: _Reader, number: int, coming: Sequence[Future[tuple[_States, _States]]]
) -> SortedBlock:
    """One block, from its own states, those of the next block and of further partners."""
    own, further = coming[0].result()
    pool = [own, *(following.result()[0] for following in coming[1:2]), further]
    return reader.sort(number, own, pool)


class _Reader:
    """Reads units of both stores."""

    def __init__(self, leaf: Leaf, layers: Sided[tuple[int, ...]], draws: int) -> None:
        self._leaf, self._layers, self._draws = leaf, layers, draws
        self._folds = load_row_facts(leaf.facts / FOLDS)
        self._groups = load_row_facts(leaf.facts / GROUPS)
        self._shrunk = _shrunk_rows(leaf.facts / SHRUNK)
        self._stores = Sided.of(lambda side: ActivationStore.open(leaf.stores[side]))

    def read(self, number: int) -> tuple[_States, _States]:
        """States of a block, and target states of the partners that the next block has not."""
        block = self._leaf.blocks[number]
        following = self._leaf.blocks[number + 1 : number + 2]
        held = {unit for other in following for unit in other.units}
        rest = [unit for unit in block.partners if unit not in held]
        own = _States(
            self._rows(block.units),
            self._states(Side.SOURCE, block.units),
            self._states(Side.TARGET, block.units),
        )
        return own, _States(self._rows(rest), {}, self._states(Side.TARGET, rest))

    def sort(self, number: int, own: _States, pool: Sequence[_States]) -> SortedBlock:
        """Rows of a block sorted by fold, with mismatched target rows from a pool.

        Args:
            pool: the block itself, then whatever else it may be paired with.
        """
        leaf = self._leaf
        block = leaf.blocks[number]
        order = np.argsort(self._folds[own.rows], kind="stable")
        rows, pooled = own.rows[order], np.concatenate([states.rows for states in pool])
        variables, held = {}, {}
        for layer in self._layers.source:
            name = variable(Side.SOURCE, layer)
            variables[name], held[name] = own.source[layer][torch.from_numpy(order)], rows
        groups = self._groups[pooled]
        places = []
        for draw in range(self._draws if self._layers.target else 0):
            seed = f"mismatched draw {draw} of {leaf.index_digest}, from unit {block.units[0]}"
            rng = np.random.Generator(np.random.PCG64(seed_of(seed, bits=128)))
            edge = len(rows)
            drawn = rows_of_other_groups(groups[:edge], groups[edge:], leaf.own_share, rng)
            places.append(drawn[order])
        for layer in self._layers.target:
            name = variable(Side.TARGET, layer)
            variables[name], held[name] = own.target[layer][torch.from_numpy(order)], rows
            whole = torch.cat([states.target[layer] for states in pool if len(states.rows)])
            for draw, drawn in enumerate(places):
                control = mismatched(name, draw)
                variables[control], held[control] = whole[torch.from_numpy(drawn)], pooled[drawn]
        return SortedBlock(block.units, self._folds[rows], variables, held)

    def _rows(self, units: Sequence[int]) -> Rows:
        slices = [self._stores.source.unit_rows(unit) for unit in units]
        ranges = [np.arange(rows.start, rows.stop) for rows in slices]
        rows: Rows = np.concatenate([np.zeros(0, dtype=np.int64), *ranges])
        used: Rows = rows[self._folds[rows] != LEFT_OUT]
        return used

    def _states(self, side: Side, units: Sequence[int]) -> dict[int, torch.Tensor]:
        """States of some units one after the other, layer by layer."""
        if not units:
            return {}
        return {layer: self._layer(side, layer, units) for layer in self._layers[side]}

    def _layer(self, side: Side, layer: int, units: Sequence[int]) -> torch.Tensor:
        store, name = self._stores[side], f"layers/{layer}"
        states = torch.cat(
            [store.states(layer, unit, self._leaf.checksums[unit][side][name]) for unit in units]
        )
        rows, factors = self._shrunk.get((side, layer), _NONE)
        start = 0
        for unit in units:
            span = store.unit_rows(unit)
            massive = slice(*np.searchsorted(rows, [span.start, span.stop]))
            places = torch.from_numpy(rows[massive] - span.start + start)
            shrunk = states[places].double() * torch.from_numpy(factors[massive]).unsqueeze(1)
            states[places] = shrunk.to(states.dtype)
            start += span.stop - span.start
        used = np.concatenate([self._folds[store.unit_rows(unit)] for unit in units]) != LEFT_OUT
        return states if used.all() else states[torch.from_numpy(used)]


def load_row_facts(path: Path) -> NDArray[Any]:
    """`FOLDS` or `GROUPS`: mapped into memory from a file system, fetched from an object store."""
    if is_local(path):
        return cast("NDArray[Any]", np.load(path, mmap_mode="r"))
    return cast("NDArray[Any]", np.load(io.BytesIO(path.read_bytes())))


Shrunk = tuple[Rows, NDArray[np.float64]]
_NONE: Shrunk = (np.zeros(0, dtype=np.int64), np.zeros(0))


def _shrunk_rows(path: Path) -> dict[tuple[Side, int], Shrunk]:
    """Of every layer the rows that are scaled down, ascending, and by how much."""
    table = Table.read(path, ShrunkRow).arrow
    columns = {name: table[name].to_numpy() for name in table.column_names}
    found: dict[tuple[Side, int], Shrunk] = {}
    for side, layer in sorted(set(zip(columns["side"], columns["layer"], strict=True))):
        chosen = (columns["side"] == side) & (columns["layer"] == layer)
        found[Side(side), int(layer)] = (columns["row"][chosen], columns["factor"][chosen])
    return found
