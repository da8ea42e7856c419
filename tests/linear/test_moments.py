"""Moments are an algebra: any split, merged in any order, is the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_dist.linear.moments import Accumulator, Moments, Workspace, merge_all

PAIRS = [("x", "x"), ("x", "y"), ("y", "y")]


def data(n: int, seed: int = 0, offset: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64) + offset
    return {"x": x, "y": x[:, :3] * 2 + torch.randn(n, 3, generator=generator).double()}


def parts_of(whole: dict[str, torch.Tensor], cuts: list[int]) -> list[Moments]:
    edges = [0, *sorted(cuts), len(whole["x"])]
    return [
        Moments.of({k: v[a:b] for k, v in whole.items()}, PAIRS, f"{i}")
        for i, (a, b) in enumerate(itertools.pairwise(edges))
    ]


def assert_same(one: Moments, other: Moments, rtol: float = 1e-10) -> None:
    assert one.n == other.n
    for name in one.mean:
        torch.testing.assert_close(one.mean[name], other.mean[name], rtol=rtol, atol=1e-9)
    for pair in one.second:
        torch.testing.assert_close(one.second[pair], other.second[pair], rtol=rtol, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_any_split_in_any_order_is_the_whole(n: int, cuts: list[int], order: object) -> None:
    whole = data(n)
    parts = parts_of(whole, [min(c, n) for c in cuts])
    order.shuffle(parts)  # type: ignore[attr-defined]
    assert_same(merge_all(parts), Moments.of(whole, PAIRS, "all"))


def test_they_are_numpys_covariances() -> None:
    whole = data(30)
    moments = Moments.of(whole, PAIRS, "all")
    both = np.cov(np.hstack([whole["x"], whole["y"]]), rowvar=False) * 29
    np.testing.assert_allclose(moments.second["x", "x"], both[:5, :5])
    np.testing.assert_allclose(moments.second["x", "y"], both[:5, 5:])
    np.testing.assert_allclose(moments.mean["y"], whole["y"].numpy().mean(0))


def test_accumulators_that_share_memory_keep_to_themselves() -> None:
    whole, other = data(30), data(50, seed=1)
    workspace = Workspace()
    shared = [Accumulator(PAIRS, workspace) for _ in range(2)]
    for accumulator, rows in zip(shared, (whole, other), strict=True):
        accumulator.add({name: values[:20] for name, values in rows.items()}, "first")
    for accumulator, rows in zip(shared, (whole, other), strict=True):
        accumulator.add({name: values[20:] for name, values in rows.items()}, "rest")
    assert_same(shared[0].freeze(), Moments.of(whole, PAIRS, "all"))
    assert_same(shared[1].freeze(), Moments.of(other, PAIRS, "all"))


def test_large_offsets_do_no_harm() -> None:
    plain, far = data(200), data(200, offset=1e6)
    exact = Moments.of(plain, [("x", "x")], "a").second["x", "x"]
    parts = [
        Moments.of({"x": far["x"][a : a + 50]}, [("x", "x")], str(a)) for a in range(0, 200, 50)
    ]
    torch.testing.assert_close(merge_all(parts).second["x", "x"], exact, rtol=1e-8, atol=1e-7)


def test_empty_is_the_identity() -> None:
    moments = Moments.of(data(7), PAIRS, "a")
    assert_same(moments.merge(Moments()), moments)
    assert_same(Moments().merge(moments), moments)
    nothing = Moments.of({k: v[:0] for k, v in data(7).items()}, PAIRS, "none")
    merged = nothing.merge(moments)
    assert merged.parts == {"a", "none"}
    assert_same(merged, moments)


def test_nothing_is_counted_twice() -> None:
    one = Moments.of(data(5), PAIRS, "unit 3")
    with pytest.raises(ValueError, match=r"1 parts would count twice, unit 3 first"):
        one.merge(one)


def test_merging_changes_neither_operand() -> None:
    one, other = parts_of(data(10), [4])
    before = one.second["x", "x"].clone()
    one.merge(other)
    assert torch.equal(one.second["x", "x"], before)


def test_what_is_not_finite_is_refused_with_its_place() -> None:
    bad = data(6)
    bad["y"][4, 1] = float("nan")
    with pytest.raises(ValueError, match=r"y is not finite in row 4"):
        Moments.of(bad, PAIRS, "u")


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in rows"):
        Moments.of({"x": torch.zeros(3, 1), "y": torch.zeros(4, 1)}, [("x", "y")], "u")


def test_different_variables_are_refused() -> None:
    one = Moments.of(data(5), PAIRS, "a")
    other = Moments.of({"x": torch.zeros(5, 5)}, [("x", "x")], "b")
    with pytest.raises(ValueError, match="different variables"):
        one.merge(other)
