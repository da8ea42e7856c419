"""Contrasts: items with what they compare, and classes of texts that become items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lrt_dist.errors import UserError
from lrt_dist.sites import seed_of


@dataclass(frozen=True)
class Item:
    """One contrast.

    Attributes:
        prompts: the text before the (positive, negative) continuations; usually the same.
        positive, negative: alternatives, one or more on each side. Both are empty where the
            prompts are all there is: an open question, or two texts that are a user's turns.
        question: what it asks; the same for items that ask the same question with other letters
            or other answers. This and what follows is as the data has it, whatever the template,
            and takes no part in comparisons.
        letter: of the choice that is positive; empty where there is none.
        says: `Yes` or `No`, where the positive answer begins with it and the negative one not.
    """

    prompts: tuple[str, str]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    question: str = field(default="", compare=False)
    letter: str = field(default="", compare=False)
    says: str = field(default="", compare=False)

    def texts(self) -> list[str]:
        """Every whole text, positive ones first; without answers the two prompts."""
        return [
            *(self.prompts[0] + text for text in self.positive or ("",)),
            *(self.prompts[1] + text for text in self.negative or ("",)),
        ]

    @property
    def has_answers(self) -> bool:
        """Whether answers can be compared."""
        return bool(self.positive)

    @property
    def has_contrast(self) -> bool:
        """Whether its texts can make a vector: an open question has only one."""
        return self.has_answers or self.prompts[0] != self.prompts[1]


@dataclass(frozen=True)
class ClassText:
    """A whole text of one of two classes, which belongs to no text of the other.

    Attributes:
        text: what it says.
        positive: whether it shows the concept.
        origin: its place, for errors.
    """

    text: str
    positive: bool
    origin: str


def paired(texts: Iterable[ClassText], seed: int) -> tuple[list[tuple[Item, str]], int]:
    """Items of one text of each class, drawn at random without replacement.

    Who is whose partner depends on the seed and on what the texts say, not on their order; a text
    that stands there twice counts once.

    Returns:
        The items, each with its place; and how many texts of the larger class are in none.

    Raises:
        UserError: a class is empty, or a text is in both.
    """
    classes: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for text in texts:
        classes[not text.positive].setdefault(text.text, text.origin)
    positive, negative = classes
    both = sorted(positive.keys() & negative.keys())
    if both:
        raise UserError(
            f"{positive[both[0]]} and {negative[both[0]]}: the same text is positive and negative, "
            f"{both[0][:80]!r}; there is nothing to tell apart: correct or remove it"
        )
    if bool(positive) != bool(negative):
        known, missing = ("positive", "negative") if positive else ("negative", "positive")
        raise UserError(
            f"{next(iter((positive or negative).values()))}: this text and all others are "
            f"{known}, and there is none that is {missing} to tell them from"
        )
    orders = [
        sorted(texts, key=lambda text: seed_of(f"{seed}\n{text}", bits=128)) for texts in classes
    ]
    items = [
        (Item(("", ""), (one,), (other,)), f"{positive[one]} and {negative[other]}")
        for one, other in zip(*orders, strict=False)
    ]
    return items, abs(len(positive) - len(negative))
