"""Everything in this process, one thing at a time: the reference that needs no Ray."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from lrt_dist.parcels import Parcel
from lrt_dist.runtime.contract import (
    DEFAULT_POLICY,
    SOON,
    Attempts,
    ChainSpec,
    Done,
    Ends,
    Failed,
    FailurePolicy,
    Needs,
    Node,
    Stage,
    StoppedError,
    Task,
    for_stage,
    merge_tree,
    raise_lost,
    route,
)
from lrt_dist.runtime.preflight import smallest_gpu

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T", bound=Task)


class SerialRuntime:
    """See `runtime.contract.Runtime`."""

    def __init__(self, policy: FailurePolicy = DEFAULT_POLICY, gpus: int = 0) -> None:
        self.node_cpus: tuple[float, ...] = (float(os.cpu_count() or 1),)
        self.node_gpus: tuple[float, ...] = (float(gpus),)
        self.node_memory: tuple[float, ...] = (
            float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        )
        self._policy = policy
        self._turn = threading.Lock()

    def look(self) -> None:
        """This machine stays as it is."""

    @property
    def gpus(self) -> float:
        """Of this machine."""
        return sum(self.node_gpus)

    def gpu_memory(self) -> int:
        """Of the smallest GPU of this machine."""
        return smallest_gpu()

    @contextmanager
    def chains(
        self, spec: ChainSpec, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[SerialChains]:
        """Build the stages here; replicas make no sense in one process."""
        with self._turn:
            stages = [stage.build() for stage in spec.stages]
        yield SerialChains(stages, self._policy, self._turn, stopped, accumulates=spec.accumulates)

    def map(
        self,
        function: Callable[[A], R],
        arguments: Iterable[A],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
    ) -> Iterator[R]:
        """Lazily, in order."""
        return (function(argument) for argument in arguments)

    def reduce(
        self,
        leaf: Callable[[A], R],
        merge: Callable[[R, R], R],
        trees: Sequence[Sequence[Node[A]]],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
        on_leaf: Callable[[], None] = lambda: None,
    ) -> Iterator[R]:
        """Lazily, in order."""

        def make(node: Node[A]) -> R:
            made = leaf(node.argument)
            if node.level == 0:
                on_leaf()
            return made

        return (merge_tree(nodes, make, merge) for nodes in trees)


class SerialChains:
    """See `runtime.contract.Chains`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        policy: FailurePolicy,
        turn: threading.Lock | None = None,
        stopped: Callable[[], bool] = lambda: False,
        *,
        accumulates: bool = False,
    ) -> None:
        """
        Args:
            turn: held while a task runs: of chains in several threads, one does something at a
                time. None if there are no others.
            stopped: see `Runtime.chains`.
            accumulates: see `ChainSpec`.
        """
        self._stages = stages
        self._policy = policy
        self._turn = turn or threading.Lock()
        self._stopped, self._accumulates = stopped, accumulates

    def run(self, tasks: Iterable[T | None]) -> Iterator[Done[T] | Failed[T]]:
        """One task after the other."""
        attempts = Attempts(self._policy)
        for first_try in tasks:
            if self._stopped():
                raise StoppedError
            if first_try is None:
                time.sleep(SOON)
                continue
            task = attempts.first(first_try)
            while True:
                try:
                    with self._turn:
                        done = self._once(task)
                except Exception as error:  # noqa: BLE001 (Attempts decides what is fatal)
                    if self._accumulates:
                        raise_lost(task, error)
                    again = attempts.next_try(task, error)
                    if again is None:
                        yield Failed(task, f"{type(error).__name__}: {error}")
                        break
                    task = again
                else:
                    attempts.succeeded()
                    yield done
                    break

    def busy_shares(self) -> list[list[float | None]]:
        """One thing at a time: nothing waits for anything."""
        return []

    def _once(self, task: T) -> Done[T]:
        for number, stage in enumerate(self._stages):
            stage.open(for_stage(task, number))
        try:
            ends: Ends[Any] = Ends(task)
            for batch in range(task.batches):
                carry = ends.beginning(batch)
                for index in route(task, len(self._stages)):
                    sent = self._stages[index].step(task.key, batch, carry)
                    carry = None if self._accumulates else sent
                ends.keep(batch, sent)
            made = [stage.finish(task.key) for stage in self._stages]
        except BaseException:
            for stage in self._stages:
                stage.forget(task.key)
            raise
        parcels = [part if isinstance(part, Parcel) else Parcel(part, {}) for part in made]
        left = {name: LocalContent(c) for p in parcels for name, c in p.contents.items()}
        return Done(task, [parcel.receipt for parcel in parcels], left)


@dataclass(frozen=True)
class LocalContent:
    """See `parcels.Handle`."""

    content: Any

    @classmethod
    def get_all(cls, handles: Sequence[LocalContent]) -> list[Any]:
        """They lie in this process."""
        return [handle.content for handle in handles]
