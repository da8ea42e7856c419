"""A real stage of a real model that something is done to, at units that a test names."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrt_dist.errors import DeviceMemoryError
from lrt_dist.tasks.model_stage import BuildModelStage, ModelStage


@dataclass(frozen=True)
class Fault:
    """What is done.

    Attributes:
        kind: see `FaultyStage`.
        units: to which tasks.
        times: how many of their attempts it strikes.
    """

    kind: str = "none"
    units: tuple[int, ...] = ()
    times: int = 1


class FaultyStage:
    """See `runtime.contract.Stage`; each time a task is opened in a first stage leaves a file."""

    def __init__(self, real: ModelStage, notes: Path, fault: Fault, *, first: bool) -> None:
        self._real, self._notes, self._fault, self._first = real, notes, fault, first
        self._budgets: dict[str, int] = {}
        self._sick = False

    def open(self, task: Any) -> None:
        if self._first:
            (self._notes / f"{task.unit}.{time.monotonic_ns()}").touch()
        self._budgets[task.key] = task.token_budget
        self._real.open(task)

    def step(self, key: str, batch: int, carry: Any) -> Any:
        unit = int(key.split()[-1])
        strikes = unit in self._fault.units and attempts(self._notes, unit) <= self._fault.times
        kind = self._fault.kind
        if self._sick:
            raise RuntimeError("an illegal memory access was encountered")
        if strikes and not self._first and kind == "not finite":
            carry = carry * float("nan")
        if self._first and kind == "memory" and self._budgets[key] > 128:
            raise DeviceMemoryError("as if 128 tokens were the most that fit")
        if self._first and strikes:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hang":
                time.sleep(3600)
            if kind == "raise":
                (self._notes / f"struck-{unit}.{time.monotonic_ns()}").touch()
                raise RuntimeError("the network blinked")
            self._sick = kind == "sicken"
        return self._real.step(key, batch, carry)

    def finish(self, key: str) -> Any:
        return self._real.finish(key)

    def forget(self, key: str) -> None:
        self._real.forget(key)


@dataclass(frozen=True)
class BuildFaulty:
    """Builds a `FaultyStage` in the process that will hold it."""

    real: BuildModelStage
    notes: Path
    fault: Fault

    def __call__(self) -> FaultyStage:
        first = self.real.owned.start == 0
        return FaultyStage(self.real(), self.notes, self.fault, first=first)


def faulty(notes: Path, fault: Fault) -> Callable[..., BuildFaulty]:
    """What takes the place of `BuildModelStage`."""
    return lambda *arguments: BuildFaulty(BuildModelStage(*arguments), notes, fault)


def attempts(notes: Path, unit: int) -> int:
    """How often a unit was opened."""
    return len(list(notes.glob(f"{unit}.*")))


def struck(notes: Path, unit: int) -> int:
    """How often an exception was raised at a unit."""
    return len(list(notes.glob(f"struck-{unit}.*")))
