"""What varies adds up, and what is shared by two arms cancels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrt_dist.resampling import (
    cluster_counts,
    further_covariance,
    resampled_items,
)

ITEMS, VECTORS, FOLDS = 40, 300, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(clusters=st.lists(st.integers(-3, 3), min_size=1, max_size=30), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_whole_clusters_are_drawn(clusters: list[int], seed: int) -> None:
    counts = resampled_items(clusters, 20, seed)
    assert counts.shape == (20, len(clusters))
    assert bool((counts >= 0).all())
    firsts = [clusters.index(label) for label in dict.fromkeys(clusters)]
    # As many clusters are drawn as there are, and all items of one as often.
    assert counts[:, firsts].sum(1).tolist() == [len(firsts)] * 20
    assert torch.equal(counts, counts[:, [clusters.index(label) for label in clusters]])
    assert torch.equal(counts, resampled_items(clusters, 20, seed))


def test_counts_come_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrt_dist.resampling._BLOCK_ENTRIES", 100)
    blocks = list(cluster_counts(30, 10, 0))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert len(resampled_items(range(30), 10, 0)) == 10


def test_further_variance_is_the_sum_of_pairs_and_documents() -> None:
    """Each vector and each fold moves all items alike, so means move by as much."""
    deltas = 0.3 * normal(VECTORS, 1, seed=2).expand(VECTORS, ITEMS)
    folds = 3 + 0.2 * normal(FOLDS, 1, seed=3).expand(FOLDS, ITEMS)
    pairs = float(deltas[:, 0].var())
    jackknife = (FOLDS - 1) / FOLDS * float((folds[:, 0] - folds[:, 0].mean()).square().sum())
    covariance = further_covariance([(deltas, folds), (deltas, None)])
    assert float(covariance[0, 0]) == pytest.approx(pairs + jackknife)
    assert float(covariance[0, 1]) == float(covariance[1, 0]) == pytest.approx(pairs)
    assert float(covariance[1, 1]) == pytest.approx(pairs)


def test_two_arms_of_the_same_pairs_vary_together() -> None:
    """A transferred vector that always keeps 60 % adds nothing to the ratio's uncertainty."""
    deltas = normal(VECTORS, ITEMS, seed=5)
    covariance = further_covariance([(0.6 * deltas, None), (deltas, None)])
    gradient = torch.tensor([1.0, -0.6], dtype=torch.float64)
    assert float(gradient @ covariance @ gradient) == pytest.approx(0, abs=1e-15)
    assert float(covariance[1, 1]) > 0


def test_items_that_move_apart_average_out() -> None:
    deltas = normal(VECTORS, ITEMS, seed=6)
    covariance = further_covariance([(deltas - deltas.mean(1, keepdim=True), None)])
    assert float(covariance[0, 0]) == pytest.approx(0, abs=1e-30)


def test_nothing_varies_nothing_is_added() -> None:
    assert torch.equal(further_covariance([(None, None)] * 2), torch.zeros(2, 2).double())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        further_covariance([(torch.ones(3, 4), None), (torch.ones(2, 4), None)])
    with pytest.raises(ValueError, match="at least one each"):
        resampled_items([], 10, 0)
    with pytest.raises(ValueError, match="one draw"):
        resampled_items([1, 2], 0, 0)
