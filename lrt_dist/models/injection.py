"""Adding a displacement to hidden states: at which positions, and in any causal LM of a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output, change_output
from lrt_dist.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What the tokens of a sequence are: the prompt, special tokens first, then what follows.

    Attributes:
        tokens: of the sequence.
        prompt: how many of them, from the first on, are the prompt; 0 where the text has none.
        special: how many of them, from the first on, are special ones that the tokenizer puts in
            front of every text, such as `<bos>`.
    """

    tokens: int
    prompt: int
    special: int


@dataclass(frozen=True)
class Positions:
    """Which positions of a sequence are steered.

    Attributes:
        choose: `parts -> indices`.
        needs_prompt: whether the choice means nothing for text that has no prompt, such as the
            neutral text on which the price of steering is measured.
    """

    choose: Callable[[Parts], Sequence[int]]
    needs_prompt: bool = False


POSITIONS: Registry[Positions] = Registry(
    "choice of positions", lambda choice: isinstance(choice, Positions), "an injection.Positions"
)


def all_positions(parts: Parts) -> range:
    """Every token, of the prompt and of what follows, as in LRT (arXiv 2506.00653)."""
    return range(parts.tokens)


def all_but_special(parts: Parts) -> range:
    """Every token behind the special ones, whose states are often unlike all others."""
    return range(parts.special, parts.tokens)


def from_prompt_end(parts: Parts) -> range:
    """The last token of the prompt, where what follows is predicted, and all behind it, as in CAA
    (arXiv 2312.06681, §3)."""
    return range(parts.prompt - 1, parts.tokens)


def last_of_prompt(parts: Parts) -> range:
    """The last token of the prompt alone."""
    return range(parts.prompt - 1, parts.prompt)


def answer(parts: Parts) -> range:
    """What follows the prompt."""
    return range(parts.prompt, parts.tokens)


POSITIONS.add("all")(Positions(all_positions))
POSITIONS.add("all_but_special")(Positions(all_but_special))
POSITIONS.add("from_prompt_end")(Positions(from_prompt_end, needs_prompt=True))
POSITIONS.add("last")(Positions(last_of_prompt, needs_prompt=True))
POSITIONS.add("answer")(Positions(answer, needs_prompt=True))


def chosen_positions(positions: Positions, parts: Parts) -> Sequence[int]:
    """Which tokens of a sequence are steered, as indices.

    Raises:
        UserError: a position outside the sequence.
    """
    chosen = list(positions.choose(parts))
    if any(not 0 <= position < parts.tokens for position in chosen):
        raise UserError(
            f"evaluate.positions: {positions.choose.__name__} chose {chosen} in a sequence of "
            f"{parts.tokens} tokens, {parts.prompt} of them the prompt, {parts.special} special"
        )
    return chosen


def inject(
    hidden_BTD: torch.Tensor, displacement: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """`h + displacement` at the positions of a mask.

    Args:
        hidden_BTD: `[..., B, T, D]`.
        displacement: `[D]`, or of any shape that broadcasts against `[..., B, T, D]`.
        mask_BT: bool `[B, T]`; None for every position.
    """
    added = displacement.to(hidden_BTD)
    if mask_BT is not None:
        added = added * mask_BT.to(hidden_BTD).unsqueeze(-1)
    return hidden_BTD + added


@contextmanager
def steer(
    model: transformers.PreTrainedModel, vector: SteeringVector, strength: float
) -> Iterator[None]:
    """Steer a causal LM while the context lasts: every forward pass, every position.

    Adds `α · s · v/‖v‖` to the output of the block that the vector names, s being the vector's
    `norm`; `model.generate` works as ever. Contexts may be nested, and their hooks are removed
    even if something fails in between.

    Args:
        model: any causal LM of transformers, on any device and of any dtype.
        vector: of the same width as the model; `AffineMap.transfer` makes one of another model's.
        strength: α, the length of what is added as a share of the layer's median norm; a negative
            one steers the other way.

    Raises:
        UserError: the model has no such layer or another width, or the vector has no norm.
    """
    block = _block_of(model, vector)
    displacement = vector.displacement(strength)

    def add(output: Any) -> torch.Tensor:
        return inject(block_output(output), displacement)

    with change_output(block, add):
        yield


def _block_of(model: transformers.PreTrainedModel, vector: SteeringVector) -> nn.Module:
    blocks = find_blocks(model)
    width = int(model.config.get_text_config().hidden_size)
    if not 0 <= vector.layer < len(blocks) or len(vector.values) != width:
        raise UserError(
            f"the vector {vector.concept!r} has {len(vector.values)} dimensions and lives at layer "
            f"{vector.layer} of {vector.model}; this model has layers 0 … {len(blocks) - 1} and "
            f"width {width}; use AffineMap.transfer to carry a vector to another model"
        )
    return blocks[vector.layer]
