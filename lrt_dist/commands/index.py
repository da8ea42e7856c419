"""The command `index`: the row index, before any forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lrt_dist.commands._items import check_items, item_warnings
from lrt_dist.commands._overlap import check_overlap
from lrt_dist.commands._shares import (
    run_tokenizers,
    share_path,
    shares_of,
    tokenised,
    unit_ranges,
)
from lrt_dist.commands.evaluation.carriers import check_map_texts
from lrt_dist.commands.evaluation.given import check_given_vectors
from lrt_dist.config import CorpusConfig, RunConfig, differing_keys, fingerprint_of
from lrt_dist.corpus.duplicates import BANDS, NearDuplicates
from lrt_dist.corpus.readers import (
    Document,
    corpus_digest,
    furthest_behind,
    read_documents,
    text_bytes,
)
from lrt_dist.corpus.rows import RowIndex, WrittenUnits, write_index, write_units
from lrt_dist.errors import UserError
from lrt_dist.files import delete_tree, place, sweep
from lrt_dist.sites import Side, Sided, fold_of
from lrt_dist.tasks.tokenise import (
    DocumentsTask,
    SegmentsTask,
    tokenise_documents,
    tokenise_segments,
)
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run


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
    sweep(path)
    if RowIndex.is_at(path):
        existing = RowIndex.open(path)
        if existing.fingerprint == fingerprint:
            delete_tree(run.folder.shares)  # a kill may have left them
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
    config, read, tokenizers = run.config, _Read(run.config.corpus), run_tokenizers(run)
    share = config.corpus.near_duplicates
    near = None if share is None else NearDuplicates(share)
    tasks = (
        DocumentsTask(
            path=share_path(run, fingerprint, number, documents),
            tokenizers=tokenizers,
            max_tokens=config.corpus.max_tokens,
            sites=config.sites,
            documents=documents,
            signed=near is not None,
        )
        for number, documents in enumerate(shares_of(read.documents()))
    )
    with run.progress.phase("tokenise", read.expected, "characters") as bar:
        tables = tokenised(run, tokenise_documents, tasks, bar, near)
        units = write_units(run.folder.rows, tables, config.extract.rows_per_unit)
        bar.ended()
    if config.corpus.mixture:
        run.progress.note("corpus", read.note())
    return _ended(run, units, fingerprint, _groups(run, near) if near else {}, corpus)


def _seen_anew(run: Run, earlier: RowIndex, fingerprint: str) -> RowIndex:
    """The segments and sites of another run, as the models of this one see them."""
    config, tokenizers = run.config, run_tokenizers(run)

    def known(side: Side) -> Side | None:
        wanted = tokenizers.digests[side]
        return next((one for one in Side if earlier.tokenizers[one] == wanted), None)

    tasks = (
        SegmentsTask(
            path=share_path(run, fingerprint, units.start, until=units.stop),
            tokenizers=tokenizers,
            max_tokens=config.corpus.max_tokens,
            sites=config.sites,
            rows_path=earlier.path,
            units=units,
            size=sum(len(earlier.lengths(unit, Side.SOURCE)) for unit in units),
            known=Sided.of(known),
        )
        for units in unit_ranges(earlier)
    )
    with run.progress.phase("tokenise", earlier.segments, "segments") as bar:
        tables = tokenised(run, tokenise_segments, tasks, bar)
        units = write_units(run.folder.rows, tables, earlier.rows_per_unit)
    return _ended(run, units, fingerprint, earlier.groups(), earlier.corpus)


def _groups(run: Run, near: NearDuplicates) -> dict[str, str]:
    """The group of each document that has a near duplicate."""
    with run.progress.phase("near duplicates", BANDS, "bands") as bar:
        return near.groups(bar.advance)


def _ended(
    run: Run, units: WrittenUnits, fingerprint: str, groups: Mapping[str, str], corpus: str
) -> RowIndex:
    """The row index of units that are written; the shares are deleted then."""
    digests = run_tokenizers(run).digests
    made = write_index(run.folder.rows, units, fingerprint, groups, corpus, digests)
    delete_tree(run.folder.shares)
    return made


class _Read:
    """What of a corpus is read, and how much of each of its parts."""

    def __init__(self, corpus: CorpusConfig) -> None:
        self._corpus = corpus
        self._counts = [0] * len(corpus.parts)
        self._characters = [0] * len(corpus.parts)

    @property
    def expected(self) -> int | None:
        """About how many characters there are; None where it is not known before they are read."""
        if self._corpus.max_documents or any(part.dataset for part in self._corpus.parts):
            return None
        return text_bytes(self._corpus)

    def documents(self) -> Iterator[Document]:
        """All documents, counted."""
        for document in read_documents(self._corpus):
            self._counts[document.part] += 1
            self._characters[document.part] += len(document.text)
            yield document

    def note(self) -> str:
        """How much was read of each part of a mixture."""
        parts, total = self._corpus.parts, sum(self._characters)
        read = (
            f"{part}: {count:,} documents with {size / total:.1%} of the characters"
            for part, count, size in zip(parts, self._counts, self._characters, strict=True)
        )
        ended = (
            "as many documents as corpus.max_documents allows"
            if sum(self._counts) == self._corpus.max_documents
            else f"it ended with {parts[furthest_behind(self._characters, self._corpus.shares)]}"
        )
        return f"mixture of {'; '.join(read)}; {ended}"


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
