"""Intervals hold the truth as often as they say, and where nothing varies they are one point."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrt_dist.intervals import cluster_interval, mean_interval, ratio_interval

SETS, DRAWS = 1000, 499


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coverage(
    numerator: Tensor, denominator: Tensor, truth: float, further: Tensor | None = None
) -> float:
    low, high = cluster_interval(numerator, denominator, draws=DRAWS, further=further)
    return float(((low <= truth) & (truth <= high)).double().mean())


# Of 1,000 data sets 95 % ± 1.4 % lie inside by chance (two standard errors), and the one matrix of
# counts that they share adds as much again.
BAND = {12: (0.92, 0.98), 50: (0.925, 0.975)}


@pytest.mark.parametrize("items", [12, 50])
def test_coverage_of_a_mean(items: int) -> None:
    low, high = BAND[items]
    assert low <= coverage(1 + normal(SETS, items), torch.ones(SETS, items), 1.0) <= high


@pytest.mark.parametrize("items", [12, 50])
@pytest.mark.parametrize("mean", [1, 2])
def test_coverage_of_a_ratio(items: int, mean: int) -> None:
    first, other = normal(SETS, items, seed=1), normal(SETS, items, seed=2)
    low, high = BAND[items]
    assert low <= coverage(0.7 * mean + 0.8 * first + 0.6 * other, mean + first, 0.7) <= high


@pytest.mark.parametrize(("items", "least"), [(12, 0.87), (50, 0.91)])
def test_coverage_of_a_skewed_mean(items: int, least: float) -> None:
    """The percentile bootstrap holds it 81 and 90 times in 100."""
    values = normal(SETS, items, seed=3).exp()
    assert coverage(values, torch.ones(SETS, items), math.exp(0.5)) >= least


def test_coverage_where_items_share_templates_needs_the_clusters() -> None:
    templates = 25
    pairs = 1 + normal(SETS, templates, 1, seed=4) + normal(SETS, templates, 2, seed=5)
    clustered = coverage(pairs.sum(2), torch.full((SETS, templates), 2.0), 1.0)
    ignored = coverage(pairs.flatten(1), torch.ones(SETS, 2 * templates), 1.0)
    assert 0.925 <= clustered <= 0.975
    assert ignored < 0.91


def test_coverage_where_more_than_items_varies_needs_the_further_variance() -> None:
    items = 25
    values = 1 + normal(SETS, items, seed=6) + 0.2 * normal(SETS, 1, seed=7)
    ones = torch.ones(SETS, items)
    more = torch.tensor([[0.2**2, 0], [0, 0]])
    assert 0.925 <= coverage(values, ones, 1.0, further=more) <= 0.975
    assert coverage(values, ones, 1.0) < 0.88


def test_a_mean_of_many_items_has_the_interval_of_its_standard_error() -> None:
    values = normal(2000, seed=8)
    low, high = mean_interval(values, draws=4000)
    half = 1.96 * float(values.std()) / 2000**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert low < values.mean() < high
    low, high = mean_interval(values, draws=4000, further=(half / 1.96) ** 2)
    assert (high - low) / 2 == pytest.approx(half * 2**0.5, rel=0.06)


@given(
    share=st.floats(-3, 3),
    items=st.integers(2, 30),
    spread=st.floats(0.1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_a_fixed_share_is_one_point(share: float, items: int, spread: float, seed: int) -> None:
    denominator = 1 + spread * normal(items, seed=seed)
    for end in ratio_interval(share * denominator, denominator, draws=50):
        assert end == pytest.approx(share, abs=1e-9)


@given(factor=st.sampled_from([0.25, 2.0, 1024.0]), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_mean_interval_moves_with_the_values(factor: float, shift: float) -> None:
    values = normal(20, seed=9)
    expected = [factor * end + shift for end in mean_interval(values, draws=99)]
    assert mean_interval(factor * values + shift, draws=99) == pytest.approx(expected, abs=1e-8)


def test_a_ratio_interval_does_not_depend_on_signs_and_scales_with_the_numerator() -> None:
    d, n = 2 + normal(30, seed=3), 1 + normal(30, seed=4)
    low, high = ratio_interval(n, d)
    assert ratio_interval(-n, -d) == (low, high)
    assert ratio_interval(2 * n, d) == pytest.approx((2 * low, 2 * high))
    assert ratio_interval(-n, d)[0] == pytest.approx(-high, rel=0.1)


def test_a_ratio_to_something_near_zero_has_no_end() -> None:
    nothing = normal(50, seed=5)
    low, high = ratio_interval(1 + normal(50, seed=6), nothing - nothing.mean() + 1e-3)
    assert (low, high) == (-math.inf, math.inf)


def test_equal_clusters_are_equal_to_their_sums() -> None:
    """Drawing whole clusters of copies says no more than one of each."""
    values = normal(10, seed=10)
    copies = values.repeat_interleave(3)
    clusters = [index // 3 for index in range(30)]
    assert mean_interval(copies, clusters) == pytest.approx(mean_interval(values))
    alone = mean_interval(copies)
    assert alone[1] - alone[0] < 0.7 * (mean_interval(values)[1] - mean_interval(values)[0])


def test_few_clusters_say_little_and_one_says_nothing() -> None:
    assert mean_interval(torch.tensor([1.0, 2.0])) == (-math.inf, math.inf)
    assert mean_interval(torch.tensor([3.0, 3.0, 3.0])) == (3.0, 3.0)
    for interval in (
        mean_interval(torch.ones(1)),
        mean_interval(normal(4), clusters=[7, 7, 7, 7]),
        mean_interval(torch.tensor([1.0, math.nan, 2.0])),
        ratio_interval(torch.ones(3), torch.tensor([1.0, math.inf, 2.0])),
        ratio_interval(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3)),
    ):
        assert all(math.isnan(end) for end in interval)


def test_the_same_seed_gives_the_same_interval_and_draws_come_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Same shapes: equal bits; in blocks only to the noise of the draws, 0.05."""
    values = normal(30)
    whole = mean_interval(values, seed=4)
    assert whole == mean_interval(values, seed=4)
    assert whole != mean_interval(values, seed=5)
    # Blocks only bound the memory; where they are cut must not move a number by more than noise.
    monkeypatch.setattr("lrt_dist.resampling._BLOCK_ENTRIES", 100)
    assert mean_interval(values, seed=4) == pytest.approx(whole, abs=0.05)


def test_refusals_say_what_is_wrong() -> None:
    ones = torch.ones(4)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(torch.ones(0))
    with pytest.raises(ValueError, match=r"must both be \[items\]"):
        ratio_interval(ones, torch.ones(5))
    with pytest.raises(ValueError, match="3 cluster labels for 4 items"):
        mean_interval(ones, [0, 1, 2])
    with pytest.raises(ValueError, match="one draw"):
        mean_interval(ones, draws=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval(ones, level=95)
    with pytest.raises(ValueError, match="not negative"):
        mean_interval(ones, further=-1.0)
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        ratio_interval(ones, ones, further=torch.ones(3))
