"""Reading of one unit out of an activation store, for processes that accumulate moments."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lrt_dist.parcels import Parcel
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.extract import UnitRows

READERS = 4
"""Layers of a unit that are read at once."""


@dataclass(frozen=True)
class ReadTask:
    """One unit of one model.

    Attributes:
        unit: its number.
        store_url: the activation store.
        layers: to read.
        checksums: what the ledger says of the unit's chunks.
    """

    unit: int
    store_url: str
    layers: tuple[int, ...]
    checksums: Mapping[str, str]

    @property
    def key(self) -> str:
        return f"unit {self.unit}"

    @property
    def batches(self) -> int:
        return 1

    def smaller(self) -> None:
        """A unit is read as a whole."""


class ReadStage:
    """See `runtime.contract.Stage`. Leaves the `UnitRows` of each layer, in a `Parcel`."""

    def __init__(self) -> None:
        self._stores: dict[str, ActivationStore] = {}
        self._tasks: dict[str, ReadTask] = {}
        self._read: dict[str, dict[int, UnitRows]] = {}

    def open(self, task: ReadTask) -> None:
        self._tasks[task.key] = task

    def step(self, key: str, batch: int, carry: Any) -> None:
        """
        Raises:
            CorruptionError: a chunk is not what was committed.
        """
        task = self._tasks[key]
        if task.store_url not in self._stores:
            self._stores[task.store_url] = ActivationStore.open(task.store_url)
        store, checksums = self._stores[task.store_url], task.checksums

        def read(layer: int) -> UnitRows:
            states, norms = f"layers/{layer}", f"norms/{layer}"
            return UnitRows(
                store.stored_states(layer, task.unit, checksums[states]),
                store.norms(layer, task.unit, checksums[norms]),
            )

        with ThreadPoolExecutor(READERS, thread_name_prefix="store-reader") as readers:
            rows = readers.map(read, task.layers)
            self._read[key] = dict(zip(task.layers, rows, strict=True))

    def finish(self, key: str) -> Parcel:
        rows = self._read[key]
        self.forget(key)
        return Parcel(None, rows)

    def forget(self, key: str) -> None:
        self._tasks.pop(key, None)
        self._read.pop(key, None)
