"""Teacher-forced scores of token sequences under many steering variants at once.

The prefix up to the injected layer is the same for all variants, so it is computed once; from
there the variants go on as one batch. `h + displacement` is what a variant adds at the layer's
output (design: injection).

Shape suffixes: N variants, B sequences, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.plan.units import cut_batches
from lrt_dist.stages.model_stage import pad

LOGIT_FLOATS = 1 << 26
"""Logits held at once, in numbers (256 MiB of float32)."""


@dataclass(frozen=True)
class Scored:
    """One sequence and what is read from it.

    Attributes:
        ids: token ids.
        prompt: tokens of the prompt; where only the last position is steered, it is the last of
            these.
        reads: (position, token, slot): log p(token | ids[: position + 1]) is added to a slot.
    """

    ids: tuple[int, ...]
    prompt: int
    reads: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ScoreTask:
    """Sequences under N variants of steering at one layer.

    Attributes:
        key: names the task.
        layer: whose output is displaced.
        displacements: float32 `[N, D]`; a zero row is no steering.
        everywhere: steer all positions; else only the last of the prompt.
        sequences: what is run.
        slots: number of sums.
        token_budget: tokens of a batch over all its variants.
        greedy: variant i steers sequence i only (so there are N sequences), and what is read is
            the most likely next token after each.
    """

    key: str
    layer: int
    displacements: torch.Tensor
    everywhere: bool
    sequences: tuple[Scored, ...]
    slots: int
    token_budget: int
    greedy: bool = False

    @property
    def batches(self) -> int:
        return len(self.cut())

    def cut(self) -> list[list[int]]:
        """The batches, as indices of sequences."""
        variants = 1 if self.greedy else len(self.displacements)
        budget = max(1, self.token_budget // variants)
        return cut_batches([len(s.ids) for s in self.sequences], budget)

    def smaller(self) -> ScoreTask | None:
        """Half the budget, down to one sequence a batch."""
        if self.token_budget < len(self.displacements):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> ScoreWork:
        return ScoreWork(self, stack)


class ScoreWork:
    """See `stages.model_stage.Work`.

    The last stage's receipt is float64 `[N, slots]`, or with `greedy` int64 `[N]`; the others' is
    None. The carry is `[B, T, D]` up to the injected layer and `[N·B, T, D]` after it.
    """

    def __init__(self, task: ScoreTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._batches = task.cut()
        self._last = stack.owned.stop == stack.layers
        count = len(task.displacements)
        self._sums = torch.zeros(count, task.slots, dtype=torch.float64)
        self._next = torch.zeros(count, dtype=torch.int64)

    def step(self, batch: int, carry: Any) -> Any:
        where = self._batches[batch]
        sequences = [self._task.sequences[i] for i in where]
        ids_BT = pad([sequence.ids for sequence in sequences])
        owned, after = self._stack.owned, self._task.layer + 1
        hidden = carry
        if owned.start < after:
            prefix_end = min(after, owned.stop)
            hidden, _ = self._stack.run(ids_BT, hidden, stop=prefix_end)
            if prefix_end == after:
                hidden = self._displaced(hidden, sequences, where)
        if owned.stop > after:
            copies = 1 if self._task.greedy else len(self._task.displacements)
            hidden, _ = self._stack.run(
                ids_BT.repeat(copies, 1), hidden, start=max(after, owned.start)
            )
        if not self._last:
            return hidden.cpu()
        if self._task.greedy:
            self._choose(hidden, sequences, where)
        else:
            self._read(hidden, sequences)
        return None

    def close(self) -> None:
        return None

    def receipt(self) -> torch.Tensor | None:
        if not self._last:
            return None
        return self._next if self._task.greedy else self._sums

    def _displaced(
        self, hidden_BTD: torch.Tensor, sequences: list[Scored], where: list[int]
    ) -> torch.Tensor:
        displacement = self._task.displacements.to(hidden_BTD)
        where_BT = torch.ones(hidden_BTD.shape[:2], dtype=torch.bool)
        if not self._task.everywhere:
            where_BT[:] = False
            for row, sequence in enumerate(sequences):
                where_BT[row, sequence.prompt - 1] = True
        mask = where_BT.to(hidden_BTD).unsqueeze(-1)
        if self._task.greedy:
            return hidden_BTD + displacement[where].unsqueeze(1) * mask
        steered = hidden_BTD.unsqueeze(0) + displacement[:, None, None, :] * mask
        return steered.flatten(0, 1)

    def _read(self, hidden: torch.Tensor, sequences: list[Scored]) -> None:
        """Add the log-probabilities of one batch into their slots."""
        variants, count = len(self._task.displacements), len(sequences)
        places: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row, sequence in enumerate(sequences):
            for position, token, slot in sequence.reads:
                places.setdefault((row, position), []).append((token, slot))
        flat = [
            (variant, variant * count + row, position, wanted)
            for variant in range(variants)
            for (row, position), wanted in places.items()
        ]
        for chunk in self._chunks(flat):
            logits = self._stack.logits(
                hidden,
                torch.tensor([row for _, row, _, _ in chunk]),
                torch.tensor([position for _, _, position, _ in chunk]),
            )
            log_p = logits.to(torch.float32).log_softmax(-1)
            for line, (variant, _, _, wanted) in enumerate(chunk):
                tokens = torch.tensor([token for token, _ in wanted], device=log_p.device)
                values = log_p[line, tokens].to("cpu", torch.float64)
                for (_, slot), value in zip(wanted, values, strict=True):
                    self._sums[variant, slot] += value

    def _choose(self, hidden: torch.Tensor, sequences: list[Scored], where: list[int]) -> None:
        """Record the most likely next token after each sequence of one batch."""
        ends = torch.tensor([len(sequence.ids) - 1 for sequence in sequences])
        logits = self._stack.logits(hidden, torch.arange(len(sequences)), ends)
        self._next[where] = logits.argmax(-1).cpu()

    def _chunks(self, flat: list[Any]) -> list[list[Any]]:
        size = max(1, LOGIT_FLOATS // self._stack.vocabulary)
        return [flat[i : i + size] for i in range(0, len(flat), size)]
