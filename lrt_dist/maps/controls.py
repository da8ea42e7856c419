"""Vectors that should do nothing if a claim is true, and resampled ones that say how sure it is.

Shape suffixes: N draws, P contrast pairs, R rows of hidden states, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lrt_dist.maps.vectors import make_vector
from lrt_dist.sites import seed_of

MEAN_DIFFERENCE = "mean_difference"
MOST_SLOW_DRAWS = 99
"""Draws of vectors that are made one by one; a mean difference is made of all at once."""


def generator(seed: int, *what: object) -> torch.Generator:
    """Random numbers that depend on a seed and on what they are for, and on nothing else."""
    text = "/".join(map(str, (seed, *what)))
    return torch.Generator().manual_seed(seed_of(text, bits=64) >> 1)


def random_directions(width: int, draws: int, random: torch.Generator) -> torch.Tensor:
    """Isotropic directions, float32 `[draws, width]`; their lengths vary."""
    return torch.randn(draws, width, generator=random)


def covariance_directions(
    states_RD: torch.Tensor, draws: int, random: torch.Generator
) -> torch.Tensor:
    """Normal directions with the covariance of some hidden states, float32 `[draws, d]`.

    Each is `Σ_r ξ_r (h_r - h̄)` with independent standard normal ξ.
    """
    centred_RD = states_RD.to(torch.float32) - states_RD.to(torch.float32).mean(0)
    return torch.randn(draws, len(centred_RD), generator=random) @ centred_RD


def permuted_vectors(
    method: str,
    parameters: Mapping[str, Any],
    positive_PD: torch.Tensor,
    negative_PD: torch.Tensor,
    draws: int,
    random: torch.Generator,
) -> torch.Tensor:
    """Vectors of contrast pairs whose labels were exchanged in a random half of them.

    In exactly half, not in each with probability one half: what the pairs have in common must
    cancel, or a permuted vector would be the true one with another length.

    Returns:
        float32 `[draws, d]`; at most `MOST_SLOW_DRAWS` for another method than the mean difference.
    """
    pairs = len(positive_PD)
    if method != MEAN_DIFFERENCE:
        draws = min(draws, MOST_SLOW_DRAWS)
    order_NP = torch.rand(draws, pairs, generator=random).argsort(1)
    exchanged_NP = order_NP < pairs // 2
    if method == MEAN_DIFFERENCE:
        sign_NP = 1 - 2 * exchanged_NP.to(torch.float32)
        return sign_NP @ (positive_PD - negative_PD).to(torch.float32) / pairs
    vectors = []
    for exchanged_P in exchanged_NP.unsqueeze(-1):
        up = torch.where(exchanged_P, negative_PD, positive_PD)
        down = torch.where(exchanged_P, positive_PD, negative_PD)
        vectors.append(make_vector(method, up, down, parameters))
    return torch.stack(vectors).to(torch.float32)


def resampled_vectors(
    method: str,
    parameters: Mapping[str, Any],
    positive_PD: torch.Tensor,
    negative_PD: torch.Tensor,
    counts_NP: torch.Tensor,
) -> torch.Tensor:
    """Vectors of contrast pairs that were drawn with replacement, float32 `[draws, d]`.

    Args:
        counts_NP: how often each pair was drawn; the same for both models of a transfer.
    """
    if method == MEAN_DIFFERENCE:
        weight_NP = (counts_NP / counts_NP.sum(1, keepdim=True)).to(torch.float32)
        return weight_NP @ (positive_PD - negative_PD).to(torch.float32)
    vectors = []
    for counts_P in counts_NP.to(torch.int64):
        rows = torch.repeat_interleave(torch.arange(len(counts_P)), counts_P)
        vectors.append(make_vector(method, positive_PD[rows], negative_PD[rows], parameters))
    return torch.stack(vectors).to(torch.float32)


def heavy_share(vector: torch.Tensor) -> float:
    """Share of a vector's squared norm in its largest 1 % of channels (at least one)."""
    squares = vector.to(torch.float64).square()
    heaviest = squares.topk(max(1, len(squares) // 100)).values
    whole = float(squares.sum())
    return float(heaviest.sum()) / whole if whole else 0.0
