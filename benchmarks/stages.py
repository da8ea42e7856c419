"""How full the stages of a chain are, and what a task costs the driver, with stages that only wait.

`stages_busy`: the least busy stage of any setting, over 2, 4, 8 and 11 stages with 1 and with 4
batches a task, and 1 to 8 replicas of two stages. Each batch computes for 0.7 s, a task is opened
and closed in 0.1 s each, and written in 1.4 s; here all times are a fifth of that. `driver_task`:
milliseconds of the driver for a task of one batch in one stage that does nothing, over 2 ms.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from benchmarks.harness import Result, result
from lrt_dist.runtime.contract import ChainSpec, StageSpec
from lrt_dist.runtime.pool import RayRuntime

TARGETS = {"stages_busy": 0.9, "driver_task": 1.0}
SCALE = 0.2
COMPUTE, OPEN, CLOSE, WRITE = (SCALE * seconds for seconds in (0.7, 0.1, 0.1, 1.4))
DRIVER_BUDGET = 0.002


@dataclass(frozen=True)
class Waiting:
    """A task that takes its time and does nothing."""

    key: str
    batches: int
    times: tuple[float, float, float, float] = (OPEN, COMPUTE, CLOSE, WRITE)

    def smaller(self) -> Waiting | None:
        return None


class WaitingStage:
    """See `lrt_dist.runtime.contract.Stage`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Waiting] = {}

    def open(self, task: Waiting) -> None:
        self._tasks[task.key] = task
        time.sleep(task.times[0])

    def step(self, key: str, batch: int, carry: Any) -> Any:
        time.sleep(self._tasks[key].times[1])
        return batch

    def finish(self, key: str) -> Any:
        task = self._tasks.pop(key)
        time.sleep(task.times[2] + task.times[3])
        return key

    def forget(self, key: str) -> None:
        self._tasks.pop(key, None)


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    runtime = RayRuntime("local")
    try:
        measures = {"stages_busy": _busy, "driver_task": _driver}
        return [measures[name](runtime, quick) for name in wanted]
    finally:
        ray.shutdown()


def _busy(runtime: RayRuntime, quick: bool) -> Result:
    settings = [(stages, batches, 1) for stages in (2, 4, 8, 11) for batches in (1, 4)]
    settings += [(2, batches, replicas) for replicas in (2, 4, 8) for batches in (1, 4)]
    runs = []
    for stages, batches, replicas in settings[:2] if quick else settings:
        count = replicas * ((40 if quick else 100) // batches + stages)
        with runtime.chains(_chain(stages, replicas)) as chains:
            tasks = (Waiting(f"task {n}", batches) for n in range(count))
            done = sum(1 for _ in chains.run(tasks))
            shares = [share or 0.0 for replica in chains.busy_shares() for share in replica]
        assert done == count
        runs.append(
            {
                "stages": stages,
                "batches_a_task": batches,
                "replicas": replicas,
                "tasks": count,
                "mean": sum(shares) / len(shares),
                "ratio": min(shares),
            }
        )
    return _least("stages_busy", runs)


def _driver(runtime: RayRuntime, quick: bool) -> Result:
    count = 100 if quick else 1000
    runs = []
    with runtime.chains(_chain(1, 1)) as chains:
        for _ in range(1 if quick else 5):
            tasks = (Waiting(f"task {n}", 1, (0, 0, 0, 0)) for n in range(count))
            began = time.process_time()
            assert sum(1 for _ in chains.run(tasks)) == count
            seconds = (time.process_time() - began) / count
            runs.append({"tasks": count, "seconds": seconds, "ratio": seconds / DRIVER_BUDGET})
    return result("driver_task", runs, TARGETS["driver_task"], higher_is_better=False)


def _least(name: str, runs: Sequence[Mapping[str, Any]]) -> Result:
    """The worst setting counts, not the median."""
    return Result(name, min(run["ratio"] for run in runs), TARGETS[name], True, runs)


def _chain(stages: int, replicas: int) -> ChainSpec:
    stage = StageSpec(WaitingStage, cpus=0.01, gpus=0)
    return ChainSpec((stage,) * stages, replicas, placement_timeout=120)
