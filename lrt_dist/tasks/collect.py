"""Hidden states at chosen positions of a batch, gathered into rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.host_copy import HostCopies
from lrt_dist.tasks.model_stage import pad


@dataclass(frozen=True)
class Rows:
    """What was collected of one layer.

    Attributes:
        states: `[rows, d]` on the CPU.
        norms: float32 `[rows]`, before rounding; not finite where a state is not.
    """

    states: torch.Tensor
    norms: torch.Tensor


class RowCollector:
    """Collects `[rows, d]` for each wanted layer that a stage holds.

    States are rounded, and norms taken, where they were computed: what leaves a device is no more
    than what is stored, and it leaves while the device computes on. Rows of a batch are put in
    their places during the next one.
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
        self._copies = HostCopies(stack.device)
        self._coming: list[_Coming] = []
        self._states: dict[int, torch.Tensor] = {}
        self._norms: dict[int, torch.Tensor] = {}

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
        before, self._coming = self._coming, []
        places = torch.tensor(rows)
        for layer, states in captured.items():
            norms = torch.linalg.vector_norm(states, dim=1, dtype=torch.float32)
            self._coming.append(
                _Coming(
                    layer,
                    places,
                    self._copies.begin(states.to(self._dtype)),
                    self._copies.begin(norms),
                )
            )
        self._put(before)
        return hidden if self._goes_on else None

    def finish(self) -> dict[int, Rows]:
        """All rows of each layer that the stack holds, once every batch has been run; zeros where
        no batch had a row."""
        self._put(self._coming)
        self._coming = []
        return {layer: Rows(self._states[layer], self._norms[layer]) for layer in self._states}

    def _put(self, batch: list[_Coming]) -> None:
        for coming in batch:
            states, layer = coming.states(), coming.layer
            if layer not in self._states:
                self._states[layer] = torch.zeros(self._rows, states.shape[1], dtype=self._dtype)
                self._norms[layer] = torch.zeros(self._rows)
            self._states[layer][coming.places] = states
            self._norms[layer][coming.places] = coming.norms()


@dataclass(frozen=True)
class _Coming:
    """Rows of one layer and batch on their way to the host."""

    layer: int
    places: torch.Tensor
    states: Callable[[], torch.Tensor]
    norms: Callable[[], torch.Tensor]
