"""A steered forward pass in one stage of a chain.

Shape suffixes: N conditions, B token trees of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import Steering, inject
from lrt_dist.tasks.token_trees import TreeBatch


def run_steered(
    stack: BlockStack,
    batch: TreeBatch,
    carry: torch.Tensor | None,
    *,
    layer: int,
    steering: Steering,
) -> torch.Tensor:
    """Run a stage's blocks, and steer the hidden state at a layer's output if it is among them.

    Args:
        batch: what is run, and which of its tokens are steered.
        carry: what the stage before returned; None in the first one.
        layer: whose output is steered.
        steering: `[N, 1, 1, D]` for N copies of the batch, one for each condition, or
            `[B, 1, D]` for one copy in which every tree has a condition of its own.

    Returns:
        The output of the stage's last block, `[B, T, D]` up to the layer; after it `[N·B, T, D]`
        with condition n of tree b in line `n · B + b`.
    """
    hidden = carry
    behind = layer + 1
    if stack.owned.start < behind:
        stop = min(behind, stack.owned.stop)
        hidden, _ = stack.run(batch.ids_BT, hidden, stop=stop, branches=batch.branches)
        if stop == behind:
            steered = inject(hidden, steering, batch.steered_BT.to(hidden.device))
            hidden = steered.flatten(0, -3)
    if stack.owned.stop > behind:
        assert hidden is not None, "the stage before sent nothing"
        copies = len(hidden) // len(batch.ids_BT)
        hidden, _ = stack.run(
            batch.ids_BT.repeat(copies, 1),
            hidden,
            start=max(behind, stack.owned.start),
            branches=batch.branches.repeat(copies) if batch.branches else None,
        )
    assert hidden is not None, "a stage without blocks"
    return hidden
