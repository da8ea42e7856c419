"""Greedy continuations under conditions of steering, token by token, all sequences at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lrt_dist.errors import LrtError
from lrt_dist.models.injection import Positions, Steering
from lrt_dist.runtime.contract import Chains, Failed, receipts_of
from lrt_dist.tasks.next_token import NextTokenTask
from lrt_dist.tasks.token_trees import SteeredSequence, tree_of


@dataclass(frozen=True)
class Prompts:
    """Prompts that are continued under conditions of steering at one layer.

    Attributes:
        key: names them.
        layer: whose output is steered.
        steering: of all conditions.
        conditions: for each prompt the number of its condition.
        sequences: each prompt, as it is so far.
    """

    key: str
    layer: int
    steering: Steering
    conditions: tuple[int, ...]
    sequences: tuple[SteeredSequence, ...]


def continuations(
    chains: Chains,
    prompts: Sequence[Prompts],
    positions: Positions,
    *,
    tokens: int,
    token_budget: int,
    on_token: Callable[[], None] = lambda: None,
) -> dict[str, list[tuple[int, ...]]]:
    """The ids that the model writes after each prompt, by key.

    Args:
        tokens: length of each continuation.
        token_budget: tokens of a batch.
        on_token: called when all sequences have grown by one token.

    Raises:
        LrtError: a task failed.
    """
    written = {p.key: list(p.sequences) for p in prompts}
    for _ in range(tokens):
        tasks = [
            NextTokenTask(
                p.key,
                p.layer,
                p.steering,
                p.conditions,
                tuple(tree_of(sequence, positions) for sequence in written[p.key]),
                token_budget,
            )
            for p in prompts
        ]
        for outcome in chains.run(tasks):
            if isinstance(outcome, Failed):
                raise LrtError(f"generation for {outcome.task.key} failed: {outcome.reason}")
            key, (tokens_N,) = outcome.task.key, receipts_of(outcome)
            written[key] = [
                replace(sequence, ids=(*sequence.ids, token))
                for sequence, token in zip(written[key], tokens_N.tolist(), strict=True)
            ]
        on_token()
    return {
        key: [sequence.ids[sequence.prompt :] for sequence in sequences]
        for key, sequences in written.items()
    }
