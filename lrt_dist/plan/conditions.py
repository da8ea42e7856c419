"""What an evaluation injects: arms, and the conditions under which items are steered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

NO_LAYER = -1
"""`source_layer` of an arm that does not depend on the source model."""

CROSS_ENTROPY = "cross_entropy"
"""Metric of neutral text: nats per token."""


class Arm(StrEnum):
    """What is injected, in the order in which tables and legends show the arms."""

    NONE = "none"
    """Nothing."""
    NATIVE = "native"
    """The vector made from the target model's own states."""
    TRANSFERRED = "transferred"
    """The source model's vector, mapped."""
    FOREIGN = "foreign"
    """Another concept's vector, mapped: a control."""
    PERMUTED = "permuted"
    """A vector of contrast pairs with permuted labels, mapped: a control."""
    RANDOM_SOURCE = "random_source"
    """A random vector of the source model, mapped: a control."""
    COVARIANCE = "covariance"
    """A random direction with the covariance of the layer's hidden states: a control."""
    RANDOM = "random"
    """A random direction: a control."""
    MISMATCHED = "mismatched"
    """The source model's vector under a map fitted to mismatched rows: a control."""
    CONCEPT_MAP = "concept_map"
    """The source model's vector under a map fitted on the contrast texts of one concept."""
    DETOUR = "detour"
    """The source model's vector under two maps, by way of a third model."""
    MEAN = "mean"
    """The mean of the layer's hidden states: a control."""
    IDENTITY = "identity"
    """The source model's vector as it is, where both models are equally wide: a control."""


MAPPED_DRAWS = (Arm.PERMUTED, Arm.RANDOM_SOURCE)
"""Controls that are drawn in the source model and go through the true map."""

TARGET_DRAWS = (Arm.COVARIANCE, Arm.RANDOM)
"""Controls that are drawn in the target model."""

DRAWN = (*MAPPED_DRAWS, *TARGET_DRAWS)
"""Controls of which there are many draws; each is searched as the claim is."""

BAND_CONTROLS = (Arm.PERMUTED, Arm.RANDOM)
"""Drawn controls that are steered at several layers at once."""


@dataclass(frozen=True)
class Condition:
    """One arm at one strength.

    Attributes:
        arm: what is injected.
        source_layer: whose vector was mapped, or whose mapped vector a control is as long as;
            `NO_LAYER` for the other arms.
        draw: number of the draw, of the mismatched map, or of the concept whose vector it is or
            on whose texts the map was fitted, or of the third model; 0 for the other arms.
        strength: in the unit of `evaluate.scale`; 0 for `none`.
    """

    arm: Arm
    source_layer: int = NO_LAYER
    draw: int = 0
    strength: float = 0.0


NONE = Condition(Arm.NONE)


def conditions_of(
    arm: Arm, strengths: Sequence[float], *, source: int = NO_LAYER, draws: Sequence[int] = (0,)
) -> list[Condition]:
    """An arm at several strengths, draw by draw."""
    return [Condition(arm, source, draw, strength) for draw in draws for strength in strengths]


def compared_conditions(source: int, strength: float, draws: int = 1) -> list[Condition]:
    """What is compared at the chosen strength, both signs: by the price on neutral text, and by
    texts that the model writes.

    Args:
        draws: number of random directions.
    """
    both = (-strength, strength)
    return [
        NONE,
        *conditions_of(Arm.NATIVE, both),
        *conditions_of(Arm.TRANSFERRED, both, source=source),
        *conditions_of(Arm.RANDOM, both, source=source, draws=range(draws)),
    ]


def dev_conditions(strengths: Sequence[float], source: int, *, predicted: bool) -> list[Condition]:
    """What some development items are steered with, from which a strength is chosen.

    Args:
        predicted: whether effects were predicted, so that predictions are held against steering.
    """
    conditions = [
        *conditions_of(Arm.NATIVE, strengths),
        *conditions_of(Arm.TRANSFERRED, strengths, source=source),
    ]
    if predicted:
        for arm in (*DRAWN, Arm.MISMATCHED):
            conditions += conditions_of(arm, strengths, source=source)
        conditions += conditions_of(Arm.MEAN, strengths, source=source)
    return conditions


def test_conditions(
    strengths: Sequence[float],
    chosen: float,
    source: int,
    *,
    mismatched: int,
    foreign: Sequence[int],
    concept_maps: Sequence[int],
    detours: int,
    identity: bool,
) -> list[Condition]:
    """What all test items are steered with: the claim and one mismatched map at every strength, and
    the controls of which there are few at the chosen one.

    Args:
        chosen: the positive strength.
        mismatched: number of mismatched maps.
        foreign: numbers of the other concepts.
        concept_maps: numbers of the concepts on whose texts a map was fitted.
        detours: number of ways by a third model.
        identity: whether the source model's vector fits the target model as it is.
    """
    both = (-chosen, chosen)
    conditions = [
        NONE,
        *conditions_of(Arm.NATIVE, strengths),
        *conditions_of(Arm.TRANSFERRED, strengths, source=source),
        *conditions_of(Arm.MISMATCHED, strengths, source=source, draws=range(mismatched)[:1]),
        *conditions_of(Arm.MISMATCHED, both, source=source, draws=range(mismatched)[1:]),
        *conditions_of(Arm.FOREIGN, both, source=source, draws=foreign),
        *conditions_of(Arm.CONCEPT_MAP, both, source=source, draws=concept_maps),
        *conditions_of(Arm.DETOUR, both, source=source, draws=range(detours)),
        *conditions_of(Arm.MEAN, both, source=source),
    ]
    if identity:
        conditions += conditions_of(Arm.IDENTITY, both, source=source)
    return conditions


def band_conditions(strengths: Sequence[float], chosen: float, draws: int) -> list[Condition]:
    """What all test items are steered with at several layers at once; each layer has a source layer
    of its own.

    Args:
        chosen: the positive strength.
        draws: of each drawn control.
    """
    both = (-chosen, chosen)
    conditions = [
        condition
        for arm in (Arm.NATIVE, Arm.TRANSFERRED, Arm.MISMATCHED)
        for condition in conditions_of(arm, strengths)
    ]
    for arm in BAND_CONTROLS:
        conditions += conditions_of(arm, both, draws=range(draws))
    return conditions


def gentlest(effects: Sequence[tuple[float, float]]) -> float:
    """The smallest strength with at least half of the largest native effect.

    Args:
        effects: (positive strength, native effect) of each, at least one. Where none is positive,
            the smallest strength.
    """
    largest = max(effect for _, effect in effects)
    return min(s for s, effect in effects if effect >= largest / 2 or not largest > 0)
