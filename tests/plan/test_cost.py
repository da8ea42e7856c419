"""Bytes and operations, against counting real tensors and one multiplication at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_moments import moments_of
from torch.utils.flop_counter import FlopCounterMode

from lrt_dist.linear.fit import SourceFit, mismatched, wanted_moments
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.linear.moments import Moments
from lrt_dist.plan.cost import (
    NUMBER_BYTES,
    PROCESS_BYTES,
    accumulate_bytes,
    cores_of_task,
    curve_flops,
    eigh_flops,
    forward_flops,
    moments_flops,
    solve_flops,
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


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_each_row_multiplies_and_adds_once_per_entry(rows: int, d: int, e: int) -> None:
    counted = 0
    for _ in range(rows):
        for _entry in range(d * e):
            counted += 2  # one product, one sum
    assert moments_flops(rows, d * e) == counted


def test_a_task_asks_for_more_than_it_holds() -> None:
    """Moments of all folds and a copy of one, and what is read."""
    d, folds, rows = 64, 5, 1000
    held = [torch.empty(d, d, dtype=torch.float64) for _ in range(folds + 1)]
    read = torch.empty(rows, 3 * d, dtype=torch.bfloat16)
    asked = accumulate_bytes(8 * folds * d * d, 3 * d, 5 * d, rows, 2, folds) - PROCESS_BYTES
    assert asked >= sum(m.nbytes for m in held) + 2 * read.nbytes


def test_cores_grow_with_the_matrices_up_to_what_a_node_has() -> None:
    assert [cores_of_task(width, 64) for width in (16, 640, 1024, 8192)] == [1, 1, 2, 16]
    assert cores_of_task(8192, 2) == 2
    assert cores_of_task(8192, 0.5) == 1


@given(st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_a_forward_pass_costs_two_per_weight_and_token_and_stops_at_the_last_layer(
    tokens: int, blocks: list[int], data: st.DataObject
) -> None:
    last = data.draw(st.integers(0, len(blocks) - 1))
    linear = [torch.nn.Linear(1, size, bias=False) for size in blocks]
    counted = sum(2 * tokens * linear[i].weight.numel() for i in range(last + 1))
    assert forward_flops(tokens, blocks, last) == counted


@pytest.mark.parametrize(("method", "penalised"), [("affine", True), ("linear", False)])
@pytest.mark.parametrize(
    ("d", "e", "ends", "folds", "draws"),
    [(40, 64, 2, 5, 3), (64, 40, 1, 5, 1), (48, 48, 3, 3, 2), (32, 64, 1, 9, 2), (32, 64, 1, 2, 1)],
)
def test_products_of_a_solve_are_those_that_torch_counts(
    method: str, penalised: bool, d: int, e: int, ends: int, folds: int, draws: int
) -> None:
    """It counts no decomposition; what it counts beside, for each λ, fades with the widths."""
    names = [f"y{number}" for number in range(ends)]
    random = torch.Generator().manual_seed(0)

    def fold(number: int) -> Moments:
        columns = [*names, *(mismatched(name, draw) for name in names for draw in range(draws))]
        rows = {column: torch.randn(200, e, generator=random).double() for column in columns}
        rows["x"] = torch.randn(200, d, generator=random).double()
        wanted = wanted_moments([("x", name) for name in names], draws)
        return moments_of(rows, wanted, str(number))

    moments = [fold(number) for number in range(folds)]
    with FlopCounterMode(display=False) as counted:
        fit = SourceFit(moments, "x", FIT_METHODS.find(method))
        for name in names:
            fit.fit(moments, name, [("x", mismatched(name, draw)) for draw in range(draws)])
        curve = fit.learning_curve(moments, names[0])
    decompositions = (folds + 1 + len(curve)) * eigh_flops(d)
    planned = solve_flops(d, e, ends, folds, draws, penalised=penalised)
    planned += curve_flops(d, e, folds, penalised=penalised) - decompositions
    assert planned <= counted.get_total_flops() <= 1.06 * planned
