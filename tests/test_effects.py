"""The metrics against numpy and against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_dist.effects import (
    cosine,
    mean_squared_error,
    pearson,
    retention,
    steerability,
)


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


@pytest.mark.parametrize("metric", [pearson, mean_squared_error, cosine])
def test_shapes_must_agree(metric: object) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        metric(torch.zeros(3), torch.zeros(1))  # type: ignore[operator]


def test_steerability_is_numpys_slope() -> None:
    strengths, changes = torch.tensor([-0.1, -0.05, 0.05, 0.1, 0.3]), normal(5, 7)
    slope = np.polyfit(strengths.double().numpy(), changes.mean(1).numpy(), 1)[0]
    assert steerability(strengths, changes) == pytest.approx(slope)


def test_steerability_refuses_what_has_no_slope() -> None:
    with pytest.raises(ValueError, match="two distinct strengths"):
        steerability(torch.tensor([0.1, 0.1]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\[s, items\]"):
        steerability(torch.tensor([0.1, 0.2]), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one item"):
        steerability(torch.tensor([0.1, 0.2]), torch.zeros(2, 0))


@given(share=st.floats(-3, 3), items=st.integers(8, 40), seed=st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_a_share_of_the_native_change_is_retained_as_that_share(
    share: float, items: int, seed: int
) -> None:
    native = 5 + normal(items, seed=seed).abs()
    kept = retention(native, share * native, draws=100)
    assert kept.defined
    # Items are resampled jointly, so the noise of the items cancels and no width is left.
    for value in (kept.value, kept.low, kept.high):
        assert value == pytest.approx(share, abs=1e-9)


def test_retention_does_not_depend_on_the_direction_of_the_concept() -> None:
    """Same shapes, and only signs differ: equal bits."""
    native = 2 + normal(30, seed=3)
    transferred = 1 + normal(30, seed=4)
    assert retention(-native, -transferred) == retention(native, transferred)


def test_retention_is_undefined_where_the_native_vector_does_nothing() -> None:
    nothing = normal(50, seed=5)
    kept = retention(nothing - nothing.mean(), normal(50, seed=6) + 1)
    assert not kept.defined
    assert math.isnan(kept.value)
    assert math.isnan(kept.low)
    assert math.isnan(kept.high)
    assert kept.reason is not None
    assert "not distinct from zero" in kept.reason


def test_retention_is_undefined_where_its_interval_has_no_end() -> None:
    """Six items: the native effect is distinct from zero, a ratio to it is open on one side."""
    native = torch.tensor([2.0, 2, 2, 1, 3, 1])
    kept = retention(native, torch.tensor([2.0, 2, -1, -3, 4, 2]))
    assert not kept.defined
    assert "has no end" in str(kept.reason)


def test_retention_is_undefined_for_one_item_and_for_values_that_are_not_finite() -> None:
    one = retention(torch.ones(1), torch.ones(1))
    broken = retention(torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.inf]))
    assert one.reason == "a single item gives no interval"
    assert broken.reason == "some changes are not finite"


def test_retention_refuses_other_shapes_draws_and_levels() -> None:
    ones = torch.ones(4)
    with pytest.raises(ValueError, match=r"must both be \[items\]"):
        retention(ones, torch.ones(5))
    with pytest.raises(ValueError, match="at least one"):
        retention(torch.ones(0), torch.ones(0))
    with pytest.raises(ValueError, match="one draw"):
        retention(ones, ones, draws=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        retention(ones, ones, level=95)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    items, trials, truth = 60, 200, 0.7
    covered = 0
    for trial in range(trials):
        native = 3 + normal(items, seed=2 * trial)
        transferred = truth * native + normal(items, seed=2 * trial + 1)
        kept = retention(native, transferred, draws=400)
        covered += kept.low <= truth <= kept.high
    assert 0.88 <= covered / trials <= 0.99
