"""The row index: every site's row, known before any forward pass.

A Parquet file with one line per segment and one row group per unit, so that a worker reads its
own unit and nothing else, and needs no tokenizer. Rows are numbered from `first_row` in the order
of `char_ends`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lrt_dist.errors import UserError
from lrt_dist.files import atomic_write, is_file
from lrt_dist.plan.units import fill_units
from lrt_dist.sites import ABSENT, Segment, Side, Sided

SCHEMA = pa.schema(
    [
        ("document", pa.string()),
        ("group", pa.string()),
        ("start", pa.int64()),
        ("text", pa.string()),
        ("char_ends", pa.list_(pa.int32())),
        ("first_row", pa.int64()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("source_positions", pa.list_(pa.int32())),
        ("target_positions", pa.list_(pa.int32())),
    ]
)
_META = b"lrt_dist"


@dataclass(frozen=True)
class RowIndex:
    """A finished row index.

    Attributes:
        path: the Parquet file.
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

    @property
    def digest(self) -> str:
        """Hash of the segments and sites themselves, for both models."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:16]

    @classmethod
    def open(cls, path: Path) -> RowIndex:
        """Read the summary of an index.

        Raises:
            UserError: there is no index, or the file is not one.
        """
        if not is_file(path):
            raise UserError(f"no row index at {path}; run `lrt-dist index` first")
        try:
            with path.open("rb") as stream:
                file = pq.ParquetFile(stream)
                meta = json.loads(file.metadata.metadata[_META])
                columns = file.schema_arrow.names
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a row index of lrt_dist; delete it") from error
        if "group" not in columns or "digests" not in meta:
            raise UserError(
                f"{path} was written by an earlier version, which cannot be continued; use another "
                "--out"
            )
        return cls(path=path, **(meta | {"digests": Sided(*meta["digests"])}))

    def unit(self, number: int) -> list[Segment]:
        """The segments of one unit."""
        with self.path.open("rb") as stream:
            table = pq.ParquetFile(stream).read_row_group(number)
        return [
            Segment(
                document=line["document"],
                start=line["start"],
                text=line["text"],
                char_ends=tuple(line["char_ends"]),
                first_row=line["first_row"],
                ids=Sided(tuple(line["source_ids"]), tuple(line["target_ids"])),
                positions=Sided(tuple(line["source_positions"]), tuple(line["target_positions"])),
            )
            for line in table.to_pylist()
        ]

    def all_segments(self) -> Iterator[Segment]:
        """Every segment, in row order."""
        for number in range(self.units):
            yield from self.unit(number)

    def groups(self) -> dict[str, str]:
        """`{id of a document: id of its group}` of all documents that have a site.

        Near duplicates are one group, named by the first of their ids; any other document is a
        group of its own. Folds are made of whole groups.
        """
        table = self._columns("document", "group")
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def document_digests(self) -> dict[str, str]:
        """`{digest of its text: id}` of all documents that have a site, whatever their names."""
        table = self._columns("document", "text")
        digests: dict[str, Any] = {}
        for document, text in zip(*(column.to_pylist() for column in table.columns), strict=True):
            digests.setdefault(document, hashlib.sha256()).update(text.encode())
        return {digest.hexdigest(): document for document, digest in digests.items()}

    def present_rows(self) -> NDArray[np.bool_]:
        """Whether a token of both models ends at a site, `[rows]`."""
        if not self.absent:
            return np.ones(self.rows, dtype=np.bool_)
        table = self._columns("source_positions", "target_positions")
        ends = (pc.list_flatten(column).to_numpy() != ABSENT for column in table.columns)
        present: NDArray[np.bool_] = np.logical_and(*ends)
        return present

    def unit_rows(self, number: int) -> range:
        """The rows of one unit."""
        first = number * self.rows_per_unit
        return range(first, min(first + self.rows_per_unit, self.rows))

    def token_counts(self, side: Side) -> list[int]:
        """Tokens of every segment in one of the models."""
        ids = self._columns(f"{side}_ids").column(0)
        counts: list[int] = pc.list_value_length(ids).to_pylist()
        return counts

    def _columns(self, *names: str) -> pa.Table:
        with self.path.open("rb") as stream:
            return pq.read_table(stream, columns=list(names))


def write_index(
    path: Path,
    segments: Iterable[Segment],
    rows_per_unit: int,
    fingerprint: str,
    groups: Mapping[str, str] | None = None,
    corpus: str = "",
) -> RowIndex:
    """Number the rows, cut units, write the index atomically.

    Args:
        groups: the group of each document that has a near duplicate; see `RowIndex.groups`.
        corpus: see `RowIndex.corpus`.

    Raises:
        UserError: there is not one site.
    """
    groups = groups or {}
    rows = units = segments_count = absent = 0
    documents: set[str] = set()
    contents = Sided.of(lambda side: hashlib.sha256())
    with (
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
    ):
        for unit in fill_units(segments, rows_per_unit):
            lines = [_line(segment, groups) for segment in unit]
            writer.write_table(pa.Table.from_pylist(lines, SCHEMA), row_group_size=len(unit))
            for segment in unit:
                shared = json.dumps(_shared(segment, groups))
                for side in Side:
                    own = json.dumps(_seen_by(segment, side))
                    contents[side].update((shared + own).encode())
            documents.update(segment.document for segment in unit)
            rows += sum(len(segment.char_ends) for segment in unit)
            absent += sum(ABSENT in both for s in unit for both in zip(*s.positions, strict=True))
            units += 1
            segments_count += len(unit)
        if not rows:
            raise UserError(
                "the two tokenizers share no site in this corpus: no token of both models ends at "
                "the same character; use longer documents or a smaller sites.min_context"
            )
        summary = {
            "rows": rows,
            "units": units,
            "segments": segments_count,
            "documents": len(documents),
            "rows_per_unit": rows_per_unit,
            "fingerprint": fingerprint,
            "digests": [content.hexdigest()[:16] for content in contents],
            "absent": absent,
            "corpus": corpus,
        }
        writer.add_key_value_metadata({_META: json.dumps(summary).encode()})
    return RowIndex.open(path)


def _line(segment: Segment, groups: Mapping[str, str]) -> dict[str, Any]:
    sided = {
        f"{side}_{name}": value for side in Side for name, value in _seen_by(segment, side).items()
    }
    return _shared(segment, groups) | sided


def _shared(segment: Segment, groups: Mapping[str, str]) -> dict[str, Any]:
    return {
        "document": segment.document,
        "group": groups.get(segment.document, segment.document),
        "start": segment.start,
        "text": segment.text,
        "char_ends": list(segment.char_ends),
        "first_row": segment.first_row,
    }


def _seen_by(segment: Segment, side: Side) -> dict[str, Any]:
    return {"ids": list(segment.ids[side]), "positions": list(segment.positions[side])}
