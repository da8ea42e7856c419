"""Maps from one source layer to many target layers, cross-validated from moments per fold.

Variables are named by the caller; `shuffled(y)` is the name under which target rows were
accumulated that do not belong to the source rows beside them, for the null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from lrt_dist.linear.moments import Moments, merge_all
from lrt_dist.linear.ridge import Spectrum, path_errors, squared_errors, total_squares

RIDGE_RATIOS = torch.logspace(-4, 6, 21, dtype=torch.float64)
"""λ as multiples of the median eigenvalue of the training S_xx."""


@dataclass(frozen=True)
class FitReport:
    """How well a map predicts rows of documents it was not fitted on.

    Attributes:
        n: rows of the fit. rank, condition: of S_xx over all rows (not centred for `linear`).
        ridge_relative: the chosen λ over the median eigenvalue; ridge: λ itself.
        r2: 1 - held-out error / error of the training mean, summed over folds and dimensions.
            λ was chosen on the same folds, so with few rows it is slightly optimistic.
        r2_median, r2_q10, r2_q90: quantiles over the target's dimensions.
        r2_shuffled: the same total for the map fitted to shuffled pairs, tested on true ones.
        cka: linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, eq. 3).
    """

    n: int
    rank: int
    condition: float
    ridge_relative: float
    ridge: float
    r2: float
    r2_median: float
    r2_q10: float
    r2_q90: float
    r2_shuffled: float
    cka: float


@dataclass(frozen=True)
class Fit:
    """One pair of layers: weights over all rows, the null's weights, and the report.

    Weights are float64 `[d_x, d_y]`, biases `[d_y]`.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    shuffled_weight: torch.Tensor
    shuffled_bias: torch.Tensor
    report: FitReport


def shuffled(variable: str) -> str:
    """Name of a target variable whose rows belong to other source rows."""
    return f"{variable}~shuffled"


