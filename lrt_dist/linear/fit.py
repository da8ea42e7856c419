"""Maps from one source variable to target variables, cross-validated from moments per fold.

Variables are named by the caller. `mismatched(y, draw)` is the name under which target rows of
*other documents* were accumulated, drawn at random, perhaps several times: a fit to each draw is
the control that stands beside every fit.

Choices (λ, rank) are made for each fold by the errors on the *other* folds, so what is reported is
not what was selected: the scheme of Tsamardinos, Greasidou and Borboudakis (2018), "Bootstrapping
the out-of-sample predictions for efficient and accurate cross-validation", with folds in place of
bootstrap samples. It needs no further fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from lrt_dist.linear.methods import AFFINE, FIT_METHODS, Candidates, Choice, Method, scale, solution
from lrt_dist.linear.moments import Moments, Pair, merge_all
from lrt_dist.linear.ridge import Spectrum, Split, SplitTarget
from lrt_dist.linear.similarity import between_folds, cka, cka_between_folds

RIDGE_RATIOS = torch.logspace(-4, 6, 21, dtype=torch.float64)
"""λ as multiples of the median eigenvalue of the training S_xx."""


@dataclass(frozen=True, kw_only=True)
class FitMetrics:
    """How well a map predicts rows of documents it was not fitted on.

    Attributes:
        n: rows of the fit.
        rank: of S_xx over all rows (not centred for `linear`).
        condition: largest over smallest eigenvalue of that S_xx.
        effective_rank: of that S_xx; see `Spectrum`.
        ridge_relative: the chosen λ over the median eigenvalue.
        ridge: λ itself.
        map_rank: rank of the weights.
        r2: 1 - held-out error / error of the training mean, summed over folds and dimensions.
        r2_median: median over the target's dimensions.
        r2_q10: 10 % quantile over the target's dimensions.
        r2_q90: 90 % quantile over the target's dimensions.
        ridge_at_edge: whether λ was chosen at an end of what there was to choose from.
        r2_mismatched: the same total for a map fitted to mismatched rows, tested on true ones; the
            mean over draws.
        r2_mismatched_low: the least of the draws.
        r2_mismatched_high: the largest of the draws.
        r2_identity: the same total for `y = x`; NaN where the widths differ.
        cka: linear centred kernel alignment.
        cka_unbiased: the same between different folds; see `similarity`.
        learning: `(rows, R²)` for maps trained on growing numbers of folds, the last of them on
            all but the first, and tested on the first.
    """

    n: int
    rank: int
    condition: float
    effective_rank: float
    ridge_relative: float
    ridge: float
    ridge_at_edge: bool
    map_rank: int
    r2: float
    r2_median: float
    r2_q10: float
    r2_q90: float
    r2_mismatched: float
    r2_mismatched_low: float
    r2_mismatched_high: float
    r2_identity: float
    cka: float
    cka_unbiased: float
    learning: tuple[tuple[int, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """By name; null where JSON has no word for a number."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, eq=False)
