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
from lrt_dist.stages.collect import RowCollector
from lrt_dist.store.activations import ActivationStore


@dataclass(frozen=True)
class ExtractTask:
    """One unit of one model.

    Attributes:
        unit: its number. side: 0 for the source model, 1 for the target model.
        rows_path, store_url: the row index and the activation store.
        layers: what to keep.
        lengths: tokens of each of its segments; they fix the batches.
        token_budget: tokens of a batch, padding included.
    """

    unit: int
    side: int
    rows_path: Path
    store_url: str
    layers: tuple[int, ...]
    lengths: tuple[int, ...]
    token_budget: int

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


class ExtractWork:
    """See `stages.model_stage.Work`."""

    def __init__(self, task: ExtractTask, stack: BlockStack) -> None:
        self._task = task
        self._began = time.monotonic()
        self._segments = RowIndex.open(task.rows_path).unit(task.unit)
        self._batches = cut_batches(task.lengths, task.token_budget)
        self._first_row = self._segments[0].first_row
        self._rows = sum(len(segment.char_ends) for segment in self._segments)
        self._collector = RowCollector(stack, task.layers, self._rows)
        self._written: Future[dict[str, str]] | None = None

    def step(self, batch: int, carry: Any) -> Any:
        segments = [self._segments[i] for i in self._batches[batch]]
        side = self._task.side
        return self._collector.step(
            [segment.ids[side] for segment in segments],
            carry,
            places=[(n, p) for n, segment in enumerate(segments) for p in segment.positions[side]],
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

    def receipt(self) -> dict[str, Any]:
        assert self._written is not None, "receipt before close"
        return {
            "rows": self._rows,
            "crc": self._written.result(),
            "tokens": self._token_hash(),
            "seconds": round(time.monotonic() - self._began, 3),
        }

    def _write(self) -> dict[str, str]:
        store = ActivationStore.open(self._task.store_url)
        crcs: dict[str, str] = {}
        for layer, states in self._collector.states.items():
            crcs |= store.write(self._task.unit, layer, states)
        self._collector.states.clear()
        return crcs

    def _token_hash(self) -> str:
        digest = hashlib.sha256()
        for segment in self._segments:
            digest.update(repr(segment.ids[self._task.side]).encode())
        return digest.hexdigest()[:16]
