"""Documents from text files, JSON lines, Parquet and Hugging Face datasets, or a mixture of them.

A conversation becomes one plain text: sites are characters of a text that both models read, so it
cannot be in the chat format of either.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.config import CorpusConfig, TextConfig
from lrt_dist.corpus.hub import dataset_rows
from lrt_dist.errors import UserError

SIGNATURE_BYTES = 1 << 20
"""Of a file's beginning and of its end that are hashed."""
TEXT_SUFFIXES = (".txt", ".md", ".rst")


@dataclass(frozen=True)
class Document:
    """A text with an id that is unique in its corpus.

    Attributes:
        id: its place in the corpus, which decides its fold.
        text: what it says.
        part: number of the part of the mixture that it belongs to.
    """

    id: str
    text: str
    part: int = 0


def read_documents(config: CorpusConfig) -> Iterator[Document]:
    """All non-blank documents of a corpus, in a fixed order, read as they are asked for.

    Raises:
        UserError: no file, no document, an unknown suffix, or text that cannot be read (with its
            file and line).
    """
    parts = [_documents_of(config, number) for number in range(len(config.parts))]
    return itertools.islice(_mixed(parts, config.shares), config.max_documents)


def _mixed(parts: Sequence[Iterator[Document]], shares: Sequence[float]) -> Iterator[Document]:
    """Documents of several parts, each of the one that is furthest behind its share of the
    characters; until one of them ends."""
    characters = [0] * len(parts)
    while True:
        part = furthest_behind(characters, shares)
        document = next(parts[part], None)
        if document is None:
            return
        characters[part] += len(document.text)
        yield document


def furthest_behind(characters: Sequence[int], shares: Sequence[float]) -> int:
    """The part of a mixture that has the least of its share so far; the next document is its."""
    return min(range(len(shares)), key=lambda number: characters[number] / shares[number])


def _documents_of(config: CorpusConfig, number: int) -> Iterator[Document]:
    """The non-blank documents of one part; within a mixture their ids begin with its number."""
    part = config.parts[number]
    rows = _from_dataset(part) if part.dataset else _from_files(part)
    documents = (document for document in rows if document.text.strip())
    first = next(documents, None)
    if first is None:
        raise UserError(f"the corpus is empty: no document with any text in {part}")
    for document in itertools.chain([first], documents):
        if config.mixture:
            yield Document(f"{number}/{document.id}", document.text, number)
        else:
            yield document


def corpus_files(config: TextConfig) -> list[Path]:
    """The files that a text's globs name, sorted.

    Raises:
        UserError: a pattern matches nothing, or a file has a suffix that no reader takes.
    """
    files: list[Path] = []
    for pattern in config.paths:
        matches = sorted(
            path for p in glob.glob(pattern, recursive=True) if (path := Path(p)).is_file()
        )
        if not matches:
            raise UserError(f"{config.place}.paths: no file matches {pattern}")
        files += matches
    for path in files:
        if path.suffix not in (*TEXT_SUFFIXES, ".jsonl", ".parquet"):
            raise UserError(
                f"{config.place}.paths: {path} is neither text ({', '.join(TEXT_SUFFIXES)}) nor "
                ".jsonl nor .parquet"
            )
    return list(dict.fromkeys(files))


def named_files(config: TextConfig) -> list[tuple[Path, str]]:
    """The files of a text with their names in it, which do not depend on where it lies.

    Raises:
        UserError: see `corpus_files`.
    """
    files = corpus_files(config)
    if not files:
        return []
    base = os.path.commonpath([path.parent for path in files])
    return [(path, str(path.relative_to(base))) for path in files]


def corpus_digest(config: CorpusConfig) -> str:
    """Hash of what the files of a corpus are: their parts, their names in them, sizes, beginnings
    and ends. It does not depend on where they lie.

    Raises:
        UserError: see `corpus_files`.
    """
    digest = hashlib.sha256()
    for number, part in enumerate(config.parts):
        for path, name in named_files(part):
            size = path.stat().st_size
            digest.update(f"{f'{number}/' if number else ''}{name}\n{size}\n".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(SIGNATURE_BYTES))
                stream.seek(max(0, size - SIGNATURE_BYTES))
                digest.update(stream.read(SIGNATURE_BYTES))
    return digest.hexdigest()[:16]


