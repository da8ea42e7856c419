"""Ridge regression from moments alone: one eigendecomposition serves every λ and every target.

With the eigenpairs (V, w) of the training S_xx, B = VᵀS_xy and, over held-out rows whose moments
are taken about the training means, G = VᵀS'_xxV, C = VᵀS'_xy and K = BBᵀ:

    held-out error(λ) = tr S'_yy - 2 Σ_i (Σ_j B_ij C_ij)/(w_i+λ) + Σ_ij G_ij K_ij/((w_i+λ)(w_j+λ))

so once G and K are there a λ costs d² (Hastie, Tibshirani, Friedman, ESL 2nd ed., §3.4.1, for
ridge in the eigenbasis).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrt_dist.linear.moments import Moments


@dataclass(frozen=True)
class Spectrum:
    """Eigenpairs of an S_xx, ascending, rounding noise below zero removed.

    Attributes:
        values: float64 `[d]`, at least 0.
        vectors: float64 `[d, d]`, columns.
        rank: number of values above `d · eps · largest`.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    rank: int

    @classmethod
    def of(cls, s_xx: torch.Tensor) -> Spectrum:
        """Decompose a symmetric `[d, d]`."""
        values, vectors = torch.linalg.eigh(s_xx)
        values = values.clamp_min(0.0)
        threshold = values[-1] * len(values) * torch.finfo(values.dtype).eps
        return cls(values, vectors, int((values > threshold).sum()))

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue within the rank; inf for rank 0."""
        if self.rank == 0:
            return float("inf")
        return float(self.values[-1] / self.values[-self.rank])

    @property
    def median(self) -> float:
        """Median eigenvalue within the rank: the scale of λ (the trace belongs to outliers)."""
        return float(self.values[-self.rank :].median()) if self.rank else 0.0

    def solve(self, s_xy: torch.Tensor, ridge: float) -> torch.Tensor:
        """`(S_xx + λI)⁻¹ S_xy`; within the rank only, so λ = 0 is the minimum-norm solution."""
        kept = slice(len(self.values) - self.rank, None)
        v, w = self.vectors[:, kept], self.values[kept]
        return v @ ((v.T @ s_xy) / (w + ridge).unsqueeze(1))


def path_errors(
    train: Spectrum,
    train_xy: torch.Tensor,
    held: Moments,
    names: tuple[str, str],
    train_mean: tuple[torch.Tensor, torch.Tensor],
    ridges: torch.Tensor,
) -> torch.Tensor:
    """Sum of squared held-out errors for each λ.

    Args:
        train: spectrum of the training S_xx.
        train_xy: float64 `[d_x, d_y]`, the training S_xy.
        held: moments of the held-out rows, with the pairs (x, x), (x, y) and (y, y).
        names: variables (x, y) in `held`.
        train_mean: the training means of x and y.
        ridges: float64 `[k]`, the λ.

    Returns:
        float64 `[k]`.
    """
    s_xx, s_xy, trace_yy = _about(held, names, train_mean)
    v = train.vectors
    b = v.T @ train_xy
    cross = (b * (v.T @ s_xy)).sum(1)
    quadratic = (v.T @ s_xx @ v) * (b @ b.T)
    kept = torch.arange(len(train.values)) >= len(train.values) - train.rank
    shrink = torch.where(kept, 1.0 / (train.values + ridges.unsqueeze(1)), 0.0)  # [k, d]
    return trace_yy - 2 * shrink @ cross + ((shrink @ quadratic) * shrink).sum(1)


def _about(
    held: Moments, names: tuple[str, str], mean: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Held-out S_xx, S_xy and tr S_yy about given means instead of their own."""
    x, y = names
    dx, dy = held.mean[x] - mean[0], held.mean[y] - mean[1]
    return (
        held.second[x, x] + held.n * torch.outer(dx, dx),
        held.second[x, y] + held.n * torch.outer(dx, dy),
        held.second[y, y].trace() + held.n * (dy @ dy),
    )


def squared_errors(
    weight: torch.Tensor, bias: torch.Tensor, held: Moments, names: tuple[str, str]
) -> torch.Tensor:
    """Sum over held-out rows of `(y - x @ weight - bias)²`, per target dimension, float64 `[d_y]`.

    `Σ(y-ŷ)² = diag(S_yy - 2WᵀS_xy + WᵀS_xxW) + n (ȳ - x̄W - b)²`.
    """
    x, y = names
    offset = held.mean[y] - held.mean[x] @ weight - bias
    explained = (weight * (held.second[x, x] @ weight)).sum(0)
    shared = (weight * held.second[x, y]).sum(0)
    return held.second[y, y].diagonal() - 2 * shared + explained + held.n * offset.square()


def total_squares(mean_y: torch.Tensor, held: Moments, y: str) -> torch.Tensor:
    """Sum over held-out rows of `(y - mean_y)²` per dimension: the error of the mean baseline."""
    return held.second[y, y].diagonal() + held.n * (held.mean[y] - mean_y).square()
