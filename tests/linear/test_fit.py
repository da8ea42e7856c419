"""Fits from moments are the fits from all rows, by libraries that see the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from lrt_dist.linear.fit import RIDGE_RATIOS, Fit, fit_source, shuffled, wanted_moments
from lrt_dist.linear.moments import Moments, merge_all
from lrt_dist.linear.ridge import Spectrum, path_errors, squared_errors

FOLDS = 4


def rows(
    n: int = 200, d: int = 7, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3
    y = x @ rng.normal(size=(d, 4)) + noise * rng.normal(size=(n, 4)) - 1
    return x, y, rng.integers(0, FOLDS, n)


def moments(
    x: np.ndarray, y: np.ndarray, fold: np.ndarray, seed: int = 1, pieces: int = 3
) -> list[Moments]:
    """Per fold, accumulated in pieces, with shuffled targets beside the true ones."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(FOLDS):
        chosen = np.flatnonzero(fold == number)
        parts = []
        for piece, part in enumerate(np.array_split(chosen, pieces)):
            variables = {"x": x[part], "y": y[part], shuffled("y"): y[rng.permutation(part)]}
            tensors = {name: torch.from_numpy(values) for name, values in variables.items()}
            parts.append(Moments.of(tensors, wanted_moments([("x", "y")]), f"{piece}/{number}"))
        found.append(merge_all(parts))
    return found


def fitted(x: np.ndarray, y: np.ndarray, fold: np.ndarray, method: str = "affine") -> Fit:
    (result,) = fit_source(moments(x, y, fold), "x", ["y"], method)
    return result


