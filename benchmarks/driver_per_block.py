"""What layers and blocks cost the driver where nothing is stored, over what `lrt-dist plan` counts.

`driver_per_layer`: the driver's thread for a unit that leaves forty layers, less that for one which
leaves none, for each layer; over 0.02 ms.

`driver_per_block`: sixteen processes that do nothing get blocks of units and as many partners, of
which each wants some layers of ten of both models. The driver's thread for a block and a process;
over 0.6 ms, and 0.01 ms for each handle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.harness import Result, result, versions
from benchmarks.stages import Waiting, WaitingStage
from lrt_dist.commands._ways import BLOCK_SECONDS, HANDLE_SECONDS, LAYER_SECONDS
from lrt_dist.parcels import Handle, Parcel, contents_of
from lrt_dist.runtime.chain import RemoteContent
from lrt_dist.runtime.contract import ChainSpec, Done, StageSpec
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.sites import Side, Sided
from lrt_dist.tasks.blocks import Block, RowFacts
from lrt_dist.tasks.moment_stage import BlockTask, Place

PROCESSES, LAYERS, LEFT, TARGET = 16, 10, 40, 1.0
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


class LeavingStage(WaitingStage):
    """Leaves something for each layer."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self._left = dict.fromkeys(layers, np.zeros(50_000))

    def finish(self, key: str) -> Parcel:
        return Parcel(None, self._left)


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """See the module."""
    runtime, rounds = RayRuntime("local"), 1 if quick else 3
    stage = StageSpec(TakingStage, cpus=0.01, gpus=0)
    runs: dict[str, list[dict[str, float]]] = {"driver_per_layer": [], "driver_per_block": []}
    try:
        if "driver_per_layer" in names:
            runs["driver_per_layer"] = [
                _layer(runtime, 100 if quick else 1000) for _ in range(rounds)
            ]
        if "driver_per_block" in names:
            with runtime.chains(ChainSpec((stage,) * PROCESSES, accumulates=True)) as chains:
                runs["driver_per_block"] = [
                    _block(chains.run, *setting, 10 if quick else 40)
                    for _ in range(rounds)
                    for setting in SETTINGS
                ]
    finally:
        ray.shutdown()
    setting = {"setting": versions("ray")}
    return [
        result(name, [run | setting for run in runs[name]], TARGET, higher_is_better=False)
        for name in names
    ]


def _layer(runtime: RayRuntime, units: int) -> dict[str, float]:
    def seconds(layers: tuple[int, ...]) -> float:
        stage = StageSpec(partial(LeavingStage, layers), cpus=0.5, gpus=0, leaves=layers)
        with runtime.chains(ChainSpec((stage,))) as chains:
            began = time.thread_time()
            tasks = (Waiting(f"unit {n}", 1, (0, 0, 0, 0)) for n in range(units))
            assert sum(isinstance(outcome, Done) for outcome in chains.run(tasks)) == units
            return (time.thread_time() - began) / units

    each = (seconds(tuple(range(LEFT))) - seconds(())) / LEFT
    return {"layers": LEFT, "seconds": each, "ratio": each / LAYER_SECONDS}


def _block(go: Any, units: int, layers: int, blocks: int) -> dict[str, float]:
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
                tiles=1,
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
