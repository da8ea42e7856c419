"""Log-probabilities of tokens, read from the last hidden states of a batch.

Shape suffixes: M lines of a batch, T tokens, D width of the residual stream, P places, R reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.tasks.token_trees import TokenTree

LOGIT_FLOATS = 1 << 26
"""Logits held at once, in numbers (256 MiB of float32)."""


@dataclass(frozen=True)
class Reads:
    """What is read of some trees; each place, a token of a tree, is looked at once.

    Attributes:
        tree_P, position_P: int64 `[P]`, the places.
        place_R, token_R, slot_R: int64 `[R]`: which token's log-probability is read at which
            place, ascending, and to which slot it is added.
    """

    tree_P: torch.Tensor
    position_P: torch.Tensor
    place_R: torch.Tensor
    token_R: torch.Tensor
    slot_R: torch.Tensor

    @classmethod
    def of(cls, trees: Sequence[TokenTree]) -> Reads:
        """All reads of some trees, which are numbered as they come."""
        places: dict[tuple[int, int], int] = {}
        reads = []
        for number, tree in enumerate(trees):
            for read in tree.reads:
                place = places.setdefault((number, read.position), len(places))
                reads.append((place, read.token, read.slot))
        return cls(
            *torch.tensor(list(places)).reshape(-1, 2).T,
            *torch.tensor(sorted(reads)).reshape(-1, 3).T,
        )

    def log_p(self, stack: BlockStack, hidden_MTD: torch.Tensor, copies: int) -> torch.Tensor:
        """Log-probabilities, float32 `[copies, R]` on the CPU; in the autograd graph where
        `hidden_MTD` is.

        Args:
            stack: holds the head.
            hidden_MTD: output of the last block, M = copies · trees, copy by copy.
        """
        places, trees = len(self.tree_P), len(hidden_MTD) // copies
        copy = torch.arange(copies).unsqueeze(1)
        line = (copy * trees + self.tree_P).reshape(-1)
        position = self.position_P.repeat(copies)
        place = (copy * places + self.place_R).reshape(-1)
        token = self.token_R.repeat(copies)
        values = []
        size = max(1, LOGIT_FLOATS // stack.vocabulary)
        for first in range(0, len(line), size):
            part = slice(first, first + size)
            logits = stack.logits(hidden_MTD, line[part], position[part]).to(torch.float32)
            begin, end = torch.searchsorted(place, torch.tensor([first, first + size])).tolist()
            here = (place[begin:end] - first).to(logits.device)
            log_p = logits.log_softmax(-1)
            values.append(log_p[here, token[begin:end].to(logits.device)].cpu())
        return torch.cat(values).reshape(copies, -1)

    def sums(self, log_p_NR: torch.Tensor, slots: int) -> torch.Tensor:
        """Log-probabilities added up in their slots: `[N, slots]`, of the same dtype."""
        zero = torch.zeros(len(log_p_NR), slots, dtype=log_p_NR.dtype)
        return zero.index_add(1, self.slot_R, log_p_NR)
