"""Extraction of one unit: segments through the model, site rows into the activation store."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UnitError
from lrt_dist.models.blocks import BlockStack
from lrt_dist.plan.units import cut_batches
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore, Written
from lrt_dist.tasks.collect import RowCollector


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
    """

    unit: int
    side: Side
    rows_path: Path
    store_url: str
    layers: tuple[int, ...]
    lengths: tuple[int, ...]
    token_budget: int

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
class UnitReceipt:
    """What one stage did for a unit.

    Attributes:
        rows: of the unit.
        checksums: `{array: crc32 of its uncompressed bytes}` of what this stage wrote.
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
        self._began = time.monotonic()
        self._segments = RowIndex.open(task.rows_path).unit(task.unit)
        self._batches = cut_batches(task.lengths, task.token_budget)
        self._first_row = self._segments[0].first_row
        self._rows = sum(len(segment.char_ends) for segment in self._segments)
        self._collector = RowCollector(stack, task.layers, self._rows)
        self._machine = stack.machine
        self._written: Future[dict[int, Written]] | None = None

    def step(self, batch: int, carry: Any) -> Any:
        segments = [self._segments[i] for i in self._batches[batch]]
        side = self._task.side
        return self._collector.step(
            [segment.ids[side] for segment in segments],
            carry,
            positions=[
                (n, p) for n, segment in enumerate(segments) for p in segment.positions[side]
            ],
            rows=[
                segment.first_row - self._first_row + n
                for segment in segments
                for n in range(len(segment.char_ends))
            ],
        )

    def close(self) -> None:
        for layer, states in self._collector.states.items():
            finite = torch.isfinite(states).all(1)
            if not bool(finite.all()):
                bad = int((~finite).nonzero()[0])
                raise UnitError(
                    f"unit {self._task.unit}: layer {layer} has {int((~finite).sum())} rows that "
                    f"are not finite, row {self._first_row + bad} first; a wider compute dtype "
                    "(bfloat16 or float32) may help"
                )
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
        self._written = writer.submit(self._write)
        writer.shutdown(wait=False)

    def receipt(self) -> UnitReceipt:
        assert self._written is not None, "receipt before close"
        written = self._written.result()
        return UnitReceipt(
            rows=self._rows,
            checksums={name: c for w in written.values() for name, c in w.checksums.items()},
            mean_norms={layer: w.mean_norm for layer, w in written.items()},
            machine=self._machine,
            token_digest=self._token_digest(),
            seconds=round(time.monotonic() - self._began, 3),
        )

    def _write(self) -> dict[int, Written]:
        store = ActivationStore.open(self._task.store_url)
        written = {
            layer: store.write(self._task.unit, layer, states)
            for layer, states in self._collector.states.items()
        }
        self._collector.states.clear()
        return written

    def _token_digest(self) -> str:
        digest = hashlib.sha256()
        for segment in self._segments:
            digest.update(repr(segment.ids[self._task.side]).encode())
        return digest.hexdigest()[:16]
