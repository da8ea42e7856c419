"""Records of a file: of JSON lines, JSON, CSV, Parquet, or lines of text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.errors import UserError


def records_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file, each with its place for errors.

    Raises:
        UserError: the file is missing, or not what its suffix says.
    """
    if not path.is_file():
        raise UserError(f"no contrast data at {path}")
    readers = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".parquet": _parquet,
        ".txt": _lines,
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: contrast data is {', '.join(readers)}")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parse(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    content = _parse(path.read_text(encoding="utf-8"), str(path))
    records = content if isinstance(content, list) else [content]
    yield from ((f"{path}, record {number}", r) for number, r in enumerate(records, start=1))


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=1):
            if None in row:
                raise UserError(
                    f"{path}, row {number}: more values than columns; put a text that holds commas "
                    "in double quotes"
                )
            yield f"{path}, row {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error
    yield from ((f"{path}, row {number}", r) for number, r in enumerate(rows, start=1))


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def _parse(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}: not JSON: {error.msg} (line {error.lineno})") from error
