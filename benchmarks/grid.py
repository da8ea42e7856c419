"""A grid of layers, every pair cross-validated: ours beside what one would use instead.

Ours is what a user of `lrt_dist` gets: moments per fold from rows, then a map, its control and all
metrics for every pair. The others get the same float64 rows in memory, the same λ and the same
folds, and only have to find the λ and the weights; they are not asked for a control. Names that end
in `_no_control` are the same work for both sides: ours gets no mismatched rows, and its control is
fitted to the true ones. The others' loop over pairs is measured on one pair a round, another one
each time, and multiplied; `dask`, which shares its factorizations among targets as a good engineer
would, on one source a round.

That all solve the same problem is asserted: the same λ, and weights equal to 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import himalaya.backend
import himalaya.ridge
import numpy as np
import scipy.linalg
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from benchmarks.data import layers, mismatched_rows, moments_of, names
from benchmarks.harness import THREADS, Result, result, seconds, threads, versions
from lrt_dist.linear.fit import PairFit, SourceFit, mismatched, wanted_moments
from lrt_dist.linear.methods import scale
from lrt_dist.linear.moments import Accumulator
from lrt_dist.linear.ridge import Spectrum

FOLDS = 5
RATIOS = torch.logspace(-4, 5, 10, dtype=torch.float64)
"""λ over the median eigenvalue."""
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Grid:
    """The rows. x, y: names of the layers; states: float64 `[rows, width]` of each."""

    x: list[str]
    y: list[str]
    states: dict[str, torch.Tensor]

    @classmethod
    def of(cls, side: int, rows: int, widths: tuple[int, int]) -> Grid:
        x, y = names("x", side), names("y", side)
        wanted = dict.fromkeys(x, widths[0]) | dict.fromkeys(y, widths[1])
        return cls(x, y, layers(rows, wanted))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(x, y) for x in self.x for y in self.y]

    def alphas(self, x: str) -> np.ndarray:
        """The λ as libraries take them."""
        moments = moments_of({x: self.states[x]}, [(x, x)])
        return RATIOS.numpy() * scale(Spectrum.of(moments, x, centred=True).w)


Weights = dict[tuple[str, str], tuple[float, np.ndarray]]
"""Of pairs: λ and the weights `[d_x, d_y]`."""
Solve = Callable[[Grid, str, str, np.ndarray], Weights]


def ours(grid: Grid, *, control: bool = True) -> dict[tuple[str, str], PairFit]:
    """All pairs, from rows to metrics."""
    others = {mismatched(y): mismatched_rows(grid.states[y]) for y in grid.y} if control else {}
    variables = grid.states | others
    wanted = [pair for pair in wanted_moments(grid.pairs) if set(pair) <= variables.keys()]
    folds = []
    pieces = zip(*(rows.chunk(FOLDS) for rows in variables.values()), strict=True)
    accumulators = Accumulator.for_folds(wanted, FOLDS)
    for number, (accumulator, piece) in enumerate(zip(accumulators, pieces, strict=True)):
        accumulator.add(dict(zip(variables, piece, strict=True)), f"fold {number}")
        folds.append(accumulator.freeze())
    fits: dict[tuple[str, str], PairFit] = {}
    for x in grid.x:
        source = SourceFit(folds, x, ratios=RATIOS)
        fits |= {(x, y): source.fit(folds, y, None if control else [(x, y)]) for y in grid.y}
    return fits


def ridgecv(grid: Grid, x: str, y: str, alphas: np.ndarray) -> Weights:
    """scikit-learn's grid search. Its score is the mean error, as ours; the default, R² averaged
    over dimensions, would choose another λ."""
    model = RidgeCV(alphas=alphas, cv=KFold(FOLDS), scoring="neg_mean_squared_error")
    model.fit(grid.states[x].numpy(), grid.states[y].numpy())
    return {(x, y): (model.alpha_, model.coef_.T)}


def ridgecv_loo(grid: Grid, x: str, y: str, alphas: np.ndarray) -> Weights:
    """scikit-learn's shortcut: leave one *row* out, from one decomposition."""
    model = RidgeCV(alphas=alphas).fit(grid.states[x].numpy(), grid.states[y].numpy())
    return {(x, y): (model.alpha_, model.coef_.T)}


