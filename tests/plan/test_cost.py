"""Bytes and operations, against counting real tensors and one multiplication at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan.cost import (
    NUMBER_BYTES,
    forward_flops,
    moments_bytes,
    moments_flops,
    store_bytes,
)

WIDTHS = st.lists(st.integers(1, 9), max_size=4)


@pytest.mark.parametrize("name", sorted(NUMBER_BYTES))
def test_numbers_are_as_large_as_torch_makes_them(name: str) -> None:
    assert NUMBER_BYTES[name] == getattr(torch, name).itemsize


@given(st.integers(0, 50), WIDTHS, st.sampled_from(["float32", "bfloat16"]))
def test_a_store_is_as_large_as_its_states_and_norms(
    rows: int, widths: list[int], dtype: str
) -> None:
    states = [torch.empty(rows, width, dtype=getattr(torch, dtype)) for width in widths]
    norms = [torch.empty(rows, dtype=torch.float32) for _ in widths]
    expected = sum(t.nbytes for t in (*states, *norms))
    assert store_bytes(rows, dict(enumerate(widths)), dtype) == expected


@given(WIDTHS, WIDTHS, st.integers(2, 6))
def test_moments_are_as_large_as_their_matrices(
    sources: list[int], targets: list[int], folds: int
) -> None:
    def matrices() -> list[torch.Tensor]:
        own = [(d, d) for d in (*sources, *targets)]
        pairs = [(a, b) for a in sources for b in targets]
        return [torch.empty(shape, dtype=torch.float64) for shape in (*own, *pairs, *pairs)]

    expected = sum(m.nbytes for _ in range(folds) for m in matrices())
    assert moments_bytes(sources, targets, folds) == expected


@given(st.integers(0, 9), WIDTHS, WIDTHS)
def test_each_row_multiplies_and_adds_once_per_entry_of_each_matrix(
    rows: int, sources: list[int], targets: list[int]
) -> None:
    entries = moments_bytes(sources, targets, folds=1) // 8
    assert moments_flops(rows, sources, targets) == sum(2 * entries for _ in range(rows))


@given(st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_a_forward_pass_costs_two_per_weight_and_token_and_stops_at_the_last_layer(
    tokens: int, blocks: list[int], data: st.DataObject
) -> None:
    last = data.draw(st.integers(0, len(blocks) - 1))
    linear = [torch.nn.Linear(1, size, bias=False) for size in blocks]
    counted = sum(2 * tokens * linear[i].weight.numel() for i in range(last + 1))
    assert forward_flops(tokens, blocks, last) == counted
