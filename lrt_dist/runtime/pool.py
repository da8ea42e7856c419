"""The Ray runtime: chains, and plain task fan-out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import ray
import torch

from lrt_dist.errors import LrtError, UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.runtime.chain import nodes_alive, result
from lrt_dist.runtime.cluster_address import connect
from lrt_dist.runtime.contract import (
    DEFAULT_POLICY,
    ChainSpec,
    FailurePolicy,
    Needs,
    Node,
    merge_tree,
)
from lrt_dist.runtime.preflight import smallest_gpu
from lrt_dist.runtime.scheduler import RayChains

A = TypeVar("A")
R = TypeVar("R")

PATIENCE = 300
"""Seconds that a GPU may take to come free to be asked for its memory, or a node to join."""
AHEAD = 0.25
"""Calls that wait, as a share of those that run: no core should wait for its next one."""
TICK = 1.0
"""Seconds between two looks."""


class RayRuntime:
    """See `runtime.contract.Runtime`."""

    def __init__(
        self,
        address: str = "auto",
        policy: FailurePolicy = DEFAULT_POLICY,
        note: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Connect to a cluster, or start one on this machine.

        Args:
            address: a Ray address; `auto` takes `$RAY_ADDRESS` or the cluster that `ray start` made
                known on this machine, and else starts a local one that ends with this process.
            note: told what happens to the cluster, for people.

        Raises:
            UserError: no cluster answers at the address.
        """
        if not ray.is_initialized():
            connect(address, note)
        self._policy, self._note = policy, note
        self._chains: list[RayChains] = []
        self._seen: dict[str, dict[str, float]] = {}
        self.look()

    def look(self) -> None:
        """See what machines there are now; nodes may have joined."""
        there = nodes_alive()
        self._seen.update(there)
        nodes = list(there.values())
        # A head node often has no core: it is no place for work.
        alive = [node for node in nodes if node.get("CPU")] or nodes
        self.node_cpus = tuple(float(node.get("CPU", 0)) for node in alive)
        self.node_memory = tuple(float(node.get("memory", 0)) for node in alive)
        self.node_gpus = tuple(float(node.get("GPU", 0)) for node in alive)
        kind = "GPU" if self.gpus else "CPU"  # what every stage asks for
        holding = [node for node in alive if node.get(kind)] or alive
        self._object_stores = [float(node["object_store_memory"]) for node in holding]
        self._gpu_memory: int | None = None

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(self.node_gpus)

    def gpu_memory(self) -> int:
        """Bytes of memory of a GPU: the driver's own, else one of the cluster's.

        Raises:
            LrtError: no GPU of the cluster came free to be asked.
        """
        if self._gpu_memory is None:
            self._gpu_memory = self._asked_gpu_memory()
        return self._gpu_memory

    def _asked_gpu_memory(self) -> int:
        if torch.cuda.is_available():
            return smallest_gpu()
        asked = ray.remote(num_gpus=1, num_cpus=0)(smallest_gpu).remote()
        try:
            total: int = ray.get(asked, timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            ray.cancel(asked)
            raise LrtError(
                f"none of the cluster's {self.gpus:g} GPUs came free within {PATIENCE} s to be "
                "asked for its memory; wait for other jobs, or set cluster.stages"
            ) from error
        return total

    @contextmanager
    def chains(
        self, spec: ChainSpec, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[RayChains]:
        """See `runtime.contract.Runtime.chains`."""

        def beside() -> list[dict[str, float]]:
            others = [other for other in self._chains if other is not chains]
            return [bundle for other in others for bundle in other.held()]

        chains = RayChains(
            spec, self._policy, self._note, self._object_stores, beside, self._seen, stopped
        )
        self._chains.append(chains)  # several may run at once, each in a thread of its own
        try:
            chains.start()
            self._seen.update(nodes_alive())
            yield chains
        finally:
            self._chains.remove(chains)
            chains.stop()

    def map(
        self,
        function: Callable[[A], R],
        arguments: Iterable[A],
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
            if len(waiting) > self._window(needs) * (1 + AHEAD):
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
        remote, join = self._remote(leaf, needs), self._remote(merge, replace(needs, gpus=0))
        running: deque[tuple[ray.ObjectRef, Node[A]]] = deque()
        roots: deque[ray.ObjectRef] = deque()

        def wait_for_oldest() -> None:
            ref, node = running.popleft()
            ray.wait([ref])
            if node.level == 0:
                on_leaf()

        def make(node: Node[A]) -> ray.ObjectRef:
            if len(running) >= self._window(needs):
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

    def _window(self, needs: Needs) -> int:
        """Calls that run: as many as there are cores for, or GPUs."""
        places = self.gpus / needs.gpus if needs.gpus else sum(self.node_cpus)
        return max(2, int(places))

    def _remote(self, function: Callable[..., Any], needs: Needs) -> Any:
        self._wait_for_a_core()
        nodes = list(zip(self.node_cpus, self.node_memory, strict=True))
        if not any(cpus >= needs.cpus and memory >= needs.memory for cpus, memory in nodes):
            cpus, memory = max(nodes, key=lambda node: node[1])
            raise UserError(
                f"a task needs {needs.cpus:g} cores and {format_bytes(needs.memory)}; the largest "
                f"node offers {cpus:g} cores and {format_bytes(memory)}: use larger nodes, or for "
                "a fit lower fit.tile_bytes or fit.folds, or name fewer fit.pairs"
            )
        return ray.remote(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory,
            max_retries=self._policy.retries,
        )(function)

    def _wait_for_a_core(self) -> None:
        """Let a cluster grow whose workers have not joined yet.

        Raises:
            LrtError: none did.
        """
        began = time.monotonic()
        while max(self.node_cpus) < 1:
            if time.monotonic() - began > PATIENCE:
                raise LrtError(
                    f"no node of the cluster has a core, and none joined within {PATIENCE} s; add "
                    "nodes, and run the same command again"
                )
            if time.monotonic() - began < TICK:
                self._note("no node of the cluster has a core yet; waiting for one to join")
            time.sleep(TICK)
            self.look()
