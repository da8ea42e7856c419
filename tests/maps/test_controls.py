"""Controls are what they say: no direction of the claim is left in them."""

from __future__ import annotations

import pytest
import torch

from lrt_dist.maps.controls import (
    MOST_SLOW_DRAWS,
    covariance_directions,
    generator,
    heavy_share,
    permuted_vectors,
    resampled_vectors,
)
from lrt_dist.maps.vectors import make_vector


def pairs(count: int, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """States with one strong common difference."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(2, count, width, generator=random)
    common = 5 * torch.ones(width)
    return noise[0] + common, noise[1]


@pytest.mark.parametrize("count", [8, 9])
def test_permuted_labels_cancel_what_pairs_have_in_common(count: int) -> None:
    """Of an even number of pairs all of it, of an odd one a share of one pair."""
    common = torch.full((count, 4), 3.0), torch.zeros(count, 4)
    vectors = permuted_vectors("mean_difference", {}, *common, 50, generator(0, "p"))
    torch.testing.assert_close(vectors, torch.full((50, 4), 3.0 * (count % 2) / count))


def test_permuted_vectors_are_vectors_of_exchanged_pairs() -> None:
    positive, negative = pairs(4)
    vectors = permuted_vectors("mean_difference", {}, positive, negative, 40, generator(0, "p"))
    differences = (positive - negative).double()
    signs = [s for s in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4) if s.sum() == 0]
    possible = torch.stack([s.double() @ differences / 4 for s in signs])
    distance = torch.cdist(vectors.double(), possible)
    assert float(distance.min(1).values.max()) < 1e-6
    assert len(set(distance.argmin(1).tolist())) > 2


def test_another_method_is_permuted_as_it_is_made() -> None:
    positive, negative = pairs(6)
    vectors = permuted_vectors("pca", {}, positive, negative, 1000, generator(0, "p"))
    assert vectors.shape == (MOST_SLOW_DRAWS, 6)
    assert len(torch.unique(vectors, dim=0)) > 5


@pytest.mark.parametrize("method", ["mean_difference", "pca"])
def test_every_pair_drawn_once_is_the_vector(method: str) -> None:
    positive, negative = pairs(7)
    (vector,) = resampled_vectors(method, {}, positive, negative, torch.ones(1, 7))
    expected = make_vector(method, positive, negative)
    torch.testing.assert_close(vector.double(), expected, rtol=1e-5, atol=1e-6)
    twice, without = torch.tensor([2.0, 0, 1, 1, 1, 1, 1]), [0, 0, 2, 3, 4, 5, 6]
    (vector,) = resampled_vectors(method, {}, positive, negative, twice.unsqueeze(0))
    expected = make_vector(method, positive[without], negative[without])
    torch.testing.assert_close(vector.double(), expected, rtol=1e-5, atol=1e-6)


def test_covariance_directions_have_the_covariance() -> None:
    """Of 20,000 draws: to 5 % of the largest."""
    random = torch.Generator().manual_seed(1)
    states = torch.randn(200, 3, generator=random) @ torch.diag(torch.tensor([5.0, 1.0, 0.2])) + 9
    directions = covariance_directions(states, 20_000, generator(0, "c"))
    assert float(directions.mean(0).abs().max()) < 0.05 * 200**0.5 * 5
    expected = 199 * torch.cov(states.T)
    torch.testing.assert_close(torch.cov(directions.T), expected, rtol=0, atol=0.05 * 199 * 25)


def test_random_numbers_depend_on_what_they_are_for() -> None:
    one, same, other = (
        torch.rand(3, generator=generator(seed, *what))
        for seed, *what in ((0, "a", 1), (0, "a", 1), (0, "a", 2))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_heavy_share_of_a_spike_is_all() -> None:
    spike = torch.zeros(300)
    spike[7] = 2.0
    assert heavy_share(spike) == 1
    assert heavy_share(torch.ones(300)) == pytest.approx(3 / 300)
    assert heavy_share(torch.zeros(300)) == 0
