"""Rows that are picked are the rows of all tensors together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.linear import picked
from lrt_dist.linear.moments import Accumulator, NonFiniteError
from lrt_dist.linear.picked import Picked


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    count=st.integers(0, 30),
    begin=st.integers(0, 30),
    piece=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_the_tensors_in_their_order(
    lengths: list[int], count: int, begin: int, piece: int, seed: int
) -> None:
    """In pieces of any size."""
    generator = torch.Generator().manual_seed(seed)
    tensors = tuple(
        torch.randn(length, 3, generator=generator).to(torch.bfloat16) for length in lengths
    )
    places = torch.randint(sum(lengths), (count,), generator=generator)
    rows, whole = Picked(tensors, places)[begin:], torch.cat(tensors)[places[begin:]]
    assert rows.shape == tuple(whole.shape)
    assert torch.equal(rows.gathered(), whole)
    out = torch.empty(len(rows), 5, dtype=torch.float64)[:, 1:4]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(picked, "PIECE", piece)
        rows.copy_to(out)
    assert torch.equal(out, whole.double())


def test_moments_of_picked_rows_are_those_of_a_copy() -> None:
    """To the bit; and what is not finite is found by its place among the picked ones."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, width, generator=generator).to(torch.bfloat16) for width in (7, 4))
    places = torch.randperm(50, generator=generator)[:20]
    held = {"x": Picked((x,), places), "y": Picked((y[:30], y[30:]), places)}
    pairs = [("x", "x"), ("x", "y")]
    one, other = Accumulator(pairs), Accumulator(pairs)
    one.add(held, "all")
    other.add({"x": x[places], "y": y[places]}, "all")
    for pair in pairs:
        assert torch.equal(one.freeze().second[pair], other.freeze().second[pair])
    y[places[13]] = float("nan")
    held = {"x": Picked((x,), places), "y": Picked((y[:30], y[30:]), places)}
    with pytest.raises(NonFiniteError) as raised:
        Accumulator(pairs).add(held, "all")
    assert (raised.value.variable, raised.value.row) == ("y", 13)
