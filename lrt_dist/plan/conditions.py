"""What an evaluation runs: arms, and the conditions that each split is run under.

The development split sees `none`, `native` and `transferred` on every pair of layers; only the
pair and strength chosen there get all arms on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lrt_dist.sites import LayerPair

NO_LAYER = -1
"""`source_layer` of an arm that does not depend on the source model."""


class Arm(StrEnum):
    """What is injected, in the order in which tables and legends show the arms."""

    NONE = "none"
    """Nothing."""
    NATIVE = "native"
    """The vector made from the target model's own states."""
    TRANSFERRED = "transferred"
    """The source model's vector, mapped."""
    MISMATCHED = "mismatched"
    """The source model's vector under a map fitted to mismatched rows: a control."""
    RANDOM = "random"
    """A random direction of the same length: a control."""


@dataclass(frozen=True)
class Condition:
    """One arm at one strength.

    Attributes:
        arm: what is injected.
        source_layer: whose vector was mapped; `NO_LAYER` for the other arms.
        draw: number of the random draw; 0 for the other arms.
        strength: in units of the layer's norm; 0 for `none`.
    """

    arm: Arm
    source_layer: int = NO_LAYER
    draw: int = 0
    strength: float = 0.0


NONE = Condition(Arm.NONE)


def dev_conditions(sources: Iterable[int], strengths: Sequence[float]) -> list[Condition]:
    """For one target layer: no steering, native, and transferred from every source layer."""
    return [
        NONE,
        *(Condition(Arm.NATIVE, strength=s) for s in strengths),
        *(Condition(Arm.TRANSFERRED, source, strength=s) for source in sources for s in strengths),
    ]


def test_conditions(source: int, strengths: Sequence[float], draws: int) -> list[Condition]:
    """For the chosen pair: every arm at every strength."""
    return [
        NONE,
        *(Condition(Arm.NATIVE, strength=s) for s in strengths),
        *(Condition(Arm.TRANSFERRED, source, strength=s) for s in strengths),
        *(Condition(Arm.MISMATCHED, source, strength=s) for s in strengths),
        *(Condition(Arm.RANDOM, draw=d, strength=s) for d in range(draws) for s in strengths),
    ]


def neutral_conditions(source: int, strength: float) -> list[Condition]:
    """The price on neutral text at the chosen strength, both signs."""
    return [*sample_conditions(source, strength), *_both_signs(Arm.RANDOM, strength)]


def sample_conditions(source: int, strength: float) -> list[Condition]:
    """What a person reads side by side."""
    return [
        NONE,
        *_both_signs(Arm.NATIVE, strength),
        *_both_signs(Arm.TRANSFERRED, strength, source),
    ]


def _both_signs(arm: Arm, strength: float, source: int = NO_LAYER) -> list[Condition]:
    return [Condition(arm, source, strength=s) for s in (-strength, strength)]


@dataclass(frozen=True)
class Chosen:
    """What the development items chose for a concept: a pair of layers and a positive strength."""

    pair: LayerPair
    strength: float


def choose(effects: Mapping[tuple[LayerPair, float], tuple[float, float]]) -> Chosen:
    """The pair of layers and the strength to test, from the development split alone.

    At each target layer the strength is the gentlest with at least half of the largest native
    effect; the pair wins at which both vectors have an effect at that strength, by the weaker of
    the two. (By the transferred one alone, layers would win at which the native vector hardly
    steers, and a large share of nothing would be reported.)

    Args:
        effects: `{(pair, positive strength): (native, transferred)}`, mean over items of
            (change at +strength - change at -strength) / 2.
    """
    best: tuple[float, Chosen] | None = None
    for pair in sorted({pair for pair, _ in effects}):
        native = {s: _known(effects[p, s][0]) for p, s in effects if p == pair}
        largest = max(native.values())
        strength = min(s for s, effect in native.items() if effect >= largest / 2 or largest <= 0)
        weaker = min(map(_known, effects[pair, strength]))
        if best is None or weaker > best[0]:
            best = (weaker, Chosen(pair, strength))
    assert best is not None, "choose() needs at least one pair"
    return best[1]


def _known(effect: float) -> float:
    """An effect that is not a number is the worst of all."""
    return -math.inf if math.isnan(effect) else effect
