"""The command `index`: the row index, before any forward pass."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lrt_dist.commands._items import check_items, item_warnings
from lrt_dist.commands.evaluation.carriers import check_map_texts
from lrt_dist.commands.evaluation.given import check_given_vectors
from lrt_dist.config import CorpusConfig, RunConfig, differing_keys, fingerprint_of
from lrt_dist.corpus.duplicates import NearDuplicates
from lrt_dist.corpus.overlap import SHARE, SHINGLE, SHORTEST, find_overlap, texts_to_find
from lrt_dist.corpus.readers import Document, corpus_digest, furthest_behind, read_documents
from lrt_dist.corpus.rows import RowIndex, write_index
from lrt_dist.corpus.segments import cut_segments, seen_anew
from lrt_dist.errors import UserError
from lrt_dist.files import place
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.sites import Segment, Sided, fold_of
from lrt_dist.store.tables import OverlapRow, Table, is_current
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run

SEGMENTS_A_STEP = 256
"""Segments that are searched for overlap between two steps of the bar."""


def index(run: Run) -> RowIndex:
    """Write the row index, unless a current one exists.

    Raises:
        UserError: see `corpus`; also fewer documents than folds, and concept texts in the corpus.
    """
    run.check()
    check_items(run)
    check_map_texts(run)
    check_given_vectors(run)
    for warning in item_warnings(run):
        run.progress.note("items", warning)
    config, path = run.config, run.folder.rows
    corpus = corpus_digest(config.corpus)
    earlier = _earlier_rows(run, corpus)
    fingerprint = fingerprint_of(
        {
            **_cut_by(config),
            "rows_of": earlier.digest if earlier else None,
            "models": [facts.digest for facts in run.facts],
            "tokenizers": [facts.tokenizer for facts in run.facts],
            "sources": corpus,
        }
    )
    if RowIndex.is_at(path):
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
    made = _seen_anew(run, earlier, fingerprint) if earlier else _cut(run, fingerprint, corpus)
    run.progress.note(
        "index",
        f"row index: {made.rows:,} rows in {made.units} units, {made.segments:,} segments of "
        f"{made.documents:,} documents" + _near_note(made) + _absent_note(made),
        rows=made.rows,
        units=made.units,
    )
    _check_folds(run, made)
    check_overlap(run, made)
    return made


def _cut(run: Run, fingerprint: str, corpus: str) -> RowIndex:
    """An index of this run's own: documents cut into segments, and sites that both models share."""
    config, encoders = run.config, _encoders(run)
    documents = list(read_documents(config.corpus))
    size = sum(len(document.text) for document in documents)
    if config.corpus.mixture:
        run.progress.note("corpus", _mixture_note(config.corpus, documents))
    groups = _near_duplicates(run, documents, size)
    with run.progress.phase("index", size, "characters") as bar:

        def segments() -> Iterator[Segment]:
            for document in documents:
                for segment in cut_segments(
                    document, encoders, config.corpus.max_tokens, config.sites
                ):
                    bar.advance(len(segment.text))
                    yield segment

        rows_per_unit = config.extract.rows_per_unit
        return write_index(run.folder.rows, segments(), rows_per_unit, fingerprint, groups, corpus)


def _seen_anew(run: Run, earlier: RowIndex, fingerprint: str) -> RowIndex:
    """The segments and sites of another run, as the models of this one see them."""
    config, encoders = run.config, _encoders(run)
    with run.progress.phase("index", earlier.segments, "segments") as bar:

        def segments() -> Iterator[Segment]:
            for segment in earlier.all_segments():
                bar.advance()
                yield seen_anew(segment, encoders, config.corpus.max_tokens, config.sites)

        return write_index(
            run.folder.rows,
            segments(),
            earlier.rows_per_unit,
            fingerprint,
            earlier.groups(),
            earlier.corpus,
        )


def _encoders(run: Run) -> Sided[SiteTokenizer]:
    return Sided.of(lambda side: SiteTokenizer.load(run.model(side)))


def _earlier_rows(run: Run, corpus: str) -> RowIndex | None:
    """The row index of the run that `sites.rows_of` names; None where it names none.

    Raises:
        UserError: there is none, or its rows are not rows of this run's corpus.
    """
    named = run.config.sites.rows_of
    if named is None:
        return None
    folder = RunFolder.open(place(named))
    index = RowIndex.open(folder.rows)
    differing = differing_keys(_cut_by(folder.config), _cut_by(run.config))
    if index.corpus != corpus:
        differing.insert(0, f"corpus: {index.corpus} -> {corpus} (digests of the files)")
    if differing:
        raise UserError(
            f"sites.rows_of: the rows of {named} were made otherwise than this run says:\n  "
            + "\n  ".join(differing)
            + "\nundo these changes, or leave out sites.rows_of"
        )
    return index


def _cut_by(config: RunConfig) -> dict[str, Any]:
    """What decides the rows of a corpus, beside its files and the models."""
    return {
        "corpus": config.corpus.without_paths(),
        "sites": config.sites.model_dump(mode="json", exclude={"rows_of"}),
        "extract": {"rows_per_unit": config.extract.rows_per_unit},
    }


