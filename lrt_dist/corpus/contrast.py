"""Contrast data: items `{prompt, positive, negative}` from the forms that people have.

`positive` and `negative` are each one continuation or a list of alternatives. Read as well: CAA
(`question`, `answer_matching_behavior`, `answer_not_matching_behavior`), paired prompts
(`positive: {prompt, response}`, `negative: {prompt, response}`) and, in one JSON file, plain lists
of sentences per class (`{"positive": [...], "negative": [...]}`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.config import ConceptConfig
from lrt_dist.errors import UserError


@dataclass(frozen=True)
class Item:
    """One contrast.

    Attributes:
        prompts: the text before the (positive, negative) continuations; usually the same.
        positive, negative: alternatives, at least one each.
    """

    prompts: tuple[str, str]
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def texts(self) -> list[str]:
        """Every whole text, positive ones first."""
        return [
            *(self.prompts[0] + text for text in self.positive),
            *(self.prompts[1] + text for text in self.negative),
        ]


@dataclass(frozen=True)
class ConceptData:
    """A concept's items, split so that nothing is tested on what made the vector or chose it."""

    vector: tuple[Item, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]


def load_concept(config: ConceptConfig, max_items: int | None) -> ConceptData:
    """Read and split a concept's data.

    With `items`: all of `data` make the vector, and the items go to dev and test alternately.
    Without: the first of every two lines makes the vector, the others dev and test alternately.

    Raises:
        UserError: unreadable data (file and line), or a split with fewer than two items.
    """
    data = list(dict.fromkeys(read_items(Path(config.data))))
    if config.items is None:
        vector, evaluated = data[::2], data[1::2]
    else:
        vector = data
        evaluated = list(dict.fromkeys(read_items(Path(config.items))))
        evaluated = [item for item in evaluated if item not in set(vector)]
    evaluated = evaluated[:max_items]
    split = ConceptData(tuple(vector), tuple(evaluated[::2]), tuple(evaluated[1::2]))
    for name in ("vector", "dev", "test"):
        count = len(getattr(split, name))
        if count < 2:
            raise UserError(
                f"concept {config.name}: {count} items in the {name} split, at least 2 are needed; "
                f"add items to {config.items or config.data}"
                + (" or raise evaluate.max_items" if max_items and name != "vector" else "")
            )
    return split


def read_items(path: Path) -> list[Item]:
    """All items of a file.

    Raises:
        UserError: the file is missing, not what its suffix says, or a record has no known form.
    """
    if not path.is_file():
        raise UserError(f"no contrast data at {path}")
    try:
        return [item for origin, record in _records(path) for item in _items(record, origin)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from error


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


def _items(record: Any, origin: str) -> Iterator[Item]:
    if not isinstance(record, dict):
        raise UserError(f"{origin}: expected an object, got {type(record).__name__}")
    if "answer_matching_behavior" in record:
        record = {
            "prompt": record.get("question", ""),
            "positive": "\n" + _text(record, "answer_matching_behavior", origin),
            "negative": "\n" + _text(record, "answer_not_matching_behavior", origin),
        }
    positive, negative = record.get("positive"), record.get("negative")
    if isinstance(positive, dict) and isinstance(negative, dict):
        yield Item(
            (_text(positive, "prompt", origin), _text(negative, "prompt", origin)),
            _alternatives(_text(positive, "response", origin), origin),
            _alternatives(_text(negative, "response", origin), origin),
        )
    elif "prompt" not in record and isinstance(positive, list) and isinstance(negative, list):
        if len(positive) != len(negative):
            raise UserError(
                f"{origin}: {len(positive)} positive and {len(negative)} negative sentences; "
                "sentence i of both must belong together"
            )
        for one, other in zip(positive, negative, strict=True):
            yield Item(("", ""), _alternatives(one, origin), _alternatives(other, origin))
    else:
        prompt = record.get("prompt") or ""
        if not isinstance(prompt, str) or not _whole(prompt):
            raise UserError(f"{origin}: `prompt` must be a text, got {prompt!r}")
        yield Item(
            (prompt, prompt), _alternatives(positive, origin), _alternatives(negative, origin)
        )


def _text(record: dict[str, Any], key: str, origin: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UserError(f"{origin}: no {key!r} (it has: {', '.join(record)})")
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
