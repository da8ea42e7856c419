"""Replicas of a chain that share one queue of tasks, kept full, and built anew when they die.

In a replica the batches of several tasks follow each other: so many are on their way that no stage
waits for the driver, and no more, since each carries a hidden state. The next task is opened before
its turn, and a task whose batches are through is written behind the others' backs.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray

from lrt_dist.errors import DeviceMemoryError, IncompleteError, LrtError, UnitError
from lrt_dist.runtime.chain import FINISHING, Chain, fits_when_idle, result, what_is_missing
from lrt_dist.runtime.contract import Attempts, ChainSpec, Done, Failed, FailurePolicy, Task

T = TypeVar("T", bound=Task)

TICK = 1.0
"""Seconds after which a wait for work looks at the clock and at the cluster."""
BUILDS = 3
"""Times in a row that a replica may die while it is built."""


@dataclass(eq=False)
class _Attempt(Generic[T]):
    """A task on its way through a replica.

    Attributes:
        task: the task.
        batches: how many it has.
        last: for each stage its last step that was sent, or `open`.
        sent: batches that were sent.
        arriving: the last step of each batch that is on its way.
        receipts: of every stage, once all batches are sent.
        awaited: receipts that are not there yet.
    """

    task: T
    batches: int
    last: list[ray.ObjectRef]
    sent: int = 0
    arriving: deque[ray.ObjectRef] = field(default_factory=deque)
    receipts: list[ray.ObjectRef] = field(default_factory=list)
    awaited: list[ray.ObjectRef] = field(default_factory=list)

    @property
    def is_sent(self) -> bool:
        return self.sent == self.batches

    @property
    def is_computed(self) -> bool:
        return self.is_sent and not self.arriving


class _Replica:
    """A chain that waits for its place, is being built, or runs."""

    def __init__(self, spec: ChainSpec, window: int) -> None:
        self._spec, self._window = spec, window
        self.attempts: list[_Attempt[Any]] = []
        self.processes: list[int] = []
        self.running = False
        self.alone = False
        self.failures_in_a_row = 0
        self._deaths_in_building = 0
        self._place()

    def _place(self) -> None:
        self._forgotten: dict[str, list[ray.ObjectRef]] = {}
        self.heard = time.monotonic()
        self._chain = Chain(self._spec)
        self._coming: list[ray.ObjectRef] = [self._chain.placed]
        self._built: list[ray.ObjectRef] = []

    @property
    def placed(self) -> bool:
        """Whether its resources are its own."""
        return self.running or bool(self._built)

    def again(self) -> None:
        """Kill what is left of it, and start anew."""
        self._chain.stop()
        self.attempts, self.processes = [], []
        self.running = self.alone = False
        self.failures_in_a_row = 0
        self._place()

    def stop(self) -> None:
        """Kill it."""
        self._chain.stop()

    def awaited(self) -> list[ray.ObjectRef]:
        """What to wait for: the oldest batch, a receipt of every task, or the next state."""
        if not self.running:
            return self._coming[:1]
        arriving = next((a.arriving[0] for a in self.attempts if a.arriving), None)
        receipts = [a.awaited[-1] for a in self.attempts if a.awaited]
        return receipts if arriving is None else [arriving, *receipts]

    def grow(self) -> None:
        """What was waited for while it was not running is there.

        Raises:
            LrtError: what building a stage raised; or it died too often while it was built.
        """
        ref = self._coming.pop(0)
        self.heard = time.monotonic()
        if not self._built:
            self._built = self._chain.build()
            self._coming = list(self._built)
            return
        try:
            self.processes.append(result(ref))
        except ray.exceptions.RayActorError as error:
            self._deaths_in_building += 1
            if self._deaths_in_building >= BUILDS:
                raise LrtError(
                    f"a stage died {BUILDS} times while it was built: {error}"
                ) from error
            self.again()
            return
        if not self._coming:
            self.running, self._deaths_in_building = True, 0

    def arrived(self, ref: ray.ObjectRef) -> _Attempt[Any] | None:
        """Take note of a reference that is there; the attempt that ended with it, if one did."""
        self.heard = time.monotonic()
        for attempt in self.attempts:
            if attempt.arriving and attempt.arriving[0] == ref:
                attempt.arriving.popleft()
                return None
            if attempt.awaited and attempt.awaited[-1] == ref:
                attempt.awaited.pop()
                return None if attempt.awaited else attempt
        return None

    def has_room(self) -> bool:
        """Whether another task may be opened: one ahead of its turn, and not too many behind."""
        if self.alone:
            return False
        ahead = sum(attempt.sent == 0 for attempt in self.attempts)
        behind = sum(attempt.is_computed for attempt in self.attempts)
        return ahead < 1 and behind < FINISHING

    def open(self, task: Task, *, alone: bool) -> None:
        """Take a task in."""
        if not self.attempts:
            self.heard = time.monotonic()
        self.alone = alone
        opened = self._chain.open(task, self._forgotten.pop(task.key, ()))
        self.attempts.append(_Attempt(task, task.batches, opened))

    def send(self) -> bool:
        """Send a batch, if one may go; whether it did."""
        on_the_way = sum(len(attempt.arriving) for attempt in self.attempts)
        waiting = next((a for a in self.attempts if not a.is_sent), None)
        if waiting is None or on_the_way >= self._window:
            return False
        for stage, ref in self._chain.step(waiting.task, waiting.sent, waiting.last):
            waiting.last[stage] = ref
        waiting.arriving.append(ref)
        waiting.sent += 1
        if waiting.is_sent:
            waiting.receipts = self._chain.finish(waiting.task, waiting.last)
            waiting.awaited = list(waiting.receipts)
        return True

    def end(self, attempt: _Attempt[Any], *, failed: bool) -> None:
        """Let a task go."""
        self.attempts.remove(attempt)
        self.alone = False
        if failed:
            self._forgotten[attempt.task.key] = self._chain.forget(attempt.task)

    def busy_shares(self) -> list[float | None]:
        """Of every stage."""
        return self._chain.busy_shares() if self.running else []


def credits(spec: ChainSpec, shared_memory: float) -> int:
    """Batches that may be on their way in a replica at once: enough that no stage waits for the
    driver, if the carries of all replicas have room in half of one node's object store."""
    enough = 2 * len(spec.stages) + 1
    if not spec.carry_bytes or len(spec.stages) == 1:
        return enough
    room = shared_memory / 2 / max(1, spec.replicas) // spec.carry_bytes
    return int(min(enough, max(1, room)))


