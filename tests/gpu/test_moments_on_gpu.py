"""Moments whose products a GPU makes, beside those of the cores."""

from __future__ import annotations

import pytest
import torch

from lrt_dist.linear.moments import Accumulator, RowBuffer
from lrt_dist.runtime.preflight import float64_products
from lrt_dist.workspace.products import GPU, SAME

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]


def test_a_gpu_makes_the_same_moments() -> None:
    """Of rows as they are stored, with massive ones: to 1e-12 of the largest number."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 96, generator=generator).to(torch.bfloat16)
    x[::500] *= 300
    y = torch.randn(5000, 64, generator=generator).to(torch.bfloat16)
    made = []
    for device in ("cpu", GPU):
        (accumulator,) = Accumulator.for_folds([("x", "x"), ("x", "y")], 1, RowBuffer(device))
        for rows in range(0, 5000, 1000):
            part = slice(rows, rows + 1000)
            accumulator.add({"x": x[part], "y": y[part]}, str(rows))
        made.append(accumulator.freeze())
    here, there = made
    assert (here.n, here.parts) == (there.n, there.parts)
    for pair, second in here.second.items():
        assert there.second[pair].device.type == "cpu"
        difference = (second - there.second[pair]).abs().max() / second.abs().max()
        assert float(difference) < SAME


def test_a_gpu_is_measured() -> None:
    found = float64_products(GPU)
    assert found.gpu > 0
    assert found.core > 0
    assert found.difference < SAME
