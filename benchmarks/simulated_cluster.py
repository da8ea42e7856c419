"""A cluster on a simulated clock, for the driver's own scheduler.

Everything that `lrt_dist.runtime.scheduler` asks of Ray and of the clock is answered here: actors
take the time that they are told, one call after the other, as `runtime.chain.StageActor` does;
processes die at random; and whatever the driver spends, its own computing and its calls to Ray,
moves the clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ray

from lrt_dist.runtime import replica, scheduler
from lrt_dist.runtime.chain import FINISHING
from lrt_dist.runtime.contract import ChainSpec, Task

HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        load: in which a stage is built.
        open, write: of a task in a stage, before its first batch and behind its last.
        step: of a batch in a stage.
        call: of the driver, for each call of an actor.
        waiting: of the driver, for each reference that it waits for, once a turn.
        failing: hours of one stage's process between two failures; infinite for none.
    """

    load: float
    open: float
    write: float
    step: float
    call: float
    waiting: float
    failing: float = float("inf")


@dataclass(eq=False)
class Ref:
    """What a call returns; an error if `failed`."""

    done: bool = False
    failed: bool = False
    then: list[Callable[[], None]] = field(default_factory=list)


class Cluster:
    """The clock, what happens next, and what the driver has spent."""

    def __init__(self, costs: Costs, seed: int) -> None:
        self.costs = costs
        self.now = 0.0
        self.driver = 0.0
        self.chains: list[SimulatedChain] = []
        self.random = random.Random(f"failures {seed}")
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._computing = time.thread_time()

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._coming, (moment, next(self._order), action))

    def settle(self, ref: Ref, *, failed: bool = False) -> None:
        """A reference is there."""
        if not ref.done:
            ref.done, ref.failed = True, failed
            actions, ref.then = ref.then, []
            for action in actions:
                action()

    @contextmanager
    def asked(self, seconds: float) -> Iterator[None]:
        """The driver asks something, which costs it so much, beside what it computed since the
        last time; what is computed here meanwhile costs it nothing."""
        self.spend(seconds + time.thread_time() - self._computing)
        try:
            yield
        finally:
            self._computing = time.thread_time()

    def spend(self, seconds: float) -> None:
        """The driver works meanwhile."""
        self.driver += seconds
        self._until(self.now + seconds)

    def wait(
        self, refs: Sequence[Ref], *, num_returns: int, timeout: float, fetch_local: bool
    ) -> tuple[list[Ref], list[Ref]]:
        """As `ray.wait`."""
        with self.asked(self.costs.waiting * len(refs)):
            ready = self._wait(refs, self.now + timeout)[:num_returns]
            known = set(map(id, ready))
            return ready, [ref for ref in refs if id(ref) not in known]

    def _wait(self, refs: Sequence[Ref], limit: float) -> list[Ref]:
        ready = [ref for ref in refs if ref.done]
        if not ready and limit > self.now:
            watched = [False]

            def notice() -> None:
                watched[0] = True

            for ref in refs:
                ref.then.append(notice)
            while not watched[0] and self._coming and self._coming[0][0] <= limit:
                self._next()
            if not watched[0]:
                self.now = max(self.now, limit)
            for ref in refs:
                if not ref.done:
                    ref.then.remove(notice)
            ready = [ref for ref in refs if ref.done]
        return ready

    def result(self, ref: Ref) -> Any:
        """As `runtime.chain.result`, of a reference that is there."""
        if ref.failed:
            raise ray.exceptions.ActorDiedError
        return 0

    def _until(self, moment: float) -> None:
        while self._coming and self._coming[0][0] <= moment:
            self._next()
        self.now = max(self.now, moment)

    def _next(self) -> None:
        moment, _, action = heapq.heappop(self._coming)
        self.now = max(self.now, moment)
        action()

    @contextmanager
    def instead_of_ray(self) -> Iterator[None]:
        """The scheduler works on this cluster while the context lasts."""
        answers = SimpleNamespace(wait=self.wait, exceptions=ray.exceptions)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        with (
            mock.patch.multiple(
                scheduler,
                ray=answers,
                time=clock,
                result=self.result,
                fits_when_idle=lambda spec, beside, on: True,
                nodes_alive=dict,
                what_is_missing=lambda spec: "nothing",
            ),
            mock.patch.multiple(
                replica,
                ray=answers,
                time=clock,
                result=self.result,
                Chain=lambda spec: SimulatedChain(spec, self),
            ),
        ):
            yield