class RayChains:
    """See `runtime.contract.Chains`."""

    def __init__(
        self,
        spec: ChainSpec,
        policy: FailurePolicy,
        note: Callable[[str], None],
        shared_memory: float,
    ) -> None:
        """Nothing is started yet.

        Args:
            shared_memory: bytes of a node's object store.
        """
        self._spec, self._policy, self._note = spec, policy, note
        self._window = credits(spec, shared_memory)
        self._replicas: list[_Replica] = []
        self._ran = False
        self._waiting_since: float | None = None
        self._told = 0.0

    def start(self) -> None:
        """Ask for every replica's place, and wait until one is built."""
        self._replicas = [_Replica(self._spec, self._window) for _ in range(self._spec.replicas)]
        while not any(replica.running for replica in self._replicas):
            self._look_for_places()
            self._wait([replica for replica in self._replicas if not replica.running])

    def process_ids(self) -> list[list[int]]:
        """Of every stage of every replica that runs."""
        return [replica.processes for replica in self._replicas if replica.running]

    def busy_shares(self) -> list[list[float | None]]:
        """Of every stage of every replica, the share of the time in which it computed."""
        return [replica.busy_shares() for replica in self._replicas if replica.running]

    def stop(self) -> None:
        """End all actors."""
        for replica in self._replicas:
            replica.stop()
        self._replicas = []

    def run(self, tasks: Iterable[T]) -> Iterator[Done[T] | Failed[T]]:
        """See `runtime.contract.Chains.run`."""
        queue = _Queue(tasks, self._policy)
        while True:
            running = [replica for replica in self._replicas if replica.running]
            for replica in running:
                self._fill(replica, queue, len(running))
            if not any(r.attempts for r in self._replicas) and queue.is_empty():
                return
            self._look_for_places()
            self._join(queue)
            for replica, attempt in self._wait(self._replicas):
                if attempt in replica.attempts:  # else it went down with others of its replica
                    yield from self._ended(replica, attempt, queue)
            yield from self._end_the_stalled(queue)

    def _fill(self, replica: _Replica, queue: _Queue[T], running: int) -> None:
        while True:
            while replica.send():
                pass
            if not replica.has_room():
                return
            chosen = queue.next_for(replica, others=running > 1)
            if chosen is None:
                return
            task, alone = chosen
            replica.open(task, alone=alone)

    def _wait(self, replicas: list[_Replica]) -> list[tuple[_Replica, _Attempt[Any]]]:
        """Wait until something is there, or for a tick; the attempts that ended."""
        owners = {ref: replica for replica in replicas for ref in replica.awaited()}
        awaited = list(owners)
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(awaited, num_returns=1, timeout=TICK, fetch_local=False)
        ended = []
        for ref in ready:
            replica = owners[ref]
            if not replica.running:
                self._grow(replica)
            else:
                attempt = replica.arrived(ref)
                if attempt is not None:
                    ended.append((replica, attempt))
        return ended

    def _grow(self, replica: _Replica) -> None:
        """Bring a replica on; let it go where it cannot be built, and others work.

        Raises:
            LrtError: see `_Replica.grow`; there are no others.
        """
        try:
            replica.grow()
        except LrtError as error:
            if not any(other.running for other in self._replicas):
                raise
            self._note(f"a replica cannot be built ({error}); the others go on")
            replica.stop()
            self._replicas.remove(replica)
        self._ran = self._ran or replica.running

    def _ended(
        self, replica: _Replica, attempt: _Attempt[T], queue: _Queue[T]
    ) -> Iterator[Done[T] | Failed[T]]:
        try:
            receipts = [result(ref) for ref in attempt.receipts]
        except ray.exceptions.RayActorError as error:
            yield from self._died(replica, queue, error)
        except Exception as error:  # noqa: BLE001 (Attempts decides what is fatal)
            replica.end(attempt, failed=True)
            if not isinstance(error, UnitError | DeviceMemoryError):  # else it is the task's
                replica.failures_in_a_row += 1
            yield from queue.failed(attempt.task, error, avoid=replica)
            if replica.failures_in_a_row >= self._policy.evict:
                self._note(f"a replica whose last attempts all failed is built anew ({error})")
                queue.put_back(attempt.task for attempt in replica.attempts)
                replica.again()
        else:
            replica.end(attempt, failed=False)
            replica.failures_in_a_row = 0
            queue.succeeded()
            yield Done(attempt.task, receipts)

    def _died(
        self, replica: _Replica, queue: _Queue[T], error: Exception
    ) -> Iterator[Done[T] | Failed[T]]:
        """What was all written is done. The rest is tried again, task by task: whatever is alone
        with a replica when it dies is to blame."""
        lost: list[T] = []
        for attempt in replica.attempts:
            receipts = _all_there(attempt)
            if receipts is None:
                lost.append(attempt.task)
            else:
                queue.succeeded()
                yield Done(attempt.task, receipts)
        self._note(
            f"a replica died, {len(lost)} tasks with it ({type(error).__name__}); it is built anew"
        )
        replica.again()
        if len(lost) == 1:
            yield from queue.failed(lost[0], error, suspect=True)
        else:
            queue.suspect(lost)

    def _end_the_stalled(self, queue: _Queue[T]) -> Iterator[Done[T] | Failed[T]]:
        for replica in self._replicas:
            silent = time.monotonic() - replica.heard
            if silent <= self._policy.stall:
                continue
            if replica.running and replica.attempts:
                error = TimeoutError(f"a replica did not answer for {silent:.0f} s")
                yield from self._died(replica, queue, error)
            elif replica.placed and not replica.running:
                self._note(f"a replica was not built within {silent:.0f} s; it is built anew")
                replica.again()

    def _join(self, queue: _Queue[T]) -> None:
        """Ask for a further replica where the cluster may have grown."""
        full = all(replica.running and replica.attempts for replica in self._replicas)
        if full and len(self._replicas) < self._spec.most and not queue.is_empty():
            self._replicas.append(_Replica(self._spec, self._window))

    def _look_for_places(self) -> None:
        """Give up where no replica runs and the cluster cannot hold one.

        Raises:
            IncompleteError: there was one before.
            LrtError: there was none.
        """
        now = time.monotonic()
        if any(replica.placed for replica in self._replicas):
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or now
        waited, limit = now - self._waiting_since, self._spec.placement_timeout
        if waited < min(limit, 30):
            return
        if fits_when_idle(self._spec):
            if now - self._told > 60:
                self._told = now
                self._note(f"waiting for resources that others use: {what_is_missing(self._spec)}")
            return
        if waited >= limit:
            count = len(self._spec.stages)
            missing = (
                f"no place for a chain of {count} stages within {limit:g} s "
                f"({what_is_missing(self._spec)})"
            )
            if self._ran:
                raise IncompleteError(f"no replica is left, and there is {missing}; add nodes")
            raise LrtError(f"{missing}; add nodes, or change cluster.stages and cluster.replicas")


