"""Continuations of prompts, each under a condition of steering of its own, token by token.

A batch goes through the chain once for every token: what the last stage chose goes back to the
first one (`runtime.contract.GoesOn`). Each stage keeps the keys and values of its own blocks, so
that only the new token is run; a model that cannot do that is run from the beginning each time.

Several batches take turns, as many as there are stages, so that none waits for the others.

Shape suffixes: B sequences of a batch, T tokens that are run, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import (
    Intervention,
    Parts,
    Positions,
    Steering,
    chosen_positions,
    inject,
)
from lrt_dist.models.key_values import KeyValues
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.model_stage import pad
from lrt_dist.tasks.sampling import Sampling


@dataclass(frozen=True)
class Prompt:
    """What is continued.

    Attributes:
        ids: token ids, at least one.
        condition: number of its condition.
        steered: indices of the steered tokens, those that will be written included.
        seed: decides, with a token's position, what is drawn.
    """

    ids: tuple[int, ...]
    condition: int
    steered: tuple[int, ...]
    seed: str = ""


def steered_tokens(
    positions: Positions, prompt: int, tokens: int, *, special: int
) -> tuple[int, ...]:
    """Which tokens of a prompt, and of those written after it, are steered.

    The prompt's as if it stood alone, and each later one as if it were the last of its text: what
    was run is not run again when the text grows.

    Args:
        prompt: tokens of the prompt.
        tokens: tokens that are written.
        special: special tokens in front of the prompt, which are part of it.
    """
    later = range(prompt, prompt + tokens)
    return (
        *chosen_positions(positions, Parts(prompt, prompt, special)),
        *(p for p in later if p in chosen_positions(positions, Parts(p + 1, prompt, special))),
    )


@dataclass(frozen=True)
class GenerateTask:
    """A continuation of each prompt.

    Attributes:
        key: names the task.
        intervention: of all conditions.
        prompts: what is continued.
        tokens: most tokens of a continuation.
        stops: token ids that end one.
        sampling: how tokens are chosen.
        keeps: whether keys and values are kept; see `models.memory_gate`.
        lanes: batches that take turns.
        token_budget: tokens of a batch, written ones included.
    """

    key: str
    intervention: Intervention
    prompts: tuple[Prompt, ...]
    tokens: int
    stops: tuple[int, ...]
    sampling: Sampling
    keeps: bool
    lanes: int
    token_budget: int

    @property
    def receipt_type(self) -> type[tuple[tuple[int, ...], ...]]:
        """Of the last stage: the ids of each continuation, without what ended it. The others
        return None."""
        return tuple

    @property
    def batches(self) -> int:
        """Number of steps: one for each batch and token."""
        return len(self.cut()) * self.tokens

    def cut(self) -> list[list[int]]:
        """The batches, as indices of prompts."""
        lengths = [len(p.ids) + self.tokens for p in self.prompts]
        return cut_batches(lengths, self.token_budget)

    def turns(self) -> list[tuple[int, int]]:
        """(batch, token) of each step."""
        count = len(self.cut())
        waves = [range(b, min(b + self.lanes, count)) for b in range(0, count, self.lanes)]
        return [(b, token) for wave in waves for token in range(self.tokens) for b in wave]

    def goes_on_from(self, batch: int) -> int | None:
        """See `runtime.contract.GoesOn`."""
        count = len(self.cut())
        wave, within = divmod(batch, self.lanes * self.tokens)
        lanes = min(self.lanes, count - wave * self.lanes)
        return batch - lanes if within >= lanes else None

    def smaller(self) -> GenerateTask | None:
        """Half the budget, down to one sequence a batch."""
        if self.token_budget < min(len(p.ids) for p in self.prompts) + self.tokens:
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> GenerateWork:
        """The task in one stage."""
        return GenerateWork(self, stack)


class _Batch:
    """The sequences of one batch, as one stage knows them."""

    def __init__(self, prompts: Sequence[Prompt], tokens: int) -> None:
        self.prompts = prompts
        self.ids = [list(prompt.ids) for prompt in prompts]
        longest = max(map(len, self.ids))
        self.padding = [longest - len(ids) for ids in self.ids]
        self.conditions = [prompt.condition for prompt in prompts]
        self.memory: KeyValues | None = None
        self._steered = torch.zeros(len(prompts), longest + tokens, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            self._steered[row, list(prompt.steered)] = True

    def append(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen last."""
        for ids, token in zip(self.ids, tokens, strict=True):
            ids.append(token)

    def all_tokens(self) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Everything so far, padded on the right: ids and steered ones `[B, T]`, and the column of
        each sequence's last token."""
        ids_BT = pad(self.ids)
        return ids_BT, self._steered[:, : ids_BT.shape[1]], [len(ids) - 1 for ids in self.ids]

    def new_tokens(self, step: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """What was not run yet, padded on the left: as `all_tokens`."""
        if step:
            ids_BT = torch.tensor([ids[-1:] for ids in self.ids])
        else:
            # Whatever token pads: nothing sees it.
            ids_BT = torch.tensor(
                [[ids[0]] * more + ids for ids, more in zip(self.ids, self.padding, strict=True)]
            )
        end = torch.tensor([len(ids) for ids in self.ids]).unsqueeze(1)
        position_BT = torch.arange(-ids_BT.shape[1], 0) + end
        steered_BT = self._steered.gather(1, position_BT.clamp_min(0)) & (position_BT >= 0)
        return ids_BT, steered_BT, [ids_BT.shape[1] - 1] * len(self.ids)


class GenerateWork:
    """See `tasks.model_stage.Work`.

    The carry is the tokens chosen last, int64 `[B]`, from the last stage to the first, and (these
    tokens, hidden state `[B, T, D]`) between stages; None where all sequences have ended.
    """

    def __init__(self, task: GenerateTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._cut, self._turns = task.cut(), task.turns()
        self._first = stack.owned.start == 0
        self._last = stack.owned.stop == stack.layers
        self._batches: dict[int, _Batch] = {}
        self._written: list[list[int]] = [[] for _ in task.prompts]
        self._ended: set[int] = set()

    def step(self, turn: int, carry: Any) -> Any:
        number, step = self._turns[turn]
        if carry is None and (step or not self._first):
            self._batches.pop(number, None)
            return None
        chosen, hidden = (carry, None) if self._first else carry
        if step:
            self._batches[number].append(chosen.tolist())
        else:
            prompts = [self._task.prompts[i] for i in self._cut[number]]
            self._batches[number] = _Batch(prompts, self._task.tokens)
        batch = self._batches[number]
        hidden, ends = self._run(batch, step, hidden)
        if step == self._task.tokens - 1:
            del self._batches[number]
        return self._choose(number, batch, hidden, ends) if self._last else (chosen, hidden)

    def finish(self) -> tuple[tuple[int, ...], ...] | None:
        return tuple(map(tuple, self._written)) if self._last else None

    def _run(
        self, batch: _Batch, step: int, hidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[int]]:
        """The output `[B, T, D]` of the stage's last block, and where in it each sequence ends."""
        task, stack = self._task, self._stack
        if task.keeps and batch.memory is None:
            batch.memory = stack.remember(batch.padding)
        ids_BT, steered_BT, ends = batch.new_tokens(step) if task.keeps else batch.all_tokens()

        def steer(steering_N: Steering) -> Callable[[torch.Tensor], torch.Tensor]:
            steering_B1 = steering_N[batch.conditions][:, None]
            return lambda hidden_BTD: inject(hidden_BTD, steering_B1, steered_BT)

        change = {
            layer: steer(steering)
            for layer, steering in task.intervention.by_layer.items()
            if layer in stack.owned
        }
        hidden, _ = stack.run(ids_BT, hidden, memory=batch.memory, change=change)
        return hidden, ends

    def _choose(
        self, number: int, batch: _Batch, hidden: torch.Tensor, ends: Sequence[int]
    ) -> torch.Tensor | None:
        """The next token of each sequence; None where all have ended."""
        rows = torch.arange(len(ends))
        logits_BV = self._stack.logits(hidden, rows, torch.tensor(ends))
        seeds = [prompt.seed for prompt in batch.prompts]
        tokens_B = self._task.sampling.choose(logits_BV, seeds, [len(ids) for ids in batch.ids])
        for index, token in zip(self._cut[number], tokens_B.tolist(), strict=True):
            if token in self._task.stops:
                self._ended.add(index)
            if index not in self._ended:
                self._written[index].append(token)
        return None if self._ended.issuperset(self._cut[number]) else tokens_B
