"""Whether the corpus holds texts of a concept; see `corpus.overlap`."""

from __future__ import annotations

import itertools
from pathlib import Path

from lrt_dist.commands._shares import unit_ranges
from lrt_dist.config import fingerprint_of
from lrt_dist.corpus.overlap import SHARE, SHINGLE, SHORTEST, overlaps, texts_to_find
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.files import place
from lrt_dist.store.tables import OverlapRow, Table, is_current
from lrt_dist.tasks.overlap import OverlapTask, look_through
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run


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
        sought = tuple(itertools.chain.from_iterable(texts.values()))
        tasks = [
            OverlapTask(index.path, units, sought)
            for index in indexes
            for units in unit_ranges(index)
        ]
        with run.progress.phase("overlap", sum(i.units for i in indexes), "units") as bar:
            parts = []
            for task, found in zip(tasks, run.runtime.map(look_through, tasks), strict=True):
                parts.append(found)
                bar.advance(len(task.units))
        rows = [OverlapRow(**vars(overlap)) for overlap in overlaps(parts, texts)]
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
