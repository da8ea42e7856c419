"""Contrast data: items `{prompt, positive, negative}` from the forms that people have.

`positive` and `negative` are each one continuation or a list of alternatives. Read as well: CAA
(`question`, `answer_matching_behavior`, `answer_not_matching_behavior`), paired prompts
(`positive: {prompt, response}`, `negative: {prompt, response}`) and, in one JSON file, plain lists
of sentences per class (`{"positive": [...], "negative": [...]}`). `corpus.template` joins prompts
and answers.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.config import TemplateConfig
from lrt_dist.corpus.choices import described, is_multiple_choice, swapped
from lrt_dist.corpus.template import joined
from lrt_dist.errors import UserError

NO_TEMPLATE = TemplateConfig()

CAA_KEYS = {"question", "answer_matching_behavior", "answer_not_matching_behavior"}
OWN_KEYS = {"prompt", "positive", "negative"}
PAIRED_KEYS = {"prompt", "response"}
OTHER_KEYS = {
    *("statement", "label_confidence"),  # of the model-written evaluations of Anthropic
    *("meta", "steering_token_index"),  # of steering-bench
    *("", "id", "index", "name", "category", "source", "note"),  # of spreadsheets and people
}
"""Keys of a record that may be there and say nothing here."""


@dataclass(frozen=True)
class Item:
    """One contrast.

    Attributes:
        prompts: the text before the (positive, negative) continuations; usually the same.
        positive, negative: alternatives, at least one each.
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
        """Every whole text, positive ones first."""
        return [
            *(self.prompts[0] + text for text in self.positive),
            *(self.prompts[1] + text for text in self.negative),
        ]


def read_items(
    path: Path, template: TemplateConfig = NO_TEMPLATE, *, swap_letters: bool = False
) -> list[Item]:
    """All items of a file, prompts and answers joined by the template.

    Args:
        swap_letters: whether every item of two choices is followed by the same one with its
            letters swapped.

    Raises:
        UserError: the file is missing, not what its suffix says, or a record has no known form, an
            unknown key, or the same text on both sides; with `swap_letters`, an item that is not
            multiple choice. File and line are named.
    """
    if not path.is_file():
        raise UserError(f"no contrast data at {path}")
    items: list[Item] = []
    try:
        for origin, record in _records(path):
            for read, separator in _items(record, origin):
                item = described(read)
                added = _with_letters_swapped(item, origin) if swap_letters else None
                items += [joined(one, template, separator, origin) for one in (item, added) if one]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from error
    return items


def _with_letters_swapped(item: Item, origin: str) -> Item | None:
    if not is_multiple_choice(item):
        raise UserError(
            f"{origin}: swap_letters is on, but this is not multiple choice: its prompt needs "
            "lines that begin with (A) and (B), and its answers these letters; the positive one is "
            f"{item.positive[0]!r}. Set swap_letters: false, or remove the item"
        )
    other = swapped(item)
    return described(other) if other else None


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if line.strip():
                yield f"{path}, line {number}", _parse(line, f"{path}, line {number}")
    elif path.suffix == ".json":
        content = _parse(path.read_text(encoding="utf-8"), str(path))
        records: Iterable[Any] = content if isinstance(content, list) else [content]
        yield from ((f"{path}, record {number}", r) for number, r in enumerate(records, start=1))
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as stream:
            yield from ((f"{path}, row {n}", r) for n, r in enumerate(csv.DictReader(stream), 1))
    elif path.suffix == ".parquet":
        try:
            rows = pq.read_table(path).to_pylist()
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is not a Parquet file: {error}") from error
        yield from ((f"{path}, row {number}", r) for number, r in enumerate(rows, start=1))
    else:
        raise UserError(f"{path}: contrast data is .jsonl, .json, .csv or .parquet")


def _parse(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}: not JSON: {error.msg} (line {error.lineno})") from error


def _items(record: Any, origin: str) -> Iterator[tuple[Item, str | None]]:
    """The items of a record, each with the separator of its form; None: a blank where needed."""
    if not isinstance(record, dict):
        raise UserError(f"{origin}: expected an object, got {type(record).__name__}")
    if "answer_matching_behavior" in record:
        _check_keys(record, CAA_KEYS, origin)
        question = _prompt(record, "question", origin)
        yield (
            Item(
                (question, question),
                _alternatives(_text(record, "answer_matching_behavior", origin), origin),
                _alternatives(_text(record, "answer_not_matching_behavior", origin), origin),
            ),
            "\n",
        )
        return
    _check_keys(record, OWN_KEYS, origin)
    positive, negative = record.get("positive"), record.get("negative")
    if isinstance(positive, dict) and isinstance(negative, dict):
        for half in (positive, negative):
            _check_keys(half, PAIRED_KEYS, origin)
        yield (
            Item(
                (_text(positive, "prompt", origin), _text(negative, "prompt", origin)),
                _alternatives(_text(positive, "response", origin), origin),
                _alternatives(_text(negative, "response", origin), origin),
            ),
            None,
        )
    elif "prompt" not in record and isinstance(positive, list) and isinstance(negative, list):
        if len(positive) != len(negative):
            raise UserError(
                f"{origin}: {len(positive)} positive and {len(negative)} negative sentences; "
                "sentence i of both must belong together"
            )
        for one, other in zip(positive, negative, strict=True):
            yield Item(("", ""), _alternatives(one, origin), _alternatives(other, origin)), None
    else:
        prompt = _prompt(record, "prompt", origin)
        sides = _alternatives(positive, origin), _alternatives(negative, origin)
        yield Item((prompt, prompt), *sides), None


def _check_keys(record: dict[Any, Any], known: Set[str], origin: str) -> None:
    """Whether a record says only what is read, or may be there unread."""
    unknown = [key for key in record if key not in known | OTHER_KEYS]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), sorted(known), n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{origin}: unknown key {unknown[0]!r}; {hint}(known: {', '.join(sorted(known))}; "
            f"left unread: {', '.join(sorted(OTHER_KEYS - {''}))})"
        )


def _text(record: dict[str, Any], key: str, origin: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UserError(f"{origin}: no {key!r} (it has: {', '.join(record)})")
    return value


def _prompt(record: dict[str, Any], key: str, origin: str) -> str:
    value = record.get(key) or ""
    if not isinstance(value, str) or not _whole(value):
        raise UserError(f"{origin}: `{key}` must be a text, got {value!r}")
    return value


def _whole(text: str) -> bool:
    """No lone surrogate, which JSON can write and no tokenizer reads."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _alternatives(value: Any, origin: str) -> tuple[str, ...]:
    alternatives = [value] if isinstance(value, str) else value
    if (
        not isinstance(alternatives, list)
        or not alternatives
        or not all(isinstance(text, str) and text and _whole(text) for text in alternatives)
    ):
        raise UserError(
            f"{origin}: `positive` and `negative` must each be a text or a list of texts, "
            f"got {value!r}; known forms: {{prompt, positive, negative}}, CAA, paired prompts"
        )
    return tuple(alternatives)
