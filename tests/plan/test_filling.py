"""How full the batches of units are."""

from __future__ import annotations

import random

import pytest

from lrt_dist.plan.filling import (
    BUDGETS,
    CHUNK_BYTES,
    WORTH,
    batch_cost,
    better_budget,
    better_rows,
)
from lrt_dist.plan.units import MOST_PADDING

PLENTY = 1 << 40


def natural(count: int = 20_000) -> tuple[list[int], list[int]]:
    """Lengths of segments, few of them long; every second token is a site."""
    drawn = random.Random(0)
    lengths = [min(512, 8 + int(drawn.expovariate(1 / 60))) for _ in range(count)]
    return lengths, [length // 2 for length in lengths]


def test_full_batches_cost_what_they_read_again() -> None:
    """64 segments of 32 tokens fill a batch of 2,048; a unit of 64 × 8 sites is one."""
    lengths, sites = [32] * 640, [8] * 640
    assert batch_cost(lengths, sites, 512, 2048) == 1 + MOST_PADDING / 2048


def test_half_a_batch_a_unit_costs_twice_the_weights() -> None:
    lengths, sites = [32] * 640, [8] * 640
    assert batch_cost(lengths, sites, 256, 2048) == 1 + MOST_PADDING / 1024


def test_padding_counts() -> None:
    """Two segments in one batch, padded by one token."""
    assert batch_cost([10, 11], [1, 1], 2, 100) == (22 + MOST_PADDING) / 21


def test_a_last_unit_that_is_short_says_nothing() -> None:
    lengths, sites = [32] * 65, [8] * 65
    assert batch_cost(lengths, sites, 512, 2048) == batch_cost(lengths[:64], sites[:64], 512, 2048)


def test_larger_units_are_fuller() -> None:
    lengths, sites = natural()
    costs = [batch_cost(lengths, sites, rows, 2048) for rows in (256, 1024, 4096, 65_536)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] - costs[-1] > 0.2


def test_small_units_of_short_texts_should_be_larger() -> None:
    """For a narrow model: a row of 1,152 bytes."""
    lengths, sites = natural()
    rows = better_rows(lengths, sites, 1024, 2048, 1152, PLENTY)
    assert rows is not None
    assert CHUNK_BYTES[0] <= rows * 1152 <= CHUNK_BYTES[1]
    largest = 1 << (CHUNK_BYTES[1] // 1152).bit_length() - 1
    assert batch_cost(lengths, sites, rows, 2048) <= WORTH + batch_cost(
        lengths, sites, largest, 2048
    )
    assert better_rows(lengths, sites, rows, 2048, 1152, PLENTY) is None


def test_chunks_that_are_too_large_should_be_smaller() -> None:
    """A row of 16 KiB: 4,096 of them are 67 MB."""
    lengths, sites = natural()
    assert better_rows(lengths, sites, 65_536, 16_384, 16_384, PLENTY) in (512, 1024, 2048, 4096)


def test_a_small_corpus_stays_in_units_enough() -> None:
    lengths, sites = natural(100)
    assert better_rows(lengths, sites, 64, 2048, 1152, sum(sites) // 16) is None


def test_no_segments() -> None:
    with pytest.raises(ValueError, match="no segments"):
        batch_cost([], [], 64, 2048)


def test_small_batches_of_large_units_should_be_larger() -> None:
    """By the weights that each batch reads again; the fewest tokens that lose little are enough."""
    lengths, sites = natural()

    def cost(budget: int) -> float:
        return batch_cost(lengths, sites, 65_536, budget)

    better = better_budget(cost, 600)
    assert better in BUDGETS
    assert cost(better) <= min(map(cost, BUDGETS)) + WORTH
    assert cost(better // 2) > min(map(cost, BUDGETS)) + WORTH
    assert better_budget(cost, better) is None


def test_batches_for_which_a_model_needs_too_many_stages_should_be_smaller() -> None:
    """Two stages up to 8,192 tokens, three beyond, which leave two of eight GPUs idle."""
    costs = {budget: 1.01 if budget <= 8192 else 8 / 6 for budget in BUDGETS}
    assert better_budget(costs.get, 16_384) == BUDGETS[0]
    assert better_budget(costs.get, 8192) is None


def test_batches_that_do_not_fit_are_not_proposed() -> None:
    fitting = {1024: 1.5, 2048: 1.2}
    assert better_budget(fitting.get, 1024) == 2048
    assert better_budget(fitting.get, 2048) is None
