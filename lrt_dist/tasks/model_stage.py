"""A stage of a chain that holds some blocks of a model and runs whatever work a task brings."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lrt_dist.config import ModelConfig
from lrt_dist.errors import DeviceMemoryError
from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.host_allocator import keep_freed_memory
from lrt_dist.models.loading import load_blocks


class Work(Protocol):
    """What one task does within one stage; made by `ModelTask.start`."""

    def step(self, batch: int, carry: Any) -> Any:
        """Run one batch; returns what the next stage needs, None from the last stage."""
        ...

    def finish(self) -> Any:
        """All batches are through: write what is to be written; what the driver gets, small."""
        ...


class ModelTask(Protocol):
    """A task for `ModelStage`; see `runtime.contract.Task`."""

    @property
    def key(self) -> str: ...
    def start(self, stack: BlockStack) -> Work: ...


class ModelStage:
    """See `runtime.contract.Stage`."""

    def __init__(self, config: ModelConfig, owned: range, *, head: bool, device: str) -> None:
        self._stack = load_blocks(config, owned, head=head, device=device)
        self._works: dict[str, Work] = {}
        self._lock = threading.Lock()

    def open(self, task: ModelTask) -> None:
        work = task.start(self._stack)
        with self._lock:
            self._works[task.key] = work

    def step(self, key: str, batch: int, carry: Any) -> Any:
        try:
            return self._works[key].step(batch, carry)
        except torch.OutOfMemoryError as error:
            message = f"{key}, batch {batch}: {error}"
        # Only here are the tensors of the failed pass free.
        torch.cuda.empty_cache()
        raise DeviceMemoryError(message)

    def finish(self, key: str) -> Any:
        receipt = self._works[key].finish()
        self.forget(key)
        return receipt

    def forget(self, key: str) -> None:
        with self._lock:
            self._works.pop(key, None)


@dataclass(frozen=True)
class BuildModelStage:
    """Builds a `ModelStage` in the process that will hold it."""

    config: ModelConfig
    owned: range
    head: bool
    device: str

    def __call__(self) -> ModelStage:
        if self.device == "cpu":
            keep_freed_memory()
        # Ray sets OMP_NUM_THREADS to the cores the actor asked for; torch follows it.
        return ModelStage(self.config, self.owned, head=self.head, device=self.device)


def pad(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids right-padded with 0 to int64 `[B, T]`.

    No mask goes with them: a causal model never looks right, so what stands behind a sequence
    cannot change it, and only its own positions are read.
    """
    longest = max(len(ids) for ids in sequences)
    padded = torch.zeros(len(sequences), longest, dtype=torch.int64)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded
