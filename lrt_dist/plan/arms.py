"""What is injected in an evaluation: arms and their variants.

The development split sees `none`, `native` and `transferred` on every pair of layers; only the
pair and strength chosen there get all arms on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lrt_dist.sites import LayerPair

NO_LAYER = -1
"""`source_layer` of an arm that does not depend on the source model."""


@dataclass(frozen=True)
class Variant:
    """One arm at one strength.

    Attributes:
        arm: none, native, transferred, random or shuffled.
        source_layer: whose vector was mapped; `NO_LAYER` for the other arms.
        draw: number of the random draw; 0 for the other arms.
        strength: in units of the layer's median residual norm; 0 for `none`.
    """

    arm: str
    source_layer: int = NO_LAYER
    draw: int = 0
    strength: float = 0.0


NONE = Variant("none")


def dev_variants(sources: Iterable[int], strengths: Sequence[float]) -> list[Variant]:
    """For one target layer: no steering, native, and transferred from every source layer."""
    return [
        NONE,
        *(Variant("native", strength=s) for s in strengths),
        *(Variant("transferred", source, strength=s) for source in sources for s in strengths),
    ]


def test_variants(source: int, strengths: Sequence[float], draws: int) -> list[Variant]:
    """For the chosen pair: every arm at every strength."""
    return [
        NONE,
        *(Variant("native", strength=s) for s in strengths),
        *(Variant("transferred", source, strength=s) for s in strengths),
        *(Variant("shuffled", source, strength=s) for s in strengths),
        *(Variant("random", draw=d, strength=s) for d in range(draws) for s in strengths),
    ]


def neutral_variants(source: int, strength: float) -> list[Variant]:
    """The price on neutral text at the chosen strength, both signs."""
    signs = (-strength, strength)
    return [
        NONE,
        *(Variant("native", strength=s) for s in signs),
        *(Variant("transferred", source, strength=s) for s in signs),
        *(Variant("random", strength=s) for s in signs),
    ]


def sample_variants(source: int, strength: float) -> list[Variant]:
    """What a person reads side by side."""
    return [
        NONE,
        *(Variant("native", strength=s) for s in (-strength, strength)),
        *(Variant("transferred", source, strength=s) for s in (-strength, strength)),
    ]


def choose(
    swings: Mapping[tuple[LayerPair, float], tuple[float, float]],
) -> tuple[LayerPair, float]:
    """The pair of layers and the strength to test, from the development split alone.

    At each target layer the strength is the gentlest with at least half of the largest native
    swing; the pair wins at which both vectors swing at that strength, by the weaker of the two. (By
    the transferred one alone, layers would win at which the native vector hardly steers, and a
    large share of nothing would be reported.)

    Args:
        swings: `{(pair, positive strength): (native, transferred)}`, mean over items of
            (change at +strength - change at -strength) / 2.
    """
    best: tuple[float, LayerPair, float] | None = None
    for pair in sorted({pair for pair, _ in swings}):
        native = {s: _known(swings[p, s][0]) for p, s in swings if p == pair}
        largest = max(native.values())
        strength = min(s for s, swing in native.items() if swing >= largest / 2 or largest <= 0)
        weaker = min(map(_known, swings[pair, strength]))
        if best is None or weaker > best[0]:
            best = (weaker, pair, strength)
    assert best is not None, "choose() needs at least one pair"
    return best[1], best[2]


def _known(swing: float) -> float:
    """A swing that is not a number is the worst of all."""
    return -math.inf if math.isnan(swing) else swing
