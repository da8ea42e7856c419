"""A stage whose work and faults are scripted; attempts are counted in files.

The carry of a batch is a list to which every stage appends its name, so that a test sees the way
that each batch took. Imports no model and no store, like the runtime itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrt_dist.errors import CorruptionError, DeviceMemoryError, UnitError, UserError
from lrt_dist.parcels import Handle, Parcel, contents_of
from lrt_dist.runtime.contract import ChainSpec, Done, Failed, StageSpec


@dataclass(frozen=True)
class Job:
    """A task. `faults` is `{stage: kind}`; a fault strikes as long as fewer than `times` attempts
    were made. `writes` is how many seconds the last stage takes to finish it, `steps` how many a
    step of a stage takes. With `leaves` every
    stage of a chain whose stages leave something leaves as many numbers for another chain."""

    name: str
    batches: int = 2
    faults: dict[str, str] = field(default_factory=dict)
    times: int = 1
    writes: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    leaves: int = 0
    given_up_before: bool = False

    @property
    def key(self) -> str:
        return self.name

    def smaller(self) -> Job | None:
        return replace(self, batches=self.batches * 2) if self.batches < 8 else None


@dataclass(frozen=True)
class ThereAndBack(Job):
    """A task whose carry goes back to the first stage."""

    turns_back = True


@dataclass(frozen=True)
class TwoLanes(Job):
    """A task whose even and whose odd batches each go on one from the other."""

    def goes_on_from(self, batch: int) -> int | None:
        return batch - 2 if batch >= 2 else None


@dataclass(frozen=True)
class Adding(Job):
    """A task that brings what other stages left; its receipt is their sum."""

    left: tuple[Handle, ...] = ()


@dataclass(frozen=True)
class AddingOwn(Adding):
    """Each stage gets what is left for it alone."""

    def for_stage(self, stage: int) -> AddingOwn:
        return replace(self, left=(self.left[stage],))


class AddingStage:
    """See `lrt_dist.runtime.contract.Stage`."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def open(self, task: Adding) -> None:
        self._sums[task.key] = sum(int(numbers.sum()) for numbers in contents_of(task.left))

    def step(self, key: str, batch: int, carry: Any) -> Any:
        return None

    def finish(self, key: str) -> Any:
        return self._sums.pop(key)

    def forget(self, key: str) -> None:
        self._sums.pop(key, None)


class ScriptedStage:
    """See `lrt_dist.runtime.contract.Stage`."""

    def __init__(self, name: str, notes: Path) -> None:
        self._name, self._notes = name, notes
        self._jobs: dict[str, Job] = {}
        self._ways: dict[str, list[list[str]]] = {}
        self._sick = False

    def open(self, task: Job) -> None:
        self._jobs[task.key] = task
        self._ways[task.key] = []
        if self._name == "first":
            (self._notes / f"{task.key}.{time.monotonic_ns()}").touch()

    def step(self, key: str, batch: int, carry: Any) -> Any:
        if batch == 1:
            self._strike(key)
        time.sleep(self._jobs[key].steps.get(self._name, 0.0))
        way = [*(carry or []), self._name]
        self._ways[key].append(way)
        return way

    def finish(self, key: str) -> Any:
        job = self._jobs[key]
        time.sleep(job.writes)
        receipt = os.getpid(), self._ways.pop(key)
        if not job.leaves:
            return receipt
        return Parcel(receipt, {self._name: np.full(job.leaves, len(key))})

    def forget(self, key: str) -> None:
        self._ways.pop(key, None)

    def _strike(self, key: str) -> None:
        job = self._jobs[key]
        kind = job.faults.get(self._name)
        if self._sick:
            raise RuntimeError("an illegal memory access was encountered")
        if kind is None or len(attempts(self._notes, key)) > job.times:
            return
        if kind == "die":
            os._exit(1)
        if kind == "hang":
            time.sleep(3600)
        if kind == "sicken":  # from now on this process fails whatever it is given
            self._sick = True
            return
        raise {
            "worker": UserError("no row index on this node"),
            "transient": RuntimeError("the network blinked"),
            "unit": UnitError(f"{key} is not finite"),
            "memory": DeviceMemoryError("too large"),
            "fatal": CorruptionError("the disk lies"),
        }[kind]


def one_by_one(jobs: Iterable[Job], ended: Sequence[str]) -> Iterator[Job | None]:
    """Each job once the one before it is among those that ended."""
    for number, job in enumerate(jobs):
        while len(ended) < number:
            yield None
        yield job


def keep_keys(outcomes: Iterable[Done[Job] | Failed[Job]], keys: list[str]) -> None:
    """Those of tasks as they end."""
    for outcome in outcomes:
        keys.append(outcome.task.key)


def attempts(notes: Path, key: str) -> list[Path]:
    """One file for each time a task was opened."""
    return list(notes.glob(f"{key}.*"))


@dataclass(frozen=True)
class Build:
    name: str
    notes: Path

    def __call__(self) -> ScriptedStage:
        return ScriptedStage(self.name, self.notes)


def chain(
    notes: Path,
    stages: tuple[str, ...] = ("first", "second"),
    replicas: int = 1,
    *,
    leaves: bool = False,
) -> ChainSpec:
    """Of scripted stages, which leave something under their names if it is wanted."""
    return ChainSpec(
        tuple(
            StageSpec(Build(name, notes), cpus=0.5, gpus=0, leaves=(name,) if leaves else ())
            for name in stages
        ),
        replicas,
        placement_timeout=60,
    )


def total(left: float, right: float) -> float:
    return left + right


def reciprocal(number: int) -> float:
    """Something for `map` to do, and of 0 an error."""
    return 1 / number


def echo(value: str) -> str:
    return value


def bracket(left: str, right: str) -> str:
    return f"({left} {right})"
