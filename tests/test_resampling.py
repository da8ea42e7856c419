"""What varies adds up, and what is shared by two arms cancels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrt_dist.resampling import (
    JointDraws,
    cluster_counts,
    further_covariance,
    joint_replicates,
    resampled_items,
)

ITEMS, VECTORS, FOLDS, DRAWS = 40, 300, 5, 20_000


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


@pytest.fixture(scope="module")
def draws() -> JointDraws:
    return JointDraws.make(range(ITEMS), DRAWS, 0, vectors=VECTORS, folds=FOLDS)


def test_nothing_further_is_the_bootstrap_of_items(draws: JointDraws) -> None:
    effects = normal(ITEMS)
    replicates = joint_replicates(effects, draws)
    expected = resampled_items(range(ITEMS), DRAWS, 0) @ effects / ITEMS
    torch.testing.assert_close(replicates, expected, rtol=1e-12, atol=1e-14)
    same = joint_replicates(
        effects,
        draws,
        vector_deltas=torch.zeros(VECTORS, ITEMS),
        without_fold=normal(1, ITEMS).expand(FOLDS, ITEMS),
    )
    torch.testing.assert_close(same, expected, rtol=1e-12, atol=1e-12)


def test_the_variance_is_the_sum_of_its_parts(draws: JointDraws) -> None:
    """Within 5 %: 20,000 draws know a variance to 1 %, and the parts are not quite orthogonal."""
    effects = 3 + normal(ITEMS, seed=1)
    # Each vector and each fold moves all items alike.
    deltas = 0.3 * normal(VECTORS, 1, seed=2).expand(VECTORS, ITEMS)
    folds = effects + 0.2 * normal(FOLDS, 1, seed=3)
    items = effects.var(unbiased=False) / ITEMS
    pairs = deltas[:, 0].var(unbiased=False)
    jackknife = (FOLDS - 1) / FOLDS * (folds[:, 0] - folds[:, 0].mean()).square().sum()
    parts = {
        (False, False): items,
        (True, False): items + pairs,
        (False, True): items + jackknife,
        (True, True): items + pairs + jackknife,
    }
    for (vector, fold), expected in parts.items():
        replicates = joint_replicates(
            effects,
            draws,
            vector_deltas=deltas if vector else None,
            without_fold=folds if fold else None,
        )
        assert float(replicates.var()) == pytest.approx(float(expected), rel=0.05)
    covariance = further_covariance([(deltas, folds), (deltas, None)])
    assert float(covariance[0, 0]) == pytest.approx(float(pairs + jackknife), rel=0.01)
    assert float(covariance[0, 1]) == pytest.approx(float(pairs), rel=0.01)
    assert float(covariance[1, 1]) == pytest.approx(float(pairs), rel=0.01)


def test_two_arms_have_the_same_contrast_pairs(draws: JointDraws) -> None:
    """A transferred vector that always keeps 60 % keeps 60 % in every replicate."""
    native, deltas = 3 + normal(ITEMS, seed=4), normal(VECTORS, ITEMS, seed=5)
    first = joint_replicates(native, draws, vector_deltas=deltas)
    second = joint_replicates(0.6 * native, draws, vector_deltas=0.6 * deltas)
    torch.testing.assert_close(second, 0.6 * first, rtol=1e-12, atol=1e-12)


def test_further_sources_leave_the_items_drawn_as_they_are() -> None:
    few, many = (JointDraws.make(range(9), 50, 1, vectors=v, folds=v) for v in (0, 7))
    assert torch.equal(few.counts, many.counts)
    assert few.fold.shape == (50, 0)
    assert int(many.vector.max()) <= 6


def test_nothing_varies_nothing_is_added() -> None:
    assert torch.equal(further_covariance([(None, None)] * 2), torch.zeros(2, 2).double())


def test_shapes_that_do_not_fit_are_refused() -> None:
    made = JointDraws.make(range(4), 10, 0, vectors=3, folds=2)
    with pytest.raises(ValueError, match="for 4 items"):
        joint_replicates(torch.ones(5), made)
    with pytest.raises(ValueError, match="vectors that were drawn"):
        joint_replicates(torch.ones(4), made, vector_deltas=torch.ones(1, 4))
    with pytest.raises(ValueError, match="at least two folds"):
        joint_replicates(torch.ones(4), made, without_fold=torch.ones(3, 4))
    with pytest.raises(ValueError, match="equally many"):
        further_covariance([(torch.ones(3, 4), None), (torch.ones(2, 4), None)])
    with pytest.raises(ValueError, match="at least one each"):
        resampled_items([], 10, 0)
    with pytest.raises(ValueError, match="one draw"):
        resampled_items([1, 2], 0, 0)
