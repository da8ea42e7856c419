"""Item scores of one concept at one layer pair, aligned over arms and strengths."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

ANY_LAYER = -1
"""The source layer of arms that do not depend on it (none, native, random)."""


def same_strength(strength: float) -> float:
    """A strength as a key: what a float32 column does to 0.05 must not make it another one."""
    return float(f"{strength:.6g}")


@dataclass(frozen=True)
class ItemScores:
    """Values [items] per (arm, draw, strength), all over the same items in the same order."""

    items: tuple[int, ...]
    values: dict[tuple[str, int, float], Tensor]

    @property
    def strengths(self) -> list[float]:
        """Signed strengths of every arm but `none`, ascending."""
        return sorted({strength for arm, _, strength in self.values if arm != "none"})

    def draws(self, arm: str) -> list[int]:
        return sorted({draw for name, draw, _ in self.values if name == arm})

    def change(self, arm: str, strength: float, draw: int = 0) -> Tensor | None:
        """Change against `none` [items], or None where this was not run."""
        steered = self.values.get((arm, draw, same_strength(strength)))
        unsteered = self.values.get(("none", 0, 0.0))
        return None if steered is None or unsteered is None else steered - unsteered

    def swing(self, arm: str, strength: float, draw: int = 0) -> Tensor | None:
        """Half the distance from -strength to +strength [items]: the signed effect of the vector.

        The unsteered value cancels, and so does all that any push, to whichever side, does alike.
        Where only one sign was run, the change at that sign, counted along the vector.
        """
        up = self.change(arm, abs(strength), draw)
        down = self.change(arm, -abs(strength), draw)
        if up is not None and down is not None:
            return (up - down) / 2
        return up if up is not None else None if down is None else -down


def item_scores(
    scores: pa.Table,
    *,
    concept: str,
    split: str,
    metric: str,
    source_layer: int,
    target_layer: int,
) -> ItemScores:
    """The lines of one concept, split, metric and layer pair.

    Arms that do not depend on the source layer are found under -1. Only items that every cell has,
    with a finite value, are kept: arms are compared over the same items or not at all.
    """
    chosen = scores.filter(
        (pc.field("concept") == concept)
        & (pc.field("split") == split)
        & (pc.field("metric") == metric)
        & pc.field("source_layer").isin([source_layer, ANY_LAYER])
        & pc.field("target_layer").isin([target_layer, ANY_LAYER])
    )
    cells: dict[tuple[str, int, float], dict[int, float]] = defaultdict(dict)
    lines: list[dict[str, Any]] = chosen.select(
        ["arm", "draw", "strength", "item", "value"]
    ).to_pylist()
    for line in lines:
        value = line["value"]
        if value is not None and math.isfinite(value):
            cells[line["arm"], line["draw"], same_strength(line["strength"])][line["item"]] = value
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
    )