class Coefficients:
    """`y = x @ weight + bias`, without names.

    Attributes:
        weight: float64 `[d_x, d_y]`.
        bias: float64 `[d_y]`; 0 for a method that does not centre.
        ridge: the λ added to the eigenvalues of S_xx; 0 where the method takes none.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    ridge: float


@dataclass(frozen=True)
class PairFit:
    """One pair of variables.

    Attributes:
        map: fitted on all rows.
        mismatched: the same fit to each draw of mismatched rows.
        metrics: of rows that were held out.
    """

    map: Coefficients
    mismatched: tuple[Coefficients, ...]
    metrics: FitMetrics


def mismatched(variable: str, draw: int = 0) -> str:
    """Name of a target variable whose rows are of other documents than the source rows."""
    return f"{variable}~mismatched-{draw}"


def pair_moments(x: str, y: str, draws: int = 1) -> list[Pair]:
    """The second moments that a fit needs beside (x, x) and (y, y)."""
    return [(x, y), *((x, mismatched(y, draw)) for draw in range(draws))]


def wanted_moments(pairs: Iterable[Pair], draws: int = 1) -> list[Pair]:
    """The second moments that fits of these pairs (source, target) need."""
    pairs = list(pairs)
    return [
        *((x, x) for x in dict.fromkeys(x for x, _ in pairs)),
        *((y, y) for y in dict.fromkeys(y for _, y in pairs)),
        *(moment for x, y in pairs for moment in pair_moments(x, y, draws)),
    ]


class SourceFit:
    """All maps from one source variable: decomposed once for each fold, then target by target."""

    def __init__(
        self,
        folds: Sequence[Moments],
        source: str,
        method: Method = AFFINE,
        *,
        ridge: float | None = None,
        ratios: torch.Tensor = RIDGE_RATIOS,
    ) -> None:
        """Nothing is decomposed before the first fit.

        Args:
            folds: moments of each fold, at least two, with (source, source).
            method: see `methods.Method`.
            ridge: λ as it is added to the eigenvalues of S_xx (scikit-learn's `alpha`); None to
                choose it by cross-validation. For penalised methods alone.
            ratios: the λ to choose from, over the median eigenvalue.

        Raises:
            ValueError: fewer than two folds, or a fold without rows.
        """
        if len(folds) < 2:
            raise ValueError(f"cross-validation needs two folds, got {len(folds)}")
        empty = [index for index, fold in enumerate(folds) if fold.n == 0]
        if empty:
            raise ValueError(f"fold {empty[0]} of {len(folds)} has no rows")
        self.source = source
        self._method, self._ridge, self._ratios = method, ridge, ratios
        self._folds = range(len(folds))
        self._own = [fold.select([(source, source)]) for fold in folds]

    @cached_property
    def _splits(self) -> list[Split]:
        """Without each fold."""
        return [
            self._split(train, held)
            for train, held in zip(_leave_one_out(self._own), self._own, strict=True)
        ]

    @cached_property
    def _total(self) -> Moments:
        return merge_all(self._own)

    @cached_property
    def _spread(self) -> float:
        return between_folds(self._own, (self.source, self.source))

    @cached_property
    def _spectrum(self) -> Spectrum:
        """Of all rows."""
        return Spectrum.of(self._total, self.source, centred=self._method.centred)

    def fit(
        self, folds: Sequence[Moments], target: str, controls: Sequence[Pair] | None = None
    ) -> PairFit:
        """The map to one target, and the one fitted to each draw of mismatched rows.

        Args:
            folds: moments of the same folds, with (source, target), the controls and
                (target, target).
            controls: for each draw the variables whose rows are of different documents; one,
                (source, mismatched(target)), if None.
        """
        pair = (self.source, target)
        controls = controls or [(self.source, mismatched(target))]
        crossed = [fold.select([pair]) for fold in folds]
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
            split.errors(solution(self._method, split.w, split.B, choice))
            for split, choice in zip(splits, choices, strict=True)
        ]
        squares = [split.baseline for split in splits]
        control_r2 = [
            _r2(self._control_errors(folds, control, splits, choices), squares)
            for control in controls
        ]
        final = self._best(candidates, self._folds)
        own = (target, target)
        total = merge_all(fold.select([pair, *controls, own]) for fold in folds).with_variables(
            self._total
        )
        whole = [fold.with_variables(mine) for fold, mine in zip(folds, self._own, strict=True)]
        spectrum = self._spectrum
        fitted = self._map(total, pair, target, final)
        metrics = FitMetrics(
            n=total.n,
            rank=spectrum.rank,
            condition=spectrum.condition,
            effective_rank=spectrum.effective_rank,
            ridge_relative=final.ridge(spectrum.w) / scale(spectrum.w),
            ridge=final.ridge(spectrum.w),
            ridge_at_edge=self._at_edge(final),
            map_rank=final.rank or self._full_rank(fitted.weight),
            r2=_r2(error, squares),
            **_quantiles(error, squares),
            r2_mismatched=sum(control_r2) / len(control_r2),
            r2_mismatched_low=min(control_r2),
            r2_mismatched_high=max(control_r2),
            r2_identity=_identity_r2(whole, pair, squares),
            cka=cka(total, *pair),
            cka_unbiased=cka_between_folds(folds, *pair, self._spread),
            learning=((total.n - folds[0].n, _r2(error[:1], squares[:1])),),
        )
        return PairFit(
            fitted,
            tuple(self._map(total, control, target, final) for control in controls),
            metrics,
        )

    def learning_curve(self, folds: Sequence[Moments], target: str) -> list[tuple[int, float]]:
        """`(rows, R²)` on the first fold after training on 1, 2, 4, … of the others, but not all.

        λ is chosen on a fold that is neither trained on nor tested on. The metrics of `fit` have
        the last point, all other folds.

        Args:
            folds: moments of the same folds, with (source, target) and (target, target).
        """
        pair = (self.source, target)
        crossed = [fold.select([pair]) for fold in folds]
        points = []
        size = 1
        while size < len(folds) - 1:
            used = range(1, 1 + size)
            train = merge_all(crossed[fold] for fold in used)
            own = merge_all(self._own[fold] for fold in used)
            spectrum = Spectrum.of(own, self.source, centred=self._method.centred)
            tested, judging = (
                Split.of(spectrum, own, self._own[fold]).target(train, folds[fold], pair)
                for fold in (0, 1 + size)
            )
            choice = self._best(Candidates([judging], self._method, self._ratios), [0])
            error = tested.errors(solution(self._method, tested.w, tested.B, choice))
            points.append((train.n, _r2([error], [tested.baseline])))
            size *= 2
        return points

    def _control_errors(
        self,
        folds: Sequence[Moments],
        control: Pair,
        splits: Sequence[SplitTarget],
        choices: Sequence[Choice],
    ) -> list[torch.Tensor]:
        """Held-out errors of maps fitted to mismatched rows as the true ones were, fold by fold."""
        errors = []
        trained = _leave_one_out([fold.select([control]) for fold in folds])
        for mine, split, choice, train in zip(self._splits, splits, choices, trained, strict=True):
            B = mine.spectrum.project(train, control)
            errors.append(split.errors(solution(self._method, split.w, B, choice)))
        return errors

    def _at_edge(self, choice: Choice) -> bool:
        if not self._method.penalised or self._ridge is not None:
            return False
        return choice.penalty in (float(self._ratios[0]), float(self._ratios[-1]))

    def _split(self, train: Moments, held: Moments) -> Split:
        spectrum = Spectrum.of(train, self.source, centred=self._method.centred)
        return Split.of(spectrum, train, held)

    def _best(self, candidates: Candidates, folds: Sequence[int]) -> Choice:
        if not self._method.penalised:
            return Choice(0.0)
        if self._ridge is not None:
            return Choice(self._ridge, relative=False)
        return candidates.best(folds)

    def _full_rank(self, weight: torch.Tensor) -> int:
        """Of weights whose rank was not chosen; a method of one's own may cut it."""
        if self._method in FIT_METHODS:
            return min(self._spectrum.rank, weight.shape[1])
        return int(torch.linalg.matrix_rank(weight))

    def _map(self, total: Moments, pair: Pair, target: str, choice: Choice) -> Coefficients:
        return _coefficients(self._method, self._spectrum, total, pair, target, choice)


def maps_without_folds(
    folds: Sequence[Moments], pair: Pair, method: Method, choice: Choice
) -> Iterator[Coefficients]:
    """Maps fitted without each fold in turn: the map's delete-one-fold jackknife.

    Args:
        folds: moments of each fold, with (x, x) and (x, y).
        pair: (x, y).
        method: see `methods.Method`.
        choice: of λ and rank, that of the map itself.
    """
    for train in _leave_one_out(folds):
        spectrum = Spectrum.of(train, pair[0], centred=method.centred)
        yield _coefficients(method, spectrum, train, pair, pair[1], choice)


def _coefficients(
    method: Method, spectrum: Spectrum, rows: Moments, pair: Pair, target: str, choice: Choice
) -> Coefficients:
    """The map of a pair from the moments of some rows; `target` has the mean of y."""
    weight = spectrum.V @ solution(method, spectrum.w, spectrum.project(rows, pair), choice)
    mean_y = rows.mean[target]
    bias = mean_y - rows.mean[pair[0]] @ weight
    return Coefficients(
        weight,
        bias if method.centred else torch.zeros_like(mean_y),
        choice.ridge(spectrum.w) if method.penalised else 0.0,
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
