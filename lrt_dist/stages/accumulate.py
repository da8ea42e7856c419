"""Moments of a few units, per fold: the map step of every fit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.linear.fit import shuffled, wanted_moments
from lrt_dist.linear.moments import Moments
from lrt_dist.sites import LayerPair, fold_of
from lrt_dist.store.activations import ActivationStore


@dataclass(frozen=True)
class AccumulateTask:
    """A group of units of both stores.

    Attributes:
        units: their numbers.
        strangers: for each of them another unit, far away in the corpus, whose target rows are
            paired with its source rows for the null.
        rows_path: the row index.
        stores: urls of the (source, target) stores.
        pairs: wanted pairs of layers.
        limits: for each side `{layer: norm}`; a row beyond any of them is left out of everything,
            so that all pairs of layers rest on the same rows.
        crcs: for every unit and side what the ledger says of its chunks.
        folds: number of folds.
    """

    units: tuple[int, ...]
    strangers: tuple[int, ...]
    rows_path: Path
    stores: tuple[str, str]
    pairs: tuple[LayerPair, ...]
    limits: tuple[dict[int, float], dict[int, float]]
    crcs: dict[int, tuple[dict[str, str], dict[str, str]]]
    folds: int


def source_variable(layer: int) -> str:
    """Name of a source layer among the variables of the moments."""
    return f"source/{layer}"


def target_variable(layer: int) -> str:
    """Name of a target layer among the variables of the moments."""
    return f"target/{layer}"


def accumulate(task: AccumulateTask) -> list[Moments]:
    """Moments of each fold over the rows of a group of units.

    The null pairs source rows with target rows of a stranger. Shuffling within a unit would not
    do: where a unit is one long document, rows of the same document would still be paired, and
    what they share would look like a map.
    """
    moments = wanted_moments(
        (source_variable(pair.source), target_variable(pair.target)) for pair in task.pairs
    )
    layers = (
        sorted({pair.source for pair in task.pairs}),
        sorted({pair.target for pair in task.pairs}),
    )
    reader = _Reader(task)
    folds = [Moments()] * task.folds
    for unit, stranger in zip(task.units, task.strangers, strict=True):
        kept, fold = reader.kept(unit), reader.fold(unit)
        variables = {
            source_variable(layer): reader.states(0, layer, unit) for layer in layers[0]
        } | {target_variable(layer): reader.states(1, layer, unit) for layer in layers[1]}
        permuted = _cycle(reader.kept(stranger).nonzero().squeeze(1), len(kept), unit)
        if len(permuted):
            for layer in layers[1]:
                rows = reader.states(1, layer, stranger)[permuted]
                variables[shuffled(target_variable(layer))] = rows
        else:
            kept[:] = False  # nothing to pair with: the unit cannot count
        for number in range(task.folds):
            chosen = kept & (fold == number)
            part = {name: states[chosen] for name, states in variables.items()}
            more = Moments.of(part, moments, part=f"unit {unit} fold {number}")
            folds[number] = folds[number].merge(more)
    return folds


class _Reader:
    """Reads units of both stores."""

    def __init__(self, task: AccumulateTask) -> None:
        self._task = task
        self._index = RowIndex.open(task.rows_path)
        self._stores = tuple(ActivationStore.open(url) for url in task.stores)

    def states(self, side: int, layer: int, unit: int) -> torch.Tensor:
        crc = self._task.crcs[unit][side][f"layers/{layer}"]
        return self._stores[side].states(layer, unit, crc)

    def kept(self, unit: int) -> torch.Tensor:
        """bool `[rows]`: which rows no norm limit leaves out."""
        kept = torch.ones(len(self._index.unit_rows(unit)), dtype=torch.bool)
        for store, limits in zip(self._stores, self._task.limits, strict=True):
            for layer, limit in limits.items():
                norms = store.norms(layer, store.unit_rows(unit))
                kept &= torch.from_numpy(norms <= np.float32(limit))
        return kept

    def fold(self, unit: int) -> torch.Tensor:
        """int64 `[rows]`: the fold of each row's document."""
        return torch.tensor(
            [
                fold_of(segment.document, self._task.folds)
                for segment in self._index.unit(unit)
                for _ in segment.char_ends
            ]
        )


def _cycle(rows: torch.Tensor, count: int, unit: int) -> torch.Tensor:
    """`count` of some rows in random order, each as often as any other; seeded by the unit."""
    digest = hashlib.sha256(f"unit {unit}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    order = torch.from_numpy(rng.permutation(len(rows)))
    return rows[order].repeat(-(-count // max(1, len(rows))))[:count]
