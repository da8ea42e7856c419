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


def _nothing() -> None:
    """There is nothing to prepare."""


@dataclass(frozen=True)
class GeneratedScore:
    """A score of what the model writes after an item's (positive) prompt.

    Attributes:
        judge: `(item, continuation) -> value`; runs in the driver.
        label: what a figure calls a change of it, with its unit.
        at_once: calls of `judge` that may run at once, each in a thread.
        prepare: called before anything is started; raises a `UserError` for what is missing.
        account: what was asked and paid so far, for people; empty where nothing is.
        paid: whether a call may cost money.
    """

    judge: Callable[[Item, str], float]
    label: str
    at_once: int = 1
    prepare: Callable[[], None] = _nothing
    account: Callable[[], str] = str
    paid: bool = False


Score = ForcedScore | GeneratedScore
