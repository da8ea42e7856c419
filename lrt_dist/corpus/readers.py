"""Documents from text files, JSON lines, Parquet, or a Hugging Face dataset."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.config import CorpusConfig
from lrt_dist.errors import UserError

SIGNATURE_BYTES = 1 << 20
"""Of a file's beginning and of its end that are hashed."""
TEXT_SUFFIXES = (".txt", ".md", ".rst")


@dataclass(frozen=True)
class Document:
    """A text with an id that is unique in its corpus."""

    id: str
    text: str


def read_documents(config: CorpusConfig) -> Iterator[Document]:
    """All non-blank documents of a corpus, in a fixed order.

    Raises:
        UserError: no file, no document, an unknown suffix, or text that cannot be read (with its
            file and line).
    """
    documents = _from_dataset(config) if config.dataset else _from_files(config)
    limited = itertools.islice((d for d in documents if d.text.strip()), config.max_documents)
    first = next(limited, None)
    if first is None:
        where = config.dataset or ", ".join(config.paths)
        raise UserError(f"the corpus is empty: no document with any text in {where}")
    yield first
    yield from limited


def corpus_files(config: CorpusConfig) -> list[Path]:
    """The files that the corpus's globs name, sorted.

    Raises:
        UserError: a pattern matches nothing, or a file has a suffix that no reader takes.
    """
    files: list[Path] = []
    for pattern in config.paths:
        matches = sorted(
            path for p in glob.glob(pattern, recursive=True) if (path := Path(p)).is_file()
        )
        if not matches:
            raise UserError(f"corpus.paths: no file matches {pattern}")
        files += matches
    for path in files:
        if path.suffix not in (*TEXT_SUFFIXES, ".jsonl", ".parquet"):
            raise UserError(
                f"corpus.paths: {path} is neither text ({', '.join(TEXT_SUFFIXES)}) nor .jsonl "
                "nor .parquet"
            )
    return list(dict.fromkeys(files))


def named_files(config: CorpusConfig) -> list[tuple[Path, str]]:
    """The files of a corpus with their names in it, which do not depend on where it lies.

    Raises:
        UserError: see `corpus_files`.
    """
    files = corpus_files(config)
    if not files:
        return []
    base = os.path.commonpath([path.parent for path in files])
    return [(path, str(path.relative_to(base))) for path in files]


def corpus_digest(config: CorpusConfig) -> str:
    """Hash of what the files of a corpus are: their names in it, sizes, beginnings and ends. It
    does not depend on where they lie.

    Raises:
        UserError: see `corpus_files`.
    """
    digest = hashlib.sha256()
    for path, name in named_files(config):
        size = path.stat().st_size
        digest.update(f"{name}\n{size}\n".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(SIGNATURE_BYTES))
            stream.seek(max(0, size - SIGNATURE_BYTES))
            digest.update(stream.read(SIGNATURE_BYTES))
    return digest.hexdigest()[:16]


def text_bytes(config: CorpusConfig) -> int:
    """About how many bytes of text the files of a corpus hold; what is compressed counts as it is
    read."""
    return sum(
        _column_bytes(path, config.text_field) if path.suffix == ".parquet" else path.stat().st_size
        for path in corpus_files(config)
    )


def _column_bytes(path: Path, field: str) -> int:
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return sum(
            column.total_uncompressed_size
            for group in groups
            for column in (group.column(i) for i in range(group.num_columns))
            if column.path_in_schema == field
        )


def _from_files(config: CorpusConfig) -> Iterator[Document]:
    for path, name in named_files(config):  # ids begin with the name, and decide the folds
        if path.suffix == ".jsonl":
            yield from _json_lines(path, name, config.text_field)
        elif path.suffix == ".parquet":
            yield from _parquet(path, name, config.text_field)
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


def _json_lines(path: Path, name: str, field: str) -> Iterator[Document]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, path, first_line=number)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON: {error.msg}") from error
            text = record.get(field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                have = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise UserError(
                    f"{path}, line {number}: no text in field {field!r} (it has: {have}); set "
                    "corpus.text_field"
                )
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"{path}, line {number}: half a character (a lone surrogate)")
            yield Document(f"{name}#{number}", text)


def _parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    try:
        opened = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error
    with opened as file:
        names = file.schema_arrow.names
        if field not in names:
            raise UserError(
                f"{path}: no column {field!r} (it has: {', '.join(names)}); set corpus.text_field"
            )
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for text in batch.column(0).to_pylist():
                if isinstance(text, str):
                    yield Document(f"{name}#{number}", text)
                number += 1


def _from_dataset(config: CorpusConfig) -> Iterator[Document]:
    assert config.dataset is not None
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "corpus.dataset needs the package `datasets`: pip install 'lrt-dist[datasets]'"
        ) from error
    name, _, split = config.dataset.partition(":")
    rows = datasets.load_dataset(name, split=split or "train", streaming=True)
    for number, row in enumerate(rows):
        if not isinstance(row.get(config.text_field), str):
            raise UserError(
                f"dataset {config.dataset}, row {number}: no text in field {config.text_field!r} "
                f"(it has: {', '.join(row)}); set corpus.text_field"
            )
        yield Document(f"{config.dataset}#{number}", row[config.text_field])


def _decode(raw: bytes, path: Path, *, first_line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: byte {error.object[error.start]:#04x} is not UTF-8; convert the "
            "file (iconv -t utf-8) or leave it out"
        ) from error
