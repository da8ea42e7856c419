"""Continuations of a concept's prompt under the arms, arranged to be read side by side."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.plan.conditions import Arm
from lrt_dist.store.tables import SampleRow, Table


@dataclass(frozen=True)
class Samples:
    """What the model writes after a prompt: unsteered, then per strength under each arm."""

    prompt: str
    unsteered: str
    steered: tuple[tuple[float, tuple[SampleRow, ...]], ...]


def samples_of(samples: Table[SampleRow], concept: str) -> Samples | None:
    """The samples of a concept; None where it has none."""
    rows = list(samples.filter(pc.field("concept") == concept))
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
