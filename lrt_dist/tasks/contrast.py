"""Hidden states of a concept's contrast texts, from which vectors are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.collect import RowCollector
from lrt_dist.tasks.sequences import ContrastTexts


@dataclass(frozen=True)
class ContrastTask:
    """States at one position of each text.

    Attributes:
        concept: names the task.
        texts: token ids, and where a state is read.
        layers: which layers' outputs.
        token_budget: tokens of a batch.
    """

    concept: str
    texts: ContrastTexts
    layers: tuple[int, ...]
    token_budget: int

    @property
    def key(self) -> str:
        return f"states of {self.concept}"

    @property
    def receipt_type(self) -> type[dict[int, torch.Tensor]]:
        """Of every stage: `{layer: float32 [texts, d]}`."""
        return dict

    @property
    def batches(self) -> int:
        return len(self.cut())

    def cut(self) -> list[list[int]]:
        """The batches, as indices of texts."""
        return cut_batches([len(ids) for ids in self.texts.ids], self.token_budget)

    def smaller(self) -> ContrastTask | None:
        """Half the budget, down to one text a batch."""
        if self.token_budget < min(len(ids) for ids in self.texts.ids):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ContrastWork:
        return ContrastWork(self, stack)


class ContrastWork:
    """See `tasks.model_stage.Work`. The receipt is `{layer: float32 [texts, d]}`."""

    def __init__(self, task: ContrastTask, stack: BlockStack) -> None:
        self._task = task
        self._batches = task.cut()
        self._collector = RowCollector(stack, task.layers, rows=len(task.texts.ids))

    def step(self, batch: int, carry: Any) -> Any:
        texts = self._batches[batch]
        return self._collector.step(
            [self._task.texts.ids[i] for i in texts],
            carry,
            positions=[(number, self._task.texts.positions[i]) for number, i in enumerate(texts)],
            rows=texts,
        )

    def close(self) -> None:
        return None

    def receipt(self) -> dict[int, torch.Tensor]:
        return self._collector.states