def wanted_moments(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The second moments that `fit_source` needs for these pairs (source, target)."""
    pairs = list(pairs)
    return [
        *((x, x) for x in dict.fromkeys(x for x, _ in pairs)),
        *((y, y) for y in dict.fromkeys(y for _, y in pairs)),
        *pairs,
        *((x, shuffled(y)) for x, y in pairs),
    ]


def fit_source(
    folds: Sequence[Moments], source: str, targets: Sequence[str], method: str
) -> list[Fit]:
    """Fit the maps from one source layer to each target layer.

    Args:
        folds: moments of each fold, with `wanted_moments`.
        source, targets: variable names.
        method: `affine`, `linear` or `orthogonal`.

    Raises:
        ValueError: a fold without rows.
    """
    empty = [index for index, fold in enumerate(folds) if fold.n == 0]
    if empty:
        raise ValueError(f"fold {empty[0]} of {len(folds)} has no rows")
    # Training moments come from merging the other folds: subtraction would cancel.
    trains = [
        merge_all(fold for index, fold in enumerate(folds) if index != held)
        for held in range(len(folds))
    ]
    total = merge_all(folds)
    solver = _Solver(method)
    spectra = [solver.spectrum(train, source) for train in trains]
    whole = solver.spectrum(total, source)
    return [_fit_pair(solver, folds, trains, total, spectra, whole, source, y) for y in targets]


def _fit_pair(
    solver: _Solver,
    folds: Sequence[Moments],
    trains: Sequence[Moments],
    total: Moments,
    spectra: Sequence[Spectrum],
    whole: Spectrum,
    x: str,
    y: str,
) -> Fit:
    ratio = solver.choose_ridge(folds, trains, spectra, x, y)
    error = squares = null_error = torch.zeros((), dtype=torch.float64)
    for held, train, spectrum in zip(folds, trains, spectra, strict=True):
        error = error + squared_errors(*solver.solve(spectrum, train, x, y, ratio), held, (x, y))
        null = solver.solve(spectrum, train, x, shuffled(y), ratio)
        null_error = null_error + squared_errors(*null, held, (x, y))
        squares = squares + total_squares(train.mean[y], held, y)
    # A constant dimension has nothing to explain: predicted exactly it counts 0, not 0/0.
    by_dimension = 1 - error / squares.clamp_min(torch.finfo(torch.float64).tiny)
    by_dimension = torch.where(squares > 0, by_dimension, 0.0)
    q10, median, q90 = by_dimension.quantile(torch.tensor([0.1, 0.5, 0.9]).to(by_dimension))
    s_xy = total.second[x, y]
    norms = total.second[x, x].norm() * total.second[y, y].norm()
    weight, bias = solver.solve(whole, total, x, y, ratio)
    shuffled_weight, shuffled_bias = solver.solve(whole, total, x, shuffled(y), ratio)
    all_squares = float(squares.sum())
    report = FitReport(
        n=total.n,
        rank=whole.rank,
        condition=whole.condition,
        ridge_relative=ratio,
        ridge=ratio * whole.median,
        r2=1 - float(error.sum()) / all_squares if all_squares else 0.0,
        r2_median=float(median),
        r2_q10=float(q10),
        r2_q90=float(q90),
        r2_shuffled=1 - float(null_error.sum()) / all_squares if all_squares else 0.0,
        cka=float(s_xy.square().sum() / norms) if norms else 0.0,
    )
    return Fit(weight, bias, shuffled_weight, shuffled_bias, report)


class _Solver:
    """The three methods behind one face: spectrum, choice of λ, weights."""

    def __init__(self, method: str) -> None:
        self.method = method

    def spectrum(self, train: Moments, x: str) -> Spectrum:
        s_xx = train.second[x, x]
        if self.method == "linear":  # L-Cross: T = (XᵀX)†XᵀY, not centred
            s_xx = s_xx + train.n * torch.outer(train.mean[x], train.mean[x])
        return Spectrum.of(s_xx)

    def choose_ridge(
        self,
        folds: Sequence[Moments],
        trains: Sequence[Moments],
        spectra: Sequence[Spectrum],
        x: str,
        y: str,
    ) -> float:
        """The ratio with the least held-out error over all folds; 0 for methods without one."""
        if self.method != "affine":
            return 0.0
        errors = torch.zeros(len(RIDGE_RATIOS), dtype=torch.float64)
        for held, train, spectrum in zip(folds, trains, spectra, strict=True):
            means = (train.mean[x], train.mean[y])
            ridges = RIDGE_RATIOS * spectrum.median
            errors += path_errors(spectrum, train.second[x, y], held, (x, y), means, ridges)
        return float(RIDGE_RATIOS[int(errors.argmin())])

    def solve(
        self, spectrum: Spectrum, train: Moments, x: str, y: str, ratio: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        s_xy, mean_x, mean_y = train.second[x, y], train.mean[x], train.mean[y]
        if self.method == "linear":
            weight = spectrum.solve(s_xy + train.n * torch.outer(mean_x, mean_y), 0.0)
            return weight, torch.zeros_like(mean_y)
        if self.method == "orthogonal":
            weight = _procrustes(s_xy, train.second[x, x])
        else:
            weight = spectrum.solve(s_xy, ratio * spectrum.median)
        return weight, mean_y - mean_x @ weight


def _procrustes(s_xy: torch.Tensor, s_xx: torch.Tensor) -> torch.Tensor:
    """Procrustes with one scale, `s·UVᵀ` (Schönemann and Carroll 1970).

    The rotation is optimal where d_x ≤ d_y; else it also chooses a projection, and the scale is
    the best one for that projection.
    """
    u, _, vh = torch.linalg.svd(s_xy, full_matrices=False)
    rotation: torch.Tensor = u @ vh
    spread = (rotation * (s_xx @ rotation)).sum()
    return rotation * ((rotation * s_xy).sum() / spread.clamp_min(torch.finfo(s_xy.dtype).tiny))
