"""The most likely next token of sequences, each under a condition of steering of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import Steering
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.steering import run_steered
from lrt_dist.tasks.token_trees import TokenTree, TreeBatch


@dataclass(frozen=True)
class NextTokenTask:
    """One greedy token after each sequence.

    Attributes:
        key: names the task.
        layer: whose output is steered.
        steering: of all conditions.
        conditions: for each sequence the number of its condition.
        sequences: what is run; trees that do not branch.
        token_budget: tokens of a batch.
    """

    key: str
    layer: int
    steering: Steering
    conditions: tuple[int, ...]
    sequences: tuple[TokenTree, ...]
    token_budget: int

    @property
    def receipt_type(self) -> type[torch.Tensor]:
        """Of the last stage; the others return None."""
        return torch.Tensor

    @property
    def batches(self) -> int:
        """Number of steps."""
        return len(self.cut())

    def cut(self) -> list[list[int]]:
        """The batches, as indices of sequences."""
        return cut_batches([len(s.ids) for s in self.sequences], self.token_budget)

    def smaller(self) -> NextTokenTask | None:
        """Half the budget, down to one sequence a batch."""
        if self.token_budget < min(len(s.ids) for s in self.sequences):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> NextTokenWork:
        """The task in one stage."""
        return NextTokenWork(self, stack)


class NextTokenWork:
    """See `tasks.model_stage.Work`.

    The last stage's receipt is int64 `[sequences]`, the others' is None. The carry is `[B, T, D]`.
    """

    def __init__(self, task: NextTokenTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._batches = task.cut()
        self._last = stack.owned.stop == stack.layers
        self._tokens = torch.zeros(len(task.sequences), dtype=torch.int64)

    def step(self, batch: int, carry: Any) -> Any:
        chosen = self._batches[batch]
        sequences = [self._task.sequences[i] for i in chosen]
        steering_B = self._task.steering[[self._task.conditions[i] for i in chosen]]
        hidden = run_steered(
            self._stack,
            TreeBatch.of(sequences),
            carry,
            layer=self._task.layer,
            steering=steering_B[:, None],
        )
        if not self._last:
            return hidden
        ends = torch.tensor([len(sequence.ids) - 1 for sequence in sequences])
        logits = self._stack.logits(hidden, torch.arange(len(sequences)), ends)
        self._tokens[chosen] = logits.argmax(-1).cpu()
        return None

    def finish(self) -> torch.Tensor | None:
        return self._tokens if self._last else None
