"""Tasks that wait: for their first attempt, for another one, or for one of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from lrt_dist.runtime.contract import Attempts, Failed, FailurePolicy, Task
from lrt_dist.runtime.replica import Replica

T = TypeVar("T", bound=Task)


class TaskQueue(Generic[T]):
    """Tasks that wait: for their first attempt, for another one, or for one of their own."""

    def __init__(self, tasks: Iterable[T | None], policy: FailurePolicy) -> None:
        self._source = iter(tasks)
        self._ended = False
        self._attempts = Attempts(policy)
        self._again: deque[tuple[T, Replica | None]] = deque()
        self._suspects: deque[T] = deque()
        self._drawn: deque[T] = deque()

    def is_empty(self) -> bool:
        """Whether nothing waits, and nothing will."""
        return not (self._again or self._suspects or self._draw()) and self._ended

    def is_coming(self) -> bool:
        """Whether the next task is not there yet."""
        return not (self._drawn or self._ended)

    def _draw(self) -> bool:
        """Have a task of the source at hand; False where none is left, or there yet."""
        if not self._drawn and not self._ended:
            try:
                task = next(self._source)
            except StopIteration:
                self._ended = True
            else:
                self._drawn.extend([] if task is None else [task])
        return bool(self._drawn)

    def next_for(self, replica: Replica, *, others: bool) -> tuple[T, bool] | None:
        """The next task, and whether it must be alone in the replica.

        Args:
            others: whether further replicas run, which may take what failed in this one.
        """
        if self._suspects and not replica.attempts:
            return self._suspects.popleft(), True
        for place, (task, avoid) in enumerate(self._again):
            if avoid is not replica or not others:
                del self._again[place]
                return task, False
        return (self._attempts.first(self._drawn.popleft()), False) if self._draw() else None

    def succeeded(self) -> None:
        """A task went through."""
        self._attempts.succeeded()

    def put_back(self, tasks: Iterable[T]) -> None:
        """Tasks that were taken from a replica, through no fault of theirs."""
        self._again.extend((task, None) for task in tasks)

    def suspect(self, tasks: Iterable[T]) -> None:
        """Tasks that were together in a replica when it died."""
        self._suspects.extend(tasks)

    def failed(
        self,
        task: T,
        error: BaseException,
        *,
        avoid: Replica | None = None,
        suspect: bool = False,
    ) -> Iterator[Failed[T]]:
        """An attempt failed: queue the next one, or give the task up.

        Raises:
            LrtError: see `Attempts.next_try`.
        """
        retry = self._attempts.next_try(task, error)
        if retry is None:
            yield Failed(task, f"{type(error).__name__}: {error}")
        elif suspect:
            self._suspects.append(retry)
        else:
            self._again.append((retry, avoid))
