"""How a causal LM hands hidden states from block to block, learned from a miniature of it.

A stage runs some blocks of a model and lets the others pass their input on. For that it must know
what the model's own code expects of a block; each family has its own habits. A miniature of the
same class, with the structure that the model's configuration asks for, shows them in milliseconds.

Shape suffixes: B sequences, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lrt_dist.errors import UserError


class UnsupportedModelError(UserError):
    """A model's class does something that stages cannot do.

    Attributes:
        model: name of the class.
        reason: what it does; the same on every machine.
    """

    def __init__(self, model: str, reason: str, detail: str) -> None:
        super().__init__(f"{model} {reason} ({detail}), so it cannot be cut into stages")
        self.model, self.reason = model, reason


@dataclass(frozen=True)
class Anatomy:
    """What a model's code expects of its blocks.

    Attributes:
        tuples: for each class of blocks the length of the tuple that a block returns, whose first
            entry is the hidden state; 0 where it returns the hidden state itself.
        reads_embeddings: whether later blocks read the token embeddings too, so that every stage
            needs them.
    """

    tuples: Mapping[str, int]
    reads_embeddings: bool

    def returned(self, block: nn.Module, hidden_BTD: torch.Tensor) -> Any:
        """A hidden state in the form in which `block` returns it."""
        length = self.tuples.get(type(block).__name__, 0)
        return (hidden_BTD, *[None] * (length - 1)) if length else hidden_BTD


_COUNTS = ("num_hidden_layers", "num_layers", "decoder_layers")


def find_blocks(model: Any) -> nn.ModuleList:
    """The list of decoder blocks of a causal LM.

    Raises:
        UnsupportedModelError: there is no single list with as many entries as the model has
            layers.
    """
    text = model.config.get_text_config()
    counts = dict.fromkeys(int(getattr(text, n)) for n in _COUNTS if hasattr(text, n))
    lists: list[nn.ModuleList] = []
    for layers in counts:
        lists = _lists(model, layers)
        if len(lists) > 1 and hasattr(model, "get_decoder"):  # a model that sees or hears, too
            lists = _lists(model.get_decoder(), layers)
        if len(lists) == 1:
            return lists[0]
    raise UnsupportedModelError(
        type(model).__name__,
        "has no list of blocks that is the only one of its length",
        f"found {len(lists)} lists of {' or '.join(map(str, counts))} blocks",
    )


def _lists(model: nn.Module, layers: int) -> list[nn.ModuleList]:
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == layers
        and name.count(".") <= 3
        and not any(part.isdigit() for part in name.split("."))
    ]
