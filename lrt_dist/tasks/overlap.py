"""Documents of the corpus looked through for the texts of concepts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lrt_dist.corpus.overlap import Found, look_for
from lrt_dist.corpus.rows import RowIndex


@dataclass(frozen=True)
class OverlapTask:
    """Some of the corpus's documents, and what is looked for.

    Attributes:
        rows_path: the row index.
        units: those in which the documents begin.
        texts: of all concepts.
    """

    rows_path: Path
    units: range
    texts: tuple[str, ...]


def look_through(task: OverlapTask) -> dict[int, Found]:
    """What the documents have of each text, by its number."""
    return look_for(RowIndex.open(task.rows_path).documents_from(task.units), task.texts)