def himalaya_ridgecv(grid: Grid, x: str, y: str, alphas: np.ndarray) -> Weights:
    """Its decomposition of each fold serves all λ. One λ for all dimensions, as everywhere here."""
    himalaya.backend.set_backend("torch")
    model = himalaya.ridge.RidgeCV(
        alphas=alphas, fit_intercept=True, cv=KFold(FOLDS), solver_params={"local_alpha": False}
    )
    model.fit(grid.states[x], grid.states[y])
    return {(x, y): (float(model.best_alphas_[0]), model.coef_.numpy())}


def dask_normal_equations(grid: Grid, x: str, _y: str, alphas: np.ndarray) -> Weights:
    """Normal equations over chunks of rows, the whole from the sum over folds.

    One Cholesky factorization for each fold and λ serves all targets; errors are those of
    predictions for the fold. Two workers with one thread each, as dask advises.
    """
    rows = len(grid.states[x])
    chunks = (-(-rows // FOLDS), -1)
    x_rows = da.from_array(grid.states[x].numpy(), chunks=chunks)
    y_rows = da.concatenate(
        [da.from_array(grid.states[y].numpy(), chunks=chunks) for y in grid.y], axis=1
    ).rechunk(chunks)
    ends = np.cumsum([grid.states[y].shape[1] for y in grid.y])[:-1]
    with threads(1), dask.config.set(scheduler="threads", num_workers=THREADS):
        pieces = [(x_rows.blocks[fold], y_rows.blocks[fold]) for fold in range(x_rows.numblocks[0])]
        sums = dask.compute([(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b) for a, b in pieces])[0]
        total = [sum(parts) for parts in zip(*sums, strict=True)]
        held_out = dask.delayed(_held_out)
        errors = [
            held_out([t - h for t, h in zip(total, held, strict=True)], a, b, alpha, ends)
            for held, (a, b) in zip(sums, pieces, strict=True)
            for alpha in alphas
        ]
        errors_FLT = np.reshape(dask.compute(errors)[0], (len(sums), len(alphas), len(grid.y)))
        best = errors_FLT.sum(0).argmin(0)
        chosen = sorted(set(best))
        solved = dask.compute([dask.delayed(_solve)(total, alphas[index]) for index in chosen])[0]
    weights = {i: np.split(each, ends, 1) for i, (each, _) in zip(chosen, solved, strict=True)}
    return {
        (x, y): (alphas[index], weights[index][number])
        for number, (y, index) in enumerate(zip(grid.y, best, strict=True))
    }


def _solve(sums: Sequence[Any], alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts from `n, Σx, Σy, XᵀX, XᵀY`."""
    n, x, y, xx, xy = sums
    gram = xx - np.outer(x / n, x)
    gram[np.diag_indices_from(gram)] += alpha
    weights = scipy.linalg.solve(gram, xy - np.outer(x / n, y), assume_a="pos", overwrite_a=True)
    return weights, y / n - x / n @ weights


def _held_out(
    sums: Sequence[Any], x: np.ndarray, y: np.ndarray, alpha: float, ends: np.ndarray
) -> list[float]:
    weights, intercepts = _solve(sums, alpha)
    predicted = x @ weights
    predicted += intercepts
    predicted -= y
    by_dimension = np.einsum("nd,nd->d", predicted, predicted)
    return [float(part.sum()) for part in np.split(by_dimension, ends)]


@dataclass(frozen=True)
class Baseline:
    """solve: of one pair or more. by: what is measured at a time. packages: for the record.
    same_choice: whether its cross-validation is ours. control: whether ours makes one."""

    solve: Solve
    target: float
    packages: tuple[str, ...]
    by: str = "pair"
    same_choice: bool = True
    control: bool = True


BASELINES = {
    "grid_ridgecv": Baseline(ridgecv, 40, ("scikit-learn", "numpy")),
    "grid_ridgecv_no_control": Baseline(ridgecv, 40, ("scikit-learn", "numpy"), control=False),
    "grid_ridgecv_loo": Baseline(ridgecv_loo, 5, ("scikit-learn", "numpy"), same_choice=False),
    "grid_himalaya": Baseline(himalaya_ridgecv, 100, ("himalaya",)),
    "grid_himalaya_no_control": Baseline(himalaya_ridgecv, 100, ("himalaya",), control=False),
    "grid_dask": Baseline(dask_normal_equations, 5, ("dask", "numpy"), by="source"),
}


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    side, rows, widths = (2, 500, (24, 32)) if quick else (5, 10_000, (576, 640))
    warm = Grid.of(1, 500, (24, 32))
    ours(warm)
    for name in wanted:
        BASELINES[name].solve(warm, "x0", "y0", warm.alphas("x0"))
    grid = Grid.of(side, rows, widths)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for turn in range(1 if quick else 3):
        x, y = grid.x[turn % side], grid.y[-1 - turn % side]
        alphas = grid.alphas(x)
        fits: dict[tuple[str, str], PairFit] = {}
        own = {
            control: seconds(lambda: fits.update(ours(grid, control=control)))  # noqa: B023
            for control in sorted({BASELINES[name].control for name in wanted})
        }
        measured: dict[Solve, tuple[float, Weights]] = {}
        for name in wanted:
            baseline = BASELINES[name]
            if baseline.solve not in measured:
                solved: Weights = {}
                time = seconds(
                    lambda: solved.update(baseline.solve(grid, x, y, alphas))  # noqa: B023
                )
                measured[baseline.solve] = (time, solved)
            time, solved = measured[baseline.solve]
            times = side * side if baseline.by == "pair" else side
            difference = _difference(grid, fits, solved, baseline, alphas)
            runs[name].append(
                {
                    "seconds": {
                        "ours": own[baseline.control],
                        f"one {baseline.by}": time,
                        "all": time * times,
                    },
                    "ratio": time * times / own[baseline.control],
                    "measured": f"{', '.join(f'{a} → {b}' for a, b in solved)}, × {times}",
                    "weights_differ_by": difference,
                    "setting": f"{side} × {side} layers, {rows} rows, {widths[0]} → {widths[1]}, "
                    f"{len(RATIOS)} λ, {FOLDS} folds; {versions('torch', *baseline.packages)}",
                }
            )
    return [
        result(name, runs[name], BASELINES[name].target, higher_is_better=True) for name in wanted
    ]


def _difference(
    grid: Grid,
    fits: dict[tuple[str, str], PairFit],
    solved: Weights,
    baseline: Baseline,
    alphas: np.ndarray,
) -> float:
    """Of the weights, relative, the largest over pairs; asserts that all is the same."""
    worst = 0.0
    for pair, (alpha, weights) in solved.items():
        fit = fits[pair]
        index = int(np.abs(np.log(alphas / alpha)).argmin())
        if baseline.same_choice:
            chosen = int(np.abs(np.log(alphas / fit.metrics.ridge)).argmin())
            assert index == chosen, f"{pair}: λ number {index}, ours {chosen}"
            expected = fit.map.weight
        else:
            expected = _at(grid, pair, alpha)
        difference = torch.from_numpy(np.asarray(weights)) - expected
        worst = max(worst, float(difference.norm() / expected.norm()))
    assert worst <= TOLERANCE, f"weights differ by {worst:.1e}"
    return worst


def _at(grid: Grid, pair: tuple[str, str], alpha: float) -> torch.Tensor:
    """Our weights at a λ that our cross-validation might not have chosen."""
    x, y = pair
    variables = {x: grid.states[x], y: grid.states[y], mismatched(y): grid.states[y]}
    pieces = zip(*(rows.chunk(2) for rows in variables.values()), strict=True)
    halves = [
        moments_of(dict(zip(variables, piece, strict=True)), wanted_moments([pair]), f"{half}")
        for half, piece in enumerate(pieces)
    ]
    return SourceFit(halves, x, ridge=alpha).fit(halves, y).map.weight
