"""Batches and ranges of blocks, against brute force over small tables of integers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_dist.plan.units import MOST_PADDING, cut_batches, split_blocks
from lrt_dist.sites import fold_of

LENGTHS = st.lists(st.integers(1, 30), max_size=40)
WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=9)


@given(LENGTHS, st.integers(1, 90))
def test_every_sequence_is_in_one_batch_and_the_padded_size_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = cut_batches(lengths, budget)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


@given(st.lists(st.integers(1, 250), max_size=40), st.integers(1, 4000))
def test_a_batch_ends_only_where_one_more_would_cost_too_much(
    lengths: list[int], budget: int
) -> None:
    batches = [[lengths[i] for i in batch] for batch in cut_batches(lengths, budget)]

    def is_allowed(batch: list[int]) -> bool:
        padded = len(batch) * max(batch)
        return padded <= budget and padded - sum(batch) <= MOST_PADDING

    assert all(is_allowed(batch) or len(batch) == 1 for batch in batches)
    for batch, following in itertools.pairwise(batches):
        assert not is_allowed([*batch, following[0]])


@given(LENGTHS)
def test_batches_are_a_function_of_the_lengths(lengths: list[int]) -> None:
    """Ties go by index, so that a re-run pads to the same shapes."""
    once = cut_batches(lengths, 50)
    assert once == cut_batches(list(lengths), 50)
    flat = list(itertools.chain.from_iterable(once))
    assert flat == sorted(flat, key=lambda i: (lengths[i], i))


@settings(max_examples=60)
@given(WEIGHTS, st.data())
def test_the_heaviest_range_is_as_light_as_can_be(weights: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(weights)))
    ranges = split_blocks(weights, stages)
    assert len(ranges) == stages
    assert all(len(r) >= 1 for r in ranges)
    assert list(itertools.chain.from_iterable(ranges)) == list(range(len(weights)))
    every_cut = (
        (0, *cuts, len(weights))
        for cuts in itertools.combinations(range(1, len(weights)), stages - 1)
    )
    best = min(max(sum(weights[a:b]) for a, b in itertools.pairwise(ends)) for ends in every_cut)
    assert max(sum(weights[i] for i in r) for r in ranges) == best


@given(st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=80), st.data())
def test_real_sizes_are_cut_too(weights: list[float], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(weights)))
    ranges = split_blocks(weights, stages)
    assert [len(ranges), ranges[0].start, ranges[-1].stop] == [stages, 0, len(weights)]
    heaviest = max(sum(weights[i] for i in r) for r in ranges)
    ideal = max(max(weights), sum(weights) / stages)
    assert heaviest <= ideal + max(weights) + 1e-9 * sum(weights)


@pytest.mark.parametrize(("blocks", "stages"), [(3, 4), (3, 0), (0, 1), (0, 0)])
def test_more_stages_than_blocks_are_refused_with_both_numbers(blocks: int, stages: int) -> None:
    with pytest.raises(ValueError, match=f"{blocks} blocks cannot be cut into {stages} stages"):
        split_blocks([1.0] * blocks, stages)


def test_folds_are_the_same_in_every_run_and_about_even() -> None:
    folds = [fold_of(f"corpus.jsonl#{n}", 5) for n in range(2000)]
    assert folds[:6] == [fold_of(f"corpus.jsonl#{n}", 5) for n in range(6)]
    counts = [folds.count(fold) for fold in range(5)]
    assert sum(counts) == 2000  # nothing outside 0 … 4
    assert min(counts) > 330
    assert [fold_of(name, 5) for name in ("a", "b", "c")] == [
        0,
        1,
        0,
    ]  # pinned: stores outlive versions
