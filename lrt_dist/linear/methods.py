"""The fit methods: what each makes of the moments, and what cross-validation decides for it.

All weights are `V·Z` in the eigenbasis (V, w) of S_xx, with B = VᵀS_xy; Z is `[r, d_y]`. So a
method is linear in the source's states, and needs nothing but second moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lrt_dist.linear.ridge import SplitTarget
from lrt_dist.registry import Registry


@dataclass(frozen=True)
class Method:
    """A fit method.

    Attributes:
        solve: `(w [r], B [r, d_y], λ) -> Z [r, d_y]`, all float64; a module's own function, since
            workers import it.
        centred: whether moments are taken about the means, so that the map has a bias.
        penalised: whether λ is chosen by cross-validation; else it is 0.
        ranked: whether the rank of Z is chosen by cross-validation too, after λ.

    Raises:
        ValueError: ranked, but not penalised.
    """

    solve: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    centred: bool = True
    penalised: bool = False
    ranked: bool = False

    def __post_init__(self) -> None:
        if self.ranked and not self.penalised:
            raise ValueError("a ranked method is penalised too: its rank is chosen after λ")


FIT_METHODS: Registry[Method] = Registry(
    "fit method", lambda choice: isinstance(choice, Method), "a linear.methods.Method"
)


def ridge(w: torch.Tensor, B: torch.Tensor, penalty: float) -> torch.Tensor:
    """Ridge regression, Z = B/(w+λ) (Hastie, Tibshirani, Friedman, ESL 2nd ed., §3.4.1). At λ = 0
    it is the minimum-norm solution, since the basis holds no null directions."""
    return B / (w + penalty).unsqueeze(1)


def procrustes(w: torch.Tensor, B: torch.Tensor, penalty: float) -> torch.Tensor:
    """Procrustes with one scale, `s·UVᵀ` (Schönemann and Carroll 1970).

    The rotation is optimal where d_x ≤ d_y; else it also chooses a projection, and the scale is
    the best one for that projection. λ is not used.
    """
    U, _, Vt = torch.linalg.svd(B, full_matrices=False)
    rotation: torch.Tensor = U @ Vt
    spread = (w.unsqueeze(1) * rotation.square()).sum()
    tiny = torch.finfo(B.dtype).tiny
    return rotation * ((rotation * B).sum() / spread.clamp_min(tiny))


AFFINE = FIT_METHODS.add("affine")(Method(ridge, penalised=True))
FIT_METHODS.add("low_rank")(Method(ridge, penalised=True, ranked=True))
FIT_METHODS.add("linear")(Method(ridge, centred=False))
FIT_METHODS.add("orthogonal")(Method(procrustes))


@dataclass(frozen=True)
class Choice:
    """λ, over the median eigenvalue if `relative`, and the rank of the weights (None: full)."""

    penalty: float
    relative: bool = True
    rank: int | None = None

    def ridge(self, w: torch.Tensor) -> float:
        """λ for eigenvalues w."""
        return self.penalty * scale(w) if self.relative else self.penalty


def scale(w: torch.Tensor) -> float:
    """What λ is relative to: the median eigenvalue (the trace belongs to outliers); 1 if none."""
    return float(w.median()) if len(w) else 1.0


def solution(method: Method, w: torch.Tensor, B: torch.Tensor, choice: Choice) -> torch.Tensor:
    """Z of a method for w `[r]` and B `[r, d_y]`, cut to the chosen rank."""
    Z = method.solve(w, B, choice.ridge(w))
    if choice.rank is None:
        return Z
    axes = _fitted_axes(w, Z)[:, : choice.rank]
    return (Z @ axes) @ axes.T


class Candidates:
    """Held-out errors of every λ and rank, fold by fold, for one target."""

    def __init__(self, splits: Sequence[SplitTarget], method: Method, ratios: torch.Tensor) -> None:
        """`ratios`: the λ to choose from, over each split's median eigenvalue."""
        self._splits = splits
        self._method = method
        self._ratios = ratios
        self._ranks: dict[tuple[int, float], torch.Tensor] = {}

    @cached_property
    def _paths(self) -> torch.Tensor:
        """float64 `[folds, λ]`; only made where there is something to choose."""
        return torch.stack([self._path(split) for split in self._splits])

    def _path(self, split: SplitTarget) -> torch.Tensor:
        """float64 `[λ]`."""
        ridges = self._ratios * scale(split.w)
        if self._method.solve is ridge:
            return split.path(ridges)
        candidates = [self._method.solve(split.w, split.B, penalty) for penalty in ridges.tolist()]
        return torch.stack([split.errors(Z).sum() for Z in candidates])

    def best(self, folds: Sequence[int]) -> Choice:
        """The λ, and for a ranked method the rank at that λ, with the least error over folds."""
        ratio = float(self._ratios[int(self._paths[list(folds)].sum(0).argmin())])
        if not self._method.ranked:
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
            Z = solution(self._method, split.w, split.B, choice)
            axes = _fitted_axes(split.w, Z)[:, : min(Z.shape)]
            cut = Z @ axes
            quadratic = cut * (split.G @ cut - 2 * (split.C @ axes))
            self._ranks[key] = quadratic.sum(0).cumsum(0)
        return self._ranks[key]


def _fitted_axes(w: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
    """Principal axes of the fitted values, `[d_y, d_y]`, largest first: the best cut of ridge
    weights to rank r keeps the first r (reduced-rank ridge, Mukherjee and Zhu 2011, §2)."""
    axes: torch.Tensor = torch.linalg.eigh(Z.T @ (w.unsqueeze(1) * Z)).eigenvectors
    return axes.flip(1)
