"""A model's chain that is built when the first task comes: what is there already needs no model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Self, TypeVar

from lrt_dist.runtime.contract import Chains, Done, Failed, Task
from lrt_dist.sites import Side
from lrt_dist.workspace.placement import chain
from lrt_dist.workspace.run import Run

T = TypeVar("T", bound=Task)


class OnDemandChains:
    """See `runtime.contract.Chains`; as a context, whose end ends the chain."""

    def __init__(self, run: Run, side: Side, *, head: bool, batch_tokens: int) -> None:
        self._run, self._side = run, side
        self._head, self._batch_tokens = head, batch_tokens
        self._stack = ExitStack()
        self._chains: Chains | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._chains = None  # in one process it holds the model

    def busy_shares(self) -> list[list[float | None]]:
        """See `runtime.contract.Chains`."""
        return self._chains.busy_shares() if self._chains else []

    def run(self, tasks: Iterable[T]) -> Iterator[Done[T] | Failed[T]]:
        """Put tasks through; without any, nothing is loaded."""
        waiting = iter(tasks)
        first = next(waiting, None)
        if first is None:
            return iter(())
        if self._chains is None:
            spec = chain(self._run, self._side, head=self._head, batch_tokens=self._batch_tokens)
            self._chains = self._stack.enter_context(self._run.runtime.chains(spec))
        return self._chains.run(itertools.chain([first], waiting))
