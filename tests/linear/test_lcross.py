"""The algebra under L-Cross's first result (docs/lcross.md), on hidden states without relation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lrt_dist

D, E = 48, 96


def states(n: int, seed: int = 0, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Of n texts in two models that have nothing in common."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) + offset, rng.normal(size=(n, E)) - offset


def contrast(rows: np.ndarray) -> torch.Tensor:
    """Positive and negative texts take turns."""
    return torch.from_numpy(rows[::2].mean(0) - rows[1::2].mean(0))


def cosine(mapped: torch.Tensor, native: torch.Tensor) -> float:
    return float(torch.cosine_similarity(mapped, native, dim=0))


@pytest.mark.parametrize("n", [2, 10, D // 2, D])
@pytest.mark.parametrize("seed", range(3))
def test_with_no_more_texts_than_dimensions_the_native_vector_comes_back(n: int, seed: int) -> None:
    x, y = states(n, seed, offset=2.0)
    native = contrast(y)
    pinv = contrast(x) @ torch.from_numpy(np.linalg.pinv(x) @ y)
    ours = lrt_dist.fit(x, y, folds=2, method="linear").map.map_directions(contrast(x))
    for mapped in (pinv, ours):
        assert cosine(mapped, native) == pytest.approx(1, abs=1e-9)
        torch.testing.assert_close(mapped, native, rtol=1e-5, atol=1e-7)


def test_with_more_texts_what_comes_back_is_the_square_root_of_d_over_n() -> None:
    """XX⁺ projects the labels onto d of n directions, whatever X is."""
    for times in (1, 2, 4, 8):
        cosines = []
        for seed in range(8):
            x, y = states(times * D, seed)
            mapped = contrast(x) @ torch.from_numpy(np.linalg.pinv(x) @ y)
            cosines.append(cosine(mapped, contrast(y)))
        assert np.mean(cosines) == pytest.approx(times**-0.5, abs=0.05)


@pytest.mark.parametrize("n", [10, D, 2 * D, 8 * D])
def test_the_metrics_expose_it(n: int) -> None:
    """The vector comes back; rows that were held out do not, no more than with mismatched rows."""
    x, y = states(n)
    fit = lrt_dist.fit(x, y, groups=np.arange(n) // 2, method="linear")
    assert fit.metrics.r2 <= 0.05
    assert fit.metrics.r2_mismatched <= 0.1
    returned = cosine(fit.map.map_directions(contrast(x)), contrast(y))
    assert returned > 1 - 1e-9 if n <= D else returned < 0.9
    assert returned < 0.5 or n < 8 * D


def test_what_comes_back_says_nothing_about_other_texts() -> None:
    x, y = states(D)
    other_x, other_y = states(D, seed=1)
    affine_map = lrt_dist.fit(x, y, method="linear").map
    assert cosine(affine_map.map_directions(contrast(x)), contrast(y)) > 0.999
    assert abs(cosine(affine_map.map_directions(contrast(other_x)), contrast(other_y))) < 0.5


def test_a_relation_shows_with_many_texts_and_in_the_metrics() -> None:
    """The positive control: not every high cosine is algebra."""
    x, _ = states(8 * D)
    rng = np.random.default_rng(3)
    y = x @ rng.normal(size=(D, E)) + rng.normal(size=(len(x), E))
    fit = lrt_dist.fit(x, y, method="linear")
    assert cosine(fit.map.map_directions(contrast(x)), contrast(y)) > 0.9
    assert fit.metrics.r2 > 0.9
    assert fit.metrics.r2_mismatched < 0.05
