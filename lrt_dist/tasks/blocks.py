"""Rows of some units, block by block: sorted by fold, and each with mismatched target rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.files import is_local
from lrt_dist.linear.fit import mismatched
from lrt_dist.linear.picked import Picked
from lrt_dist.plan.pairing import rows_of_other_groups
from lrt_dist.sites import Side, Sided, seed_of
from lrt_dist.store.activations import ActivationStore, decoded

FOLDS, GROUPS = "folds.npy", "groups.npy"
"""What lies beside the moments: fold and group of every row."""

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
class RowFacts:
    """What is known of the rows of a run before a state is there.

    Attributes:
        folder: with `FOLDS` (int16 `[rows]`) and `GROUPS` (int64 `[rows]`).
        rows_per_unit: of the row index.
        index_digest: of the row index; seeds the pairing.
        own_share: share of the rows of a block that are paired with rows of the same block.
        shrink_above: so many times the usual norm of its layer, and a state is scaled down to that
            norm; None: never.
        usual_norms: `{layer: norm}` of each model.
    """

    folder: Path
    rows_per_unit: int
    index_digest: str
    own_share: float
    shrink_above: float | None
    usual_norms: Sided[dict[int, float]]

    def unit_rows(self, unit: int, rows: int) -> slice:
        """Rows of a unit, among so many in all."""
        first = unit * self.rows_per_unit
        return slice(first, min(first + self.rows_per_unit, rows))


class Units(Protocol):
    """Hidden states of units, wherever they are."""

    def states(self, side: Side, layer: int, unit: int) -> NDArray[Any]:
        """`[rows of the unit, d]`, see `store.activations.encoded`; they may be shared."""
        ...

    def norms(self, side: Side, layer: int, unit: int) -> NDArray[np.float32]:
        """Float32 `[rows of the unit]`, taken before the states were rounded."""
        ...


@dataclass(frozen=True)
class Leaf:
    """Rows that one task takes in from both stores.

    Attributes:
        blocks: all units of the leaf.
        facts: of the rows.
        stores: urls of both stores.
        checksums: for every unit and side what the ledger says of its chunks.
    """

    blocks: tuple[Block, ...]
    facts: RowFacts
    stores: Sided[str]
    checksums: dict[int, Sided[dict[str, str]]]


class StoredUnits:
    """`Units` of two activation stores, each chunk checked."""

    def __init__(self, leaf: Leaf) -> None:
        self._stores = Sided.of(lambda side: ActivationStore.open(leaf.stores[side]))
        self._checksums = leaf.checksums

    def states(self, side: Side, layer: int, unit: int) -> NDArray[Any]:
        checksum = self._checksums[unit][side][f"layers/{layer}"]
        return self._stores[side].stored_states(layer, unit, checksum)

    def norms(self, side: Side, layer: int, unit: int) -> NDArray[np.float32]:
        checksum = self._checksums[unit][side][f"norms/{layer}"]
        return self._stores[side].norms(layer, unit, checksum)


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
    variables: dict[str, Picked]
    rows: dict[str, Rows]

    def on(self, device: str) -> SortedBlock:
        """The same block on a device; every state is moved once, however often it is picked."""
        tensors = {id(t): t for picked in self.variables.values() for t in picked.tensors}
        moved = {number: tensor.to(device) for number, tensor in tensors.items()}
        variables = {
            name: Picked(tuple(moved[id(t)] for t in picked.tensors), picked.places.to(device))
            for name, picked in self.variables.items()
        }
        return replace(self, variables=variables)


@dataclass(frozen=True)
class States:
    """Rows of some units as they are stored, but for those that are scaled down.

    Attributes:
        rows: their numbers.
        source, target: `{layer: [rows, d]}`; empty where they were not wanted, or nothing was.
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
    sorter, units = BlockSorter(leaf.facts, layers, draws), StoredUnits(leaf)
    numbers = range(first, len(leaf.blocks))

    def read(number: int) -> tuple[States, States]:
        """States of a block, and target states of the partners that the next block has not."""
        block = leaf.blocks[number]
        following = leaf.blocks[number + 1 : number + 2]
        held = {unit for other in following for unit in other.units}
        rest = [unit for unit in block.partners if unit not in held]
        return sorter.gather(units, block.units, *Side), sorter.gather(units, rest, Side.TARGET)

    with ThreadPoolExecutor(1) as ahead:
        # Of every block its states, and those of partners that no next block brings.
        coming = [ahead.submit(read, number) for number in numbers[:2]]
        for number in numbers:
            own, further = coming[0].result()
            pool = [own, *(following.result()[0] for following in coming[1:2]), further]
            sorted_block = sorter.sort(leaf.blocks[number], own, pool)
            coming.pop(0)
            if number + 2 < len(leaf.blocks):
                coming.append(ahead.submit(read, number + 2))
            yield sorted_block


