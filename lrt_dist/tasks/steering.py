"""A steered forward pass in one stage of a chain.

Shape suffixes: N conditions, B sequences of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lrt_dist.models.blocks import BlockStack


@dataclass(frozen=True)
class Read:
    """log p(token | ids[: position + 1]), which is added to a slot."""

    position: int
    token: int
    slot: int


@dataclass(frozen=True)
class SteeredSequence:
    """One sequence that is run while it is steered.

    Attributes:
        ids: token ids.
        prompt: tokens of the prompt; 0 where the text has none.
        reads: what is read from it.
    """

    ids: tuple[int, ...]
    prompt: int
    reads: tuple[Read, ...] = ()


def run_steered(
    stack: BlockStack,
    ids_BT: torch.Tensor,
    carry: torch.Tensor | None,
    *,
    layer: int,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Run a stage's blocks, and change the hidden state at a layer's output if it is among them.

    Args:
        ids_BT: int64 `[B, T]`, right-padded.
        carry: what the stage before returned; None in the first one.
        layer: at whose output `change` is applied.
        change: `[B, T, D] -> [N·B, T, D]`: one copy of the batch for each condition.

    Returns:
        The output of the stage's last block, `[B, T, D]` up to the layer, `[N·B, T, D]` after it.
    """
    hidden = carry
    behind = layer + 1
    if stack.owned.start < behind:
        stop = min(behind, stack.owned.stop)
        hidden, _ = stack.run(ids_BT, hidden, stop=stop)
        if stop == behind:
            hidden = change(hidden)
    if stack.owned.stop > behind:
        assert hidden is not None, "the stage before sent nothing"
        copies = len(hidden) // len(ids_BT)
        hidden, _ = stack.run(
            ids_BT.repeat(copies, 1), hidden, start=max(behind, stack.owned.start)
        )
    assert hidden is not None, "a stage without blocks"
    return hidden
