"""Maps from one source variable to target variables, cross-validated from moments per fold.

Variables are named by the caller; `shuffled(y)` is the name under which target rows were
accumulated that do not belong to the source rows beside them, for the null.

Choices (λ, rank) are made for each fold by the errors on the *other* folds, so what is reported is
not what was selected: the scheme of Tsamardinos, Greasidou and Borboudakis (2018), "Bootstrapping
the out-of-sample predictions for efficient and accurate cross-validation", with folds in place of
bootstrap samples. It needs no further fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lrt_dist.linear.affine import AffineMap
from lrt_dist.linear.moments import Moments, Pair, merge_all
from lrt_dist.linear.ridge import Spectrum, Split
from lrt_dist.linear.similarity import between_folds, cka, cka_between_folds
from lrt_dist.linear.solutions import METHODS, PENALISED, Candidates, Choice, scale, solution

RIDGE_RATIOS = torch.logspace(-4, 6, 21, dtype=torch.float64)
"""λ as multiples of the median eigenvalue of the training S_xx."""


@dataclass(frozen=True)
class FitReport:
    """How well a map predicts rows of documents it was not fitted on.

    Attributes:
        n: rows of the fit. rank, condition, effective_rank: of S_xx over all rows (not centred
            for `linear`); see `Spectrum`.
        ridge_relative: the chosen λ over the median eigenvalue; ridge: λ itself.
        map_rank: rank of the weights.
        r2: 1 - held-out error / error of the training mean, summed over folds and dimensions.
        r2_median, r2_q10, r2_q90: quantiles over the target's dimensions.
        r2_shuffled: the same total for a map fitted to shuffled pairs, tested on true ones, of the
            first fold alone.
        r2_identity: the same total for `y = x`; NaN where the widths differ.
        cka: linear centred kernel alignment; cka_unbiased: the same between different folds; see
            `similarity`.
        learning: `(rows, R²)` for maps trained on growing numbers of folds, the last of them on
            all but the first, and tested on the first.
    """

    n: int
    rank: int
    condition: float
    effective_rank: float
    ridge_relative: float
    ridge: float
    map_rank: int
    r2: float
    r2_median: float
    r2_q10: float
    r2_q90: float
    r2_shuffled: float
    r2_identity: float
    cka: float
    cka_unbiased: float
    learning: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Fit:
    """One pair of variables: the map fitted on all rows, its null, and the report."""

    map: AffineMap
    null: AffineMap
    report: FitReport


def shuffled(variable: str) -> str:
    """Name of a target variable whose rows belong to other source rows."""
    return f"{variable}~shuffled"


def pair_moments(x: str, y: str) -> list[Pair]:
    """The second moments that a fit needs beside (x, x) and (y, y)."""
    return [(x, y), (x, shuffled(y))]


def wanted_moments(pairs: Iterable[Pair]) -> list[Pair]:
    """The second moments that fits of these pairs (source, target) need."""
    pairs = list(pairs)
    return [
        *((x, x) for x in dict.fromkeys(x for x, _ in pairs)),
        *((y, y) for y in dict.fromkeys(y for _, y in pairs)),
        *(moment for x, y in pairs for moment in pair_moments(x, y)),
    ]


class SourceFit:
    """All maps from one source variable: decomposed once for each fold, then target by target."""

    def __init__(
        self,
        folds: Sequence[Moments],
        source: str,
        method: str = "affine",
        *,
        ridge: float | None = None,
        ratios: torch.Tensor = RIDGE_RATIOS,
    ) -> None:
        """Decompose the source's moments.

        Args:
            folds: moments of each fold, at least two, with (source, source).
            method: see `solutions.solution`.
            ridge: λ as it is added to the eigenvalues of S_xx (scikit-learn's `alpha`); None to
                choose it by cross-validation. For `affine` alone.
            ratios: the λ to choose from, over the median eigenvalue.

        Raises:
            ValueError: an unknown method, fewer than two folds, or a fold without rows.
        """
        if method not in METHODS:
            raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
        if len(folds) < 2:
            raise ValueError(f"cross-validation needs two folds, got {len(folds)}")
        empty = [index for index, fold in enumerate(folds) if fold.n == 0]
        if empty:
            raise ValueError(f"fold {empty[0]} of {len(folds)} has no rows")
        self.source = source
        self._method, self._ridge, self._ratios = method, ridge, ratios
        self._folds = range(len(folds))
        self._own = [fold.only([(source, source)]) for fold in folds]
        self._centred = method != "linear"  # L-Cross: T = (XᵀX)†XᵀY
        self._splits = [
            self._split(train, held)
            for train, held in zip(_leave_one_out(self._own), self._own, strict=True)
        ]
        self._total = merge_all(self._own)
        self._spread = between_folds(self._own, (source, source))
        self._spectrum = Spectrum.of(self._total, source, centred=self._centred)

    def fit(self, folds: Sequence[Moments], target: str, null: Pair | None = None) -> Fit:
        """The map to one target, and its null; their ends are (variable, 0).

        Args:
            folds: moments of the same folds, with (source, target), the null's and
                (target, target).
            null: the pair whose rows do not belong together; (source, shuffled(target)) if None.
        """
        pair = (self.source, target)
        null = null or (self.source, shuffled(target))
        crossed = [fold.only([pair]) for fold in folds]
        splits = [
            split.target(train, held, pair)
            for split, train, held in zip(self._splits, _leave_one_out(crossed), folds, strict=True)
        ]
        candidates = Candidates(splits, self._method, self._ratios)
        choices = [
            self._best(candidates, [other for other in self._folds if other != fold])
            for fold in self._folds
        ]
        error = [
            split.errors(self._solve(split.values, split.trained, choice))
            for split, choice in zip(splits, choices, strict=True)
        ]
        squares = [split.baseline for split in splits]
        null_z = self._solve(
            splits[0].values,
            self._splits[0].spectrum.project(merge_all(f.only([null]) for f in folds[1:]), null),
            choices[0],
        )
        final = self._best(candidates, self._folds)
        own = (target, target)
        total = merge_all(fold.only([pair, null, own]) for fold in folds).beside(self._total)
        whole = [fold.beside(mine) for fold, mine in zip(folds, self._own, strict=True)]
        spectrum = self._spectrum
        report = FitReport(
            n=total.n,
            rank=spectrum.rank,
            condition=spectrum.condition,
            effective_rank=spectrum.effective_rank,
            ridge_relative=final.ridge(spectrum.values) / scale(spectrum.values),
            ridge=final.ridge(spectrum.values),
            map_rank=final.rank or min(spectrum.rank, len(total.mean[target])),
            r2=_r2(error, squares),
            **_quantiles(error, squares),
            r2_shuffled=_r2([splits[0].errors(null_z)], squares[:1]),
            r2_identity=_identity_r2(whole, pair, squares),
            cka=cka(total, *pair),
            cka_unbiased=cka_between_folds(folds, *pair, self._spread),
            learning=((total.n - folds[0].n, _r2(error[:1], squares[:1])),),
        )
        return Fit(
            self._map(total, pair, target, final), self._map(total, null, target, final), report
        )

    def learning_curve(self, folds: Sequence[Moments], target: str) -> list[tuple[int, float]]:
        """`(rows, R²)` on the first fold after training on 1, 2, 4, … of the others, but not all.

        λ is chosen on a fold that is neither trained on nor tested on. The report of `fit` has the
        last point, all other folds.

        Args:
            folds: moments of the same folds, with (source, target) and (target, target).
        """
        pair = (self.source, target)
        crossed = [fold.only([pair]) for fold in folds]
        points = []
        size = 1
        while size < len(folds) - 1:
            used = range(1, 1 + size)
            train = merge_all(crossed[fold] for fold in used)
            own = merge_all(self._own[fold] for fold in used)
            spectrum = Spectrum.of(own, self.source, centred=self._centred)
            tested, judging = (
                Split.of(spectrum, own, self._own[fold]).target(train, folds[fold], pair)
                for fold in (0, 1 + size)
            )
            choice = self._best(Candidates([judging], self._method, self._ratios), [0])
            error = tested.errors(self._solve(tested.values, tested.trained, choice))
            points.append((train.n, _r2([error], [tested.baseline])))
            size *= 2
        return points

    def _split(self, train: Moments, held: Moments) -> Split:
        spectrum = Spectrum.of(train, self.source, centred=self._centred)
        return Split.of(spectrum, train, held)

    def _best(self, candidates: Candidates, folds: Sequence[int]) -> Choice:
        if self._method not in PENALISED:
            return Choice(0.0)
        if self._ridge is not None:
            return Choice(self._ridge, relative=False)
        return candidates.best(folds)

    def _solve(self, values: torch.Tensor, trained: torch.Tensor, choice: Choice) -> torch.Tensor:
        return solution(self._method, values, trained, choice)

    def _map(self, total: Moments, pair: Pair, target: str, choice: Choice) -> AffineMap:
        spectrum = self._spectrum
        z = self._solve(spectrum.values, spectrum.project(total, pair), choice)
        weight = spectrum.vectors @ z
        mean_y = total.mean[target]
        bias = mean_y - total.mean[self.source] @ weight
        return AffineMap(
            weight,
            bias if self._centred else torch.zeros_like(mean_y),
            (self.source, 0),
            (target, 0),
            self._method,
            choice.ridge(spectrum.values) if self._method in PENALISED else 0.0,
        )


def _leave_one_out(folds: Sequence[Moments]) -> Iterator[Moments]:
    """The training rows of each fold. Merged, since subtraction from the whole would cancel."""
    for held in range(len(folds)):
        yield merge_all(fold for index, fold in enumerate(folds) if index != held)


def _r2(errors: Sequence[torch.Tensor], squares: Sequence[torch.Tensor]) -> float:
    """1 - error / squares, both summed over folds and dimensions; 0 where nothing varies."""
    total = float(torch.stack(list(squares)).sum())
    return 1 - float(torch.stack(list(errors)).sum()) / total if total else 0.0


def _quantiles(errors: Sequence[torch.Tensor], squares: Sequence[torch.Tensor]) -> dict[str, float]:
    """Of R² over dimensions. A constant one has nothing to explain: it counts 0, not 0/0."""
    error, total = torch.stack(list(errors)).sum(0), torch.stack(list(squares)).sum(0)
    tiny = torch.finfo(total.dtype).tiny
    by_dimension = torch.where(total > 0, 1 - error / total.clamp_min(tiny), 0.0)
    q10, median, q90 = by_dimension.quantile(torch.tensor([0.1, 0.5, 0.9]).to(total)).tolist()
    return {"r2_median": median, "r2_q10": q10, "r2_q90": q90}


def _identity_r2(folds: Sequence[Moments], names: Pair, squares: Sequence[torch.Tensor]) -> float:
    width = len(folds[0].mean[names[0]])
    if width != len(folds[0].mean[names[1]]):
        return math.nan
    x, y = names
    errors = [
        fold.second[x, x].diagonal()
        - 2 * fold.second[x, y].diagonal()
        + fold.second[y, y].diagonal()
        + fold.n * (fold.mean[y] - fold.mean[x]).square()
        for fold in folds
    ]
    return _r2(errors, squares)
