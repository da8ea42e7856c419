"""Continuations of a concept's prompt under the arms, arranged to be read side by side."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.plan.conditions import Arm
from lrt_dist.store.tables import GeneratedRow, Table


@dataclass(frozen=True)
class Samples:
    """What the model writes after a prompt: unsteered, then per strength under each arm."""

    prompt: str
    unsteered: str
    steered: tuple[tuple[float, tuple[GeneratedRow, ...]], ...]


def samples_of(generated: Table[GeneratedRow], concept: str) -> Samples | None:
    """The first text of each arm after the first prompt; None where a concept has none."""
    first = (pc.field("item") == 0) & (pc.field("sample") == 0) & (pc.field("draw") == 0)
    rows = list(generated.filter((pc.field("concept") == concept) & first))
    unsteered = [row for row in rows if row.arm == Arm.NONE]
    if not unsteered:
        return None
    order = list(Arm)
    steered = sorted(
        (row for row in rows if row.arm != Arm.NONE), key=lambda r: order.index(Arm(r.arm))
    )
    return Samples(
        unsteered[0].prompt,
        unsteered[0].text.strip(),
        tuple(
            (strength, tuple(row for row in steered if row.strength == strength))
            for strength in sorted({row.strength for row in steered})
        ),
    )
