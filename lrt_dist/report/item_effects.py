"""Native beside transferred effects, item by item."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.store.tables import ItemRow

MOST_LISTED = 10
"""Items whose two effects differ most, which the page lists with their texts."""


@dataclass(frozen=True)
class ItemEffects:
    """One test item at the chosen strength.

    Attributes:
        item: its number within the split.
        native: effect of the native vector.
        transferred: effect of the transferred vector.
        text: the item; None where `items.parquet` lacks it.
    """

    item: int
    native: float
    transferred: float
    text: ItemRow | None

    @property
    def hint(self) -> str:
        """The item in a line."""
        if self.text is None:
            return f"item {self.item}"
        if not self.text.positive:
            return f"item {self.item}: {self.text.prompt}"
        answers = f"{' | '.join(self.text.positive)} ↔ {' | '.join(self.text.negative)}"
        return f"item {self.item}: {self.text.prompt} … {answers}"


def item_effects(results: Results, summary: ConceptSummary) -> list[ItemEffects]:
    """All test items of a concept; none where a vector was not steered."""
    native, transferred = (
        summary.test.effect(arm, summary.verdict.strength) for arm in (Arm.NATIVE, Arm.TRANSFERRED)
    )
    if native is None or transferred is None:
        return []
    rows = results.items.filter(
        (pc.field("concept") == summary.concept) & (pc.field("split") == "test")
    )
    texts = {row.item: row for row in rows}
    return [
        ItemEffects(item, own, mapped, texts.get(item))
        for item, own, mapped in zip(
            summary.test.items, native.tolist(), transferred.tolist(), strict=True
        )
    ]


def worst(effects: list[ItemEffects]) -> list[ItemEffects]:
    """The items whose two effects differ most, those first."""
    return sorted(effects, key=lambda each: -abs(each.native - each.transferred))[:MOST_LISTED]