def test_affine_is_sklearns_ridge_at_the_same_penalty() -> None:
    x, y, fold = rows()
    result = fitted(x, y, fold)
    ridge = Ridge(alpha=result.report.ridge).fit(x, y)
    np.testing.assert_allclose(result.weight.numpy(), ridge.coef_.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(result.bias.numpy(), ridge.intercept_, rtol=1e-8, atol=1e-10)


def test_held_out_r2_is_that_of_cross_validated_predictions() -> None:
    x, y, fold = rows()
    result = fitted(x, y, fold)
    error = squares = 0.0
    for number in range(FOLDS):
        train = fold != number
        spread = Spectrum.of(torch.from_numpy(np.cov(x[train], rowvar=False) * (train.sum() - 1)))
        model = Ridge(alpha=result.report.ridge_relative * spread.median).fit(x[train], y[train])
        error += ((y[~train] - model.predict(x[~train])) ** 2).sum(0)
        squares += ((y[~train] - y[train].mean(0)) ** 2).sum(0)
    assert result.report.r2 == pytest.approx(1 - error.sum() / squares.sum(), abs=1e-10)
    assert result.report.r2_median == pytest.approx(np.median(1 - error / squares), abs=1e-10)


def test_the_whole_path_of_penalties_at_once() -> None:
    x, y, fold = rows(noise=5.0)
    folds = moments(x, y, fold)
    train = merge_all(folds[1:])
    spectrum = Spectrum.of(train.second["x", "x"])
    ridges = torch.logspace(-3, 4, 9, dtype=torch.float64)
    means = (train.mean["x"], train.mean["y"])
    path = path_errors(spectrum, train.second["x", "y"], folds[0], ("x", "y"), means, ridges)
    for ridge, error in zip(ridges.tolist(), path.tolist(), strict=True):
        model = Ridge(alpha=ridge).fit(x[fold != 0], y[fold != 0])
        residual = y[fold == 0] - model.predict(x[fold == 0])
        assert error == pytest.approx((residual**2).sum(), rel=1e-9)


def test_the_penalty_is_the_best_of_the_grid() -> None:
    x, y, fold = rows(n=60, d=20, noise=8.0)
    result = fitted(x, y, fold)
    folds = moments(x, y, fold)
    scores = []
    for ratio in RIDGE_RATIOS.tolist():
        total = 0.0
        for number in range(FOLDS):
            train = merge_all(f for i, f in enumerate(folds) if i != number)
            spectrum = Spectrum.of(train.second["x", "x"])
            weight = spectrum.solve(train.second["x", "y"], ratio * spectrum.median)
            bias = train.mean["y"] - train.mean["x"] @ weight
            total += float(squared_errors(weight, bias, folds[number], ("x", "y")).sum())
        scores.append(total)
    assert result.report.ridge_relative == pytest.approx(float(RIDGE_RATIOS[np.argmin(scores)]))
    assert 1e-4 < result.report.ridge_relative < 1e6  # noise this large wants a real penalty


@pytest.mark.parametrize("n", [120, 12])
def test_linear_is_the_minimum_norm_least_squares(n: int) -> None:
    x, y, _ = rows(n=n, d=20)
    fold = np.arange(n) % FOLDS
    result = fitted(x, y, fold, "linear")
    expected = np.linalg.lstsq(x, y, rcond=1e-7)[0]
    np.testing.assert_allclose(result.weight.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not result.bias.any()


def test_orthogonal_finds_a_rotation_and_its_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    result = fitted(x, 2.5 * x @ rotation + 1, rng.integers(0, FOLDS, 100), "orthogonal")
    np.testing.assert_allclose(result.weight.numpy(), 2.5 * rotation, atol=1e-10)
    np.testing.assert_allclose(result.bias.numpy(), 1, atol=1e-10)
    assert result.report.r2 == pytest.approx(1)


@pytest.mark.parametrize(("d", "e"), [(6, 3), (3, 6)])
def test_orthogonal_between_widths_has_the_best_scale(d: int, e: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, d)), rng.normal(size=(100, e))
    weight = fitted(x, y, rng.integers(0, FOLDS, 100), "orthogonal").weight.numpy()
    x, y = x - x.mean(0), y - y.mean(0)
    errors = [((y - f * x @ weight) ** 2).sum() for f in (0.9, 1.0, 1.1)]
    assert errors[1] < min(errors[0], errors[2])


def test_the_null_knows_nothing_and_the_truth_does() -> None:
    x, y, fold = rows()
    report = fitted(x, y, fold).report
    assert report.r2 > 0.9
    assert report.r2_shuffled < 0.1


def test_unrelated_data_is_predicted_no_better_than_by_the_mean() -> None:
    rng = np.random.default_rng(0)
    report = fitted(
        rng.normal(size=(200, 7)), rng.normal(size=(200, 4)), rng.integers(0, FOLDS, 200)
    ).report
    assert -0.1 < report.r2 < 0.03


def test_constant_and_repeated_columns_are_ordinary() -> None:
    x, y, fold = rows()
    x = np.hstack([x, x[:, :2], np.full((len(x), 1), 4.0)])
    y = np.hstack([y, np.full((len(y), 1), 7.0)])
    result = fitted(x, y, fold)
    assert result.report.rank == 7
    assert np.isfinite(result.weight.numpy()).all()
    assert result.report.r2 > 0.9
    assert (result.bias[-1] - 7).abs() < 1e-9


def test_cka_of_a_rotation_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert fitted(x, x @ rotation, rng.integers(0, FOLDS, 100)).report.cka == pytest.approx(1)


def test_an_empty_fold_is_refused() -> None:
    x, y, fold = rows()
    fold[fold == 2] = 1
    with pytest.raises(ValueError, match="fold 2 of 4 has no rows"):
        fitted(x, y, fold)


def test_cross_val_predict_agrees_where_the_penalty_is_absolute() -> None:
    x, y, fold = rows()
    folds = moments(x, y, fold)
    total = 0.0
    for number in range(FOLDS):
        train = merge_all(f for i, f in enumerate(folds) if i != number)
        weight = Spectrum.of(train.second["x", "x"]).solve(train.second["x", "y"], 2.0)
        bias = train.mean["y"] - train.mean["x"] @ weight
        total += float(squared_errors(weight, bias, folds[number], ("x", "y")).sum())
    predicted = cross_val_predict(Ridge(alpha=2.0), x, y, cv=PredefinedSplit(fold))
    assert total == pytest.approx(((y - predicted) ** 2).sum(), rel=1e-10)


def test_fitting_on_a_concepts_own_texts_returns_the_native_vector_by_algebra() -> None:
    """Random data, no relation at all: with n ≤ d the minimum-norm map has cosine 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 64)), rng.normal(size=(20, 32))
    label = np.arange(20) % 2 == 0
    weight = torch.from_numpy(np.linalg.pinv(x) @ y)
    mapped = torch.from_numpy(x[label].mean(0) - x[~label].mean(0)) @ weight
    native = torch.from_numpy(y[label].mean(0) - y[~label].mean(0))
    assert torch.cosine_similarity(mapped, native, dim=0) == pytest.approx(1.0)
