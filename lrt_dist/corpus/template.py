"""How prompt and answer become one text: prefix + prompt + suffix + separator + answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrt_dist.config import TemplateConfig
from lrt_dist.corpus.words import glues
from lrt_dist.errors import UserError

if TYPE_CHECKING:
    from lrt_dist.corpus.contrast import Item

_OPENS, _CLOSES = "([{<\"'“‘«„¿¡$#/-", ".,;:!?)]}>%”’»…'/-"
SHOWN = 24
"""Characters on each side of a joint that an error shows."""


def joined(item: Item, template: TemplateConfig, separator: str | None, origin: str) -> Item:
    """The item with the template around its prompts, and the separator before its answers.

    The model's chat format is put around later, since it is another in every model. With it, two
    texts without a prompt are the user's turns themselves, and no answers are left.

    Args:
        separator: of the item's form, where the template names none; None means a blank where one
            is missing.
        origin: file and line, for errors.

    Raises:
        UserError: a template that makes one word of two; the same text on both sides.
    """
    if template.chat and not template.prefix and not any(item.prompts):
        item = _as_turns(item)
    prompts = (
        _around(template, item.prompts[0], origin),
        _around(template, item.prompts[1], origin),
    )

    def answers(prompt: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_separator(template, separator, prompt, text, origin) + text for text in texts)

    made = replace(
        item,
        prompts=prompts,
        positive=answers(prompts[0], item.positive),
        negative=answers(prompts[1], item.negative),
    )
    texts = made.texts()
    both = set(texts[: len(made.positive)]) & set(texts[len(made.positive) :])
    if both:
        raise UserError(
            f"{origin}: the same text is positive and negative, {min(both)[-80:]!r}; there is "
            "nothing to tell apart: correct or remove it"
        )
    return made


def _as_turns(item: Item) -> Item:
    """The item whose prompts are its texts; one with alternatives stays as it is."""
    if len(item.positive) != 1 or len(item.negative) != 1:
        return item
    return replace(item, prompts=(*item.positive, *item.negative), positive=(), negative=())


def check_joint(before: str, after: str, origin: str, key: str) -> None:
    """Whether two texts may stand side by side.

    Raises:
        UserError: their words would become one.
    """
    if glues(before, after):
        raise UserError(
            f"{origin}: {key} joins {before[-SHOWN:]!r} and {after[:SHOWN]!r} to "
            f"{before[-SHOWN:] + after[:SHOWN]!r}, which makes one word of two; put a blank or a "
            f"line break between them in {key}"
        )


def _around(template: TemplateConfig, prompt: str, origin: str) -> str:
    check_joint(template.prefix, prompt or template.suffix, origin, "template.prefix")
    check_joint(prompt, template.suffix, origin, "template.suffix")
    return template.prefix + prompt + template.suffix


def _separator(
    template: TemplateConfig, of_form: str | None, prompt: str, answer: str, origin: str
) -> str:
    if not prompt:
        return ""
    if template.separator is not None:
        # What a chat format puts before the answer is only known with a model, see tasks.chat.
        before = "" if template.chat else prompt
        check_joint(before + template.separator, answer, origin, "template.separator")
        check_joint(before, template.separator, origin, "template.separator")
        return template.separator
    if template.chat:
        return ""
    if of_form is not None:
        return of_form
    # A blank, unless one is there or none belongs there: `(` + `A`, `true` + `.`.
    joint = prompt[-1].isspace() or answer[0].isspace()
    joint = joint or prompt[-1] in _OPENS or answer[0] in _CLOSES
    return "" if joint or not _spaced(prompt[-1], answer[0]) else " "


def _spaced(before: str, after: str) -> bool:
    """Whether a blank belongs between two characters: not in scripts that have none."""
    return not ((before.isalnum() and not glues(before, "a")) or
                (after.isalnum() and not glues("a", after)))  # fmt: skip