class BlockSorter:
    """Gathers the rows of units, and sorts those of a block."""

    def __init__(self, facts: RowFacts, layers: Sided[tuple[int, ...]], draws: int) -> None:
        """
        Args:
            layers: of each model.
            draws: of mismatched target rows.
        """
        self._facts, self._layers, self._draws = facts, layers, draws
        self._folds = load_row_facts(facts.folder / FOLDS)
        self._groups = load_row_facts(facts.folder / GROUPS)

    def gather(self, held: Units, units: Sequence[int], *sides: Side) -> States:
        """Copies of the states of some units, of one model or both."""
        source, target = (self._states(held, side, units) if side in sides else {} for side in Side)
        return States(self._rows(units), source, target)

    def sort(self, block: Block, own: States, pool: Sequence[States]) -> SortedBlock:
        """Rows of a block sorted by fold, with mismatched target rows from a pool.

        Args:
            own: states of its units.
            pool: the block itself, then whatever else it may be paired with.
        """
        order = np.argsort(self._folds[own.rows], kind="stable")
        rows, pooled = own.rows[order], np.concatenate([states.rows for states in pool])
        variables, held = {}, {}
        for layer in self._layers.source:
            name = variable(Side.SOURCE, layer)
            variables[name] = Picked((own.source[layer],), torch.from_numpy(order))
            held[name] = rows
        groups, digest = self._groups[pooled], self._facts.index_digest
        places = []
        for draw in range(self._draws if self._layers.target else 0):
            seed = f"mismatched draw {draw} of {digest}, from unit {block.units[0]}"
            rng = np.random.Generator(np.random.PCG64(seed_of(seed, bits=128)))
            edge, share = len(rows), self._facts.own_share
            drawn = rows_of_other_groups(groups[:edge], groups[edge:], share, rng)
            places.append(drawn[order])
        for layer in self._layers.target:
            name = variable(Side.TARGET, layer)
            variables[name] = Picked((own.target[layer],), torch.from_numpy(order))
            held[name] = rows
            whole = tuple(states.target[layer] for states in pool if layer in states.target)
            for draw, drawn in enumerate(places):
                control = mismatched(name, draw)
                variables[control] = Picked(whole, torch.from_numpy(drawn))
                held[control] = pooled[drawn]
        return SortedBlock(block.units, self._folds[rows], variables, held)

    def _rows(self, units: Sequence[int]) -> Rows:
        slices = [self._facts.unit_rows(unit, len(self._folds)) for unit in units]
        ranges = [np.arange(rows.start, rows.stop) for rows in slices]
        rows: Rows = np.concatenate([np.zeros(0, dtype=np.int64), *ranges])
        used: Rows = rows[self._folds[rows] != LEFT_OUT]
        return used

    def _states(self, held: Units, side: Side, units: Sequence[int]) -> dict[int, torch.Tensor]:
        """States of some units one after the other, layer by layer."""
        if not units:
            return {}
        return {layer: self._layer(held, side, layer, units) for layer in self._layers[side]}

    def _layer(self, held: Units, side: Side, layer: int, units: Sequence[int]) -> torch.Tensor:
        count = len(self._folds)
        used = [self._folds[self._facts.unit_rows(unit, count)] != LEFT_OUT for unit in units]
        stored: NDArray[Any] | None = None
        end = 0
        for unit, rows in zip(units, used, strict=True):
            states = held.states(side, layer, unit)
            if stored is None:
                stored = np.empty((sum(map(np.sum, used)), states.shape[1]), states.dtype)
            begin, end = end, end + int(rows.sum())
            stored[begin:end] = states if rows.all() else states[rows]
        assert stored is not None
        copied = decoded(stored)
        above, usual = self._facts.shrink_above, self._facts.usual_norms[side][layer]
        if above and usual:
            both = zip(units, used, strict=True)
            norms = np.concatenate([held.norms(side, layer, unit)[rows] for unit, rows in both])
            massive = is_massive(norms, above, usual)
            places = torch.from_numpy(np.flatnonzero(massive))
            factors = torch.from_numpy(usual / norms[massive].astype(np.float64))
            copied[places] = (copied[places].double() * factors.unsqueeze(1)).to(copied.dtype)
        return copied


def is_massive(norms: NDArray[np.float32], above: float, usual: float) -> NDArray[np.bool_]:
    """Which rows are scaled down to the usual norm, `[n]`; see `RowFacts.shrink_above`."""
    massive: NDArray[np.bool_] = norms > np.float32(above * usual)
    return massive


def load_row_facts(path: Path) -> NDArray[Any]:
    """`FOLDS` or `GROUPS`: mapped into memory from a file system, fetched from an object store."""
    if is_local(path):
        return cast("NDArray[Any]", np.load(path, mmap_mode="r"))
    return cast("NDArray[Any]", np.load(io.BytesIO(path.read_bytes())))
