"""Device memory is a number before it is a fact."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan.memory import (
    USABLE,
    ModelSize,
    cores_each,
    cores_shared,
    fewest_stages,
    plan_stages,
)

SIZES = st.builds(
    ModelSize,
    blocks=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    embedding=st.integers(0, 60),
    head=st.integers(0, 60),
    width=st.integers(1, 4),
)


def choices(data: st.DataObject, size: ModelSize) -> dict[str, Any]:
    return {
        "last_layer": data.draw(st.integers(0, len(size.blocks) - 1)),
        "head": data.draw(st.booleans()),
        "number_bytes": data.draw(st.sampled_from([2, 4])),
        "batch_tokens": data.draw(st.integers(1, 5)),
    }


@given(SIZES, st.data())
def test_stages_own_every_wanted_block_once_and_every_weight_is_counted_once(
    size: ModelSize, data: st.DataObject
) -> None:
    chosen = choices(data, size)
    last, head = chosen["last_layer"], chosen["head"]
    plans = plan_stages(size, stages=data.draw(st.integers(1, last + 1)), **chosen)
    owned = list(itertools.chain.from_iterable(plan.owned for plan in plans))
    assert owned == list(range(last + 1))
    numbers = sum(size.blocks[: last + 1]) + size.embedding + (size.head if head else 0)
    assert sum(plan.weight_bytes for plan in plans) == numbers * chosen["number_bytes"]
    for plan in plans:
        assert plan.bytes == plan.weight_bytes + plan.working_bytes
        assert plan.working_bytes > 0


@given(SIZES, st.data())
def test_the_heaviest_stage_is_as_light_as_can_be_with_embedding_and_head(
    size: ModelSize, data: st.DataObject
) -> None:
    chosen = choices(data, size)
    last = chosen["last_layer"]
    stages = data.draw(st.integers(1, last + 1))
    loads = list(size.blocks[: last + 1])
    loads[0] += size.embedding
    loads[-1] += size.head if chosen["head"] else 0
    best = min(
        max(sum(loads[a:b]) for a, b in itertools.pairwise((0, *cuts, last + 1)))
        for cuts in itertools.combinations(range(1, last + 1), stages - 1)
    )
    plans = plan_stages(size, stages=stages, **chosen)
    assert max(plan.weight_bytes for plan in plans) == best * chosen["number_bytes"]


@given(SIZES, st.data())
def test_the_fewest_stages_fit_and_one_fewer_does_not(size: ModelSize, data: st.DataObject) -> None:
    chosen = choices(data, size)
    device = data.draw(st.integers(1, 4000))
    fewest = fewest_stages(size, device_bytes=device, **chosen)

    def heaviest(stages: int) -> int:
        return max(plan.bytes for plan in plan_stages(size, stages=stages, **chosen))

    fitting = [n for n in range(1, chosen["last_layer"] + 2) if heaviest(n) <= device * USABLE]
    assert (len(fewest) if fewest else None) == min(fitting, default=None)


def test_working_memory_grows_with_tokens_width_and_number_size() -> None:
    size = ModelSize(blocks=[5, 5], embedding=0, head=0, width=8)
    common: dict[str, Any] = {"last_layer": 1, "head": False, "stages": 1}
    base = plan_stages(size, **common, number_bytes=2, batch_tokens=100)[0].working_bytes
    assert (
        plan_stages(size, **common, number_bytes=4, batch_tokens=100)[0].working_bytes == 2 * base
    )
    assert (
        plan_stages(size, **common, number_bytes=2, batch_tokens=300)[0].working_bytes == 3 * base
    )


def test_more_stages_than_wanted_blocks_are_refused() -> None:
    size = ModelSize(blocks=[5] * 6, embedding=1, head=1, width=8)
    with pytest.raises(ValueError, match="2 blocks cannot be cut into 3 stages"):
        plan_stages(size, last_layer=1, head=False, stages=3, number_bytes=2, batch_tokens=1)


@pytest.mark.parametrize(
    ("nodes", "stages", "expected"),
    [
        ((2.0,), 2, 1),
        ((2.0,), 1, 2),
        ((4.0,) * 8, 4, 4),  # not 8: a stage must fit on one node
        ((16.0,) * 3, 4, 8),  # not 12: the fourth would fit nowhere
        ((0.0, 6.0), 2, 3),
        ((1.0,), 5, 1),
    ],
)
def test_cores_are_shared_out_within_nodes(
    nodes: tuple[float, ...], stages: int, expected: int
) -> None:
    assert cores_each(nodes, stages) == expected


@pytest.mark.parametrize(
    ("nodes", "stages", "expected"),
    [
        ((16.0,), 3, 5.0),
        ((2.0,), 2, 1.0),
        ((2.0,), 3, 0.66),
        ((2.0, 2.0), 5, 0.66),
        ((1.0, 1.0), 3, 0.5),
        ((4.0,) * 4, 17, 0.8),
        ((1.0,), 500, 0.01),
    ],
)
def test_stages_that_run_at_once_share_cores_that_lie_on_one_node(
    nodes: tuple[float, ...], stages: int, expected: float
) -> None:
    cores = cores_shared(nodes, stages)
    assert cores == expected
    if cores > 0.01:
        assert sum(int(100 * node) // round(100 * cores) for node in nodes) >= stages


def test_what_is_remembered_is_one_batch_for_each_stage_in_its_own_blocks() -> None:
    """So a stage of an even chain keeps what the whole model would keep of one batch."""
    common: dict[str, Any] = {
        "last_layer": 5, "head": True, "number_bytes": 2, "batch_tokens": 100,
    }  # fmt: skip
    size = ModelSize(blocks=[5] * 6, embedding=0, head=0, width=8)
    writes = ModelSize(blocks=[5] * 6, embedding=0, head=0, width=8, remembered=16)
    for stages in (1, 2, 3, 6):
        silent = plan_stages(size, stages=stages, **common)
        for plan, other in zip(plan_stages(writes, stages=stages, **common), silent, strict=True):
            assert plan.working_bytes - other.working_bytes == 6 * 100 * 16 * 2
