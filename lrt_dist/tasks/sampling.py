"""Which token comes next: the most likely one, or one that is drawn.

Shape suffixes: B sequences of a batch, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: by which logits are divided; 0 takes the most likely token.
        top_p: tokens are drawn from the likeliest ones that together have this probability
            (nucleus sampling: Holtzman et al., arXiv 1904.09751).
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def choose(
        self, logits_BV: torch.Tensor, seeds: Sequence[str], positions: Sequence[int]
    ) -> torch.Tensor:
        """One token id for each sequence, int64 `[B]`.

        What is drawn depends on a sequence's own logits, seed and position alone, whatever else is
        in the batch.
        """
        if not self.temperature:
            return logits_BV.argmax(-1).cpu()
        exact_BV = (logits_BV.double() / self.temperature).softmax(-1)
        p_BV, id_BV = exact_BV.sort(dim=-1, descending=True, stable=True)
        summed_BV = p_BV.cumsum(-1)
        # A token is in the nucleus if those before it have less than top_p together.
        total_B = torch.where(summed_BV - p_BV < self.top_p, p_BV, 0).sum(-1, keepdim=True)
        drawn = [_uniform(seed, p) for seed, p in zip(seeds, positions, strict=True)]
        point_B = torch.tensor(drawn, dtype=torch.float64).to(total_B.device).unsqueeze(1) * total_B
        place_B = torch.searchsorted(summed_BV, point_B, right=True)
        return id_BV.gather(1, place_B.clamp_max(p_BV.shape[1] - 1)).squeeze(1).cpu()


def _uniform(seed: str, position: int) -> float:
    """A number in [0, 1) that a seed has at a position."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
