"""A share of a corpus cut into segments, as a file that waits for the rest of the row index."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from lrt_dist.config import ModelConfig, SitesConfig
from lrt_dist.corpus.duplicates import signature
from lrt_dist.corpus.readers import Document
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.corpus.segment_tables import SCHEMA, table_of
from lrt_dist.corpus.segments import Cut, cut_segments, seen_anew
from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.files import atomic_write
from lrt_dist.models.sources import local_tokenizer_digest
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.sites import Segment, Side, Sided

SIGNATURE = "signature"
"""The column of a share that has the signature of each document, beside its first segment."""


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of both models.

    Attributes:
        models: whose they are.
        digests: hashes of them; models with the same hash share one.
    """

    models: Sided[ModelConfig]
    digests: Sided[str]

    def load(self) -> Sided[SiteTokenizer]:
        """Both, each loaded once a process."""
        source = _tokenizer(self.models.source, self.digests.source)
        if self.digests.source == self.digests.target:
            return Sided(source, source)
        return Sided(source, _tokenizer(self.models.target, self.digests.target))


@dataclass(frozen=True)
class DocumentsTask:
    """Some documents, to be cut into segments.

    Attributes:
        path: where the segments go.
        tokenizers: those that cut.
        max_tokens: of a segment.
        sites: which sites.
        documents: in the order of the corpus.
        signed: whether near duplicates are looked for.
    """

    path: Path
    tokenizers: Tokenizers
    max_tokens: int
    sites: SitesConfig
    documents: tuple[Document, ...]
    signed: bool

    @property
    def size(self) -> int:
        """Characters of all documents."""
        return sum(len(document.text) for document in self.documents)


@dataclass(frozen=True)
class SegmentsTask:
    """Some units of another run, to be seen by the models of this one.

    Attributes:
        path: where the segments go.
        tokenizers: of this run.
        max_tokens: of a segment.
        sites: which sites.
        rows_path: the row index of the other run.
        units: of that index.
        size: number of segments in them.
        known: on which side the other run had a model with the same tokenizer; None: on neither.
    """

    path: Path
    tokenizers: Tokenizers
    max_tokens: int
    sites: SitesConfig
    rows_path: Path
    units: range
    size: int
    known: Sided[Side | None]


def tokenise_documents(task: DocumentsTask) -> None:
    """Cut documents into segments, and write these."""
    encoders = task.tokenizers.load()
    with _no_collection():
        segments = list(cut_segments(task.documents, encoders, task.max_tokens, task.sites))
        texts = {document.id: document.text for document in task.documents} if task.signed else {}
        signatures: list[bytes | None] = []
        for document, group in groupby(segments, key=lambda segment: segment.document):
            first = signature(texts[document]) if task.signed else None
            signatures += [first, *[None] * (len(list(group)) - 1)]
        _write(task.path, segments, signatures)


def tokenise_segments(task: SegmentsTask) -> None:
    """See segments of another run anew, and write them."""
    index = RowIndex.open(task.rows_path)
    segments = [segment for unit in task.units for segment in index.unit(unit)]

    def seen(side: Side) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        known = task.known[side]
        if known is not None:
            return [(segment.ids[known], segment.positions[known]) for segment in segments]
        encoder = task.tokenizers.load()[side]
        return list(seen_anew(segments, encoder, task.max_tokens, task.sites))

    both = Sided.of(seen)
    anew = [
        replace(segment, ids=Sided(s[0], t[0]), positions=Sided(s[1], t[1]))
        for segment, s, t in zip(segments, *both, strict=True)
    ]
    _write(task.path, anew, [None] * len(anew))


def read_share(path: Path) -> pa.RecordBatch:
    """The table of a share: its segments, and `SIGNATURE`.

    Raises:
        CorruptionError: it cannot be read.
    """
    try:
        with path.open("rb") as stream, pa.ipc.open_file(stream) as file:
            return file.get_batch(0)
    except pa.ArrowInvalid as error:
        raise CorruptionError(
            f"{path} cannot be read ({error}); delete it, and run the same command again"
        ) from error


def signatures_of(share: pa.RecordBatch) -> Iterator[tuple[str, bytes]]:
    """Id and signature of each document of a share that has a segment."""
    columns = (share.column(name).to_pylist() for name in ("document", SIGNATURE))
    for document, signed in zip(*columns, strict=True):
        if signed is not None:
            yield document, signed


def _write(
    path: Path, segments: Sequence[Segment | Cut], signatures: Sequence[bytes | None]
) -> None:
    table = table_of(segments)
    signed = pa.array(signatures, type=pa.binary())
    schema = SCHEMA.append(pa.field(SIGNATURE, pa.binary()))
    whole = pa.RecordBatch.from_arrays([*table.columns, signed], schema=schema)
    with atomic_write(path) as unfinished, pa.ipc.new_file(unfinished, schema) as writer:
        writer.write_batch(whole)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Many short-lived objects are made here, and no cycles: looking for these took a tenth of the
    time, of tokenizers whose offsets are asked for."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@lru_cache(maxsize=4)
def _tokenizer(config: ModelConfig, digest: str) -> SiteTokenizer:
    """Kept as long as the digest is the same: files may change.

    Raises:
        UserError: this node has another tokenizer than the driver.
    """
    found = local_tokenizer_digest(config)
    if found not in (None, digest):
        raise UserError(
            f"{config.model} has another tokenizer on {socket.gethostname()} than where the run "
            "was started: its files must be the same on all nodes"
        )
    return SiteTokenizer.load(config)
