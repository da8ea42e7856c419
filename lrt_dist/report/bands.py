"""Several target layers steered at once, at the strength chosen for each band."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch

from lrt_dist.plan.conditions import BAND_CONTROLS, Arm
from lrt_dist.report.controls import LABELS, quantiles
from lrt_dist.significance import empirical_p
from lrt_dist.store.tables import BandRow


@dataclass(frozen=True)
class BandControl:
    """Draws of a control at the layers of a band.

    Attributes:
        label: name of the control.
        draws: their number.
        high: retention that 95 % of the draws stay below.
        p: share of the draws that do as much as the transferred vectors, these included.
    """

    label: str
    draws: int
    high: float
    p: float


@dataclass(frozen=True)
class BandLine:
    """One concept at one band.

    Attributes:
        concept: name of the concept.
        layers: `15 → 8, 15 → 9`.
        native: of the native vectors.
        transferred: of the transferred vectors.
        mismatched: of vectors under maps of mismatched rows.
        controls: in the order of `BAND_CONTROLS`.
        defined: whether there is a native effect of which something can be a share.
    """

    concept: str
    layers: str
    native: BandRow
    transferred: BandRow
    mismatched: BandRow
    controls: tuple[BandControl, ...]
    defined: bool


def band_lines(rows: Iterable[BandRow]) -> list[BandLine]:
    """One line for each concept and band, in the order of the table."""
    chosen = (row for row in rows if row.chosen)
    of_band = groupby(chosen, key=lambda r: (r.concept, r.source_layers, r.target_layers))
    return [_line(*where, list(some)) for where, some in of_band]


def _line(
    concept: str, sources: tuple[int, ...], targets: tuple[int, ...], rows: list[BandRow]
) -> BandLine:
    native, transferred, mismatched = (
        next(row for row in rows if row.arm == arm)
        for arm in (Arm.NATIVE, Arm.TRANSFERRED, Arm.MISMATCHED)
    )
    controls = []
    for arm in BAND_CONTROLS:
        drawn = [row for row in rows if row.arm == arm]
        effects = torch.tensor([row.effect for row in drawn], dtype=torch.float64)
        controls.append(
            BandControl(
                LABELS[arm],
                len(drawn),
                quantiles([row.retention for row in drawn])[3],
                empirical_p(transferred.effect, effects),
            )
        )
    defined = native.effect_interval[0] > 0
    layers = ", ".join(f"{s} → {t}" for s, t in zip(sources, targets, strict=True))
    return BandLine(concept, layers, native, transferred, mismatched, tuple(controls), defined)