class _Queue(Generic[T]):
    """Tasks that wait: for their first attempt, for another one, or for one of their own."""

    def __init__(self, tasks: Iterable[T], policy: FailurePolicy) -> None:
        self._source = iter(tasks)
        self._attempts = Attempts(policy)
        self._again: deque[tuple[T, _Replica | None]] = deque()
        self._suspects: deque[T] = deque()
        self._drawn: deque[T] = deque()

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._again or self._suspects or self._draw())

    def _draw(self) -> bool:
        """Have a task of the source at hand; False where none is left."""
        if not self._drawn:
            self._drawn.extend(itertools.islice(self._source, 1))
        return bool(self._drawn)

    def next_for(self, replica: _Replica, *, others: bool) -> tuple[T, bool] | None:
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
        avoid: _Replica | None = None,
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


def _all_there(attempt: _Attempt[Any]) -> list[Any] | None:
    """The receipts of a task that was through when its replica died."""
    if not attempt.receipts:
        return None
    ready, _ = ray.wait(
        attempt.receipts, num_returns=len(attempt.receipts), timeout=0, fetch_local=False
    )
    if len(ready) < len(attempt.receipts):
        return None
    try:
        return [result(ref) for ref in attempt.receipts]
    except Exception:  # noqa: BLE001 (it will be tried again)
        return None
