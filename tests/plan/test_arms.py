"""No score without its controls, and nothing chosen but by the development split."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.plan import arms
from lrt_dist.plan.arms import NO_LAYER, NONE, Variant, choose
from lrt_dist.sites import LayerPair

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
SWINGS = st.dictionaries(
    st.tuples(
        st.builds(LayerPair, st.integers(0, 2), st.integers(0, 2)),
        st.sampled_from([0.05, 0.1, 0.5]),
    ),
    st.tuples(st.integers(-3, 6), st.integers(-3, 6)),
    min_size=1,
)


def test_the_test_split_sees_every_arm_at_every_strength_once() -> None:
    variants = arms.test_variants(7, STRENGTHS, draws=3)
    assert len(set(variants)) == len(variants)
    assert variants.count(NONE) == 1
    seen = Counter((v.arm, v.strength) for v in variants if v != NONE)
    expected = {"native": 1, "transferred": 1, "shuffled": 1, "random": 3}
    assert seen == {(arm, s): n for arm, n in expected.items() for s in STRENGTHS}


def test_the_development_split_sees_every_source_layer_but_no_control_that_could_be_tuned() -> None:
    variants = arms.dev_variants([2, 5], STRENGTHS)
    assert len(set(variants)) == len(variants) == 1 + 3 * len(STRENGTHS)
    assert {v.arm for v in variants} == {"none", "native", "transferred"}
    sources = {v.source_layer for v in variants if v.arm == "transferred"}
    assert sources == {2, 5}


def test_only_mapped_vectors_have_a_source_layer_and_only_random_ones_a_draw() -> None:
    every = [
        *arms.dev_variants([2], STRENGTHS),
        *arms.test_variants(2, STRENGTHS, draws=2),
        *arms.neutral_variants(2, 0.1),
        *arms.sample_variants(2, 0.1),
    ]
    for variant in every:
        assert (variant.source_layer != NO_LAYER) == (variant.arm in ("transferred", "shuffled"))
        assert variant.draw == 0 or variant.arm == "random"
        assert (variant.strength == 0) == (variant.arm == "none")


def test_price_and_samples_show_both_signs_and_the_price_has_a_control() -> None:
    for make in (arms.neutral_variants, arms.sample_variants):
        variants = make(3, 0.1)
        assert NONE in variants
        for arm in ("native", "transferred"):
            assert {v.strength for v in variants if v.arm == arm} == {-0.1, 0.1}
    assert Variant("random", strength=0.1) in arms.neutral_variants(3, 0.1)


@given(SWINGS)
def test_the_chosen_pair_and_strength_by_brute_force(
    swings: dict[tuple[LayerPair, float], tuple[float, float]],
) -> None:
    pair, strength = choose(swings)

    def gentlest(of: LayerPair) -> float:
        strengths = sorted(s for p, s in swings if p == of)
        largest = max(swings[of, s][0] for s in strengths)
        if largest <= 0:  # the native vector does nothing: go gently
            return strengths[0]
        return next(s for s in strengths if 2 * swings[of, s][0] >= largest)

    at = {p: gentlest(p) for p, _ in swings}
    assert strength == at[pair]
    assert min(swings[pair, strength]) == max(min(swings[p, s]) for p, s in at.items())


@given(SWINGS, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_what_was_measured(
    swings: dict[tuple[LayerPair, float], tuple[float, float]], order: random.Random
) -> None:
    lines = list(swings.items())
    order.shuffle(lines)
    assert choose(dict(lines)) == choose(swings)


def test_a_strong_native_effect_at_a_gentle_strength_is_preferred() -> None:
    pair = LayerPair(0, 0)
    swings = {(pair, 0.05): (1.1, 0.5), (pair, 0.1): (2.0, 0.9), (pair, 0.5): (1.0, 3.0)}
    assert choose(swings) == (pair, 0.05)
