"""Rows of some tensors in an order of their own, copied only where they are multiplied.

A copy of all of them in between would be larger than the tensors, since a row is picked several
times, and would take longer than a GPU takes for their products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PIECE = 1 << 20
"""Bytes that are gathered at once on the cores: they are still in a core's cache when they are
copied on."""


@dataclass(frozen=True)
class Picked:
    """Rows of tensors that lie one behind the other.

    Attributes:
        tensors: each `[m, d]`, of one dtype and on one device.
        places: of the rows in all tensors, int64 `[n]`, on the same device.
    """

    tensors: tuple[torch.Tensor, ...]
    places: torch.Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: slice) -> Picked:
        return Picked(self.tensors, self.places[chosen])

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, d)`."""
        return len(self.places), self.tensors[0].shape[1]

    def gathered(self) -> torch.Tensor:
        """A copy, `[n, d]`."""
        if len(self.tensors) == 1:
            return self.tensors[0].index_select(0, self.places)
        rows = self.tensors[0].new_empty(self.shape)
        begin = 0
        for tensor in self.tensors:
            here = ((self.places >= begin) & (self.places < begin + len(tensor))).nonzero()[:, 0]
            rows[here] = tensor.index_select(0, self.places[here] - begin)
            begin += len(tensor)
        return rows

    def copy_to(self, out: torch.Tensor) -> None:
        """Write them into a tensor `[n, d]` of any dtype."""
        width = self.tensors[0][:1].nbytes
        step = max(1, PIECE // max(1, width)) if out.device.type == "cpu" else max(1, len(self))
        for begin in range(0, len(self), step):
            piece = slice(begin, begin + step)
            out[piece] = self[piece].gathered()
