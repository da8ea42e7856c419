"""Item scores of one concept at one layer pair, aligned over arms and strengths."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import pyarrow.compute as pc
import torch
from torch import Tensor

from lrt_dist.plan.conditions import NO_LAYER, Arm
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import ScoreRow, Table


def same_strength(strength: float) -> float:
    """A strength as a key: what a float32 column does to 0.05 must not make it another one."""
    return float(f"{strength:.6g}")


@dataclass(frozen=True)
class ItemScores:
    """Values [items] per (arm, draw, strength), all over the same items in the same order.

    Attributes:
        items: their numbers.
        values: by arm, draw and strength.
        vectors: the concept whose vector each (arm, draw) injects.
    """

    items: tuple[int, ...]
    values: dict[tuple[Arm, int, float], Tensor]
    vectors: dict[tuple[Arm, int], str]

    @property
    def strengths(self) -> list[float]:
        """Signed strengths of every arm but `none`, ascending."""
        return sorted({strength for arm, _, strength in self.values if arm is not Arm.NONE})

    def draws(self, arm: Arm) -> list[int]:
        """Numbers of the draws of an arm."""
        return sorted({draw for name, draw, _ in self.values if name == arm})

    def change(self, arm: Arm, strength: float, draw: int = 0) -> Tensor | None:
        """Change against `none` [items], or None where this was not run."""
        steered = self.values.get((arm, draw, same_strength(strength)))
        unsteered = self.values.get((Arm.NONE, 0, 0.0))
        return None if steered is None or unsteered is None else steered - unsteered

    def effect(self, arm: Arm, strength: float, draw: int = 0) -> Tensor | None:
        """Half the distance from -strength to +strength [items]: the signed effect of the vector.

        The unsteered value cancels, and so does all that any push, to whichever side, does alike.
        None where a sign was not run.
        """
        up = self.change(arm, abs(strength), draw)
        down = self.change(arm, -abs(strength), draw)
        return None if up is None or down is None else (up - down) / 2


def item_scores(
    scores: Table[ScoreRow], concept: str, split: str, metric: str, pair: LayerPair
) -> ItemScores:
    """The rows of one concept, split, metric and layer pair.

    Arms that do not depend on the source layer are among them. Only items that every cell has,
    with a finite value, are kept: arms are compared over the same items or not at all.
    """
    chosen = scores.filter(
        (pc.field("concept") == concept)
        & (pc.field("split") == split)
        & (pc.field("metric") == metric)
        & pc.field("source_layer").isin([pair.source, NO_LAYER])
        & (pc.field("target_layer") == pair.target)
    )
    cells: dict[tuple[Arm, int, float], dict[int, float]] = defaultdict(dict)
    vectors: dict[tuple[Arm, int], str] = {}
    for row in chosen:
        vectors[Arm(row.arm), row.draw] = row.vector
        if math.isfinite(row.value):
            cells[Arm(row.arm), row.draw, same_strength(row.strength)][row.item] = row.value
    common: set[int] = set.intersection(*(set(cell) for cell in cells.values())) if cells else set()
    items = tuple(sorted(common))
    return ItemScores(
        items=items,
        values={
            key: torch.tensor([cell[item] for item in items], dtype=torch.float64)
            for key, cell in cells.items()
        }
        if items
        else {},
        vectors=vectors,
    )