def _check_folds(run: Run, rows: RowIndex) -> None:
    """Every fold must get a document; checked before the extraction. A run that adds to others
    need not fill them all."""
    groups = rows.groups()
    names = set(groups.values())
    if len(names) < 2:
        raise UserError(one_group_message(rows))
    if run.config.fit.moments_of:
        return
    folds = run.config.fit.folds
    filled = {fold_of(name, folds) for name in names}
    if len(filled) < folds:
        near = (
            f" (near duplicates stay together, so they are {len(names)} groups; with "
            "corpus.near_duplicates: null each document is by itself)"
            if len(names) < len(groups)
            else ""
        )
        raise UserError(
            f"{rows.documents} documents fill only {len(filled)} of {folds} folds{near}: they are "
            "spread by a hash of their names; lower fit.folds, use more documents, or cut text "
            'files into documents with corpus.separator (e.g. a blank line, "\\n\\n")'
        )


def one_group_message(rows: RowIndex) -> str:
    """What to say of a corpus that has no rows of different documents."""
    return (
        f"all rows of {rows.path} are of one document or of its near duplicates, so none can be "
        "paired with a row of another document, as the control of every fit wants; use more "
        "documents, or cut text files into some with corpus.separator"
    )


def _near_duplicates(run: Run, documents: Sequence[Document], size: int) -> dict[str, str]:
    """The group of each document that has a near duplicate; `size`: characters of them all."""
    share = run.config.corpus.near_duplicates
    if share is None:
        return {}
    near = NearDuplicates(share)
    with run.progress.phase("near duplicates", size, "characters") as bar:
        for document in documents:
            near.add(document)
            bar.advance(len(document.text))
        return near.groups()


def _mixture_note(corpus: CorpusConfig, documents: Sequence[Document]) -> str:
    """How much was read of each part."""
    counts, characters = [0] * len(corpus.parts), [0] * len(corpus.parts)
    for document in documents:
        counts[document.part] += 1
        characters[document.part] += len(document.text)
    read = (
        f"{part}: {count:,} documents with {size / sum(characters):.1%} of the characters"
        for part, count, size in zip(corpus.parts, counts, characters, strict=True)
    )
    ended = (
        "as many documents as corpus.max_documents allows"
        if len(documents) == corpus.max_documents
        else f"it ended with {corpus.parts[furthest_behind(characters, corpus.shares)]}"
    )
    return f"mixture of {'; '.join(read)}; {ended}"


def _near_note(rows: RowIndex) -> str:
    """How many documents have a near duplicate, as the end of a sentence."""
    sizes = Counter(rows.groups().values())
    near = [size for size in sizes.values() if size > 1]
    if not near:
        return ""
    return f"; {sum(near):,} of them are near duplicates, in {len(near):,} groups that share a fold"


def _absent_note(rows: RowIndex) -> str:
    """How many rows of another run one of the models lacks, as the end of a sentence."""
    if not rows.absent:
        return ""
    return f"; at {rows.absent:,} rows no token of one of the models ends: they are in no fit"


def check_overlap(run: Run, rows: RowIndex) -> dict[str, list[str]]:
    """Refuse a corpus that holds texts of a concept, of any split, unless the run allows it.

    The corpus is searched once: what was found is kept, for this corpus and these texts.

    Returns the overlapping texts of each concept.
    """
    if not run.config.concepts:
        return {}
    others = [RunFolder.open(place(out)) for out in run.config.fit.moments_of]
    indexes = [rows, *(RowIndex.open(other.rows) for other in others)]
    overlap: dict[str, list[str]] = {}
    found = list(_overlap(run, indexes))
    for row in found:
        overlap.setdefault(row.concept, []).append(row.text)
    if found and not run.config.fit.allow_fit_on_concepts:
        raise UserError(_told(found[0], len(overlap[found[0].concept]), run.folder.overlap))
    return overlap


def _overlap(run: Run, indexes: list[RowIndex]) -> Table[OverlapRow]:
    """What is shared by the corpora and the texts of all concepts: read, or looked for and kept."""
    texts = {
        concept.name: texts_to_find(
            itertools.chain.from_iterable(run.concepts[concept.name].splits().values()),
            concept.template.prefix,
        )
        for concept in run.config.concepts
    }
    fingerprint = fingerprint_of(
        {
            "indexes": [index.fingerprint for index in indexes],
            "texts": {name: sorted(group) for name, group in texts.items()},
            "rule": [SHINGLE, SHARE, SHORTEST],
        }
    )
    path = run.folder.overlap
    if not is_current(path, fingerprint):
        total = sum(index.segments for index in indexes)
        with run.progress.phase("overlap", total, "segments") as phase:

            def segments() -> Iterator[Segment]:
                everything = itertools.chain.from_iterable(i.all_segments() for i in indexes)
                for number, segment in enumerate(everything, start=1):
                    yield segment
                    if number % SEGMENTS_A_STEP == 0 or number == total:
                        phase.advance(number - phase.done)

            found = find_overlap(segments(), texts)
        rows = [OverlapRow(**vars(overlap)) for overlap in found]
        Table.of(OverlapRow, rows).save(path, fingerprint)
    return Table.read(path, OverlapRow)


def _told(row: OverlapRow, count: int, table: Path) -> str:
    how = (
        f"holds the document {row.document}"
        if row.document
        else f"with {row.share:.0%} of its runs of {SHINGLE} words"
    )
    return (
        f"concept {row.concept}: {count} of its texts occur in the corpus, or hold a document of "
        f"it; the first, {row.text[:80]!r}, {how}. A map fitted on a concept's own texts returns "
        f"the native vector by algebra. Take them out of the corpus ({table} has them all), or set "
        "fit.allow_fit_on_concepts: true (the report will warn)"
    )
