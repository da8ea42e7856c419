"""A steered forward pass in one stage of a chain.

Shape suffixes: N conditions, B token trees of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.injection import Intervention, Steering, inject
from lrt_dist.tasks.token_trees import TreeBatch


def run_steered(
    stack: BlockStack,
    batch: TreeBatch,
    carry: torch.Tensor | None,
    *,
    intervention: Intervention,
) -> torch.Tensor:
    """Run a stage's blocks, and steer the hidden states at the outputs of those that are steered.

    Args:
        batch: what is run, and which of its tokens are steered.
        carry: what the stage before returned; None in the first one.
        intervention: of N conditions.

    Returns:
        The output of the stage's last block, `[B, T, D]` before the first steered layer; from it
        on `[N·B, T, D]` with condition n of tree b in line `n · B + b`.
    """
    hidden = carry
    behind = intervention.first + 1

    def steered(hidden: torch.Tensor, steering: Steering) -> torch.Tensor:
        """Hidden states `[N or 1, B, T, D]`, each under its condition: `[N·B, T, D]`."""
        mask_BT = batch.steered_BT.to(hidden.device)
        return inject(hidden, steering[:, None, None], mask_BT).flatten(0, 1)

    def later(steering: Steering) -> Callable[[torch.Tensor], torch.Tensor]:
        count = len(steering)
        return lambda hidden: steered(hidden.reshape(count, -1, *hidden.shape[1:]), steering)

    if stack.owned.start < behind:
        stop = min(behind, stack.owned.stop)
        hidden, _ = stack.run(batch.ids_BT, hidden, stop=stop, branches=batch.branches)
        if stop == behind:
            first = intervention.by_layer[intervention.first]
            hidden = steered(hidden.unsqueeze(0), first)
    if stack.owned.stop > behind:
        assert hidden is not None, "the stage before sent nothing"
        copies = len(hidden) // len(batch.ids_BT)
        hidden, _ = stack.run(
            batch.ids_BT.repeat(copies, 1),
            hidden,
            start=max(behind, stack.owned.start),
            branches=batch.branches.repeat(copies) if batch.branches else None,
            change={
                layer: later(steering)
                for layer, steering in intervention.by_layer.items()
                if layer != intervention.first and layer in stack.owned
            },
        )
    assert hidden is not None, "a stage without blocks"
    return hidden
