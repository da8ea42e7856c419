"""Items as a model is run on them, one by one or together.

Shape suffixes: N conditions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lrt_dist.tasks.scores import Readout
from lrt_dist.tasks.token_trees import TokenTree


@dataclass(frozen=True)
class ScoredItem:
    """An item as it is run: its trees, and how what is read from them becomes its score.

    Attributes:
        trees: of the readout's sequences.
        readout: of this one item.
    """

    trees: tuple[TokenTree, ...]
    readout: Readout


@dataclass(frozen=True)
class JoinedItems:
    """Items whose trees are run together; each reads to slots of its own.

    Attributes:
        trees: of all items.
        slots: number of all sums.
    """

    trees: tuple[TokenTree, ...]
    slots: int
    _readouts: tuple[Readout, ...]

    @classmethod
    def of(cls, items: Iterable[ScoredItem]) -> JoinedItems:
        """Join some items."""
        trees: list[TokenTree] = []
        readouts: list[Readout] = []
        slots = 0
        for item in items:
            trees += [tree.shifted(slots) for tree in item.trees]
            readouts.append(item.readout)
            slots += item.readout.slots
        return cls(tuple(trees), slots, tuple(readouts))

    def scores(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums of log-probabilities, float64 `[N, slots]`, as scores, float64 `[N, items]`."""
        edges = itertools.pairwise(
            itertools.accumulate((r.slots for r in self._readouts), initial=0)
        )
        columns = [
            readout.of(sums[:, first:end])[:, 0]
            for readout, (first, end) in zip(self._readouts, edges, strict=True)
        ]
        return torch.stack(columns, dim=1)
