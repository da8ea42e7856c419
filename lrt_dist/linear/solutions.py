"""What each method makes of the moments, and what cross-validation has to decide for it.

All weights are `V·Z` in the eigenbasis (V, w) of S_xx, with B = VᵀS_xy; Z is `[r, d_y]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lrt_dist.linear.ridge import SplitTarget

METHODS = ("affine", "linear", "orthogonal", "low_rank")
PENALISED = ("affine", "low_rank")


@dataclass(frozen=True)
class Choice:
    """λ, over the median eigenvalue if `relative`, and the rank of the weights (None: full)."""

    penalty: float
    relative: bool = True
    rank: int | None = None

    def ridge(self, values: torch.Tensor) -> float:
        """λ for eigenvalues w."""
        return self.penalty * scale(values) if self.relative else self.penalty


def scale(values: torch.Tensor) -> float:
    """What λ is relative to: the median eigenvalue (the trace belongs to outliers); 1 if none."""
    return float(values.median()) if len(values) else 1.0


def solution(
    method: str, values: torch.Tensor, trained: torch.Tensor, choice: Choice
) -> torch.Tensor:
    """Z for w `[r]` and B `[r, d_y]`.

    `affine` is ridge regression; `linear` its limit at λ = 0, the minimum-norm solution, since the
    basis holds no null directions; `low_rank` is ridge cut to a rank; `orthogonal` is Procrustes.
    """
    if method == "orthogonal":
        return _procrustes(values, trained)
    z = trained / (values + choice.ridge(values)).unsqueeze(1)
    if choice.rank is None:
        return z
    axes = _fitted_axes(values, z)[:, : choice.rank]
    return (z @ axes) @ axes.T


class Candidates:
    """Held-out errors of every λ and rank, fold by fold, for one target."""

    def __init__(self, splits: Sequence[SplitTarget], method: str, ratios: torch.Tensor) -> None:
        """`ratios`: the λ to choose from, over each split's median eigenvalue."""
        self._splits = splits
        self._method = method
        self._ratios = ratios
        self._ranks: dict[tuple[int, float], torch.Tensor] = {}

    @cached_property
    def _paths(self) -> torch.Tensor:
        """float64 `[folds, λ]`; only made where there is something to choose."""
        return torch.stack(
            [split.path(self._ratios * scale(split.values)) for split in self._splits]
        )

    def best(self, folds: Sequence[int]) -> Choice:
        """The λ, and for `low_rank` the rank at that λ, with the least error over some folds."""
        ratio = float(self._ratios[int(self._paths[list(folds)].sum(0).argmin())])
        if self._method != "low_rank":
            return Choice(ratio)
        paths = [self._rank_path(fold, Choice(ratio)) for fold in folds]
        longest = min(len(path) for path in paths)
        if longest == 0:
            return Choice(ratio)
        errors = torch.stack([path[:longest] for path in paths]).sum(0)
        return Choice(ratio, rank=int(errors.argmin()) + 1)

    def _rank_path(self, fold: int, choice: Choice) -> torch.Tensor:
        """What cutting Z to rank 1, 2, … adds to the held-out error of rank 0."""
        key = (fold, choice.penalty)
        if key not in self._ranks:
            split = self._splits[fold]
            z = solution("affine", split.values, split.trained, choice)
            axes = _fitted_axes(split.values, z)[:, : min(z.shape)]
            cut = z @ axes
            bent = cut * (split.gram @ cut - 2 * (split.held @ axes))
            self._ranks[key] = bent.sum(0).cumsum(0)
        return self._ranks[key]


def _fitted_axes(values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Principal axes of the fitted values, `[d_y, d_y]`, largest first: the best cut of ridge
    weights to rank r keeps the first r (reduced-rank ridge, Mukherjee and Zhu 2011, §2)."""
    axes: torch.Tensor = torch.linalg.eigh(z.T @ (values.unsqueeze(1) * z)).eigenvectors
    return axes.flip(1)


def _procrustes(values: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """Procrustes with one scale, `s·UVᵀ` (Schönemann and Carroll 1970).

    The rotation is optimal where d_x ≤ d_y; else it also chooses a projection, and the scale is
    the best one for that projection.
    """
    u, _, vh = torch.linalg.svd(trained, full_matrices=False)
    rotation: torch.Tensor = u @ vh
    spread = (values.unsqueeze(1) * rotation.square()).sum()
    tiny = torch.finfo(trained.dtype).tiny
    return rotation * ((rotation * trained).sum() / spread.clamp_min(tiny))
