"""Moments are an algebra: any split, merged in any order, is the whole, to rounding."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_moments import moments_of

from lrt_dist.linear.moments import Accumulator, Moments, RowBuffer, merge_all

PAIRS = [("x", "x"), ("x", "y"), ("y", "y")]


def data(n: int, seed: int = 0, offset: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64) + offset
    return {"x": x, "y": x[:, :3] * 2 + torch.randn(n, 3, generator=generator).double()}


def parts_of(whole: dict[str, torch.Tensor], cuts: list[int]) -> list[Moments]:
    edges = [0, *sorted(cuts), len(whole["x"])]
    return [
        moments_of({k: v[a:b] for k, v in whole.items()}, PAIRS, f"{i}")
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
    """To rounding: 1e-10 of each entry, 1e-8 at least."""
    whole = data(n)
    parts = parts_of(whole, [min(c, n) for c in cuts])
    order.shuffle(parts)  # type: ignore[attr-defined]
    assert_same(merge_all(parts), moments_of(whole, PAIRS, "all"))


def test_they_are_numpys_covariances() -> None:
    """To rounding: 1e-7 of each entry."""
    whole = data(30)
    moments = moments_of(whole, PAIRS, "all")
    both = np.cov(np.hstack([whole["x"], whole["y"]]), rowvar=False) * 29
    np.testing.assert_allclose(moments.second["x", "x"], both[:5, :5])
    np.testing.assert_allclose(moments.second["x", "y"], both[:5, 5:])
    np.testing.assert_allclose(moments.mean["y"], whole["y"].numpy().mean(0))


def test_accumulators_that_share_memory_keep_to_themselves() -> None:
    """To rounding, since rows come in two pieces: 1e-10 of each entry, 1e-8 at least."""
    whole, other = data(30), data(50, seed=1)
    memory = RowBuffer()
    shared = [Accumulator(PAIRS, memory) for _ in range(2)]
    for accumulator, rows in zip(shared, (whole, other), strict=True):
        accumulator.add({name: values[:20] for name, values in rows.items()}, "first")
    for accumulator, rows in zip(shared, (whole, other), strict=True):
        accumulator.add({name: values[20:] for name, values in rows.items()}, "rest")
    assert_same(shared[0].freeze(), moments_of(whole, PAIRS, "all"))
    assert_same(shared[1].freeze(), moments_of(other, PAIRS, "all"))


@pytest.mark.parametrize("offset", [0, 8])
def test_what_was_kept_goes_on_to_the_same_bits(offset: int) -> None:
    """However it lies in memory: from a file it comes as it lies there."""
    rows = torch.randn(60, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pieces = [{"x": piece[:, :40], "y": piece[:, 40:]} for piece in torch.chunk(rows, 3)]
    through, again = Accumulator(PAIRS), Accumulator(PAIRS)
    through.add(pieces[0], "0")
    sums = through.sums()
    lying = {name: lying_at(offset, tensor) for name, tensor in sums.tensors.items()}
    again.take_up(replace(sums, tensors=lying))
    given = {tensor.data_ptr() for tensor in lying.values()}
    assert not given & {tensor.data_ptr() for tensor in again.sums().tensors.values()}
    for number, piece in enumerate(pieces[1:], 1):
        through.add(piece, str(number))
        again.add(piece, str(number))
    whole, same = through.freeze(), again.freeze()
    for pair in PAIRS:
        assert torch.equal(whole.second[pair], same.second[pair])


def lying_at(offset: int, tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, so many bytes behind the beginning of what was allocated."""
    memory = torch.empty(tensor.nbytes + offset, dtype=torch.uint8)
    moved = memory[offset:].view(tensor.dtype).view(tensor.shape)
    return moved.copy_(tensor)


def test_large_offsets_do_no_harm() -> None:
    """To rounding: 1e-8 of each entry, 1e-7 at least."""
    plain, far = data(200), data(200, offset=1e6)
    exact = moments_of(plain, [("x", "x")], "a").second["x", "x"]
    parts = [
        moments_of({"x": far["x"][a : a + 50]}, [("x", "x")], str(a)) for a in range(0, 200, 50)
    ]
    torch.testing.assert_close(merge_all(parts).second["x", "x"], exact, rtol=1e-8, atol=1e-7)


def test_empty_is_the_identity() -> None:
    moments = moments_of(data(7), PAIRS, "a")
    assert_same(merge_all([moments, Moments()]), moments)
    assert_same(merge_all([Moments(), moments]), moments)
    assert merge_all([]) == Moments()
    nothing = moments_of({k: v[:0] for k, v in data(7).items()}, PAIRS, "none")
    merged = merge_all([nothing, moments])
    assert merged.parts == {"a", "none"}
    assert_same(merged, moments)


def test_nothing_is_counted_twice() -> None:
    one = moments_of(data(5), PAIRS, "unit 3")
    with pytest.raises(ValueError, match=r"1 parts would count twice, unit 3 first"):
        merge_all([one, one])


def test_merging_changes_no_operand() -> None:
    """A copy: equal bits."""
    operands = parts_of(data(10), [4, 7])
    before = [part.second["x", "x"].clone() for part in operands]
    merge_all(operands)
    for part, copy in zip(operands, before, strict=True):
        assert torch.equal(part.second["x", "x"], copy)


def test_what_is_not_finite_is_refused_with_its_place() -> None:
    bad = data(6)
    bad["y"][4, 1] = float("nan")
    with pytest.raises(ValueError, match=r"y is not finite in row 4"):
        moments_of(bad, PAIRS, "u")


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in rows"):
        moments_of({"x": torch.zeros(3, 1), "y": torch.zeros(4, 1)}, [("x", "y")], "u")


def test_different_variables_are_refused() -> None:
    one = moments_of(data(5), PAIRS, "a")
    other = moments_of({"x": torch.zeros(5, 5)}, [("x", "x")], "b")
    with pytest.raises(ValueError, match="different variables"):
        merge_all([one, other])
