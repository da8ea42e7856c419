"""Multiple choice: the lettered choices in a question, and the letter that an answer names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from lrt_dist.corpus.words import normal, words

if TYPE_CHECKING:
    from lrt_dist.corpus.contrast import Item

_MARKS = (
    re.compile(r"^[ \t]*\(([A-Z])\)[:.]?[ \t]*(?=\S)", re.MULTILINE),
    re.compile(r"^[ \t]*([A-Z])[).:][ \t]+(?=\S)", re.MULTILINE),
)
_ANSWER = re.compile(r"\s*(?:\(([A-Z])\)[:.]?(?=\s|$)|([A-Z])[).:](?=\s|$)|([A-Z])\s*$)")


@dataclass(frozen=True)
class Choice:
    """One choice of a question, `(A) Yes`.

    Attributes:
        letter: A, B, …
        line: where its line begins in the question.
        begin, end: where what is behind the letter stands.
        text: what is behind the letter.
    """

    letter: str
    line: int
    begin: int
    end: int
    text: str


def choices(question: str) -> list[Choice]:
    """The choices of a question: its last lines that begin with `(A)`, `(B)`, … or `A.`, `B)`, ….

    A choice may go on over several lines; the last one then ends at a blank line. Fewer than two
    are none.
    """
    for pattern in _MARKS:
        marks = _from_the_last_a(list(pattern.finditer(question)))
        if len(marks) > 1:
            return _between(question, marks)
    return []


def _from_the_last_a(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    letters = "".join(mark[1] for mark in marks)
    begin = letters.rfind("A")
    alphabetic = string.ascii_uppercase.startswith(letters[begin:])
    return marks[begin:] if begin >= 0 and alphabetic else []


def _between(question: str, marks: list[re.Match[str]]) -> list[Choice]:
    inner = [question[mark.end() : after.start()].rstrip() for mark, after in pairwise(marks)]
    several_lines = any("\n" in text for text in inner)
    rest = question[marks[-1].end() :]
    texts = [*inner, rest.split("\n\n" if several_lines else "\n")[0].rstrip()]
    return [
        Choice(mark[1], mark.start(), mark.end(), mark.end() + len(text), text)
        for mark, text in zip(marks, texts, strict=True)
    ]


def answer_letter(answer: str) -> str | None:
    """The letter of an answer like `(A)`, `A`, `B.` or `(B) No`; None where it is none."""
    found = _ANSWER.match(answer)
    return (found[1] or found[2] or found[3]) if found else None


def described(item: Item) -> Item:
    """The item with what its prompts and answers say about it: question, letter, yes or no."""
    first, second = item.prompts
    letters = _only(map(answer_letter, item.positive)), _only(map(answer_letter, item.negative))
    says = _yes_or_no(first, item.positive), _yes_or_no(second, item.negative)
    return replace(
        item,
        question=question_of(item),
        letter=letters[0] if letters[0] and letters[0] != letters[1] else "",
        says=says[0] if says[0] != says[1] else "",
    )


def _only(values: Iterable[str | None]) -> str | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _yes_or_no(prompt: str, answers: tuple[str, ...]) -> str:
    """`Yes` or `No`, where all answers, or the choice that they name, begin with it."""
    letter = _only(map(answer_letter, answers))
    named = [choice.text for choice in choices(prompt) if choice.letter == letter]
    first = {next(iter(words(text)), "") for text in named or answers}
    return first.pop().capitalize() if first in ({"yes"}, {"no"}) else ""


def question_of(item: Item) -> str:
    """What an item asks: equal for the same question with its choices in another order.

    The prompt without case, letters and superfluous blanks, its choices sorted. Items without a
    prompt are told apart by their texts.
    """
    prompts = dict.fromkeys(_letterless(prompt) for prompt in item.prompts)
    return " / ".join(filter(None, prompts)) or " / ".join(map(normal, item.texts()))


def _letterless(prompt: str) -> str:
    found = choices(prompt)
    if not found:
        return normal(prompt)
    parts = [
        prompt[: found[0].line],
        *sorted(normal(choice.text) for choice in found),
        prompt[found[-1].end :],
    ]
    return " ".join(filter(None, map(normal, parts)))


def is_multiple_choice(item: Item) -> bool:
    """Whether every prompt has choices, and every answer names one of them."""
    return all(
        {answer_letter(answer) for answer in answers} <= {c.letter for c in choices(prompt)}
        for prompt, answers in zip(item.prompts, (item.positive, item.negative), strict=True)
    )


def swapped(item: Item) -> Item | None:
    """The same item with its two choices exchanged, and the letters of its answers with them.

    None where a question has more than two choices.
    """
    if any(len(choices(prompt)) != 2 for prompt in item.prompts):
        return None
    first, second = item.prompts
    return replace(
        item,
        prompts=(_exchanged(first), _exchanged(second)),
        positive=tuple(map(_other_letter, item.positive)),
        negative=tuple(map(_other_letter, item.negative)),
    )


def _exchanged(question: str) -> str:
    one, other = choices(question)
    # Lines are joined: of a last choice nobody could say where it ends.
    first, second = (choice.text.replace("\n", " ") for choice in (other, one))
    between = question[one.end : other.begin]
    return question[: one.begin] + first + between + second + question[other.end :]


def _other_letter(answer: str) -> str:
    found = _ANSWER.match(answer)
    assert found, answer
    begin, end = found.span(found.lastindex or 0)
    return answer[:begin] + {"A": "B", "B": "A"}[answer[begin:end]] + answer[end:]
