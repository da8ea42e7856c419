"""The command `report`: the results as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt_dist.commands._busy import busy_shares, shares_text
from lrt_dist.commands._items import item_warnings
from lrt_dist.commands._provenance import provenance
from lrt_dist.commands.evaluate import evaluation_fingerprint
from lrt_dist.commands.extract import quarantined_units
from lrt_dist.commands.fit import current_fits
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError
from lrt_dist.files import is_file
from lrt_dist.formatting import format_seconds
from lrt_dist.report.page import write_report
from lrt_dist.report.results import Results
from lrt_dist.runtime.log import read_log
from lrt_dist.store.tables import is_current
from lrt_dist.workspace.run import Run

FEW_DOCUMENTS = 20
"""Below this, rows of *other* documents are noticeably unlike a random row."""


def report(run: Run) -> Path:
    """Write `report.html`, and `report.csv` and `report.tex` beside it, from the run's tables.

    A run without concepts shows no evaluation, even if tables of an earlier one lie there.

    Raises:
        IncompleteError: the maps or scores of this configuration were not made yet.
    """
    folder = run.folder
    fits = current_fits(run)
    evaluation = evaluation_fingerprint(run, fits) if run.config.concepts else None
    evaluated = evaluation is not None and is_file(folder.scores)
    if evaluation and evaluated and not is_current(folder.scores, evaluation):
        raise IncompleteError(
            f"{folder.scores} is of another configuration; run `lrt-dist evaluate` first"
        )
    index = RowIndex.open(folder.rows)
    warnings = item_warnings(run) if evaluated else []
    warnings += [
        f"{unit} was quarantined and is not part of any number here: {reason}"
        for unit, reason in quarantined_units(run).items()
    ]
    if index.documents < FEW_DOCUMENTS:
        warnings.append(
            f"There are only {index.documents} documents, so a row can be paired with few others, "
            "and the R² of mismatched rows lies below 0 by itself. Use more documents, or cut text "
            "files into some with corpus.separator."
        )
    run.progress.flush()
    events = list(read_log(folder.log))
    facts = {
        "Rows": f"{index.rows:,} in {index.units} units",
        "Segments": f"{index.segments:,}",
        "Documents": f"{index.documents:,}",
        **_durations(events),
        **_shares(events),
    }
    if run.positions.needs_prompt and run.config.concepts:
        warnings.append(
            f"The price of steering is not defined for evaluate.positions: "
            f"{run.config.evaluate.positions}, which steers nothing of a text without a prompt."
        )
    return write_report(
        Results.read(folder.out),
        change=run.score.label,
        warnings=warnings,
        facts=facts,
        provenance=provenance(run, index, fits, evaluation),
    )


def _shares(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each extraction, how much of their time the stages computed."""
    return {
        f"Stages busy: {phase}": shares_text(shares)
        for phase, shares in busy_shares(events).items()
    }


def _durations(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Seconds of every phase of the run, over all attempts."""
    totals: dict[str, float] = {}
    for event in events:
        if event["event"] == "phase_end":
            totals[event["phase"]] = totals.get(event["phase"], 0.0) + event["seconds"]
    return {
        f"Time, all runs: {phase}": format_seconds(seconds) for phase, seconds in totals.items()
    }
