"""Affine maps between hidden-state spaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AffineMap:
    """`y = x @ weight + bias`, from one model's layer to another's.

    Points (hidden states) and directions (steering vectors) map differently: a bias cancels in a
    difference. So there are two methods and no `__call__` to guess between them.

    Attributes:
        weight: `[d_source, d_target]`.
        bias: `[d_target]`.
        source, target: `(model, layer)`.
        method: how it was fitted.
        ridge: the λ added to the eigenvalues of S_xx (not divided by n); 0 where there is none.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    source: tuple[str, int]
    target: tuple[str, int]
    method: str = "affine"
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(
                f"weight {list(self.weight.shape)} and bias {list(self.bias.shape)} do not fit; "
                "expected [d_source, d_target] and [d_target]"
            )

    def map_points(self, points: torch.Tensor) -> torch.Tensor:
        """Hidden states `[..., d_source]` -> `[..., d_target]`."""
        return self._checked(points) @ self.weight + self.bias

    def map_directions(self, directions: torch.Tensor) -> torch.Tensor:
        """Differences of hidden states `[..., d_source]` -> `[..., d_target]`: no bias."""
        return self._checked(directions) @ self.weight

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"this map takes {self.weight.shape[0]} dimensions ({self.source[0]} layer "
                f"{self.source[1]}), got {x.shape[-1]}"
            )
        return x.to(self.weight.dtype)
