"""The page of an atlas: which concept crosses between which models, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable

from lrt_dist.files import atomic_write
from lrt_dist.formatting import percent
from lrt_dist.report.answer import MEANINGS
from lrt_dist.report.drawing import STYLES
from lrt_dist.report.environment import environment
from lrt_dist.report.heatmap import Cell, HeatMap
from lrt_dist.report.summary import has_native_effect
from lrt_dist.report.text import interval, number
from lrt_dist.store.tables import AtlasRow, Table
from lrt_dist.verdicts import Word

Pair = tuple[str, str]


@dataclass(frozen=True)
class ConceptMap:
    """One concept between all models.

    Attributes:
        concept: its name.
        shown: in how many pairs transfer is shown.
        map: retention from each model (row) to each (column).
        rows: one for each pair, in the order of the file.
    """

    concept: str
    shown: int
    map: HeatMap
    rows: tuple[AtlasRow, ...]


def write_atlas(
    path: Path, title: str, models: Sequence[str], pairs: Sequence[Pair], rows: Table[AtlasRow]
) -> None:
    """Write the page; a reader sees the old one or the new one.

    Args:
        models: in the order of the file.
        pairs: that are wanted; those without rows are not finished.

    Raises:
        DiskFullError: there is no space left.
    """
    listed = list(rows)
    finished = {(row.source, row.target) for row in listed}
    template = environment().get_template("atlas.html.jinja")
    html = template.render(
        title=title,
        answer=_answer(listed),
        models=models,
        overview=_overview(listed, pairs),
        is_defined=_is_defined,
        missing=[" → ".join(pair) for pair in pairs if pair not in finished],
        concepts=[
            _concept_map(concept, models, pairs, listed)
            for concept in dict.fromkeys(row.concept for row in listed)
        ],
        meanings={word: MEANINGS[word] for word in Word if any(row.word == word for row in listed)},
        styles=STYLES,
    )
    with atomic_write(path) as partial:
        partial.write_text(html, "utf-8")


def atlas_table(rows: Table[AtlasRow]) -> RichTable:
    """The same for a terminal: one line for each pair and concept."""
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in ("concept", "from", "to"):
        table.add_column(heading, overflow="fold")
    for heading in ("layers", "kept (95% interval)", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    for row in sorted(rows, key=lambda row: row.concept):
        table.add_row(
            escape(row.concept),
            escape(row.source),
            escape(row.target),
            f"{row.source_layer} → {row.target_layer}",
            f"{percent(row.retention)} ({interval(row.retention_interval)})"
            if _is_defined(row)
            else "undefined",
            number(row.p_adjusted, 2),
            row.word,
        )
    table.caption = "p: of the hardest control, adjusted over all lines"
    table.caption_justify = "left"
    return table


def _answer(rows: Sequence[AtlasRow]) -> str:
    if not rows:
        return "No run is finished"
    crossing = sum(row.word == Word.TRANSFERS for row in rows)
    return f"Transfer is shown in {crossing} of {len(rows)} cases"


def _overview(rows: Sequence[AtlasRow], pairs: Sequence[Pair]) -> HeatMap | None:
    """Every concept between every two models; None where a single map shows as much."""
    concepts = tuple(dict.fromkeys(row.concept for row in rows))
    if len(concepts) < 2:
        return None
    found = {(row.source, row.target, row.concept): row for row in rows}
    return HeatMap(
        "At a glance: retention, in per cent",
        "Of the target model's own effect. Rings: transfer is shown.",
        ("models ↓", "concept →"),
        concepts,
        tuple(
            (f"{s} → {t}", tuple(_cell(found.get((s, t, concept)), s, t) for concept in concepts))
            for s, t in pairs
        ),
        named=True,
    )


def _concept_map(
    concept: str, models: Sequence[str], pairs: Sequence[Pair], rows: Sequence[AtlasRow]
) -> ConceptMap:
    by_pair = {(row.source, row.target): row for row in rows if row.concept == concept}
    matrix = HeatMap(
        "Retention, in per cent",
        "Of the target model's own effect, with the vector of a row's model in a column's model. "
        "Rings: transfer is shown.",
        ("from ↓", "to →"),
        tuple(models),
        tuple((s, tuple(_cell(by_pair.get((s, t)), s, t) for t in models)) for s in models),
        named=True,
    )
    return ConceptMap(
        concept,
        sum(row.word == Word.TRANSFERS for row in by_pair.values()),
        matrix,
        tuple(by_pair[pair] for pair in pairs if pair in by_pair),
    )


def _cell(row: AtlasRow | None, source: str, target: str) -> Cell:
    way = f"from {source} to {target}"
    if row is None:
        return Cell("", f"{way}: not run", defined=False)
    if not _is_defined(row):
        return Cell("·", f"{way}: {row.word}")
    shown = row.word == Word.TRANSFERS
    return Cell(
        text=percent(row.retention).removesuffix("%"),
        hint=f"{way}: {percent(row.retention)} ({interval(row.retention_interval)}), {row.word}",
        heat=round(100 * min(1.0, abs(row.retention))),
        negative=row.retention < 0,
        chosen=shown,
    )


def _is_defined(row: AtlasRow) -> bool:
    """Whether there is a native effect of which something can be a share."""
    return has_native_effect(Word(row.word))
