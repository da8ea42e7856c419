"""Fits from moments are the fits from all rows, by libraries that see the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from tiny_moments import moments_of

from lrt_dist.errors import UserError
from lrt_dist.linear.fit import (
    RIDGE_RATIOS,
    PairFit,
    SourceFit,
    maps_without_folds,
    mismatched,
    wanted_moments,
)
from lrt_dist.linear.methods import AFFINE, FIT_METHODS, Choice, solution
from lrt_dist.linear.moments import Moments, merge_all
from lrt_dist.linear.ridge import Spectrum, Split, SplitTarget

FOLDS = 4


def rows(
    n: int = 200, d: int = 7, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3
    y = x @ rng.normal(size=(d, 4)) + noise * rng.normal(size=(n, 4)) - 1
    return x, y, rng.integers(0, FOLDS, n)


def moments(
    x: np.ndarray, y: np.ndarray, fold: np.ndarray, seed: int = 1, pieces: int = 3, draws: int = 1
) -> list[Moments]:
    """Per fold, accumulated in pieces, with mismatched targets beside the true ones."""
    wanted = wanted_moments([("x", "y")], draws)
    rng = np.random.default_rng(seed)
    folds = []
    for number in range(FOLDS):
        chosen = np.flatnonzero(fold == number)
        parts = []
        for piece, part in enumerate(np.array_split(chosen, pieces)):
            variables = {"x": x[part], "y": y[part]}
            for draw in range(draws):
                variables[mismatched("y", draw)] = y[rng.permutation(part)]
            tensors = {name: torch.from_numpy(values) for name, values in variables.items()}
            parts.append(moments_of(tensors, wanted, f"{piece}/{number}"))
        folds.append(merge_all(parts))
    return folds


def fitted(x: np.ndarray, y: np.ndarray, fold: np.ndarray, method: str = "affine") -> PairFit:
    folds = moments(x, y, fold)
    return SourceFit(folds, "x", FIT_METHODS.find(method)).fit(folds, "y")


def split_of(folds: list[Moments], held: int) -> SplitTarget:
    train = merge_all(f for i, f in enumerate(folds) if i != held)
    spectrum = Spectrum.of(train, "x", centred=True)
    split = Split.of(spectrum, train, folds[held])
    return split.target(train, folds[held], ("x", "y"))


def median_eigenvalue(x: np.ndarray) -> float:
    """The lower one of the middle two, as torch has it."""
    values = np.linalg.eigvalsh(np.cov(x, rowvar=False) * (len(x) - 1))
    return float(np.sort(values)[(len(values) - 1) // 2])


def held_out_errors(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """`[folds, λ]`, the plain way: a model for each."""
    errors = np.zeros((FOLDS, len(RIDGE_RATIOS)))
    for number in range(FOLDS):
        train = fold != number
        for index, ratio in enumerate(RIDGE_RATIOS.tolist()):
            model = Ridge(alpha=ratio * median_eigenvalue(x[train])).fit(x[train], y[train])
            errors[number, index] = ((y[~train] - model.predict(x[~train])) ** 2).sum()
    return errors


def test_affine_is_sklearns_ridge_at_the_same_penalty() -> None:
    x, y, fold = rows()
    result = fitted(x, y, fold)
    ridge = Ridge(alpha=result.metrics.ridge).fit(x, y)
    np.testing.assert_allclose(result.map.weight.numpy(), ridge.coef_.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(result.map.bias.numpy(), ridge.intercept_, rtol=1e-8, atol=1e-10)


def test_the_penalty_is_the_best_of_the_grid() -> None:
    x, y, fold = rows(n=60, d=20, noise=8.0)
    best = held_out_errors(x, y, fold).sum(0).argmin()
    metrics = fitted(x, y, fold).metrics
    assert metrics.ridge_relative == pytest.approx(float(RIDGE_RATIOS[best]))
    assert 1e-4 < metrics.ridge_relative < 1e6  # noise this large wants a real penalty
    assert metrics.ridge == pytest.approx(metrics.ridge_relative * median_eigenvalue(x))


def test_no_fold_chooses_the_penalty_that_it_is_scored_with() -> None:
    x, y, fold = rows(n=40, d=20, noise=12.0)
    errors = held_out_errors(x, y, fold)
    nested = sum(errors[k, np.delete(errors, k, axis=0).sum(0).argmin()] for k in range(FOLDS))
    squares = sum(((y[fold == k] - y[fold != k].mean(0)) ** 2).sum() for k in range(FOLDS))
    metrics = fitted(x, y, fold).metrics
    assert metrics.r2 == pytest.approx(1 - nested / squares, abs=1e-9)
    selected = 1 - errors.sum(0).min() / squares
    assert metrics.r2 < selected  # what was selected would have flattered


def test_quantiles_over_dimensions_are_those_of_cross_validated_predictions() -> None:
    x, y, fold = rows()
    metrics = SourceFit(moments(x, y, fold), "x", ridge=3.0).fit(moments(x, y, fold), "y").metrics
    predicted = cross_val_predict(Ridge(alpha=3.0), x, y, cv=PredefinedSplit(fold))
    means = np.stack([y[fold != k].mean(0) for k in range(FOLDS)])[fold]
    by_dimension = 1 - ((y - predicted) ** 2).sum(0) / ((y - means) ** 2).sum(0)
    assert metrics.ridge == 3.0
    assert metrics.r2_median == pytest.approx(np.median(by_dimension), abs=1e-9)
    assert metrics.r2_q10 == pytest.approx(np.quantile(by_dimension, 0.1), abs=1e-9)
    assert metrics.r2_q90 == pytest.approx(np.quantile(by_dimension, 0.9), abs=1e-9)


def test_the_whole_path_of_penalties_at_once() -> None:
    x, y, fold = rows(noise=5.0)
    ridges = torch.logspace(-3, 4, 9, dtype=torch.float64)
    path = split_of(moments(x, y, fold), 0).path(ridges)
    for ridge, error in zip(ridges.tolist(), path.tolist(), strict=True):
        model = Ridge(alpha=ridge).fit(x[fold != 0], y[fold != 0])
        residual = y[fold == 0] - model.predict(x[fold == 0])
        assert error == pytest.approx((residual**2).sum(), rel=1e-9)


def test_the_control_is_fitted_to_mismatched_rows_and_held_out() -> None:
    """In every fold and for every draw, by a library that sees the rows."""
    x, y, fold = rows(noise=4.0)
    folds = moments(x, y, fold, draws=3)
    controls = [("x", mismatched("y", draw)) for draw in range(3)]
    fit = SourceFit(folds, "x", ridge=3.0).fit(folds, "y", controls)
    rng = np.random.default_rng(1)  # as `moments` does
    drawn = np.empty((3, *y.shape))
    for number in range(FOLDS):
        for part in np.array_split(np.flatnonzero(fold == number), 3):
            for control in drawn:
                control[part] = y[rng.permutation(part)]
    squares = sum(((y[fold == k] - y[fold != k].mean(0)) ** 2).sum() for k in range(FOLDS))
    expected = []
    for control in drawn:
        error = 0.0
        for k in range(FOLDS):
            train, test = fold != k, fold == k
            model = Ridge(alpha=3.0).fit(x[train], control[train])
            predicted = model.predict(x[test]) - control[train].mean(0) + y[train].mean(0)
            error += ((y[test] - predicted) ** 2).sum()
        expected.append(1 - error / squares)
    assert fit.metrics.r2_mismatched == pytest.approx(np.mean(expected), abs=1e-9)
    assert fit.metrics.r2_mismatched_low == pytest.approx(min(expected), abs=1e-9)
    assert fit.metrics.r2_mismatched_high == pytest.approx(max(expected), abs=1e-9)
    for control, coefficients in zip(drawn, fit.mismatched, strict=True):
        weight = Ridge(alpha=3.0).fit(x, control).coef_.T
        np.testing.assert_allclose(coefficients.weight.numpy(), weight, rtol=1e-8, atol=1e-10)


def test_a_penalty_at_an_end_of_its_grid_is_told() -> None:
    """Noise alone wants the largest λ, no noise the least; what was given was not chosen."""
    x, y, fold = rows()
    assert fitted(x, x @ np.ones((7, 2)), fold).metrics.ridge_at_edge
    assert fitted(x, np.random.default_rng(3).normal(size=y.shape), fold).metrics.ridge_at_edge
    middle = fitted(*rows(n=60, d=20, noise=8.0)).metrics
    assert 1e-4 < middle.ridge_relative < 1e6
    assert not middle.ridge_at_edge
    assert not fitted(x, y, fold, "linear").metrics.ridge_at_edge
    folds = moments(x, y, fold)
    assert not SourceFit(folds, "x", ridge=1e-4).fit(folds, "y").metrics.ridge_at_edge


@pytest.mark.parametrize("method", ["affine", "linear", "orthogonal", "low_rank"])
def test_errors_in_the_eigenbasis_are_those_of_the_map_itself(method: str) -> None:
    x, y, fold = rows(noise=4.0)
    folds = moments(x, y, fold)
    train, held = merge_all(folds[1:]), folds[0]
    centred = method != "linear"
    spectrum = Spectrum.of(train, "x", centred=centred)
    split = Split.of(spectrum, train, held).target(train, held, ("x", "y"))
    z = solution(FIT_METHODS.find(method), spectrum.w, split.B, Choice(0.1, rank=2))
    weight = spectrum.V @ z
    bias = train.mean["y"] - train.mean["x"] @ weight if centred else torch.zeros(4).double()
    expected = ((y - (x @ weight.numpy() + bias.numpy()))[fold == 0] ** 2).sum(0)
    np.testing.assert_allclose(split.errors(z).numpy(), expected, rtol=1e-8)


def test_low_rank_finds_the_rank_that_is_there() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12))
    y = x @ rng.normal(size=(12, 2)) @ rng.normal(size=(2, 9)) + rng.normal(size=(300, 9))
    fold = rng.integers(0, FOLDS, 300)
    low, full = fitted(x, y, fold, "low_rank"), fitted(x, y, fold)
    assert low.metrics.map_rank == 2
    assert torch.linalg.matrix_rank(low.map.weight, rtol=1e-9) == 2
    assert low.metrics.r2 > full.metrics.r2


def test_the_best_cut_to_a_rank_is_the_reduced_rank_regression() -> None:
    """Without a penalty: project the least-squares fit on its own principal axes."""
    x, y, fold = rows(d=6)
    total = merge_all(moments(x, y, fold))
    spectrum = Spectrum.of(total, "x", centred=True)
    z = solution(AFFINE, spectrum.w, spectrum.project(total, ("x", "y")), Choice(0.0, rank=2))
    x, y = x - x.mean(0), y - y.mean(0)
    least = np.linalg.lstsq(x, y, rcond=None)[0]
    axes = np.linalg.svd(x @ least)[2][:2]
    np.testing.assert_allclose((spectrum.V @ z).numpy(), least @ axes.T @ axes, atol=1e-9)


@pytest.mark.parametrize("n", [120, 12])
def test_linear_is_the_minimum_norm_least_squares(n: int) -> None:
    x, y, _ = rows(n=n, d=20)
    fold = np.arange(n) % FOLDS
    result = fitted(x, y, fold, "linear")
    expected = np.linalg.lstsq(x, y, rcond=1e-7)[0]
    np.testing.assert_allclose(result.map.weight.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not result.map.bias.any()


def test_orthogonal_finds_a_rotation_and_its_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    result = fitted(x, 2.5 * x @ rotation + 1, rng.integers(0, FOLDS, 100), "orthogonal")
    np.testing.assert_allclose(result.map.weight.numpy(), 2.5 * rotation, atol=1e-10)
    np.testing.assert_allclose(result.map.bias.numpy(), 1, atol=1e-10)
    assert result.metrics.r2 == pytest.approx(1)


@pytest.mark.parametrize(("d", "e"), [(6, 3), (3, 6)])
def test_orthogonal_between_widths_has_the_best_scale(d: int, e: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, d)), rng.normal(size=(100, e))
    weight = fitted(x, y, rng.integers(0, FOLDS, 100), "orthogonal").map.weight.numpy()
    x, y = x - x.mean(0), y - y.mean(0)
    errors = [((y - f * x @ weight) ** 2).sum() for f in (0.9, 1.0, 1.1)]
    assert errors[1] < min(errors[0], errors[2])


def test_the_control_knows_nothing_and_the_truth_does() -> None:
    x, y, fold = rows()
    metrics = fitted(x, y, fold).metrics
    assert metrics.r2 > 0.9
    assert metrics.r2_mismatched < 0.1


def test_unrelated_data_is_predicted_no_better_than_by_the_mean() -> None:
    rng = np.random.default_rng(0)
    metrics = fitted(
        rng.normal(size=(200, 7)), rng.normal(size=(200, 4)), rng.integers(0, FOLDS, 200)
    ).metrics
    assert -0.1 < metrics.r2 < 0.03


def test_constant_and_repeated_columns_are_ordinary() -> None:
    x, y, fold = rows()
    x = np.hstack([x, x[:, :2], np.full((len(x), 1), 4.0)])
    y = np.hstack([y, np.full((len(y), 1), 7.0)])
    result = fitted(x, y, fold)
    assert result.metrics.rank == 7
    assert np.isfinite(result.map.weight.numpy()).all()
    assert result.metrics.r2 > 0.9
    assert (result.map.bias[-1] - 7).abs() < 1e-9


def test_cka_of_a_rotation_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert fitted(x, x @ rotation, rng.integers(0, FOLDS, 100)).metrics.cka == pytest.approx(1)


def test_an_empty_fold_is_refused() -> None:
    x, y, fold = rows()
    fold[fold == 2] = 1
    with pytest.raises(ValueError, match="fold 2 of 4 has no rows"):
        fitted(x, y, fold)


def test_unbiased_cka_is_zero_for_unrelated_data_and_one_for_a_rotation() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 60)), rng.normal(size=(400, 60))
    rotation = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    fold = rng.integers(0, FOLDS, 400)
    unrelated, rotated = fitted(x, y, fold).metrics, fitted(x, x @ rotation, fold).metrics
    assert unrelated.cka > 0.1  # the bias
    assert abs(unrelated.cka_unbiased) < 0.02
    assert rotated.cka_unbiased == pytest.approx(1.0)


def test_the_identity_is_a_baseline_where_widths_agree() -> None:
    x, y, fold = rows(d=4)
    assert np.isnan(fitted(x, y[:, :3], fold).metrics.r2_identity)
    near = x + 0.1 * y
    metrics = fitted(x, near, fold).metrics
    means = np.stack([near[fold != k].mean(0) for k in range(FOLDS)])[fold]
    expected = 1 - ((near - x) ** 2).sum() / ((near - means) ** 2).sum()
    assert metrics.r2_identity == pytest.approx(expected, abs=1e-9)


def test_more_rows_are_better_and_the_learning_curve_says_so() -> None:
    x, y, fold = rows(n=240, d=30, noise=3.0)
    folds = moments(x, y, fold)
    source = SourceFit(folds, "x")
    (few, low), (more, middle) = source.learning_curve(folds, "y")
    ((most, high),) = source.fit(folds, "y").metrics.learning
    assert (few, more) == (folds[1].n, folds[1].n + folds[2].n)
    assert most == sum(fold.n for fold in folds[1:])
    assert low < middle < high
    train, held = fold == 1, fold == 0
    plain = min(
        ((y[held] - Ridge(alpha=a).fit(x[train], y[train]).predict(x[held])) ** 2).sum()
        for a in (RIDGE_RATIOS * median_eigenvalue(x[train])).tolist()
    )
    best_possible = 1 - plain / ((y[held] - y[train].mean(0)) ** 2).sum()
    assert low <= best_possible + 1e-9
    assert low > best_possible - 0.1


def test_the_way_back_comes_from_the_same_moments() -> None:
    x, y, fold = rows()
    back = [m.transposed() for m in moments(x, y, fold)]
    result = SourceFit(back, "y").fit(back, "x", [(mismatched("y"), "x")])
    ridge = Ridge(alpha=result.metrics.ridge).fit(y, x)
    np.testing.assert_allclose(result.map.weight.numpy(), ridge.coef_.T, rtol=1e-8, atol=1e-10)
    assert result.metrics.r2 > 0.3
    assert result.metrics.r2_mismatched < 0.05


def test_several_sources_together_are_one_wide_source() -> None:
    x, y, fold = rows(d=7)
    parts = {"a": slice(0, 3), "b": slice(3, 7)}
    wanted = [
        ("a", "a"), ("b", "b"), ("a", "b"), ("y", "y"),
        *((s, t) for s in "ab" for t in ("y", mismatched("y"))),
    ]  # fmt: skip
    folds = []
    for number in range(FOLDS):
        chosen = fold == number
        tensors = {name: torch.from_numpy(x[chosen][:, part]) for name, part in parts.items()}
        tensors["y"] = torch.from_numpy(y[chosen])
        tensors[mismatched("y")] = torch.from_numpy(y[chosen][::-1].copy())
        folds.append(moments_of(tensors, wanted, f"{number}").concat(["a", "b"], "a+b"))
    result = SourceFit(folds, "a+b").fit(folds, "y")
    ridge = Ridge(alpha=result.metrics.ridge).fit(x, y)
    np.testing.assert_allclose(result.map.weight.numpy(), ridge.coef_.T, rtol=1e-8, atol=1e-10)


def test_unknown_methods_and_too_few_folds_are_refused() -> None:
    x, y, fold = rows()
    with pytest.raises(UserError, match="no fit method is called 'affin'; did you mean 'affine'"):
        FIT_METHODS.find("affin")
    with pytest.raises(ValueError, match="needs two folds, got 1"):
        SourceFit(moments(x, y, fold)[:1], "x")


def test_maps_without_a_fold_are_fits_to_the_other_rows() -> None:
    """Ridge by scikit-learn, bias included: to rounding, 1e-8."""
    x, y, fold = rows()
    penalty = 3.0
    choice = Choice(penalty, relative=False)
    found = list(maps_without_folds(moments(x, y, fold), ("x", "y"), AFFINE, choice))
    assert len(found) == FOLDS
    for number, fitted_map in enumerate(found):
        others = fold != number
        expected = Ridge(alpha=penalty).fit(x[others], y[others])
        np.testing.assert_allclose(fitted_map.weight.numpy(), expected.coef_.T, atol=1e-8)
        np.testing.assert_allclose(fitted_map.bias.numpy(), expected.intercept_, atol=1e-8)
