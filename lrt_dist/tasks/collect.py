"""Hidden states at chosen positions of a batch, gathered into rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.tasks.model_stage import pad


class RowCollector:
    """Collects `[rows, d]` for each wanted layer that a stage holds.

    States are rounded, and norms taken, where they were computed: what leaves a device is no more
    than what is stored.

    Attributes:
        states: `{layer: [rows, d]}` on the CPU, filled batch by batch.
        norms: `{layer: float32 [rows]}`, before rounding; not finite where a state is not.
    """

    def __init__(
        self,
        stack: BlockStack,
        layers: Sequence[int],
        rows: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Nothing is collected yet.

        Args:
            stack: what is run.
            layers: of which model's layers; those that the stack does not hold are left out.
            rows: how many there will be.
            dtype: of what is collected.
        """
        self._stack, self._rows, self._dtype = stack, rows, dtype
        self._layers = [layer for layer in layers if layer in stack.owned]
        # A chain may go on beyond the last wanted layer: what lies there is not run.
        self._stop = min(stack.owned.stop, max(layers) + 1)
        self._goes_on = max(layers) >= stack.owned.stop
        self.states: dict[int, torch.Tensor] = {}
        self.norms: dict[int, torch.Tensor] = {}

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
        places = torch.tensor(rows)
        for layer, states in captured.items():
            if layer not in self.states:
                self.states[layer] = torch.empty(self._rows, states.shape[1], dtype=self._dtype)
                self.norms[layer] = torch.empty(self._rows)
            norms = torch.linalg.vector_norm(states, dim=1, dtype=torch.float32)
            self.states[layer][places] = states.to(self._dtype).cpu()
            self.norms[layer][places] = norms.cpu()
        return hidden.cpu() if self._goes_on else None
