"""What a block costs the driver for each process with moments, where nothing is stored.

Sixteen processes that do nothing get blocks of five units and their partners, in ten layers of both
models; each process gets handles to one of either. Milliseconds of the driver's thread for a block
and a process, over the one that `lrt-dist plan` counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from benchmarks.harness import Result, result, versions
from lrt_dist.commands._ways import BLOCK_SECONDS
from lrt_dist.parcels import Handle, contents_of
from lrt_dist.runtime.chain import RemoteContent
from lrt_dist.runtime.contract import ChainSpec, Done, StageSpec
from lrt_dist.runtime.pool import RayRuntime

PROCESSES, OF_BLOCK, OF_PROCESS = 16, 150, 15
"""Handles to five units of both models and to five of partners, in ten layers each; a process wants
one layer of either model."""
TARGET = 1.0


@dataclass(frozen=True)
class Bringing:
    """A task that brings every stage a tenth of its handles."""

    number: int
    held: tuple[Handle, ...]

    @property
    def key(self) -> str:
        return f"block {self.number}"

    @property
    def batches(self) -> int:
        return 1

    def smaller(self) -> None:
        """It stays as it is."""

    def for_stage(self, stage: int) -> Bringing:
        begin = stage * OF_PROCESS % OF_BLOCK
        return replace(self, held=self.held[begin : begin + OF_PROCESS])


class TakingStage:
    """See `lrt_dist.runtime.contract.Stage`."""

    def open(self, task: Bringing) -> None:
        contents_of(task.held)

    def step(self, key: str, batch: int, carry: Any) -> None:
        """It takes them, and does nothing."""

    def finish(self, key: str) -> None:
        """There is nothing to say."""

    def forget(self, key: str) -> None:
        """There is nothing to forget."""


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """See the module."""
    runtime = RayRuntime("local")
    stage = StageSpec(TakingStage, cpus=0.01, gpus=0)
    count = 20 if quick else 100
    try:
        with runtime.chains(ChainSpec((stage,) * PROCESSES, accumulates=True)) as chains:
            runs = [_run(chains.run, count) for _ in range(1 if quick else 5)]
    finally:
        ray.shutdown()
    setting = {"blocks": count, "processes": PROCESSES, "setting": versions("ray")}
    return [
        result(name, [run | setting for run in runs], TARGET, higher_is_better=False)
        for name in names
    ]


def _run(go: Any, count: int) -> dict[str, float]:
    making = 0.0

    def blocks() -> Iterator[Bringing]:
        nonlocal making
        for number in range(count):
            began = time.thread_time()
            held = tuple(RemoteContent(ray.put(np.zeros(1000))) for _ in range(OF_BLOCK))
            making += time.thread_time() - began
            yield Bringing(number, held)

    began = time.thread_time()
    assert sum(isinstance(outcome, Done) for outcome in go(blocks())) == count
    seconds = (time.thread_time() - began - making) / (count * PROCESSES)
    return {"seconds": seconds, "ratio": seconds / BLOCK_SECONDS}
