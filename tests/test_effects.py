"""The metrics against numpy and against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lrt_dist.effects import cosine, mean_squared_error, pearson, slope


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_pearson_is_numpys(seed: int) -> None:
    a, b = normal(4, 9, seed=seed), normal(4, 9, seed=seed + 100) + 50
    expected = np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1]
    assert pearson(a, b) == pytest.approx(expected, abs=1e-12)


def test_pearson_of_a_line_is_one_and_of_a_constant_undefined() -> None:
    a = normal(20)
    assert pearson(a, 3 * a - 7) == pytest.approx(1)
    assert pearson(a, -a) == pytest.approx(-1)
    assert math.isnan(pearson(a, torch.full((20,), 0.1)))
    assert math.isnan(pearson(a[:1], a[:1]))


def test_mean_squared_error() -> None:
    assert mean_squared_error(torch.tensor([1, 2]), torch.tensor([1, 4])) == 2
    with pytest.raises(ValueError, match="no entries"):
        mean_squared_error(torch.zeros(0), torch.zeros(0))


def test_cosine() -> None:
    assert cosine(torch.tensor([1.0, 0]), torch.tensor([1.0, 1])) == pytest.approx(2**-0.5)
    a = normal(30)
    assert cosine(a, 4 * a) == pytest.approx(1)
    assert math.isnan(cosine(a, torch.zeros(30)))


@pytest.mark.parametrize("metric", [pearson, mean_squared_error, cosine, slope])
def test_shapes_must_agree(metric: object) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        metric(torch.zeros(3), torch.zeros(1))  # type: ignore[operator]


def test_slope_is_numpys_without_an_intercept() -> None:
    x, y = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([2.0, 3.5, -7.0])
    (expected,), *_ = np.linalg.lstsq(x.numpy()[:, None], y.numpy(), rcond=None)
    assert slope(x, y) == pytest.approx(float(expected))
    assert math.isnan(slope(torch.zeros(3), y))
