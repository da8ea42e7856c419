"""What an evaluation measures of an item: from items to one number each.

A *forced* score reads probabilities of texts that are given (teacher forcing). A *generated* score
lets the model write, and judges what it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lrt_dist.corpus.contrast import Item
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.registry import Registry
from lrt_dist.tasks.first_tokens import letter_logits, probability, refusal
from lrt_dist.tasks.sequences import propensity_sequences
from lrt_dist.tasks.token_trees import SteeredSequence


class Readout(Protocol):
    """What is run for some items, and what becomes of the probabilities that are read."""

    @property
    def sequences(self) -> tuple[SteeredSequence, ...]: ...
    @property
    def slots(self) -> int: ...
    def of(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums of log-probabilities, float64 `[N, slots]`, to values, float64 `[N, items]`.

        With torch operations alone: gradients go back through it.
        """
        ...


@dataclass(frozen=True)
class ForcedScore:
    """A score of given texts.

    Attributes:
        read: makes the readout of some items; called with one item at a time.
        label: what a figure calls a change of it, with its unit.
    """

    read: Callable[[Sequence[Item], SiteTokenizer], Readout]
    label: str


@dataclass(frozen=True)
class GeneratedScore:
    """A score of what the model writes after an item's (positive) prompt.

    Attributes:
        judge: `(item, continuation) -> value`; runs in the driver.
        label: what a figure calls a change of it, with its unit.
        tokens: length of the continuation.
    """

    judge: Callable[[Item, str], float]
    label: str
    tokens: int = 32


Score = ForcedScore | GeneratedScore

SCORES: Registry[Score] = Registry(
    "score",
    lambda choice: isinstance(choice, ForcedScore | GeneratedScore),
    "a ForcedScore or GeneratedScore",
)
SCORES.add("propensity")(ForcedScore(propensity_sequences, "change of log-odds"))
SCORES.add("letter_logits")(ForcedScore(letter_logits, "change of the logit difference"))
SCORES.add("probability")(ForcedScore(probability, "change of the probability"))
SCORES.add("refusal")(ForcedScore(refusal, "change of the refusal's log-odds"))
