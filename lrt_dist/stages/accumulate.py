"""Moments of a few units, per fold: the map step of every fit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.linear.fit import shuffled, wanted_pairs
from lrt_dist.linear.moments import Moments
from lrt_dist.sites import fold_of
from lrt_dist.store.activations import ActivationStore


@dataclass(frozen=True)
class AccumulateTask:
    """A group of units of both stores.

    Attributes:
        units: their numbers.
        rows_path: the row index.
        stores: urls of the (source, target) stores.
        layers: wanted layers of (source, target).
        limits: for each side `{layer: norm}`; a row beyond any of them is left out of everything,
            so that all pairs of layers rest on the same rows.
        crcs: for each unit and side what the ledger says of its chunks.
        folds: number of folds.
    """

    units: tuple[int, ...]
    rows_path: Path
    stores: tuple[str, str]
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    limits: tuple[dict[int, float], dict[int, float]]
    crcs: tuple[tuple[dict[str, str], dict[str, str]], ...]
    folds: int


def source_variable(layer: int) -> str:
    """Name of a source layer among the variables of the moments."""
    return f"source/{layer}"


def target_variable(layer: int) -> str:
    """Name of a target layer among the variables of the moments."""
    return f"target/{layer}"


def accumulate(task: AccumulateTask) -> list[Moments]:
    """Moments of each fold over the rows of a group of units.

    For the null, target rows are shuffled among the rows of the same unit and fold, by a
    permutation that depends on the unit and fold alone.
    """
    folds = [Moments()] * task.folds
    for unit, crcs in zip(task.units, task.crcs, strict=True):
        part = _of_unit(task, unit, crcs)
        folds = [fold.merge(more) for fold, more in zip(folds, part, strict=True)]
    return folds


def _of_unit(
    task: AccumulateTask, unit: int, crcs: tuple[dict[str, str], dict[str, str]]
) -> list[Moments]:
    stores = tuple(ActivationStore.open(url) for url in task.stores)
    fold = torch.tensor(
        [
            fold_of(segment.document, task.folds)
            for segment in RowIndex.open(task.rows_path).unit(unit)
            for _ in segment.char_ends
        ]
    )
    kept = torch.ones(len(fold), dtype=torch.bool)
    for store, limits in zip(stores, task.limits, strict=True):
        for layer, limit in limits.items():
            norms = store.norms(layer, store.unit_rows(unit))
            kept &= torch.from_numpy(norms <= np.float32(limit))
    variables = {
        name(layer): store.states(layer, unit, known[f"layers/{layer}"])
        for name, store, layers, known in zip(
            (source_variable, target_variable), stores, task.layers, crcs, strict=True
        )
        for layer in layers
    }
    pairs = wanted_pairs(
        [source_variable(layer) for layer in task.layers[0]],
        [target_variable(layer) for layer in task.layers[1]],
    )
    return [
        Moments.of(
            _of_fold(variables, kept & (fold == number), f"{unit}/{number}"),
            pairs,
            part=f"unit {unit} fold {number}",
        )
        for number in range(task.folds)
    ]


def _of_fold(
    variables: dict[str, torch.Tensor], chosen: torch.Tensor, seed: str
) -> dict[str, torch.Tensor]:
    rows = chosen.nonzero().squeeze(1)
    digest = hashlib.sha256(seed.encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    permuted = rows[torch.from_numpy(rng.permutation(len(rows)))]
    selected = {name: states[rows] for name, states in variables.items()}
    targets = [name for name in variables if name.startswith("target/")]
    return selected | {shuffled(name): variables[name][permuted] for name in targets}
