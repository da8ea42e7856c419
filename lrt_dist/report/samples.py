"""Continuations of one prompt under the arms, arranged to be read side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lrt_dist.report.items import same_strength

_ORDER = {"native": 0, "transferred": 1}


@dataclass(frozen=True)
class Sample:
    arm: str
    strength: float
    text: str


@dataclass(frozen=True)
class Prompt:
    """What the model writes after `text`: unsteered, then per strength under each arm."""

    text: str
    unsteered: tuple[Sample, ...]
    steered: tuple[tuple[float, tuple[Sample, ...]], ...]


def prompts_of(samples: pa.Table, concept: str) -> tuple[Prompt, ...]:
    """The prompts of a concept, in the order of the table."""
    by_prompt: dict[str, list[Sample]] = {}
    lines: list[dict[str, Any]] = samples.filter(pc.field("concept") == concept).to_pylist()
    for line in lines:
        # Some generators return the prompt too: it is shown once, above.
        text = line["text"].removeprefix(line["prompt"]).strip()
        sample = Sample(line["arm"], same_strength(line["strength"]), text)
        by_prompt.setdefault(line["prompt"], []).append(sample)
    return tuple(_arranged(text, found) for text, found in by_prompt.items())


def _arranged(text: str, found: list[Sample]) -> Prompt:
    steered = [sample for sample in found if sample.arm != "none"]
    return Prompt(
        text,
        tuple(sample for sample in found if sample.arm == "none"),
        tuple(
            (
                strength,
                tuple(
                    sorted(
                        (sample for sample in steered if sample.strength == strength),
                        key=lambda sample: (_ORDER.get(sample.arm, len(_ORDER)), sample.arm),
                    )
                ),
            )
            for strength in sorted({sample.strength for sample in steered})
        ),
    )
