"""Rows like hidden states: what the layers of two models say of the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from lrt_dist.linear.moments import Accumulator, Moments, Pair

SHARED = 512
"""Dimensions of what all layers see of one token."""
DECAY = 0.7
"""The i-th direction has standard deviation i^-DECAY: no gap, no floor, as in real layers."""
OWN = 0.5
"""Standard deviation of what a layer does not share, over that of what it does."""
MISMATCH_SHIFT = (3 - 5**0.5) / 2
"""How far away, as a share of all rows, mismatched rows lie; all rows here are alike."""
MASSIVE = 30.0
"""How much larger two of the channels are than the others."""


def layers(rows: int, widths: dict[str, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """One layer for each name, float64 `[rows, width]`, all of the same tokens.

    Each is a random mixture of the shared directions, beside directions of its own, on an offset,
    with two massive channels. The condition number of S_xx is above 10⁵.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def decaying(width: int) -> torch.Tensor:
        return torch.arange(1, width + 1, dtype=torch.float64) ** -DECAY

    shared = noise(rows, SHARED) * decaying(SHARED)
    made = {}
    for name, width in widths.items():
        layer = shared @ noise(SHARED, width)
        layer.addmm_(noise(rows, width) * decaying(width) * OWN, noise(width, width))
        layer[:, :2] *= MASSIVE
        made[name] = layer.add_(noise(width))
    return made


def mismatched_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows that the control pairs with the rows at the same places."""
    return rows.roll(-round(MISMATCH_SHIFT * len(rows)), 0)


def moments_of(
    variables: Mapping[str, torch.Tensor], pairs: Iterable[Pair], part: str = "all"
) -> Moments:
    """The moments of some rows that are taken in at once."""
    accumulator = Accumulator(pairs)
    accumulator.add(variables, part)
    return accumulator.freeze()


def names(side: str, count: int) -> list[str]:
    """Names of some layers of one side."""
    return [f"{side}{number}" for number in range(count)]
