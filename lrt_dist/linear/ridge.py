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
        w: eigenvalues, float64 `[r]`, above `d · eps · largest`.
        V: eigenvectors, float64 `[d, r]`, columns.
    """

    name: str
    centred: bool
    w: torch.Tensor
    V: torch.Tensor

    @classmethod
    def of(cls, train: Moments, name: str, *, centred: bool) -> Spectrum:
        """Decompose what `train` holds of (name, name); below the threshold is rounding."""
        origin = _origin(train, centred)
        w, V = torch.linalg.eigh(_about(train, (name, name), origin))
        threshold = w[-1].clamp_min(0) * len(w) * torch.finfo(w.dtype).eps
        rank = int((w > threshold).sum())
        kept = slice(len(w) - rank, None)
        return cls(name, centred, w[kept], V[:, kept])

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are not rounding."""
        return len(self.w)

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue; inf for rank 0."""
        return float(self.w[-1] / self.w[0]) if self.rank else float("inf")

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the eigenvalues' shares (Roy and Vetterli 2007)."""
        if not self.rank:
            return 0.0
        shares = self.w / self.w.sum()
        return float(torch.exp(-(shares * shares.log()).sum()))

    def project(self, train: Moments, pair: tuple[str, str]) -> torch.Tensor:
        """B = VᵀS_xy of the rows that were decomposed, `[r, d_y]`, for the pair (x, y)."""
        return self.V.T @ _about(train, pair, _origin(train, self.centred))


@dataclass(frozen=True)
class Split:
    """One source variable cut into training and held-out rows.

    Attributes:
        spectrum: of the training rows.
        G: float64 `[r, r]`.
    """

    spectrum: Spectrum
    G: torch.Tensor

    @classmethod
    def of(cls, spectrum: Spectrum, train: Moments, held: Moments) -> Split:
        """`spectrum` is that of `train`; both hold (source, source)."""
        pair = (spectrum.name, spectrum.name)
        V = spectrum.V
        return cls(spectrum, V.T @ _about(held, pair, _origin(train, spectrum.centred)) @ V)

    def target(self, train: Moments, held: Moments, pair: tuple[str, str]) -> SplitTarget:
        """The same with a target.

        Args:
            train, held: with `pair`, which is (source, target); `held` also with (target, target).
        """
        target = pair[1]
        origin = _origin(train, self.spectrum.centred)
        return SplitTarget(
            self.spectrum.w,
            self.G,
            self.spectrum.project(train, pair),
            self.spectrum.V.T @ _about(held, pair, origin),
            _squares_about(held, target, origin),
            _squares_about(held, target, train),
        )


@dataclass(frozen=True)
class SplitTarget:
    """What weights V·Z cost on held-out rows.

    Attributes:
        w: `[r]`.
        G: `[r, r]`.
        B, C: `[r, d_y]`.
        squares: the diagonal of S'_yy, `[d_y]`.
        baseline: the squared errors of the training mean, `[d_y]`.
    """

    w: torch.Tensor
    G: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    squares: torch.Tensor
    baseline: torch.Tensor

    def path(self, ridges: torch.Tensor) -> torch.Tensor:
        """Sum of squared held-out errors for each λ: float64 `[k]` -> `[k]`."""
        K = self.B @ self.B.T
        shrink = 1.0 / (self.w + ridges.unsqueeze(1))  # [k, r]
        quadratic = ((shrink @ (self.G * K)) * shrink).sum(1)
        return self.squares.sum() - 2 * shrink @ (self.B * self.C).sum(1) + quadratic

    def errors(self, Z: torch.Tensor) -> torch.Tensor:
        """Sum of squared held-out errors of each target dimension, for any Z `[r, d_y]`."""
        return self.squares + (Z * torch.addmm(self.C, self.G, Z, beta=-2)).sum(0)


def _origin(train: Moments, centred: bool) -> Moments | None:
    """Whose means moments are taken about; None for 0."""
    return train if centred else None


def _about(moments: Moments, pair: tuple[str, str], origin: Moments | None) -> torch.Tensor:
    """`Σ (a - a₀)ᵀ(b - b₀)` over the rows of `moments`."""
    if moments is origin:
        return moments.second[pair]
    offset = [moments.mean[v] if origin is None else moments.mean[v] - origin.mean[v] for v in pair]
    return torch.addr(moments.second[pair], offset[0] * moments.n, offset[1])


def _squares_about(moments: Moments, y: str, origin: Moments | None) -> torch.Tensor:
    """`Σ (y - y₀)²` of each dimension."""
    offset = moments.mean[y] if origin is None else moments.mean[y] - origin.mean[y]
    return moments.second[y, y].diagonal() + moments.n * offset.square()
