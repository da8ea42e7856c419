"""Prompts in a model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lrt_dist.config import TemplateConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.template import check_joint
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer


def rendered(
    items: Sequence[Item], template: TemplateConfig, tokenizer: SiteTokenizer
) -> tuple[Item, ...]:
    """The items as one model reads them: with `template.chat`, prompts as a user's turn.

    Raises:
        UserError: the model has no chat format; an item has no prompt; the format joins a word of
            its own to the answer's first one.
    """
    if not template.chat:
        return tuple(items)
    return tuple(_rendered(item, tokenizer) for item in items)


def _rendered(item: Item, tokenizer: SiteTokenizer) -> Item:
    if not all(item.prompts):
        raise UserError(
            f"an item has no prompt ({item.positive[0]!r}), so template.chat has nothing to ask; "
            "set template.chat: false, or template.prefix to a question"
        )
    positive, negative = (tokenizer.chat(prompt) for prompt in item.prompts)
    origin = f"the chat format of {tokenizer.name}"
    for prompt, answers in ((positive, item.positive), (negative, item.negative)):
        for answer in answers:
            check_joint(prompt, answer, origin, "template.separator")
    return replace(item, prompts=(positive, negative))