class _Threads:
    """Some threads of an actor: calls are taken up in the order in which they can be."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster, self._free = cluster, count
        self._waiting: deque[tuple[float, Ref]] = deque()
        self.running: dict[Ref, float] = {}
        self.busy = 0.0
        self.dead = False

    def take(self, seconds: float, ref: Ref) -> None:
        self._waiting.append((seconds, ref))
        self._go_on()

    def _go_on(self) -> None:
        while self._free and self._waiting and not self.dead:
            seconds, ref = self._waiting.popleft()
            self._free -= 1
            self.running[ref] = seconds

            def end(seconds: float = seconds, ref: Ref = ref) -> None:
                if not self.dead:
                    self._free += 1
                    del self.running[ref]
                    self.busy += seconds
                    self._cluster.settle(ref)
                    self._go_on()

            self._cluster.at(self._cluster.now + seconds, end)

    def die(self) -> list[Ref]:
        self.dead = True
        return [*self.running, *(ref for _, ref in self._waiting)]


class SimulatedActor:
    """See `runtime.chain.StageActor`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._threads = {
            name: _Threads(cluster, count)
            for name, count in (("build", 1), ("ahead", 1), ("steps", 1), ("behind", FINISHING))
        }
        self._blocked: set[Ref] = set()
        self.dead = False

    @property
    def busy(self) -> float:
        """Seconds in which it computed."""
        return self._threads["steps"].busy

    def call(self, group: str, seconds: float, *after: Ref | None) -> Ref:
        """A call that begins when others are there, and fails where they failed."""
        cluster = self._cluster
        with cluster.asked(cluster.costs.call):
            return self._call(group, seconds, after)

    def _call(self, group: str, seconds: float, after: Sequence[Ref | None]) -> Ref:
        cluster, ref = self._cluster, Ref()
        waits = [one for one in after if one is not None and not one.done]
        if self.dead or any(one.failed for one in after if one is not None and one.done):
            cluster.settle(ref, failed=True)
        elif not waits:
            self._threads[group].take(seconds, ref)
        else:
            left = [len(waits)]
            self._blocked.add(ref)

            def arrived() -> None:
                left[0] -= 1
                if ref.done:
                    return
                if any(one.failed for one in waits if one.done):
                    self._blocked.discard(ref)
                    cluster.settle(ref, failed=True)
                elif not left[0]:
                    self._blocked.discard(ref)
                    self._threads[group].take(seconds, ref)

            for one in waits:
                one.then.append(arrived)
        return ref

    def die(self) -> None:
        """The process is gone, and all that it was asked for."""
        self.dead = True
        lost = [ref for threads in self._threads.values() for ref in threads.die()]
        for ref in [*lost, *self._blocked]:
            self._cluster.settle(ref, failed=True)
        self._blocked.clear()


class SimulatedChain:
    """See `runtime.chain.Chain`."""

    def __init__(self, spec: ChainSpec, cluster: Cluster) -> None:
        self._spec, self._cluster = spec, cluster
        self.actors: list[SimulatedActor] = []
        self.placed = Ref()
        cluster.chains.append(self)
        cluster.at(cluster.now + 1.0, lambda: cluster.settle(self.placed))

    def build(self) -> list[Ref]:
        cluster = self._cluster
        self.actors = [SimulatedActor(cluster) for _ in self._spec.stages]
        if cluster.costs.failing < float("inf"):
            hours = cluster.random.expovariate(len(self.actors) / cluster.costs.failing)
            cluster.at(cluster.now + HOUR * hours, self._fail)
        return [actor.call("build", cluster.costs.load) for actor in self.actors]

    def _fail(self) -> None:
        """One process of it fails; the scheduler gives the chain up with it."""
        for actor in self.actors:
            if not actor.dead:
                actor.die()

    def open(self, task: Task, forgotten: Sequence[Ref] = ()) -> list[Ref]:
        costs = self._cluster.costs
        if not forgotten:
            return [actor.call("ahead", costs.open) for actor in self.actors]
        return [
            actor.call("ahead", costs.open, ref)
            for actor, ref in zip(self.actors, forgotten, strict=True)
        ]

    def step(
        self, task: Task, batch: int, before: Sequence[Ref], carry: Ref | None
    ) -> tuple[list[tuple[int, Ref]], Ref]:
        steps = []
        for index, actor in enumerate(self.actors):
            carry = actor.call("steps", self._cluster.costs.step, carry, before[index])
            steps.append((index, carry))
        assert carry is not None, "a chain without stages"
        return steps, carry

    def finish(self, task: Task, steps: Sequence[Ref]) -> tuple[list[Ref], dict[Any, Ref]]:
        write = self._cluster.costs.write
        both = zip(self.actors, steps, strict=True)
        return [actor.call("behind", write, ref) for actor, ref in both], {}

    def forget(self, task: Task) -> list[Ref]:
        return [actor.call("behind", 0.0) for actor in self.actors]

    def busy_shares(self) -> list[float | None]:
        return [None for _ in self.actors]

    def stop(self) -> None:
        self._fail()
