"""The forms of contrast data that people have: by which keys each is known, and what it says.

A record is of the first form that has all keys which it needs and knows all keys that are there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from lrt_dist.corpus.contrast import ClassText, Item
from lrt_dist.errors import UserError

Record = dict[str, Any]
Contrast = Item | ClassText

UNREAD = {
    *("statement", "label_confidence"),  # of the model-written evaluations of Anthropic
    *("meta", "steering_token_index"),  # of steering-bench
    *("", "id", "index", "name", "category", "type", "source", "note"),  # of tables and people
}
"""Keys of a record that may be there and say nothing here."""
TEXT_KEYS = ("text", "statement", "sentence")
LABELS = {0: False, 1: True, "0": False, "1": True}


@dataclass(frozen=True)
class Form:
    """One form of a record.

    Attributes:
        name: what an error calls it.
        needs: keys that it has; of each group one.
        read: `(record, place) -> items`, or texts of classes.
        may: further keys that it may have.
        table: whether it may have any further key, which is left unread.
        separator: between prompt and answer, where no template says it; None: a blank where needed.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Record, str], Iterator[Contrast]]
    may: tuple[str, ...] = ()
    table: bool = False
    separator: str | None = None

    @property
    def keys(self) -> set[str]:
        """Those that say something."""
        return {*self.may, *(key for group in self.needs for key in group)}

    def lacks(self, present: Set[str]) -> list[tuple[str, ...]]:
        """Groups of needed keys of which none is there."""
        return [group for group in self.needs if not present & set(group)]

    def unknown(self, present: Set[str]) -> list[str]:
        """Keys that it does not have."""
        return [] if self.table else sorted(present - self.keys - UNREAD)


def form_of(record: Any, origin: str) -> Form:
    """The form of a record.

    Raises:
        UserError: it has none, with the nearest one and what is wrong with it.
    """
    if isinstance(record, str):
        raise UserError(
            f"{origin}: a text alone, {record[:40]!r}: a file of such texts is one class, and two "
            "are needed; in the concept write data: {positive: FILE, negative: FILE}"
        )
    if not isinstance(record, dict):
        raise UserError(f"{origin}: expected an object, got {type(record).__name__}")
    present = {key for key, value in record.items() if value is not None}
    for form in FORMS:
        if not form.lacks(present) and not form.unknown(present):
            return form
    nearest = max(FORMS, key=lambda form: (len(present & form.keys), -len(form.lacks(present))))
    raise UserError(f"{origin}: {_wrong(nearest, present)}")


def _wrong(form: Form, present: Set[str]) -> str:
    """What keeps a record from being of the nearest form."""
    it_has = f"it has: {', '.join(sorted(present)) or 'nothing'}"
    lacks, unknown = form.lacks(present), form.unknown(present)
    if not present & form.keys:
        return f"no known form ({it_has}); known forms: {', '.join(f.name for f in FORMS)}"
    told = f"it looks like {form.name}, but "
    if lacks:
        told += "lacks " + " and ".join(" or ".join(map(repr, group)) for group in lacks)
        wanted = [key for group in lacks for key in group]
    else:
        told += f"has the unknown key {unknown[0]!r}"
        wanted = sorted(form.keys)
    near = [
        (known[0], key)
        for key in unknown
        if (known := difflib.get_close_matches(key, wanted, n=1, cutoff=0.6))
    ]
    hint = f"; did you mean {near[0][0]!r} by {near[0][1]!r}?" if near else ""
    return f"{told} ({it_has}){hint}"


def class_text(record: Any, origin: str) -> str:
    """The text of a record in a file of one class: a text, or an object that holds one.

    Raises:
        UserError: it holds none, or several.
    """
    keys = (*TEXT_KEYS, "instruction", "prompt", "question")
    if isinstance(record, dict):
        found = [key for key in keys if record.get(key) is not None]
        if len(found) != 1:
            raise UserError(
                f"{origin}: a record of a class is a text, or has one of the keys "
                f"{', '.join(keys)} (it has: {', '.join(record)})"
            )
        record = record[found[0]]
    return _text(record, "the text of a class", origin)


