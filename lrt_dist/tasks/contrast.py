"""Hidden states of a concept's contrast texts, from which vectors are made: some texts a task."""

from __future__ import annotations

from collections.abc import Iterator
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
        concept: whose texts.
        first: number of the first of these texts among all of the concept.
        ids: token ids of each text.
        positions: for each text the position whose state is read.
        layers: which layers' outputs.
        token_budget: tokens of a batch.
    """

    concept: str
    first: int
    ids: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    layers: tuple[int, ...]
    token_budget: int

    @property
    def key(self) -> str:
        return f"states of {self.concept}, texts from {self.first + 1} on"

    @property
    def receipt_type(self) -> type[dict[int, torch.Tensor]]:
        """Of every stage: `{layer: float32 [texts, d]}`."""
        return dict

    @property
    def batches(self) -> int:
        return len(self.cut())

    def cut(self) -> list[list[int]]:
        """The batches, as indices of texts."""
        return cut_batches([len(ids) for ids in self.ids], self.token_budget)

    def smaller(self) -> ContrastTask | None:
        """Half the budget, down to one text a batch."""
        if self.token_budget < min(len(ids) for ids in self.ids):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ContrastWork:
        return ContrastWork(self, stack)


def contrast_tasks(
    concept: str, texts: ContrastTexts, layers: tuple[int, ...], token_budget: int
) -> Iterator[ContrastTask]:
    """All texts of a concept, in tasks of about two batches each."""
    begin = 0
    while begin < len(texts.ids):
        end, tokens = begin, 0
        while end < len(texts.ids) and (end == begin or tokens < 2 * token_budget):
            tokens += len(texts.ids[end])
            end += 1
        yield ContrastTask(
            concept, begin, texts.ids[begin:end], texts.positions[begin:end], layers, token_budget
        )
        begin = end


class ContrastWork:
    """See `tasks.model_stage.Work`. The receipt is `{layer: float32 [texts, d]}`."""

    def __init__(self, task: ContrastTask, stack: BlockStack) -> None:
        self._task = task
        self._batches = task.cut()
        self._collector = RowCollector(stack, task.layers, rows=len(task.ids))

    def step(self, batch: int, carry: Any) -> Any:
        texts = self._batches[batch]
        return self._collector.step(
            [self._task.ids[i] for i in texts],
            carry,
            positions=[(number, self._task.positions[i]) for number, i in enumerate(texts)],
            rows=texts,
        )

    def finish(self) -> dict[int, torch.Tensor]:
        return {layer: rows.states for layer, rows in self._collector.finish().items()}
