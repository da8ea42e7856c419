"""Steering any causal LM of a user, while it is used as ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn

from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import SteeringVector, displacement
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output, change_output
from lrt_dist.models.injection import (
    OPERATORS,
    POSITIONS,
    Parts,
    Positions,
    Steering,
    chosen_positions,
    inject,
)

OTHER_CACHES = ("cache_params", "state")
"""What models that keep no keys and values call what they remember of a text."""


@contextmanager
def steer(
    model: transformers.PreTrainedModel,
    vector: SteeringVector,
    strength: float,
    *,
    operator: str = "add",
    positions: str = "all",
    prompt: int | None = None,
) -> Iterator[None]:
    """Steer a causal LM while the context lasts: every forward pass, at every position or some.

    Adds `α · s · v/‖v‖` to the output of the block that the vector names, s being the vector's
    `norm`; `model.generate` works as ever. Contexts may be nested, and their hooks are removed
    even if something fails in between.

    Args:
        model: any causal LM of transformers, on any device and of any dtype.
        vector: of the same width as the model; `AffineMap.transfer` makes one of another model's.
        strength: α, the length of what is added as a share of the layer's median norm; a negative
            one steers the other way.
        operator: one of `OPERATORS`: `add`; `ablate` adds α times the component along the vector,
            so that -1 removes it, and needs no norm; `clamp` sets that component to α · s.
        positions: one of `POSITIONS`: `all`, `all_but_special`, `from_prompt_end`, `last` or
            `answer`. A leading `bos_token_id` of the model's is special.
        prompt: tokens of each text that are its prompt, special ones included and padding not;
            None for all that a text begins with: what `generate` is given. (Without a cache every
            pass begins a text, so say it there.)

    Raises:
        UserError: the model has no such layer or another width, the vector has no norm, or there
            is no such operator, or there are no such positions; in a forward pass, positions that
            cannot be told.
    """
    block, chosen = _block_of(model, vector), OPERATORS.find(operator)
    # Ablation takes a direction alone.
    length = 1.0 if operator == "ablate" else strength * vector.known_norm
    steering = Steering(chosen, displacement(vector.values, length), torch.tensor([strength]))
    config = model.config.get_text_config()
    texts = _Texts(POSITIONS.find(positions), prompt, getattr(config, "bos_token_id", None))

    def steered(output: Any) -> torch.Tensor:
        return inject(block_output(output), steering, texts.mask_BT)

    with ExitStack() as stack:
        if positions != "all":
            handle = model.register_forward_pre_hook(texts.go_on, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(change_output(block, steered))
        yield


class _Texts:
    """The texts that a model is run on, pass by pass."""

    mask_BT: torch.Tensor | None = None
    """Which tokens of the current pass are steered; None for all."""

    def __init__(self, positions: Positions, prompt: int | None, bos: int | None) -> None:
        self._positions, self._prompt, self._bos = positions, prompt, bos
        self._begun: list[tuple[int, Parts]] = []  # padding in front of each text, and its parts

    def go_on(self, model: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """See what a pass is given, before it begins."""
        ids = args[0] if args else named.get("input_ids")
        given = named.get("inputs_embeds") if ids is None else ids
        attended = named.get("attention_mask")
        other = any(named.get(name) is not None for name in OTHER_CACHES)
        if given is None or other or (attended is not None and attended.ndim != 2):
            raise UserError(
                f"where a text begins cannot be told from what {type(model).__name__} is given "
                f"({', '.join(named)}), so only positions 'all' can be steered"
            )
        batch, width = given.shape[:2]
        cache = named.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        if past == 0:
            seen = torch.ones(batch, width) if attended is None else attended
            paddings = (seen.cumsum(1) == 0).sum(1).tolist()
            self._begun = [
                (padding, self._parts(width - padding, None if ids is None else ids[row, padding]))
                for row, padding in enumerate(paddings)
            ]
        mask_BT = torch.zeros(batch, width, dtype=torch.bool)
        for row, (padding, parts) in enumerate(self._begun):
            now = replace(parts, tokens=past + width - padding)
            places = [p + padding - past for p in chosen_positions(self._positions, now)]
            mask_BT[row, [place for place in places if place >= 0]] = True
        self.mask_BT = mask_BT.to(given.device)

    def _parts(self, tokens: int, first: torch.Tensor | None) -> Parts:
        special = int(first is not None and self._bos is not None and int(first) == self._bos)
        return Parts(tokens, tokens if self._prompt is None else self._prompt, special)


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
