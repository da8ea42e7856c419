"""Contrast states: the hidden states behind a concept's vectors, kept to make others of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lrt_dist.tensorfiles import open_tensors, save_tensors

_KIND = "contrast states"


@dataclass(frozen=True)
class ContrastStates:
    """States of contrast pairs in one model; row i of both sides belongs to pair i.

    Attributes:
        positive, negative: `{layer: float32 [pairs, d]}`; of a side's alternatives their mean.
    """

    positive: Mapping[int, torch.Tensor]
    negative: Mapping[int, torch.Tensor]

    def of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positive and negative states of one layer."""
        return self.positive[layer], self.negative[layer]

    def save(self, path: Path) -> None:
        """Write them.

        Raises:
            DiskFullError: there is no space left.
        """
        tensors = {f"positive/{layer}": states for layer, states in self.positive.items()}
        tensors |= {f"negative/{layer}": states for layer, states in self.negative.items()}
        save_tensors(path, tensors, {"kind": _KIND})

    @classmethod
    def load(cls, path: Path, layers: Collection[int]) -> ContrastStates:
        """Read the states of some layers.

        Raises:
            CorruptionError: the file is torn, or holds something else.
        """
        with open_tensors(path, _KIND) as (file, _):
            positive, negative = (
                {layer: file.get_tensor(f"{side}/{layer}") for layer in layers}
                for side in ("positive", "negative")
            )
        return cls(positive, negative)
