"""No score without its controls, and nothing chosen but by the development split."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan import conditions as plan
from lrt_dist.plan.conditions import NO_LAYER, NONE, Arm, Chosen, Condition, choose
from lrt_dist.sites import LayerPair

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
EFFECTS = st.dictionaries(
    st.tuples(
        st.builds(LayerPair, st.integers(0, 2), st.integers(0, 2)),
        st.sampled_from([0.05, 0.1, 0.5]),
    ),
    st.tuples(st.integers(-3, 6), st.integers(-3, 6)),
    min_size=1,
)


def test_the_test_split_sees_every_arm_at_every_strength_once() -> None:
    conditions = plan.test_conditions(7, STRENGTHS, draws=3)
    assert len(set(conditions)) == len(conditions)
    assert conditions.count(NONE) == 1
    seen = Counter((v.arm, v.strength) for v in conditions if v != NONE)
    expected = {"native": 1, "transferred": 1, "mismatched": 1, "random": 3}
    assert seen == {(arm, s): n for arm, n in expected.items() for s in STRENGTHS}


def test_the_development_split_sees_every_source_layer_but_no_control_that_could_be_tuned() -> None:
    conditions = plan.dev_conditions([2, 5], STRENGTHS)
    assert len(set(conditions)) == len(conditions) == 1 + 3 * len(STRENGTHS)
    assert {v.arm for v in conditions} == {"none", "native", "transferred"}
    sources = {v.source_layer for v in conditions if v.arm == "transferred"}
    assert sources == {2, 5}


def test_only_mapped_vectors_have_a_source_layer_and_only_random_ones_a_draw() -> None:
    every = [
        *plan.dev_conditions([2], STRENGTHS),
        *plan.test_conditions(2, STRENGTHS, draws=2),
        *plan.neutral_conditions(2, 0.1),
        *plan.sample_conditions(2, 0.1),
    ]
    for condition in every:
        assert (condition.source_layer != NO_LAYER) == (
            condition.arm in ("transferred", "mismatched")
        )
        assert condition.draw == 0 or condition.arm == "random"
        assert (condition.strength == 0) == (condition.arm == "none")


def test_price_and_samples_show_both_signs_and_the_price_has_a_control() -> None:
    for make in (plan.neutral_conditions, plan.sample_conditions):
        conditions = make(3, 0.1)
        assert NONE in conditions
        for arm in ("native", "transferred"):
            assert {v.strength for v in conditions if v.arm == arm} == {-0.1, 0.1}
    assert Condition(Arm.RANDOM, strength=0.1) in plan.neutral_conditions(3, 0.1)


@given(EFFECTS)
def test_the_chosen_pair_and_strength_by_brute_force(
    effects: dict[tuple[LayerPair, float], tuple[float, float]],
) -> None:
    chosen = choose(effects)
    pair, strength = chosen.pair, chosen.strength

    def gentlest(of: LayerPair) -> float:
        strengths = sorted(s for p, s in effects if p == of)
        largest = max(effects[of, s][0] for s in strengths)
        if largest <= 0:  # the native vector does nothing: go gently
            return strengths[0]
        return next(s for s in strengths if 2 * effects[of, s][0] >= largest)

    at = {p: gentlest(p) for p, _ in effects}
    assert strength == at[pair]
    assert min(effects[pair, strength]) == max(min(effects[p, s]) for p, s in at.items())


@given(EFFECTS, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_what_was_measured(
    effects: dict[tuple[LayerPair, float], tuple[float, float]], order: random.Random
) -> None:
    lines = list(effects.items())
    order.shuffle(lines)
    assert choose(dict(lines)) == choose(effects)


def test_a_strong_native_effect_at_a_gentle_strength_is_preferred() -> None:
    pair = LayerPair(0, 0)
    effects = {(pair, 0.05): (1.1, 0.5), (pair, 0.1): (2.0, 0.9), (pair, 0.5): (1.0, 3.0)}
    assert choose(effects) == Chosen(pair, 0.05)
