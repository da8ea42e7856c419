"""What a block costs the driver for each process with moments, where nothing is stored.

Sixteen processes that do nothing get blocks of units and as many partners, of which each wants some
layers of ten of both models. Milliseconds of the driver's thread for a block and a process, over
those that `lrt-dist plan` counts: 0.6, and 0.01 for each handle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.harness import Result, result, versions
from lrt_dist.commands._ways import BLOCK_SECONDS, HANDLE_SECONDS
from lrt_dist.parcels import Handle, contents_of
from lrt_dist.runtime.chain import RemoteContent
from lrt_dist.runtime.contract import ChainSpec, Done, StageSpec
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.blocks import Block, RowFacts
from lrt_dist.tasks.moment_stage import BlockTask, Place

PROCESSES, LAYERS, TARGET = 16, 10, 1.0
SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))
"""Units of a block, and layers of each model that a process wants."""
FACTS = RowFacts(Path("/nowhere"), 1, "none", 0.5, None, Sided({}, {}))


class TakingStage:
    """See `lrt_dist.runtime.contract.Stage`."""

    def open(self, task: BlockTask) -> None:
        contents_of(list(task.held.values()))

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
    runs = []
    try:
        with runtime.chains(ChainSpec((stage,) * PROCESSES, accumulates=True)) as chains:
            for _ in range(1 if quick else 3):
                runs += [_run(chains.run, *setting, 10 if quick else 40) for setting in SETTINGS]
    finally:
        ray.shutdown()
    setting = {"processes": PROCESSES, "setting": versions("ray")}
    return [
        result(name, [run | setting for run in runs], TARGET, higher_is_better=False)
        for name in names
    ]


def _run(go: Any, units: int, layers: int, blocks: int) -> dict[str, float]:
    making = 0.0
    wanted = [tuple((process + n) % LAYERS for n in range(layers)) for process in range(PROCESSES)]

    def tasks() -> Iterator[BlockTask]:
        nonlocal making
        for number in range(blocks):
            began = time.thread_time()
            held: dict[Place, Handle] = {
                (side, unit, layer): RemoteContent(ray.put(np.zeros(1000)))
                for side in Side
                for unit in range(units if side is Side.SOURCE else 2 * units)
                for layer in range(LAYERS)
            }
            making += time.thread_time() - began
            yield BlockTask(
                number=number,
                block=Block(tuple(range(units)), tuple(range(units, 2 * units))),
                before=0,
                facts=FACTS,
                held=held,
                layers=tuple(Sided(of, of) for of in wanted),
                keep=False,
            )

    began = time.thread_time()
    assert sum(isinstance(outcome, Done) for outcome in go(tasks())) == blocks
    seconds = (time.thread_time() - began - making) / (blocks * PROCESSES)
    handles = 3 * units * layers
    return {
        "units_of_block": units,
        "layers": layers,
        "seconds": seconds,
        "ratio": seconds / (BLOCK_SECONDS + handles * HANDLE_SECONDS),
    }
