"""Whether a model can go on from the keys and values that it kept, block by block.

Tried on a miniature of the model's own class: texts of different lengths, token by token, against
each text run whole. State-space models and others with a memory of their own cannot; they are run
from the beginning for every token.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.functional import pad

from lrt_dist.config import ModelConfig
from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.sources import causal_lm
from lrt_dist.models.study import TEXTS_APART, Family, anatomy_of, difference, whole_miniature

LENGTHS = (8, 5, 6)
"""Of the texts before they go on, for three tokens."""


def why_not(config: ModelConfig) -> str | None:
    """Why a model cannot go on from kept keys and values; None where it can.

    No weight of the model is read. Takes a fraction of a second.
    """
    return _why_not(Family(*causal_lm(config)))


@lru_cache(maxsize=32)
def _why_not(family: Family) -> str | None:
    whole, anatomy = whole_miniature(family), anatomy_of(family.cls, family.hf_config)
    count = len(whole.outputs_BTD)
    stack = BlockStack(whole.model, range(count), anatomy)
    ids_BT, longest = whole.ids_BT, max(LENGTHS)
    try:
        memories = [stack.remember([longest - n for n in LENGTHS]) for _ in range(count)]
        for step in range(ids_BT.shape[1] - longest + 1):
            new = [
                row[n + step - 1 : n + step] if step else row[:n]
                for row, n in zip(ids_BT, LENGTHS, strict=True)
            ]
            width = max(len(row) for row in new)
            padded = torch.stack([pad(row, (width - len(row), 0)) for row in new])
            hidden = None
            for layer, memory in enumerate(memories):
                hidden, _ = stack.run(padded, hidden, start=layer, stop=layer + 1, memory=memory)
            assert hidden is not None, "a model without blocks"
            for row, n in enumerate(LENGTHS):
                alone, _ = stack.run(ids_BT[row : row + 1, : n + step])
                apart = difference(hidden[row, -1], alone[0, -1])
                if not apart <= TEXTS_APART:
                    return f"token {n + step} of a text would differ by {apart:.1%}"
    except Exception as error:  # noqa: BLE001 (whatever a model's own code raises)
        return f"{type(error).__name__}: {error}"
    return None
