"""Extraction of one unit: segments through the model, site rows into the activation store, or on to
whoever accumulates moments."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UnitError
from lrt_dist.models.blocks import BlockStack
from lrt_dist.parcels import Parcel
from lrt_dist.plan.units import cut_batches
from lrt_dist.sites import ABSENT, Side
from lrt_dist.store.activations import ActivationStore, encoded
from lrt_dist.tasks.collect import RowCollector, Rows

WRITERS = 4
"""Layers of a unit that are written at once."""


@dataclass(frozen=True)
class ExtractTask:
    """One unit of one model.

    Attributes:
        unit: its number.
        side: which model.
        rows_path: the row index.
        store_url: the activation store.
        layers: what to keep.
        lengths: tokens of each of its segments; they fix the batches.
        token_budget: tokens of a batch, padding included.
        fingerprint: of the store's identity.
        given_up_before: whether the unit was quarantined.
        passed_on: layers of which a stage leaves the `UnitRows`, in a `Parcel`; None: no parcel.
        stored: whether anything is written; not of a unit that is committed, and computed again
            for its states alone: another machine's bits would not be those that were committed.
    """

    unit: int
    side: Side
    rows_path: Path
    store_url: str
    layers: tuple[int, ...]
    lengths: tuple[int, ...]
    token_budget: int
    fingerprint: str
    given_up_before: bool = False
    passed_on: tuple[int, ...] | None = None
    stored: bool = True

    @property
    def receipt_type(self) -> type[UnitReceipt]:
        """Of every stage."""
        return UnitReceipt

    @property
    def key(self) -> str:
        return f"unit {self.unit}"

    @property
    def batches(self) -> int:
        return len(cut_batches(self.lengths, self.token_budget))

    def smaller(self) -> ExtractTask | None:
        """Half the budget, down to one segment a batch."""
        if self.token_budget < min(self.lengths):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ExtractWork:
        return ExtractWork(self, stack)


@dataclass(frozen=True)
class UnitRows:
    """Hidden states of a unit at one layer, as arrays, which travel without being copied.

    Attributes:
        states: `[rows, d]`, see `store.activations.encoded`.
        norms: float32 `[rows]`.
    """

    states: NDArray[Any]
    norms: NDArray[np.float32]


@dataclass(frozen=True)
class UnitReceipt:
    """What one stage did for a unit.

    Attributes:
        rows: of the unit.
        checksums: `{array: crc32 of its uncompressed bytes}` of what this stage collected.
        mean_norms: mean norm of the rows of each layer that this stage wrote.
        machine: kind of CPU or GPU, and threads.
        token_digest: hash of the token ids that went through the model.
        seconds: from the first batch to the last write.
    """

    rows: int
    checksums: dict[str, str]
    mean_norms: dict[int, float]
    machine: str
    token_digest: str
    seconds: float


class ExtractWork:
    """See `tasks.model_stage.Work`."""

    def __init__(self, task: ExtractTask, stack: BlockStack) -> None:
        self._task = task
        self._began: float | None = None
        self._segments = RowIndex.open(task.rows_path).unit(task.unit)
        self._batches = cut_batches(task.lengths, task.token_budget)
        self._first_row = self._segments[0].first_row
        self._rows = sum(len(segment.char_ends) for segment in self._segments)
        self._store = _opened(task.store_url, task.fingerprint)
        dtype: torch.dtype = getattr(torch, self._store.logical_dtype)
        self._collector = RowCollector(stack, task.layers, self._rows, dtype)
        self._machine = stack.machine

    def step(self, batch: int, carry: Any) -> Any:
        self._began = self._began or time.monotonic()
        segments = [self._segments[i] for i in self._batches[batch]]
        side = self._task.side
        present = [
            (number, position, segment.first_row - self._first_row + n)
            for number, segment in enumerate(segments)
            for n, position in enumerate(segment.positions[side])
            if position != ABSENT
        ]
        return self._collector.step(
            [segment.ids[side] for segment in segments],
            carry,
            positions=[(number, position) for number, position, _ in present],
            rows=[row for *_, row in present],
        )

    def finish(self) -> UnitReceipt | Parcel:
        """Write all layers, several at once, as far as the store holds them."""
        collected = self._collector.finish()
        receipt = self._written(collected)
        wanted = self._task.passed_on
        if wanted is None:
            return receipt
        dtype = self._store.logical_dtype
        contents = {
            layer: UnitRows(encoded(rows.states, dtype), rows.norms.numpy())
            for layer, rows in collected.items()
            if layer in wanted
        }
        return Parcel(receipt, contents)

    def _written(self, collected: dict[int, Rows]) -> UnitReceipt:
        for layer, rows in collected.items():
            self._check_finite(layer, rows.norms)
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="store-writer") as writers:
            writes = {
                layer: writers.submit(
                    self._store.write if self._task.stored else self._store.described,
                    self._task.unit,
                    layer,
                    rows.states,
                    rows.norms,
                )
                for layer, rows in collected.items()
            }
        written = {layer: write.result() for layer, write in writes.items()}
        return UnitReceipt(
            rows=self._rows,
            checksums={name: c for w in written.values() for name, c in w.checksums.items()},
            mean_norms={layer: w.mean_norm for layer, w in written.items()},
            machine=self._machine,
            token_digest=self._token_digest(),
            seconds=round(time.monotonic() - (self._began or time.monotonic()), 3),
        )

    def _check_finite(self, layer: int, norms: torch.Tensor) -> None:
        bad = (~torch.isfinite(norms)).nonzero()
        if len(bad):
            raise UnitError(
                f"unit {self._task.unit}: layer {layer} has {len(bad)} rows that are not finite, "
                f"row {self._first_row + int(bad[0])} first; a wider compute dtype (bfloat16 or "
                "float32) may help"
            )

    def _token_digest(self) -> str:
        digest = hashlib.sha256()
        for segment in self._segments:
            digest.update(repr(segment.ids[self._task.side]).encode())
        return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def _opened(url: str, fingerprint: str) -> ActivationStore:
    """The store, opened once in a process; `fingerprint` tells apart what may lie at one url."""
    return ActivationStore.open(url)
