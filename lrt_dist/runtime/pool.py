"""The Ray runtime: replicas of a chain that share one queue of tasks, and plain task fan-out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray

from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.runtime.chain import Chain, result
from lrt_dist.runtime.contract import (
    DEFAULT_POLICY,
    Attempts,
    ChainSpec,
    Done,
    Failed,
    FailurePolicy,
    Needs,
    Node,
    Task,
    merge_tree,
)

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T", bound=Task)

IN_FLIGHT = 2
"""Tasks inside one chain: one computes while the other is fed in and written out."""


class RayRuntime:
    """See `runtime.contract.Runtime`."""

    def __init__(self, address: str = "auto", policy: FailurePolicy = DEFAULT_POLICY) -> None:
        """Connect to a cluster, or start one on this machine.

        Args:
            address: a Ray address; `auto` takes `$RAY_ADDRESS` or a cluster running on this
                machine, and else starts a local one that ends with this process.

        Raises:
            UserError: no cluster answers at the address.
        """
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if not ray.is_initialized():
            try:
                if address != "auto" or os.environ.get("RAY_ADDRESS"):
                    ray.init(address=address, **quiet)
                else:
                    _connect_or_start(quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster at {address}: {error}; start one with `ray start --head`, or "
                    "set cluster.address: serial to do without Ray"
                ) from error
        resources = ray.cluster_resources()
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.node_cpus = tuple(float(node.get("CPU", 0)) for node in alive)
        self.node_memory = tuple(float(node.get("memory", 0)) for node in alive)
        self.gpus = float(resources.get("GPU", 0))
        self._policy = policy

    @contextmanager
    def chains(self, spec: ChainSpec) -> Iterator[RayChains]:
        """Start the replicas; all actors end with the context."""
        chains = RayChains(spec, self._policy)
        try:
            chains.start()
            yield chains
        finally:
            chains.stop()

    def map(
        self,
        function: Callable[[A], R],
        arguments: Sequence[A],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
    ) -> Iterator[R]:
        """As Ray tasks, a bounded number at a time.

        Raises:
            UserError: no node has what a call needs; Ray would wait for ever.
        """
        remote = self._remote(function, needs)
        waiting: deque[ray.ObjectRef] = deque()
        for argument in arguments:
            waiting.append(remote.remote(argument))
            if len(waiting) >= self._window:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())

    def reduce(
        self,
        leaf: Callable[[A], R],
        merge: Callable[[R, R], R],
        trees: Sequence[Sequence[Node[A]]],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
        on_leaf: Callable[[], None] = lambda: None,
    ) -> Iterator[R]:
        """As Ray tasks: a merge starts when both its operands are there.

        Raises:
            UserError: see `map`.
        """
        remote, join = self._remote(leaf, needs), self._remote(merge, needs)
        running: deque[tuple[ray.ObjectRef, Node[A]]] = deque()
        roots: deque[ray.ObjectRef] = deque()

        def wait_for_oldest() -> None:
            ref, node = running.popleft()
            ray.wait([ref])
            if node.level == 0:
                on_leaf()

        def make(node: Node[A]) -> ray.ObjectRef:
            if len(running) >= self._window:
                wait_for_oldest()
            running.append((remote.remote(node.argument), node))
            return running[-1][0]

        for nodes in trees:
            roots.append(merge_tree(nodes, make, join.remote))
            while ray.wait([roots[0]], timeout=0)[0]:
                yield result(roots.popleft())
                if not roots:
                    break
        while running:
            wait_for_oldest()
        while roots:
            yield result(roots.popleft())

    @property
    def _window(self) -> int:
        return max(2, int(sum(self.node_cpus)))

    def _remote(self, function: Callable[..., Any], needs: Needs) -> Any:
        largest = max(self.node_memory)
        if needs.cpus > max(self.node_cpus) or needs.memory > largest:
            raise UserError(
                f"a task of the fit needs {needs.cpus} cores and {format_bytes(needs.memory)}; the "
                f"largest node offers {max(self.node_cpus):g} cores and {format_bytes(largest)}: "
                "lower fit.tile_bytes or fit.folds, name fewer fit.pairs, or use larger nodes"
            )
        return ray.remote(
            num_cpus=needs.cpus, memory=needs.memory, max_retries=self._policy.retries
        )(function)


@dataclass
class _Flight(Generic[T]):
    """A task on its way through a replica."""

    task: T
    replica: int
    receipts: list[ray.ObjectRef]


class RayChains:
    """See `runtime.contract.Chains`."""

    def __init__(self, spec: ChainSpec, policy: FailurePolicy) -> None:
        self._spec = spec
        self._policy = policy
        self._replicas: list[Chain] = []

    def start(self) -> None:
        """Place and build every replica."""
        for _ in range(self._spec.replicas):
            self._replicas.append(Chain(self._spec))
        self.process_ids()

    def process_ids(self) -> list[list[int]]:
        """Of every stage of every replica, once they are built."""
        return [replica.ready() for replica in self._replicas]

    def stop(self) -> None:
        """End all actors."""
        for replica in self._replicas:
            replica.stop()
        self._replicas = []

    def run(self, tasks: Iterable[T]) -> Iterator[Done[T] | Failed[T]]:
        """See `runtime.contract.Chains.run`."""
        attempts = Attempts(self._policy)
        source = iter(tasks)
        again: deque[T] = deque()
        flights: dict[ray.ObjectRef, _Flight[T]] = {}  # by the last stage's receipt
        while True:
            for replica in range(len(self._replicas)):
                while sum(f.replica == replica for f in flights.values()) < IN_FLIGHT:
                    task = again.popleft() if again else next(source, None)
                    if task is None:
                        break
                    refs = self._replicas[replica].submit(task)
                    flights[refs[-1]] = _Flight(task, replica, refs)
            if not flights:
                return
            (ready, *_), _ = ray.wait(list(flights), num_returns=1)
            flight = flights.pop(ready)
            try:
                done = Done(flight.task, [result(ref) for ref in flight.receipts])
            except Exception as error:  # noqa: BLE001 (Attempts decides what is fatal)
                # No part of this attempt runs on.
                ray.wait(flight.receipts, num_returns=len(flight.receipts))
                if isinstance(error, ray.exceptions.RayActorError):
                    # The rest of the chain's tasks are lost with it, through no fault of theirs.
                    for ref in [r for r, f in flights.items() if f.replica == flight.replica]:
                        again.append(flights.pop(ref).task)
                    self._rebuild(flight.replica)
                retry = attempts.next_try(flight.task, error)
                if retry is None:
                    yield Failed(flight.task, f"{type(error).__name__}: {error}")
                else:
                    again.appendleft(retry)
            else:
                attempts.succeeded()
                yield done

    def _rebuild(self, replica: int) -> None:
        self._replicas[replica].stop()
        self._replicas[replica] = Chain(self._spec)
        self._replicas[replica].ready()


def _connect_or_start(quiet: dict[str, Any]) -> None:
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        ray.init(include_dashboard=False, **quiet)
