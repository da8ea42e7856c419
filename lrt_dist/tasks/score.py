"""Teacher-forced scores of token sequences under many conditions of steering at once.

The prefix up to the steered layer is the same for all conditions, so it is computed once; from
that layer on the conditions go through as one batch.

Shape suffixes: N conditions, B sequences of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import Positions, inject, position_mask
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.model_stage import pad
from lrt_dist.tasks.steering import Read, SteeredSequence, run_steered

LOGIT_FLOATS = 1 << 26
"""Logits held at once, in numbers (256 MiB of float32)."""


@dataclass(frozen=True)
class ScoreTask:
    """Every sequence under each of N conditions of steering at one layer.

    Attributes:
        key: names the task.
        layer: whose output is displaced.
        displacements: float32 `[N, D]`; a zero row is no steering.
        positions: which positions are steered.
        sequences: what is run, and read.
        slots: number of sums.
        token_budget: tokens of a batch over all its conditions.
    """

    key: str
    layer: int
    displacements: torch.Tensor
    positions: Positions
    sequences: tuple[SteeredSequence, ...]
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

    def cut(self) -> list[list[int]]:
        """The batches, as indices of sequences."""
        budget = max(1, self.token_budget // len(self.displacements))
        return cut_batches([len(s.ids) for s in self.sequences], budget)

    def smaller(self) -> ScoreTask | None:
        """Half the budget, down to one sequence a batch."""
        if self.token_budget < len(self.displacements):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ScoreWork:
        """The task in one stage."""
        return ScoreWork(self, stack)


class ScoreWork:
    """See `tasks.model_stage.Work`.

    The last stage's receipt is float64 `[N, slots]`, the others' is None. The carry is `[B, T, D]`
    up to the steered layer and `[N·B, T, D]` after it.
    """

    def __init__(self, task: ScoreTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._batches = task.cut()
        self._last = stack.owned.stop == stack.layers
        self._sums = torch.zeros(len(task.displacements), task.slots, dtype=torch.float64)

    def step(self, batch: int, carry: Any) -> Any:
        sequences = [self._task.sequences[i] for i in self._batches[batch]]
        ids_BT = pad([sequence.ids for sequence in sequences])
        lengths = [(len(sequence.ids), sequence.prompt) for sequence in sequences]
        mask_BT = position_mask(self._task.positions, lengths, ids_BT.shape[1])

        def displaced(hidden_BTD: torch.Tensor) -> torch.Tensor:
            displacement_N11D = self._task.displacements[:, None, None, :]
            steered = inject(
                hidden_BTD.unsqueeze(0), displacement_N11D, mask_BT.to(hidden_BTD.device)
            )
            return steered.flatten(0, 1)

        hidden = run_steered(self._stack, ids_BT, carry, layer=self._task.layer, change=displaced)
        if not self._last:
            return hidden.cpu()
        self._read(hidden, sequences)
        return None

    def close(self) -> None:
        return None

    def receipt(self) -> torch.Tensor | None:
        return self._sums if self._last else None

    def _read(self, hidden: torch.Tensor, sequences: Sequence[SteeredSequence]) -> None:
        """Add the log-probabilities of one batch into their slots."""
        conditions, count = len(self._task.displacements), len(sequences)
        by_position: dict[tuple[int, int], list[Read]] = {}
        for row, sequence in enumerate(sequences):
            for read in sequence.reads:
                by_position.setdefault((row, read.position), []).append(read)
        flat = [
            (condition, condition * count + row, position, reads)
            for condition in range(conditions)
            for (row, position), reads in by_position.items()
        ]
        size = max(1, LOGIT_FLOATS // self._stack.vocabulary)
        for chunk in (flat[i : i + size] for i in range(0, len(flat), size)):
            logits = self._stack.logits(
                hidden,
                torch.tensor([row for _, row, _, _ in chunk]),
                torch.tensor([position for _, _, position, _ in chunk]),
            )
            log_p = logits.to(torch.float32).log_softmax(-1)
            for line, (condition, _, _, reads) in enumerate(chunk):
                tokens = torch.tensor([read.token for read in reads], device=log_p.device)
                values = log_p[line, tokens].to("cpu", torch.float64)
                for read, value in zip(reads, values, strict=True):
                    self._sums[condition, read.slot] += value
