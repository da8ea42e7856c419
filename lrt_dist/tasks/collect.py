"""Hidden states at chosen positions of a batch, gathered into rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.tasks.model_stage import pad


class RowCollector:
    """Collects `[rows, d]` for each wanted layer that a stage holds.

    Attributes:
        states: `{layer: float32 [rows, d]}` on the CPU, filled batch by batch.
    """

    def __init__(self, stack: BlockStack, layers: Sequence[int], rows: int) -> None:
        self._stack, self._rows = stack, rows
        self._layers = [layer for layer in layers if layer in stack.owned]
        # A chain may go on beyond the last wanted layer: what lies there is not run.
        self._stop = min(stack.owned.stop, max(layers) + 1)
        self._goes_on = max(layers) >= stack.owned.stop
        self.states: dict[int, torch.Tensor] = {}

    def step(
        self,
        sequences: Sequence[Sequence[int]],
        carry: torch.Tensor | None,
        *,
        positions: Sequence[tuple[int, int]],
        rows: Sequence[int],
    ) -> torch.Tensor | None:
        """Run one batch.

        Args:
            sequences: token ids.
            carry: what the stage before returned for this batch; None in the first.
            positions: (sequence, token position) of each row of this batch.
            rows: where each of them goes.

        Returns:
            What the next stage needs; None where no later layer is wanted.
        """
        if self._stop <= self._stack.owned.start:
            return None
        sequence = torch.tensor([s for s, _ in positions], device=self._stack.device)
        position = torch.tensor([p for _, p in positions], device=self._stack.device)

        def read(hidden_BTD: torch.Tensor) -> torch.Tensor:
            return hidden_BTD[sequence, position]

        hidden, captured = self._stack.run(
            pad(sequences), carry, stop=self._stop, capture=self._layers, select=read
        )
        for layer, states in captured.items():
            if layer not in self.states:
                self.states[layer] = torch.empty(self._rows, states.shape[1])
            self.states[layer][list(rows)] = states.to("cpu", torch.float32)
        return hidden.cpu() if self._goes_on else None
