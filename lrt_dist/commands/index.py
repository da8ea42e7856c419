"""The command `index`: the row index, before any forward pass."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from lrt_dist.config import fingerprint_of
from lrt_dist.corpus.overlap import find_overlap
from lrt_dist.corpus.readers import corpus_files, read_documents
from lrt_dist.corpus.rows import RowIndex, write_index
from lrt_dist.corpus.segments import cut_segments
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.sites import Segment, Sided, fold_of
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run

SIGNATURE_BYTES = 1 << 20
"""Bytes at each end of a corpus file by which a change of it is noticed."""


def index(run: Run) -> RowIndex:
    """Write the row index, unless a current one exists.

    Raises:
        UserError: see `corpus`; also fewer documents than folds, and concept texts in the corpus.
    """
    run.check()
    config, path = run.config, run.folder.rows
    sources = [_file_signature(path) for path in corpus_files(config.corpus)]
    fingerprint = fingerprint_of(
        {
            "corpus": config.corpus.model_dump(mode="json"),
            "sites": config.sites.model_dump(mode="json"),
            "rows_per_unit": config.extract.rows_per_unit,
            "models": [facts.digest for facts in run.facts],
            "sources": sources,
        }
    )
    if path.is_file():
        existing = RowIndex.open(path)
        if existing.fingerprint == fingerprint:
            _check_folds(run, existing)
            check_overlap(run, existing)
            return existing
        if run.folder.has_activations():
            raise UserError(
                f"{path} was made from another corpus or other models (their files have changed), "
                "and there are activations for it; use another --out"
            )
    encoders = Sided(SiteTokenizer.load(config.source), SiteTokenizer.load(config.target))
    documents = list(read_documents(config.corpus))
    size = sum(len(document.text) for document in documents)
    with run.progress.phase("index", size, "characters") as bar:

        def segments() -> Iterator[Segment]:
            for document in documents:
                for segment in cut_segments(
                    document, encoders, config.corpus.max_tokens, config.sites
                ):
                    bar.advance(len(segment.text))
                    yield segment

        made = write_index(path, segments(), config.extract.rows_per_unit, fingerprint)
    run.progress.note(
        "index",
        f"row index: {made.rows:,} rows in {made.units} units, {made.segments:,} segments of "
        f"{made.documents:,} documents",
        rows=made.rows,
        units=made.units,
    )
    _check_folds(run, made)
    check_overlap(run, made)
    return made


def _check_folds(run: Run, rows: RowIndex) -> None:
    """Every fold must get a document; checked before the extraction. A run that adds to others
    need not fill them all."""
    if run.config.fit.moments_of:
        return
    folds = run.config.fit.folds
    filled = {fold_of(document, folds) for document in rows.document_ids()}
    if len(filled) < folds:
        raise UserError(
            f"{rows.documents} documents fill only {len(filled)} of {folds} folds (they are "
            "spread by a hash of their names); lower fit.folds, use more documents, or cut text "
            'files into documents with corpus.separator (e.g. a blank line, "\\n\\n")'
        )


def _file_signature(path: Path) -> tuple[str, int, str]:
    """A file's name, size, and the hash of its beginning and end."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(SIGNATURE_BYTES))
        stream.seek(max(0, size - SIGNATURE_BYTES))
        digest.update(stream.read(SIGNATURE_BYTES))
    return str(path), size, digest.hexdigest()[:16]


def check_overlap(run: Run, rows: RowIndex) -> dict[str, list[str]]:
    """Refuse a corpus that holds the texts of a concept, unless the run allows it.

    Returns the overlapping texts of each concept.
    """
    texts = {
        name: [text for item in data.vector for text in item.texts()]
        for name, data in run.concepts.items()
    }
    others = [RunFolder.open(Path(out)) for out in run.config.fit.moments_of]
    indexes = [rows, *(RowIndex.open(other.rows) for other in others)]
    segments = itertools.chain.from_iterable(index.all_segments() for index in indexes)
    overlap = find_overlap(segments, texts)
    if overlap and not run.config.fit.allow_fit_on_concepts:
        name, shown = next(iter(overlap.items()))
        raise UserError(
            f"concept {name}: {len(shown)} of its texts occur in the corpus, {shown[0][:80]!r} "
            "first; a map fitted on a concept's own texts returns the native vector by algebra. "
            "Take them out of the corpus, or set fit.allow_fit_on_concepts: true (the report will "
            "warn)"
        )
    return overlap
