"""Hidden states of the units that somebody waits for, a little ahead of whoever takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

from lrt_dist.runtime.contract import ChainSpec, Done, Failed, Runtime, StoppedError, Task

LINGERS = 60.0
"""Seconds that a stream may take to end what it is at where the process is about to end."""


class UnitTask(Task, Protocol):
    """A task that has one unit computed, or read."""

    @property
    def unit(self) -> int: ...


Outcome = Done[UnitTask] | Failed[UnitTask]


class UnitStream:
    """Has units computed or read in a thread of its own; use as a context manager, which ends it.

    Several streams are at work at once, and none may take more memory than is asked for: so a unit
    is only begun once it is allowed.
    """

    def __init__(
        self,
        runtime: Runtime,
        spec: ChainSpec,
        units: Sequence[int],
        task: Callable[[int], UnitTask],
    ) -> None:
        """
        Args:
            units: in the order in which they are wanted.
            task: of a unit.
        """
        self._runtime, self._spec, self._task = runtime, spec, task
        self._units = units
        self._allowed = 0
        self._outcomes: dict[int, Outcome] = {}
        self.computed = 0
        """Units that came to an end, one way or the other."""
        self.shares: list[list[float | None]] = []
        """See `Chains.busy_shares`; empty until all units are computed."""
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="unit-stream", daemon=True)

    def __enter__(self) -> UnitStream:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        ends = error is not None and not isinstance(error, Exception)  # the process does, too
        self._thread.join(LINGERS if ends else None)

    def allow(self, count: int) -> None:
        """So many units may be begun, the first of all."""
        self._allowed = max(self._allowed, count)

    def outcome(self, unit: int) -> Outcome | None:
        """What became of a unit; None if it is not there yet.

        Raises:
            LrtError: what ended the work of this stream.
        """
        if self._error is not None:
            raise self._error
        return self._outcomes.get(unit)

    def release(self, unit: int) -> None:
        """Nobody wants the states of a unit any more."""
        self._outcomes.pop(unit, None)

    def _run(self) -> None:
        try:
            with self._runtime.chains(self._spec, lambda: self._stopped) as chains:
                for outcome in chains.run(self._tasks()):
                    self._outcomes[outcome.task.unit] = outcome
                    self.computed += 1
                self.shares = chains.busy_shares()
        except StoppedError:  # nobody wants the rest
            return
        except BaseException as error:  # noqa: BLE001 (raised where somebody waits)
            self._error = error

    def _tasks(self) -> Iterator[UnitTask | None]:
        for place, unit in enumerate(self._units):
            while place >= self._allowed:
                yield None
            yield self._task(unit)
