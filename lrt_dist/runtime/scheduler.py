"""Replicas of a chain that share one queue of tasks, kept full, and built anew when they die."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import ray

from lrt_dist.errors import (
    DeviceMemoryError,
    LostError,
    LrtError,
    NoPlaceError,
    NoReplicaError,
    UnitError,
)
from lrt_dist.runtime.chain import (
    bundles,
    fits_when_idle,
    nodes_alive,
    others_hold_something,
    result,
    what_is_missing,
)
from lrt_dist.runtime.contract import (
    SOON,
    ChainSpec,
    Done,
    Failed,
    FailurePolicy,
    StoppedError,
    Task,
    raise_lost,
)
from lrt_dist.runtime.replica import Attempt, Replica, credits
from lrt_dist.runtime.task_queue import TaskQueue

T = TypeVar("T", bound=Task)

TICK = 1.0
"""Seconds after which a wait for work looks at the clock and at the cluster."""
ALONE = 10.0
"""Fewest seconds that nobody else must have had anything: what was given back is not placed at
once."""
TELL_AFTER = 30.0
"""Seconds without a place after which people are told."""


class RayChains:
    """See `runtime.contract.Chains`."""

    def __init__(
        self,
        spec: ChainSpec,
        policy: FailurePolicy,
        note: Callable[[str], None],
        object_stores: Sequence[float],
        beside: Callable[[], list[dict[str, float]]] = list,
        seen: Mapping[str, dict[str, float]] = MappingProxyType({}),
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing is started yet.

        Args:
            object_stores: bytes of those of all nodes that can hold a stage.
            beside: tells what stages of this driver's other chains hold.
            seen: what the nodes have, or had, that this driver ever saw, by their ids.
            stopped: see `runtime.contract.Runtime.chains`.
        """
        self._spec, self._policy, self._note = spec, policy, note
        self._window = credits(spec, min(object_stores), len(object_stores))
        if self._window < len(spec.stages):
            note(
                f"only {self._window} batches can be on their way in a chain of {len(spec.stages)} "
                "stages, so stages will wait: lower batch_tokens, or give Ray's object store more "
                "memory (ray start --object-store-memory)"
            )
        self._beside, self._seen, self._stopped = beside, seen, stopped
        assert not spec.accumulates or (spec.replicas, spec.most) == (1, 1)
        self._replicas: list[Replica] = []
        self._ran = False
        self._waiting_since: float | None = None
        self._alone_since: float | None = None
        self._told = 0.0
        self._told_of_unplaced = False

    def start(self) -> None:
        """Ask for every replica's place, and wait until one is built."""
        self._replicas = [Replica(self._spec, self._window) for _ in range(self._spec.replicas)]
        while not any(replica.running for replica in self._replicas):
            self._end_if_stopped()
            self._look_for_places()
            self._wait([replica for replica in self._replicas if not replica.running], TICK)

    def process_ids(self) -> list[list[int]]:
        """Of every stage of every replica that runs."""
        return [replica.processes for replica in self._replicas if replica.running]

    def busy_shares(self) -> list[list[float | None]]:
        """Of every stage of every replica, the share of the time in which it computed."""
        return [replica.busy_shares() for replica in self._replicas if replica.running]

    def held(self) -> list[dict[str, float]]:
        """What its stages hold of the cluster."""
        placed = sum(replica.placed for replica in self._replicas)
        return bundles(self._spec) * placed

    def stop(self) -> None:
        """End all actors."""
        for replica in self._replicas:
            replica.stop()
        self._replicas = []

    def run(self, tasks: Iterable[T | None]) -> Iterator[Done[T] | Failed[T]]:
        """See `runtime.contract.Chains.run`."""
        queue = TaskQueue(tasks, self._policy)
        while True:
            self._end_if_stopped()
            running = [replica for replica in self._replicas if replica.running]
            for replica in running:
                self._fill(replica, queue, len(running))
            if not any(r.attempts for r in self._replicas) and queue.is_empty():
                return
            self._look_for_places()
            self._join(queue)
            for replica, attempt in self._wait(self._replicas, SOON if queue.is_coming() else TICK):
                if attempt in replica.attempts:  # else it went down with others of its replica
                    yield from self._ended(replica, attempt, queue)
            yield from self._end_the_stalled(queue)

    def _end_if_stopped(self) -> None:
        if self._stopped():
            raise StoppedError

    def _fill(self, replica: Replica, queue: TaskQueue[T], running: int) -> None:
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

    def _wait(self, replicas: list[Replica], limit: float) -> list[tuple[Replica, Attempt[Any]]]:
        """Wait until something is there, or some seconds; the attempts that ended."""
        owners = {ref: replica for replica in replicas for ref in replica.awaited()}
        awaited = list(owners)
        if not awaited:
            time.sleep(limit)
            return []
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(awaited, num_returns=1, timeout=limit, fetch_local=False)
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

    def _grow(self, replica: Replica) -> None:
        """Bring a replica on; let it go where it cannot be built, and others work.

        Raises:
            LrtError: see `Replica.grow`; there are no others.
        """
        try:
            replica.grow()
        except LrtError as error:
            if not any(other.running for other in self._replicas):
                raise
            self._note(f"a replica cannot be built ({error}); the others go on")
            replica.stop()
            self._replicas.remove(replica)
        self._ran = self._ran or replica.placed

    def _ended(
        self, replica: Replica, attempt: Attempt[T], queue: TaskQueue[T]
    ) -> Iterator[Done[T] | Failed[T]]:
        try:
            ended = Done(attempt.task, [result(ref) for ref in attempt.receipts], attempt.contents)
        except ray.exceptions.RayActorError as error:
            yield from self._died(replica, queue, error)
        except Exception as error:  # noqa: BLE001 (Attempts decides what is fatal)
            replica.end(attempt, failed=True)
            if self._spec.accumulates:
                raise_lost(attempt.task, error)
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
            yield ended

    def _died(
        self, replica: Replica, queue: TaskQueue[T], error: Exception
    ) -> Iterator[Done[T] | Failed[T]]:
        """What was all written is done. The rest is tried again, task by task: whatever is alone
        with a replica when it dies is to blame.

        Raises:
            LostError: it had accumulated something.
        """
        torn: list[T] = []
        for attempt in replica.attempts:
            receipts = attempt.all_receipts()
            if receipts is None:
                torn.append(attempt.task)
            else:
                queue.succeeded()
                yield Done(attempt.task, receipts, attempt.contents)
        if self._spec.accumulates:
            replica.settle()
            reason = " ".join(str(error).split())
            raise LostError(f"a process died with all that it held ({reason})") from error
        self._note(
            f"a replica died, {len(torn)} tasks with it ({type(error).__name__}); it is built anew"
        )
        replica.again()
        if len(torn) == 1:
            yield from queue.failed(torn[0], error, suspect=True)
        else:
            queue.suspect(torn)

    def _end_the_stalled(self, queue: TaskQueue[T]) -> Iterator[Done[T] | Failed[T]]:
        for replica in self._replicas:
            silent = time.monotonic() - replica.heard
            if silent <= self._policy.stall or replica.has_moved():
                continue
            if replica.running and replica.attempts:
                error = TimeoutError(f"a replica did not answer for {silent:.0f} s")
                yield from self._died(replica, queue, error)
            elif replica.placed and not replica.running:
                self._note(f"a replica was not built within {silent:.0f} s; it is built anew")
                replica.again()

    def _join(self, queue: TaskQueue[T]) -> None:
        """Ask for a further replica where the cluster may have grown."""
        full = all(replica.running and replica.attempts for replica in self._replicas)
        if full and len(self._replicas) < self._spec.most and not queue.is_empty():
            self._replicas.append(Replica(self._spec, self._window))

    def _look_for_places(self) -> None:
        """Give up where no replica runs and the cluster cannot hold one.

        Raises:
            NoReplicaError: there was one before, or nodes are gone that would hold one.
            NoPlaceError: there was none.
        """
        now = time.monotonic()
        if any(replica.placed for replica in self._replicas):
            self._waiting_since = self._alone_since = None
            self._tell_of_unplaced(now)
            return
        self._waiting_since = self._waiting_since or now
        waited, limit = now - self._waiting_since, self._spec.placement_timeout
        if waited < min(limit, TELL_AFTER):
            return
        beside = self._beside()
        would_fit = fits_when_idle(self._spec, beside, nodes_alive())
        in_vain = self._is_in_vain(now, beside)
        patient = self._spec.waits_for_others or waited < limit
        if would_fit and patient and not in_vain:
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
            if would_fit and not in_vain:
                missing += ", since others keep what it needs"
            elif would_fit and beside:
                missing += ", since the rest of this run has the nodes that would have room"
            if not self._spec.waits_for_others:
                raise NoPlaceError(missing)
            if self._ran or (not would_fit and fits_when_idle(self._spec, beside, self._seen)):
                gone = "no replica is left" if self._ran else "nodes are gone that had room"
                raise NoReplicaError(f"{gone}, and there is {missing}; add nodes")
            raise NoPlaceError(
                f"{missing}; add nodes, or change cluster.stages and cluster.replicas"
            )

    def _is_in_vain(self, now: float, beside: Sequence[dict[str, float]]) -> bool:
        """Whether nothing will come free: for some time none but this driver has had anything."""
        if others_hold_something(beside):
            self._alone_since = None
            return False
        self._alone_since = self._alone_since or now
        return now - self._alone_since >= max(ALONE, self._spec.placement_timeout)

    def _tell_of_unplaced(self, now: float) -> None:
        """Say once that some replicas have no place, where others work."""
        unplaced = [r for r in self._replicas if not r.placed and now - r.heard > TELL_AFTER]
        if unplaced and not self._told_of_unplaced:
            self._told_of_unplaced = True
            self._note(
                f"{len(unplaced)} of {len(self._replicas)} replicas have no place so far "
                f"({what_is_missing(self._spec)}); the others work"
            )
