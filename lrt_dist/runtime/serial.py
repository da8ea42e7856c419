"""Everything in this process, one thing at a time: the reference that needs no Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lrt_dist.runtime.tasks import (
    DEFAULT_POLICY,
    Attempts,
    ChainSpec,
    Done,
    Failed,
    FailurePolicy,
    Needs,
    Node,
    Stage,
    Task,
    merge_tree,
)


class SerialRuntime:
    """See `runtime.tasks.Runtime`."""

    def __init__(self, policy: FailurePolicy = DEFAULT_POLICY, gpus: int = 0) -> None:
        self.node_cpus: tuple[float, ...] = (float(os.cpu_count() or 1),)
        self.gpus = float(gpus)
        self.node_memory: tuple[float, ...] = (
            float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        )
        self._policy = policy

    @contextmanager
    def chains(self, spec: ChainSpec) -> Iterator[SerialChains]:
        """Build the stages here; replicas make no sense in one process."""
        yield SerialChains([stage.build() for stage in spec.stages], self._policy)

    def map(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
    ) -> Iterator[Any]:
        """Lazily, in order."""
        return (function(*given) for given in arguments)

    def reduce(
        self,
        leaf: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        trees: Sequence[Sequence[Node]],
        needs: Needs = Needs(),  # noqa: B008 (frozen)
        on_leaf: Callable[[], None] = lambda: None,
    ) -> Iterator[Any]:
        """Lazily, in order."""

        def make(node: Node) -> Any:
            made = leaf(*node.arguments)
            if node.level == 0:
                on_leaf()
            return made

        return (merge_tree(nodes, make, merge) for nodes in trees)


class SerialChains:
    """See `runtime.tasks.Chains`."""

    def __init__(self, stages: Sequence[Stage], policy: FailurePolicy) -> None:
        self._stages = stages
        self._policy = policy

    def run(self, tasks: Iterable[Task]) -> Iterator[Done | Failed]:
        """One task after the other."""
        attempts = Attempts(self._policy)
        for given in tasks:
            task: Any = given
            while True:
                try:
                    receipts = self._once(task)
                except Exception as error:  # noqa: BLE001 (Attempts decides what is fatal)
                    again = attempts.next_try(task, error)
                    if again is None:
                        yield Failed(task, f"{type(error).__name__}: {error}")
                        break
                    task = again
                else:
                    attempts.succeeded()
                    yield Done(task, receipts)
                    break

    def _once(self, task: Task) -> list[Any]:
        for stage in self._stages:
            stage.open(task)
        for batch in range(task.batches):
            carry = None
            for stage in self._stages:
                carry = stage.step(task.key, batch, carry)
        for stage in self._stages:
            stage.close(task.key)
        return [stage.receipt(task.key) for stage in self._stages]
