"""Teacher-forced scores of token trees under many conditions of steering at once.

The prefix up to the first steered layer is the same for all conditions, so it is computed once;
from that layer on the conditions go through as one batch.

Shape suffixes: N conditions, B trees of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import Intervention
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.reading import Reads
from lrt_dist.tasks.steering import run_steered
from lrt_dist.tasks.token_trees import TokenTree, TreeBatch


@dataclass(frozen=True)
class ScoreTask:
    """Every tree under each of N conditions of steering.

    Attributes:
        key: names the task.
        intervention: of the N conditions.
        trees: what is run, and read.
        slots: number of sums.
        token_budget: tokens of a batch over all its conditions.
    """

    key: str
    intervention: Intervention
    trees: tuple[TokenTree, ...]
    slots: int
    token_budget: int

    @property
    def receipt_type(self) -> type[torch.Tensor]:
        """Of the last stage; the others return None."""
        return torch.Tensor

    @property
    def batches(self) -> int:
        """Number of steps."""
        return len(self.cut())

    def cut(self) -> list[tuple[slice, list[int]]]:
        """The batches: which conditions, and which trees (as indices).

        Conditions are divided among batches only where a single tree under all of them would
        exceed the budget. Trees that branch need an attention mask, so they go apart.
        """
        lengths = [len(tree.ids) for tree in self.trees]
        total = len(self.intervention)
        parts = -(-total // max(1, self.token_budget // max(lengths)))
        edges = [total * i // parts for i in range(parts + 1)]
        batches = []
        for branching in (False, True):
            alike = [i for i, tree in enumerate(self.trees) if tree.branches is branching]
            for first, end in itertools.pairwise(edges):
                budget = self.token_budget // (end - first)
                for chosen in cut_batches([lengths[i] for i in alike], budget):
                    batches.append((slice(first, end), [alike[i] for i in chosen]))
        return batches

    def smaller(self) -> ScoreTask | None:
        """Half the budget, down to one tree under one condition a batch."""
        if self.token_budget < min(len(tree.ids) for tree in self.trees):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ScoreWork:
        """The task in one stage."""
        return ScoreWork(self, stack)


class ScoreWork:
    """See `tasks.model_stage.Work`.

    The last stage's receipt is float64 `[N, slots]`, the others' is None. The carry is `[B, T, D]`
    before the first steered layer and `[N·B, T, D]` from it on.
    """

    def __init__(self, task: ScoreTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._batches = task.cut()
        self._last = stack.owned.stop == stack.layers
        self._sums = torch.zeros(len(task.intervention), task.slots, dtype=torch.float64)

    def step(self, batch: int, carry: Any) -> Any:
        conditions, chosen = self._batches[batch]
        trees = [self._task.trees[i] for i in chosen]
        intervention = self._task.intervention[conditions]
        hidden = run_steered(self._stack, TreeBatch.of(trees), carry, intervention=intervention)
        if not self._last:
            return hidden
        reads = Reads.of(trees)
        log_p = reads.log_p(self._stack, hidden, len(intervention)).to(torch.float64)
        self._sums[conditions] += reads.sums(log_p, self._task.slots)
        return None

    def finish(self) -> torch.Tensor | None:
        return self._sums if self._last else None
