"""The row index: every site's row, known before any forward pass.

A folder of two Arrow files with one record batch per unit, and a summary that is written last:

- `units.arrow`: the segments with their texts, tokens and sites. A worker reads its own unit and
  nothing else, and needs no tokenizer.
- `segments.arrow`: a line per segment with all that is asked of the whole corpus (documents,
  groups, numbers of sites and tokens). It is not compressed, so it is mapped, not read.

Rows are numbered from `first_row` in the order of `char_ends`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lrt_dist.corpus.segment_tables import SCHEMA, fill_units, lengths, segments_of
from lrt_dist.errors import UserError
from lrt_dist.files import atomic_write, is_file, is_local
from lrt_dist.sites import ABSENT, Segment, Side, Sided

SEGMENTS = pa.schema(
    [
        ("document", pa.string()),
        ("group", pa.string()),
        ("sites", pa.int32()),
        ("source_tokens", pa.int32()),
        ("target_tokens", pa.int32()),
    ]
)
_SUMMARY = "index.json"
_UNITS = "units.arrow"
_SEGMENTS = "segments.arrow"


@dataclass(frozen=True)
class RowIndex:
    """A finished row index.

    Attributes:
        path: the folder.
        rows: number of sites.
        units: number of units.
        segments: number of segments.
        documents: number of documents that have a site.
        rows_per_unit: rows of every unit but perhaps the last.
        fingerprint: hash of what the index was made from.
        digests: of each model a hash of the segments and sites as it sees them: hidden states
            depend on nothing else, so they may serve every run with this digest.
        absent: rows that one of the models does not have.
        corpus: the `corpus_digest` of the files it was made from.
        tokenizers: hashes of the two tokenizers.
    """

    path: Path
    rows: int
    units: int
    segments: int
    documents: int
    rows_per_unit: int
    fingerprint: str
    digests: Sided[str]
    absent: int = 0
    corpus: str = ""
    tokenizers: Sided[str] = Sided("", "")  # noqa: RUF009 (frozen)

    @property
    def digest(self) -> str:
        """Hash of the segments and sites themselves, for both models."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:16]

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Whether there is a finished index."""
        return is_file(path / _SUMMARY)

    @classmethod
    def open(cls, path: Path) -> RowIndex:
        """Read the summary of an index.

        Raises:
            UserError: there is no index, or its summary is not one.
        """
        if not cls.is_at(path):
            raise UserError(f"no row index at {path}; run `lrt-dist index` first")
        try:
            summary = json.loads((path / _SUMMARY).read_text(encoding="utf-8"))
            pairs = {name: Sided(*summary[name]) for name in ("digests", "tokenizers")}
            return cls(path=path, **(summary | pairs))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a row index of this version of lrt_dist; use another --out"
            ) from error

    def unit(self, number: int) -> list[Segment]:
        """The segments of one unit."""
        return segments_of(self._units.batch(number))

    def lengths(self, number: int, side: Side) -> tuple[int, ...]:
        """Tokens of each segment of one unit in one of the models."""
        return tuple(self._segments.batch(number).column(f"{side}_tokens").to_pylist())

    def groups_of(self, number: int) -> list[tuple[str, int]]:
        """Group and number of sites of each segment of one unit."""
        batch = self._segments.batch(number)
        columns = (batch.column(name).to_pylist() for name in ("group", "sites"))
        return list(zip(*columns, strict=True))

    def all_segments(self) -> Iterator[Segment]:
        """Every segment, in row order."""
        for number in range(self.units):
            yield from self.unit(number)

    def documents_from(self, units: range) -> Iterator[Segment]:
        """Every segment of the documents that begin in some units, also behind these."""
        going_on = self.unit(units.start - 1)[-1].document if units.start else None
        document: str | None = None
        for number in range(units.start, self.units):
            for segment in self.unit(number):
                if segment.document == going_on:
                    continue
                if number >= units.stop and segment.document != document:
                    return
                document = segment.document
                yield segment
            if number + 1 >= units.stop and document is None:
                return

    def groups(self) -> dict[str, str]:
        """`{id of a document: id of its group}` of all documents that have a site.

        Near duplicates are one group, named by the first of their ids; any other document is a
        group of its own. Folds are made of whole groups.
        """
        found: dict[str, str] = {}
        for number in range(self.units):  # there are many more segments than documents
            batch = self._segments.batch(number)
            columns = (batch.column(name).to_pylist() for name in ("document", "group"))
            found.update(zip(*columns, strict=True))
        return found

    def document_digests(self) -> dict[str, str]:
        """`{digest of its text: id}` of all documents that have a site, whatever their names."""
        digests: dict[str, Any] = {}
        for number in range(self.units):
            batch = self._units.batch(number)
            texts = (batch.column(name).to_pylist() for name in ("document", "text"))
            for document, text in zip(*texts, strict=True):
                digests.setdefault(document, hashlib.sha256()).update(text.encode())
        return {digest.hexdigest(): document for document, digest in digests.items()}

    def present_rows(self) -> NDArray[np.bool_]:
        """Whether a token of both models ends at a site, `[rows]`."""
        if not self.absent:
            return np.ones(self.rows, dtype=np.bool_)
        return np.concatenate([_present(self._units.batch(n)) for n in range(self.units)])

    def unit_rows(self, number: int) -> range:
        """The rows of one unit."""
        first = number * self.rows_per_unit
        return range(first, min(first + self.rows_per_unit, self.rows))

    def tokens(self, side: Side) -> int:
        """Number of tokens of all segments in one of the models."""
        counts = self._segments.table(f"{side}_tokens").column(0).to_numpy()
        return int(counts.sum(dtype=np.int64))

    @property
    def _units(self) -> _Batches:
        return _opened(self.path / _UNITS, self.digest)

    @property
    def _segments(self) -> _Batches:
        return _opened(self.path / _SEGMENTS, self.digest)


class _Batches:
    """An Arrow file with one record batch per unit, opened once: any unit is found without reading
    what lies before it. Threads may share it."""

    def __init__(self, path: Path) -> None:
        source = pa.memory_map(str(path)) if is_local(path) else path.open("rb")
        self._reader = pa.ipc.open_file(source)
        self._lock = threading.Lock()

    def batch(self, unit: int) -> pa.RecordBatch:
        """The lines of one unit."""
        with self._lock:
            return self._reader.get_batch(unit)

    def table(self, *columns: str) -> pa.Table:
        """Some columns of all units."""
        with self._lock:
            return self._reader.read_all().select(list(columns))


@lru_cache(maxsize=8)
def _opened(path: Path, digest: str) -> _Batches:
    """`digest` tells apart what may lie at one path, one after the other."""
    return _Batches(path)


@dataclass(frozen=True)
class WrittenUnits:
    """What is known once units are written, and wanted for the rest of an index.

    Attributes:
        rows, units, segments, absent, rows_per_unit: see `RowIndex`.
        contents: of each model a hash, which goes on.
    """

    rows: int
    units: int
    segments: int
    absent: int
    rows_per_unit: int
    contents: Sided[hashlib._Hash]


def write_units(path: Path, segments: Iterable[pa.RecordBatch], rows_per_unit: int) -> WrittenUnits:
    """Number the rows and cut units, as segments come in; there is no index until `write_index`.

    Each document is a group by itself.

    Args:
        path: folder of the index.
        segments: tables of them, in row order (`segment_tables.SCHEMA`).

    Raises:
        UserError: there is not one site.
    """
    rows = units = segments_count = absent = 0
    contents = Sided.of(lambda side: hashlib.sha256())
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        atomic_write(path / _UNITS) as units_file,
        atomic_write(path / _SEGMENTS) as segments_file,
        pa.ipc.new_file(units_file, SCHEMA, options=options) as units_writer,
        pa.ipc.new_file(segments_file, SEGMENTS) as segments_writer,
    ):
        for unit in fill_units(segments, rows_per_unit):
            units_writer.write_batch(unit)
            segments_writer.write_batch(_segments_batch(unit))
            shared = [*_content(unit, "document", "start", "text", "char_ends", "first_row")]
            for side in Side:
                for part in [*shared, *_content(unit, f"{side}_ids", f"{side}_positions")]:
                    contents[side].update(part)
            present = _present(unit)
            rows += len(present)
            absent += len(present) - int(present.sum())
            units += 1
            segments_count += len(unit)
        if not rows:
            raise UserError(
                "the two tokenizers share no site in this corpus: no token of both models ends at "
                "the same character; use longer documents or a smaller sites.min_context"
            )
        if RowIndex.is_at(path):  # the files are about to be others than it says
            (path / _SUMMARY).unlink()
    return WrittenUnits(rows, units, segments_count, absent, rows_per_unit, contents)


def write_index(
    path: Path,
    units: WrittenUnits,
    fingerprint: str,
    groups: Mapping[str, str] | None = None,
    corpus: str = "",
    tokenizers: Sided[str] = Sided("", ""),  # noqa: B008 (frozen)
) -> RowIndex:
    """The rest of an index whose units are written; its summary last.

    Args:
        path: folder of the index.
        units: what `write_units` said of them.
        groups: the group of each document that has a near duplicate; see `RowIndex.groups`.
        corpus: see `RowIndex.corpus`.
        tokenizers: see `RowIndex.tokenizers`.
    """
    groups = groups or {}
    documents: set[str] = set()
    contents = [content.copy() for content in units.contents]
    alone = _Batches(path / _SEGMENTS)
    with (
        atomic_write(path / _SEGMENTS) as unfinished,
        pa.ipc.new_file(unfinished, SEGMENTS) as writer,
    ):
        for number in range(units.units):
            batch = alone.batch(number)
            names = batch.column("document").to_pylist()
            group = pa.array([groups.get(name, name) for name in names], type=pa.string())
            grouped = batch.set_column(SEGMENTS.get_field_index("group"), "group", group)
            writer.write_batch(grouped)
            documents.update(names)
            for content in contents:
                for part in _content(grouped, "group"):
                    content.update(part)
    summary = {
        "rows": units.rows,
        "units": units.units,
        "segments": units.segments,
        "documents": len(documents),
        "rows_per_unit": units.rows_per_unit,
        "fingerprint": fingerprint,
        "digests": [content.hexdigest()[:16] for content in contents],
        "absent": units.absent,
        "corpus": corpus,
        "tokenizers": list(tokenizers),
    }
    with atomic_write(path / _SUMMARY) as unfinished:
        unfinished.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return RowIndex.open(path)


def _segments_batch(unit: pa.RecordBatch) -> pa.RecordBatch:
    """Each document a group by itself."""
    document = unit.column("document")
    columns = {
        "document": document,
        "group": document,
        "sites": lengths(unit, "char_ends"),
        **{f"{side}_tokens": lengths(unit, f"{side}_ids") for side in Side},
    }
    return pa.RecordBatch.from_pydict(columns, schema=SEGMENTS)


def _present(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Whether a token of both models ends at each site of a unit."""
    source, target = (
        batch.column(f"{side}_positions").values.to_numpy() != ABSENT for side in Side
    )
    both: NDArray[np.bool_] = source & target
    return both


def _content(batch: pa.RecordBatch, *names: str) -> Iterator[bytes]:
    """Bytes that say what columns hold, whatever Arrow's way to keep them."""
    for name in names:
        column = batch.column(name)
        if pa.types.is_list(column.type):
            yield column.offsets.to_numpy().tobytes()
            yield column.values.to_numpy().tobytes()
        elif pa.types.is_string(column.type):
            offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)
            offsets = offsets[column.offset : column.offset + len(column) + 1]
            yield (offsets - offsets[0]).tobytes()
            yield bytes(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
        else:
            yield column.to_numpy().tobytes()
