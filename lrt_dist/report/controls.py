"""The controls of one concept, as shares of native effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.plan.conditions import DRAWN, Arm
from lrt_dist.report.items import ItemScores
from lrt_dist.store.tables import ControlRow, Table, VerdictRow

STEERED = (Arm.FOREIGN, Arm.MISMATCHED, Arm.CONCEPT_MAP, Arm.DETOUR, Arm.MEAN, Arm.IDENTITY)
"""Arms of which there are few: each is steered at the pair that was chosen for the claim."""

LABELS = {
    Arm.NONE: "none",
    Arm.NATIVE: "native",
    Arm.TRANSFERRED: "transferred",
    Arm.FOREIGN: "other concept",
    Arm.PERMUTED: "permuted labels",
    Arm.RANDOM_SOURCE: "random source vectors",
    Arm.COVARIANCE: "covariance-matched directions",
    Arm.RANDOM: "random directions",
    Arm.MISMATCHED: "mismatched map",
    Arm.CONCEPT_MAP: "map fitted on",
    Arm.DETOUR: "by way of",
    Arm.MEAN: "mean state",
    Arm.IDENTITY: "no map",
}
"""What the page calls the arms."""

ARM_MEANINGS = {
    Arm.NONE: "Nothing is added: the model as it is. All changes are counted from here.",
    Arm.NATIVE: "The concept's vector made from the target model's own hidden states.",
    Arm.TRANSFERRED: "The concept's vector made in the source model and mapped to the target.",
    Arm.FOREIGN: "Control: another concept's vector, mapped by the same map.",
    Arm.PERMUTED: "Control: a vector of the concept's own contrast pairs with positive and "
    "negative shuffled, mapped by the same map.",
    Arm.RANDOM_SOURCE: "Control: a random vector of the source model, mapped by the same map.",
    Arm.COVARIANCE: "Control: random directions with the covariance of the target layer's hidden "
    "states, one for each source layer, as alike as the transferred vectors are.",
    Arm.RANDOM: "Control: the same with directions that are all equally likely: what any push "
    "gives.",
    Arm.MISMATCHED: "Control: the concept's vector under a map fitted to states of different "
    "documents, paired at random: what a map gives that learnt nothing about the two models.",
    Arm.CONCEPT_MAP: "The concept's vector under a map that was fitted on one concept's contrast "
    "texts, as L-Cross did. Fitted on its own texts it proves nothing.",
    Arm.DETOUR: "The concept's vector under two maps, one after the other, by way of a third "
    "model.",
    Arm.MEAN: "Control: the mean of the target layer's hidden states.",
    Arm.IDENTITY: "Control: the source model's vector without a map, where both models are "
    "equally wide.",
}
"""What each arm injects, for the reader of the page; every vector is given the same length."""


@dataclass(frozen=True)
class DrawnControl:
    """Many draws of a control, each at the pair of layers where it does best.

    Attributes:
        arm: which control.
        draws: their number.
        quantiles: of their shares of the best native effect: smallest, 5 %, 50 %, 95 %, largest.
        p: share of the draws that do as much as the transferred vector, that one included.
        steered: whether their effects were measured; else they were predicted.
    """

    arm: Arm
    draws: int
    quantiles: tuple[float, float, float, float, float]
    p: float
    steered: bool

    @property
    def high(self) -> float:
        """95 % of the draws do less."""
        return self.quantiles[3]

    @property
    def label(self) -> str:
        """Its name."""
        return LABELS[self.arm]


@dataclass(frozen=True)
class SteeredControl:
    """One vector beside the claim's.

    Attributes:
        arm: which one.
        draw: its number.
        vector: the concept from whose texts it, or its map, was made, or the third model by which
            it came; empty where there is none.
        retention: its effect on the test items over the native one there.
        share: the same over the best native effect.
    """

    arm: Arm
    draw: int
    vector: str
    retention: float
    share: float

    @property
    def label(self) -> str:
        """Its name."""
        if self.arm in (Arm.FOREIGN, Arm.CONCEPT_MAP, Arm.DETOUR):
            return f"{LABELS[self.arm]}: {self.vector}"
        if self.arm is Arm.MISMATCHED:
            return f"{LABELS[self.arm]} {self.draw + 1}"
        return LABELS[self.arm]


def drawn_controls(
    controls: Table[ControlRow], verdict: VerdictRow, *, defined: bool
) -> tuple[DrawnControl, ...]:
    """The drawn controls of a concept, in the order of the arms.

    Args:
        defined: whether there is a native effect of which something can be a share.
    """
    own = controls.filter(pc.field("concept") == verdict.concept)
    p = {
        Arm.PERMUTED: verdict.p_permuted,
        Arm.RANDOM_SOURCE: verdict.p_random_source,
        Arm.COVARIANCE: verdict.p_covariance,
        Arm.RANDOM: verdict.p_random,
    }
    found = []
    for arm in DRAWN:
        rows = own.filter(pc.field("arm") == arm.value)
        if len(rows):
            shares = rows.column("share") if defined else [math.nan]
            steered = all(rows.column("steered"))
            found.append(DrawnControl(arm, len(rows), quantiles(shares), p[arm], steered))
    return tuple(found)


def steered_controls(
    test: ItemScores, verdict: VerdictRow, *, defined: bool
) -> tuple[SteeredControl, ...]:
    """The other controls of a concept, in the order of the arms; see `drawn_controls`."""
    found = []
    for arm in STEERED:
        for draw in test.draws(arm):
            effect = test.effect(arm, verdict.strength, draw)
            if effect is not None:
                mean = float(effect.mean()) if defined else math.nan
                native, best = (
                    value if value > 0 else math.nan
                    for value in (verdict.native, verdict.best_native)
                )
                found.append(
                    SteeredControl(arm, draw, test.vectors[arm, draw], mean / native, mean / best)
                )
    return tuple(found)


def quantiles(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Smallest, 5 %, 50 %, 95 % and largest, each a value that occurs.

    What is not a number counts as the largest, as it does in p-values.
    """
    ordered = sorted(values, key=lambda value: math.inf if math.isnan(value) else value)
    last = len(ordered) - 1
    low, middle, high = (ordered[math.ceil(share * last)] for share in (0.05, 0.5, 0.95))
    return ordered[0], low, middle, high, ordered[-1]
