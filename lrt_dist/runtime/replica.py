"""One replica of a chain: the tasks that are on their way through it, and its life.

So many batches are on their way that no stage waits for the driver, and no more, since each
carries a hidden state. The next task is opened before its turn, and a task whose batches are
through is written behind the others' backs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray

from lrt_dist.errors import LrtError
from lrt_dist.runtime.chain import FINISHING, Chain, RemoteContent, result
from lrt_dist.runtime.contract import ChainSpec, Ends, Task

T = TypeVar("T", bound=Task)

BUILDS = 3
"""Times in a row that building a replica may fail."""


def credits(spec: ChainSpec, shared_memory: float, nodes: int = 1) -> int:
    """Batches that may be on their way in a replica at once: enough that no stage waits for the
    driver, if the carries of a node's replicas have room in half of its object store.

    Args:
        shared_memory: bytes of the smallest object store.
        nodes: among which the replicas are spread.
    """
    enough = 2 * len(spec.stages) + 1
    if not spec.carry_bytes or len(spec.stages) == 1:
        return enough
    replicas_of_node = math.ceil(spec.replicas / nodes)
    room = shared_memory / 2 / replicas_of_node // spec.carry_bytes
    return int(min(enough, max(1, room)))


@dataclass(eq=False)
class Attempt(Generic[T]):
    """A task on its way through a replica.

    Attributes:
        task: the task.
        batches: how many it has.
        last: for each stage its last step that was sent, or `open`.
        ends: of batches that others go on from.
        steps: of all stages, of a chain that accumulates.
        sent: batches that were sent.
        arriving: the last step of each batch that is on its way.
        receipts: of every stage, once all batches are sent.
        contents: handles to what the stages leave for other chains, by name.
        awaited: receipts that are not there yet.
    """

    task: T
    batches: int
    last: list[ray.ObjectRef]
    ends: Ends[ray.ObjectRef]
    steps: list[ray.ObjectRef] = field(default_factory=list)
    sent: int = 0
    arriving: deque[ray.ObjectRef] = field(default_factory=deque)
    receipts: list[ray.ObjectRef] = field(default_factory=list)
    contents: dict[Hashable, RemoteContent] = field(default_factory=dict)
    awaited: list[ray.ObjectRef] = field(default_factory=list)

    @property
    def is_sent(self) -> bool:
        return self.sent == self.batches

    @property
    def is_computed(self) -> bool:
        return self.is_sent and not self.arriving

    def all_receipts(self) -> list[Any] | None:
        """The receipts of a task that was through when its replica died."""
        if not self.receipts:
            return None
        ready, _ = ray.wait(
            self.receipts, num_returns=len(self.receipts), timeout=0, fetch_local=False
        )
        if len(ready) < len(self.receipts):
            return None
        try:
            return [result(ref) for ref in self.receipts]
        except Exception:  # noqa: BLE001 (it will be tried again)
            return None


class Replica:
    """A chain that waits for its place, is being built, or runs."""

    def __init__(self, spec: ChainSpec, window: int) -> None:
        self._spec, self._window = spec, window
        self.attempts: list[Attempt[Any]] = []
        self.processes: list[int] = []
        self.running = False
        self.alone = False
        self.failures_in_a_row = 0
        self._failed_builds = 0
        self._place()

    def _place(self) -> None:
        self._forgotten: dict[str, list[ray.ObjectRef]] = {}
        self._ended: set[ray.ObjectRef] = set()
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

    def settle(self) -> None:
        """Wait until it is known what of it is gone."""
        self._chain.settle()

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
            LrtError: what building a stage raised; or building failed too often.
        """
        ref = self._coming.pop(0)
        self.heard = time.monotonic()
        if not self._built:
            self._built = self._chain.build()
            self._coming = list(self._built)
            return
        try:
            self.processes.append(result(ref))
        except LrtError:
            raise
        except Exception as error:
            self._failed_builds += 1
            if self._failed_builds >= BUILDS:
                raise LrtError(f"building a stage failed {BUILDS} times: {error}") from error
            self.again()
            return
        if not self._coming:
            self.running, self._failed_builds = True, 0

    def arrived(self, ref: ray.ObjectRef) -> Attempt[Any] | None:
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

    def has_moved(self) -> bool:
        """Whether any stage of a chain that accumulates has ended a step since this was asked: they
        don't wait for each other, and what is awaited is of the last one."""
        steps = [ref for attempt in self.attempts for ref in attempt.steps]
        if not steps:
            return False
        ended, _ = ray.wait(steps, num_returns=len(steps), timeout=0, fetch_local=False)
        moved = set(ended) - self._ended
        self._ended = set(ended)
        if moved:
            self.heard = time.monotonic()
        return bool(moved)

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
        self.attempts.append(Attempt(task, task.batches, opened, Ends(task)))

    def send(self) -> bool:
        """Send a batch, if one may go; whether it did."""
        on_the_way = sum(len(attempt.arriving) for attempt in self.attempts)
        waiting = next((a for a in self.attempts if not a.is_sent), None)
        if waiting is None or on_the_way >= self._window:
            return False
        begin = waiting.ends.beginning(waiting.sent)
        steps, end = self._chain.step(waiting.task, waiting.sent, waiting.last, begin)
        for stage, ref in steps:
            waiting.last[stage] = ref
            if self._spec.accumulates:
                waiting.steps.append(ref)
        waiting.ends.keep(waiting.sent, end)
        waiting.arriving.append(ref)
        waiting.sent += 1
        if waiting.is_sent:
            waiting.receipts, left = self._chain.finish(waiting.task, waiting.last)
            waiting.contents = {name: RemoteContent(ref) for name, ref in left.items()}
            waiting.awaited = list(waiting.receipts)
        return True

    def end(self, attempt: Attempt[Any], *, failed: bool) -> None:
        """Let a task go."""
        self.attempts.remove(attempt)
        self.alone = False
        if failed:
            self._forgotten[attempt.task.key] = self._chain.forget(attempt.task)

    def busy_shares(self) -> list[float | None]:
        """Of every stage."""
        return self._chain.busy_shares() if self.running else []
