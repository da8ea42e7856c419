"""What is injected: no score without its controls, the gentlest strength that does half."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan.conditions import (
    DRAWN,
    NONE,
    Arm,
    Condition,
    compared_conditions,
    conditions_of,
    gentlest,
)

EFFECTS = st.lists(
    st.tuples(st.sampled_from([0.02, 0.05, 0.1, 0.5]), st.floats(-3, 6)),
    min_size=1,
    max_size=4,
    unique_by=lambda pair: pair[0],
)


def test_conditions_are_one_for_each_draw_and_strength() -> None:
    made = conditions_of(Arm.MISMATCHED, (-0.1, 0.1), source=7, draws=range(3))
    assert len(set(made)) == len(made) == 6
    assert {(c.draw, c.strength) for c in made} == {(d, s) for d in range(3) for s in (-0.1, 0.1)}
    assert {c.source_layer for c in made} == {7}


def test_what_is_compared_has_a_control_in_as_many_draws_as_asked_for() -> None:
    compared = compared_conditions(3, 0.1, draws=2)
    assert compared[0] == NONE
    assert len(set(compared)) == len(compared) == 1 + 2 * (1 + 1 + 2)
    assert {c.draw for c in compared if c.arm is Arm.RANDOM} == {0, 1}
    assert Condition(Arm.RANDOM, 3, strength=-0.1) in compared_conditions(3, 0.1)


def test_drawn_controls_are_arms_of_their_own() -> None:
    assert len(set(DRAWN)) == 4
    assert not {Arm.NONE, Arm.NATIVE, Arm.TRANSFERRED} & set(DRAWN)


@given(EFFECTS)
def test_the_gentlest_strength_does_half_of_the_most(effects: list[tuple[float, float]]) -> None:
    chosen = gentlest(effects)
    known = dict(effects)
    largest = max(known.values())
    if largest > 0:
        assert known[chosen] >= largest / 2
        assert all(known[s] < largest / 2 for s in known if s < chosen)
    else:
        assert chosen == min(known)


@pytest.mark.parametrize("nothing", [0.0, -1.0, float("nan")])
def test_where_the_native_vector_does_nothing_the_gentlest_strength_is_the_smallest(
    nothing: float,
) -> None:
    assert gentlest([(0.1, nothing), (0.05, nothing)]) == 0.05
