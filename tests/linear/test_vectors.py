"""Every method finds a planted direction, with the mean difference's sign and length."""

from __future__ import annotations

import pytest
import torch

from lrt_dist.linear.vectors import make_vector


@pytest.mark.parametrize("method", ["mean_difference", "pca", "logistic"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_direction_is_found(method: str, sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.zeros(12, dtype=torch.float64)
    planted[3] = sign * 4.0
    base = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(60, 12, generator=generator, dtype=torch.float64)
    vector = make_vector(method, base + planted + noise, base)
    assert torch.cosine_similarity(vector, planted, dim=0) > 0.9
    assert vector.norm() == pytest.approx(4.0, rel=0.1)


def test_mean_difference_is_just_that() -> None:
    positive, negative = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)
    assert make_vector("mean_difference", positive, negative).tolist() == [2.0, 3.0]