def text_bytes(config: CorpusConfig) -> int:
    """About how many bytes of text the files of a corpus hold, of a mixture those that are read;
    what is compressed counts as it is read."""
    sizes = [sum(_size(path, part.text_field) for path in corpus_files(part))
             for part in config.parts]  # fmt: skip
    return int(min(size / share for size, share in zip(sizes, config.shares, strict=True)))


def _size(path: Path, field: str) -> int:
    if path.suffix != ".parquet":
        return path.stat().st_size
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return sum(
            column.total_uncompressed_size
            for group in groups
            for column in (group.column(i) for i in range(group.num_columns))
            if f"{column.path_in_schema}.".startswith(f"{field}.")  # of a list, all that it holds
        )


def _from_files(config: TextConfig) -> Iterator[Document]:
    for path, name in named_files(config):  # ids begin with the name, and decide the folds
        if path.suffix == ".jsonl":
            yield from _json_lines(path, name, config)
        elif path.suffix == ".parquet":
            yield from _parquet(path, name, config)
        else:
            yield from _text(path, name, config.separator)


def _text(path: Path, name: str, separator: str | None) -> Iterator[Document]:
    text = _decode(path.read_bytes(), path, first_line=1)
    if separator is None:
        yield Document(name, text)
        return
    # A separator is written with \n, whatever the file's line ends are.
    for number, piece in enumerate(text.replace("\r\n", "\n").split(separator)):
        yield Document(f"{name}#{number}", piece)


def _json_lines(path: Path, name: str, config: TextConfig) -> Iterator[Document]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, path, first_line=number)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON: {error.msg}") from error
            yield Document(f"{name}#{number}", _text_of(record, config, f"{path}, line {number}"))


def _parquet(path: Path, name: str, config: TextConfig) -> Iterator[Document]:
    field = config.text_field
    try:
        opened = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error
    with opened as file:
        names = file.schema_arrow.names
        if field not in names:
            raise UserError(
                f"{path}: no column {field!r} (it has: {', '.join(names)}); set "
                f"{config.place}.text_field"
            )
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                if value is not None:
                    text = _text_of({field: value}, config, f"{path}, row {number}")
                    yield Document(f"{name}#{number}", text)
                number += 1


def _from_dataset(config: TextConfig) -> Iterator[Document]:
    assert config.dataset is not None
    for number, (origin, row) in enumerate(dataset_rows(config.dataset)):
        yield Document(f"{config.dataset}#{number}", _text_of(row, config, origin))


def _text_of(record: Any, config: TextConfig, origin: str) -> str:
    """The text of a record, or its conversation written turn by turn.

    Raises:
        UserError: it has none.
    """
    value = record.get(config.text_field) if isinstance(record, dict) else None
    text = _conversation(value, config.turn, origin) if isinstance(value, list) else value
    if not isinstance(text, str):
        have = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{origin}: no text in field {config.text_field!r} (it has: {have}); set "
            f"{config.place}.text_field"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{origin}: half a character (a lone surrogate)") from error
    return text


def _conversation(turns: list[Any], form: str, origin: str) -> str:
    """Turns `{role, content}` as one text, without blanks at its end."""
    text = ""
    for number, turn in enumerate(turns, start=1):
        said = [turn.get(key) if isinstance(turn, dict) else None for key in ("role", "content")]
        if not all(isinstance(value, str) for value in said):
            raise UserError(
                f"{origin}: turn {number} is no {{role, content}} of two texts: {str(turn)[:80]}"
            )
        # In one pass: what a user wrote may hold `{role}` itself.
        role, content = map(str, said)
        text += content.join(piece.replace("{role}", role) for piece in form.split("{content}"))
    return text.rstrip()


def _decode(raw: bytes, path: Path, *, first_line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: byte {error.object[error.start]:#04x} is not UTF-8; convert the "
            "file (iconv -t utf-8) or leave it out"
        ) from error
