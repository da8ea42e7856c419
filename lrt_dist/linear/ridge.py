"""Ridge regression from moments alone: one eigendecomposition serves every λ and every target.

With the eigenpairs (V, w) of the training S_xx, B = VᵀS_xy and, over held-out rows whose moments
are taken about the training means, G = VᵀS'_xxV, C = VᵀS'_xy and K = BBᵀ, weights V·Z err by

    tr S'_yy - 2 tr ZᵀC + tr ZᵀGZ      and, for Z = B/(w+λ), by
    tr S'_yy - 2 Σ_i (Σ_j B_ij C_ij)/(w_i+λ) + Σ_ij G_ij K_ij/((w_i+λ)(w_j+λ)),

so once G and K are there a λ costs d² (Hastie, Tibshirani, Friedman, ESL 2nd ed., §3.4.1, for
ridge in the eigenbasis).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrt_dist.linear.moments import Moments


@dataclass(frozen=True)
class Spectrum:
    """Eigenpairs of the S_xx of one variable within its rank, ascending.

    Attributes:
        name: the variable.
        centred: whether S_xx is taken about the mean, or about 0.
        values: float64 `[r]`, above `d · eps · largest`.
        vectors: float64 `[d, r]`, columns.
    """

    name: str
    centred: bool
    values: torch.Tensor
    vectors: torch.Tensor

    @classmethod
    def of(cls, train: Moments, name: str, *, centred: bool) -> Spectrum:
        """Decompose what `train` holds of (name, name); below the threshold is rounding."""
        origin = _origin(train, centred)
        values, vectors = torch.linalg.eigh(_about(train, (name, name), origin))
        threshold = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
        rank = int((values > threshold).sum())
        kept = slice(len(values) - rank, None)
        return cls(name, centred, values[kept], vectors[:, kept])

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are not rounding."""
        return len(self.values)

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue; inf for rank 0."""
        return float(self.values[-1] / self.values[0]) if self.rank else float("inf")

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the eigenvalues' shares (Roy and Vetterli 2007)."""
        if not self.rank:
            return 0.0
        shares = self.values / self.values.sum()
        return float(torch.exp(-(shares * shares.log()).sum()))

    def project(self, train: Moments, pair: tuple[str, str]) -> torch.Tensor:
        """B = VᵀS_xy of the rows that were decomposed, `[r, d_y]`, for (x, y) or its null."""
        return self.vectors.T @ _about(train, pair, _origin(train, self.centred))


@dataclass(frozen=True)
class Split:
    """One source variable cut into training and held-out rows.

    Attributes:
        spectrum: of the training rows.
        gram: G, float64 `[r, r]`.
    """

    spectrum: Spectrum
    gram: torch.Tensor

    @classmethod
    def of(cls, spectrum: Spectrum, train: Moments, held: Moments) -> Split:
        """`spectrum` is that of `train`; both hold (source, source)."""
        pair = (spectrum.name, spectrum.name)
        v = spectrum.vectors
        return cls(spectrum, v.T @ _about(held, pair, _origin(train, spectrum.centred)) @ v)

    def target(self, train: Moments, held: Moments, pair: tuple[str, str]) -> SplitTarget:
        """The same with a target.

        Args:
            train, held: with `pair`, which is (source, target); `held` also with (target, target).
        """
        target = pair[1]
        origin = _origin(train, self.spectrum.centred)
        return SplitTarget(
            self.spectrum.values,
            self.gram,
            self.spectrum.project(train, pair),
            self.spectrum.vectors.T @ _about(held, pair, origin),
            _squares_about(held, target, origin),
            _squares_about(held, target, train),
        )


@dataclass(frozen=True)
class SplitTarget:
    """What weights V·Z cost on held-out rows.

    Attributes:
        values: w, `[r]`. gram: G, `[r, r]`. trained: B, `[r, d_y]`. held: C, `[r, d_y]`.
        squares: the diagonal of S'_yy, `[d_y]`.
        baseline: the squared errors of the training mean, `[d_y]`.
    """

    values: torch.Tensor
    gram: torch.Tensor
    trained: torch.Tensor
    held: torch.Tensor
    squares: torch.Tensor
    baseline: torch.Tensor

    def path(self, ridges: torch.Tensor) -> torch.Tensor:
        """Sum of squared held-out errors for each λ: float64 `[k]` -> `[k]`."""
        cross = (self.trained * self.held).sum(1)
        quadratic = self.gram * (self.trained @ self.trained.T)
        shrink = 1.0 / (self.values + ridges.unsqueeze(1))  # [k, r]
        bent = ((shrink @ quadratic) * shrink).sum(1)
        return self.squares.sum() - 2 * shrink @ cross + bent

    def errors(self, z: torch.Tensor) -> torch.Tensor:
        """Sum of squared held-out errors of each target dimension, for any Z `[r, d_y]`."""
        return self.squares + (z * torch.addmm(self.held, self.gram, z, beta=-2)).sum(0)


def squared_errors(
    weight: torch.Tensor, bias: torch.Tensor, held: Moments, names: tuple[str, str]
) -> torch.Tensor:
    """Sum over held-out rows of `(y - x @ weight - bias)²`, per target dimension, float64 `[d_y]`.

    `Σ(y-ŷ)² = diag(S_yy - 2WᵀS_xy + WᵀS_xxW) + n (ȳ - x̄W - b)²`, for any map and any rows.
    """
    x, y = names
    offset = held.mean[y] - held.mean[x] @ weight - bias
    bent = weight * (held.second[x, x] @ weight - 2 * held.second[x, y])
    return held.second[y, y].diagonal() + bent.sum(0) + held.n * offset.square()


def _origin(train: Moments, centred: bool) -> Moments | None:
    """Whose means moments are taken about; None for 0."""
    return train if centred else None


def _about(moments: Moments, pair: tuple[str, str], origin: Moments | None) -> torch.Tensor:
    """`Σ (a - a₀)ᵀ(b - b₀)` over the rows of `moments`."""
    if moments is origin:
        return moments.second[pair]
    away = [moments.mean[v] if origin is None else moments.mean[v] - origin.mean[v] for v in pair]
    return torch.addr(moments.second[pair], away[0] * moments.n, away[1])


def _squares_about(moments: Moments, y: str, origin: Moments | None) -> torch.Tensor:
    """`Σ (y - y₀)²` of each dimension."""
    away = moments.mean[y] if origin is None else moments.mean[y] - origin.mean[y]
    return moments.second[y, y].diagonal() + moments.n * away.square()
