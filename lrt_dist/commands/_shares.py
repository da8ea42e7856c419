"""Shares of a corpus, a task each: cut, tokenised, and kept until the row index is finished."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from lrt_dist.corpus.duplicates import NearDuplicates
from lrt_dist.corpus.readers import Document
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.files import is_file
from lrt_dist.runtime.progress import Phase
from lrt_dist.sites import Sided
from lrt_dist.tasks.tokenise import (
    DocumentsTask,
    SegmentsTask,
    Tokenizers,
    read_share,
    signatures_of,
)
from lrt_dist.workspace.run import Run

CHARACTERS_OF_SHARE = 1 << 19
"""Characters of text that are tokenised by one task, which takes a second or less."""
SEGMENTS_OF_SHARE = 2048
"""Segments that one task sees anew, or looks through."""
T = TypeVar("T", DocumentsTask, SegmentsTask)


def run_tokenizers(run: Run) -> Tokenizers:
    """Those of both models."""
    return Tokenizers(Sided.of(run.model), Sided.of(lambda side: run.facts[side].tokenizer))


def shares_of(documents: Iterable[Document]) -> Iterator[tuple[Document, ...]]:
    """Documents in shares of `CHARACTERS_OF_SHARE` or a bit more."""
    share: list[Document] = []
    characters = 0
    for document in documents:
        share.append(document)
        characters += len(document.text)
        if characters >= CHARACTERS_OF_SHARE:
            yield tuple(share)
            share, characters = [], 0
    if share:
        yield tuple(share)


def unit_ranges(index: RowIndex) -> Iterator[range]:
    """All units, in ranges of about `SEGMENTS_OF_SHARE`."""
    at_once = max(1, SEGMENTS_OF_SHARE * index.units // index.segments)
    for first in range(0, index.units, at_once):
        yield range(first, min(first + at_once, index.units))


def share_path(
    run: Run,
    fingerprint: str,
    number: int,
    documents: Sequence[Document] = (),
    until: int | None = None,
) -> Path:
    """The file of one share of the corpus; another one if its documents or units are others, or if
    another version would have cut them."""
    digest = hashlib.sha256(repr((fingerprint, _made_by(), until)).encode())
    for document in documents:
        digest.update(f"{document.id}\n{document.text}\n".encode())
    return run.folder.shares / f"{number:06d}-{digest.hexdigest()[:16]}.arrow"


def tokenised(
    run: Run,
    function: Callable[[T], None],
    tasks: Iterable[T],
    bar: Phase,
    near: NearDuplicates | None = None,
) -> Iterator[pa.RecordBatch]:
    """The tables of all shares of the corpus, in order, as they are made; those that are there are
    not made again. `near` takes in the signatures of their documents."""
    drawn: deque[tuple[Path, int, bool]] = deque()
    """Shares to come: their paths and sizes, and whether they are there."""

    def absent() -> Iterator[T]:
        for task in tasks:
            there = is_file(task.path)
            drawn.append((task.path, task.size, there))
            if there:
                bar.resume(task.size)
            else:
                yield task

    def table(path: Path) -> pa.RecordBatch:
        share = read_share(path)
        if near:
            for document, signature in signatures_of(share):
                near.add(document, signature)
        return share

    for _ in run.runtime.map(function, absent()):
        there = True
        while there:
            path, size, there = drawn.popleft()
            yield table(path)
        bar.advance(size)
    for path, _, _ in drawn:
        yield table(path)


@cache
def _made_by() -> tuple[str, ...]:
    """The versions of what cuts a corpus."""
    return tuple(f"{name} {version(name)}" for name in ("lrt_dist", "tokenizers", "transformers"))