def _contrast(record: Record, origin: str) -> Iterator[Contrast]:
    """A prompt with answers; two prompts with an answer each; or two lists of sentences."""
    positive, negative = record["positive"], record["negative"]
    if isinstance(positive, dict) and isinstance(negative, dict):
        halves = [_half(half, origin) for half in (positive, negative)]
        yield Item((halves[0][0], halves[1][0]), (halves[0][1],), (halves[1][1],))
        return
    sides = _answers(positive, "positive", origin), _answers(negative, "negative", origin)
    if "prompt" in record or not (isinstance(positive, list) and isinstance(negative, list)):
        prompt = _prompt(record.get("prompt"), "prompt", origin)
        yield Item((prompt, prompt), *sides)
    elif len(positive) == len(negative):
        for one, other in zip(*sides, strict=True):
            yield Item(("", ""), (one,), (other,))
    else:
        for of_class, shows in zip(sides, (True, False), strict=True):
            yield from (ClassText(text, shows, origin) for text in of_class)


def _half(half: Record, origin: str) -> tuple[str, str]:
    """Prompt and response of one side of paired prompts."""
    keys = {"prompt", "response"}
    unknown, lacking = sorted(half.keys() - keys - UNREAD), sorted(keys - half.keys())
    if unknown or lacking:
        wrong = f"has the unknown key {unknown[0]!r}" if unknown else f"lacks {lacking[0]!r}"
        raise UserError(
            f"{origin}: it looks like paired prompts, but one of them {wrong} (it has: "
            f"{', '.join(half) or 'nothing'})"
        )
    return _prompt(half["prompt"], "prompt", origin), _text(half["response"], "response", origin)


def _caa(record: Record, origin: str) -> Iterator[Contrast]:
    question = _prompt(record["question"], "question", origin)
    matching, other = (
        _answers(record[key], key, origin)
        for key in ("answer_matching_behavior", "answer_not_matching_behavior")
    )
    yield Item((question, question), matching, other)


def _truthful(record: Record, origin: str) -> Iterator[Contrast]:
    def of(*keys: str) -> tuple[Any, str, str]:
        (key, *_) = [key for key in keys if record.get(key) is not None]
        return record[key], key, origin

    question = _prompt(*of("question", "prompt"))
    correct = _answers(*of("correct_answers", "correct"))
    yield Item((question, question), correct, _answers(*of("incorrect_answers", "incorrect")))


def _labelled(record: Record, origin: str) -> Iterator[Contrast]:
    (key, *_) = [key for key in TEXT_KEYS if record.get(key) is not None]
    label = record["label"]
    if not isinstance(label, int | float | str) or label not in LABELS:
        raise UserError(
            f"{origin}: `label` must be 1 (shows the concept) or 0, got {label!r}; where there are "
            "more classes, make a file of each and write data: {positive: …, negative: …}"
        )
    yield ClassText(_text(record[key], key, origin), LABELS[label], origin)


def _open(record: Record, origin: str) -> Iterator[Contrast]:
    (key,) = [key for key in ("question", "prompt") if record.get(key) is not None]
    question = _text(record[key], key, origin)
    yield Item((question, question), (), ())


FORMS = (
    Form(
        "CAA",
        (("question",), ("answer_matching_behavior",), ("answer_not_matching_behavior",)),
        _caa,
        separator="\n",
    ),
    Form(
        "TruthfulQA",
        (("question", "prompt"), ("correct_answers", "correct"),
         ("incorrect_answers", "incorrect")),
        _truthful,
        may=("best_answer", "best_incorrect_answer"),
    ),
    Form("{prompt, positive, negative}", (("positive",), ("negative",)), _contrast, ("prompt",)),
    Form("labelled statements", (TEXT_KEYS, ("label",)), _labelled, table=True),
    Form("open questions", (("question", "prompt"),), _open),
)  # fmt: skip


def _prompt(value: Any, key: str, origin: str) -> str:
    """A text that may be empty."""
    return _text(value, key, origin) if value else ""


def _text(value: Any, key: str, origin: str) -> str:
    if not isinstance(value, str) or not value or not _whole(value):
        raise UserError(f"{origin}: {key} must be a text, got {value!r}")
    return value


def _answers(value: Any, key: str, origin: str) -> tuple[str, ...]:
    answers = [value] if isinstance(value, str) else value
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(text, str) and text and _whole(text) for text in answers)
    ):
        raise UserError(f"{origin}: {key} must be a text or a list of texts, got {value!r}")
    return tuple(answers)


def _whole(text: str) -> bool:
    """No lone surrogate, which JSON can write and no tokenizer reads."""
    return not any("\ud800" <= c <= "\udfff" for c in text)
