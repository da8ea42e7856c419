"""Keys and values of tokens that went through some blocks, so that later tokens need not run them.

The library's own cache (`transformers.DynamicCache`), in a model of which a stage runs some blocks
only. Sequences of different lengths are padded on the left, so that their new tokens stand side by
side.

Shape suffixes: B sequences of a batch, T tokens that are run now, S tokens so far, these included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers


class KeyValues:
    """What some blocks remember of the sequences of one batch."""

    def __init__(self, hf_config: Any, padding: Sequence[int]) -> None:
        """Nothing was run yet.

        Args:
            hf_config: the model's configuration, from which the kind of each layer's memory follows
                (a sliding window remembers no more than it sees).
            padding: of each sequence the number of tokens on its left that are none.
        """
        self._cache = transformers.DynamicCache(config=hf_config)
        self._padding_B = torch.tensor(padding)
        self._tokens = 0

    def arguments(self, tokens: int, device: torch.device) -> dict[str, Any]:
        """What a model's `forward` is given with the next tokens of all sequences.

        Args:
            tokens: number T of them, padding included.
        """
        column_S = torch.arange(self._tokens + tokens)
        position_BS = column_S - self._padding_B.unsqueeze(1)
        known: dict[str, Any] = {
            "past_key_values": self._cache,
            "use_cache": True,
            "position_ids": position_BS[:, self._tokens :].clamp_min(0).to(device),
        }
        if bool(self._padding_B.any()):  # else attention takes its fast causal way
            known["attention_mask"] = (position_BS >= 0).long().to(device)
        return known

    def count(self, tokens: int, ran: range) -> None:
        """So many tokens went through the blocks `ran`.

        A model reads the number of tokens so far from whichever layer it likes, so the layers of
        blocks that other stages run count them too, with one number for each token.
        """
        self._tokens += tokens
        blank = torch.zeros(1, 1, tokens, 1)
        for layer, remembered in enumerate(self._cache.layers):
            if layer not in ran and hasattr(remembered, "get_mask_sizes"):
                self._cache.update(blank, blank, layer)
