"""The verdicts as CSV and as LaTeX, beside the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path

from lrt_dist.files import atomic_write
from lrt_dist.report.levels import COMPARED, Spread
from lrt_dist.report.summary import ConceptSummary
from lrt_dist.store.tables import VerdictRow

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def write_tables(page: Path, summaries: Sequence[ConceptSummary]) -> list[str]:
    """Write `report.csv` and `report.tex`, and return their names; what is no longer true is
    removed where there are no verdicts.

    Raises:
        DiskFullError: there is no space left.
    """
    texts = {".csv": as_csv(summaries), ".tex": as_latex(summaries)}
    paths = {page.with_suffix(suffix): text for suffix, text in texts.items()}
    for path, text in paths.items():
        if summaries:
            with atomic_write(path) as partial:
                partial.write_text(text, "utf-8")
        else:
            path.unlink(missing_ok=True)
    return [path.name for path in paths] if summaries else []


def as_csv(summaries: Sequence[ConceptSummary]) -> str:
    """A line for each concept: every column of `verdicts.parquet`, intervals as two, the word, how
    long displacements were, and scores as LRT compares them (`levels`).

    Numbers are written so that reading gives the same ones.
    """
    buffer = io.StringIO()
    rows = [_flat(summary) for summary in summaries]
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(summary: ConceptSummary) -> dict[str, object]:
    row: dict[str, object] = {}
    for field in fields(VerdictRow):
        value = getattr(summary.verdict, field.name)
        if isinstance(value, tuple):
            row[f"{field.name}_low"], row[f"{field.name}_high"] = value
        else:
            row[field.name] = value
    row |= {"verdict": str(summary.word), "length": summary.vector.length}
    row["native_length"] = summary.vector.native_length
    known = {each.arm: each for each in summary.levels}
    for arm, name in product(COMPARED, ("pearson", "mean_squared_error")):
        spread = getattr(known[arm], name) if arm in known else Spread.of([])
        row[f"scores_{name}_{arm}"], row[f"scores_{name}_{arm}_sd"] = spread.mean, spread.sd
    return row


def as_latex(summaries: Sequence[ConceptSummary]) -> str:
    """Two tables for the package `booktabs`: the verdicts, with shares in per cent and 95 %
    intervals, and scores as LRT compares them, r and mean squared error, mean ± sd over strengths.
    """
    head = (
        r"concept & pair & $\alpha$ & $n$ & native & retention (\%) & share of best (\%) "
        r"& adjusted $p$ & verdict \\"
    )
    lines = [
        r"\begin{tabular}{lcrrrrrrl}",
        r"\toprule",
        head,
        r"\midrule",
        *(_latex_line(summary) for summary in summaries),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        r"& \multicolumn{2}{c}{transferred} & \multicolumn{2}{c}{mismatched map} "
        r"& \multicolumn{2}{c}{no steering} \\",
        r"concept & $r$ & MSE & $r$ & MSE & $r$ & MSE \\",
        r"\midrule",
        *(_latex_levels(summary) for summary in summaries),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_levels(summary: ConceptSummary) -> str:
    known = {each.arm: each for each in summary.levels}
    cells = [_escaped(summary.concept)]
    for arm in COMPARED:
        each = known.get(arm)
        spreads = (each.pearson, each.mean_squared_error) if each else (Spread.of([]),) * 2
        cells += [
            "--" if math.isnan(s.mean) else rf"${s.mean:.3f} \pm {s.sd:.3f}$" for s in spreads
        ]
    return " & ".join(cells) + r" \\"


def _latex_line(summary: ConceptSummary) -> str:
    row = summary.verdict
    kept = _bracketed(summary.retention, summary.retention_interval, scale=100, digits=0)
    cells = (
        _escaped(row.concept),
        rf"${row.source_layer} \to {row.target_layer}$",
        f"{row.strength:g}",
        str(row.items),
        _bracketed(row.native, row.native_interval, scale=1, digits=2),
        kept,
        _bracketed(summary.share, summary.share_interval, scale=100, digits=0),
        f"{row.p_adjusted:.2g}",
        _escaped(summary.word),
    )
    return " & ".join(cells) + r" \\"


def _bracketed(value: float, ends: tuple[float, float], *, scale: float, digits: int) -> str:
    if math.isnan(value):
        return "--"
    low, high = (_latex_number(scale * end, digits) for end in ends)
    return f"{_latex_number(scale * value, digits)} [{low}, {high}]"


def _latex_number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "--"
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    return f"${value:.{digits}f}$"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
