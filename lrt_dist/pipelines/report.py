"""The verb `report`: what was found, as one page."""

from __future__ import annotations

import json
from pathlib import Path

from lrt_dist import __version__
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.pipelines.extract import incomplete_units
from lrt_dist.pipelines.run import Run
from lrt_dist.report.page import write_report
from lrt_dist.sizes import format_seconds

FEW_UNITS = 4
"""Below this, half a corpus away is next door."""


def report(run: Run) -> Path:
    """Write `report.html` from what lies in the directory.

    Raises:
        UserError: nothing was fitted yet.
    """
    folder = run.folder
    if not folder.fits.is_file():
        raise UserError(f"nothing to report: {folder.fits} is not there; run `lrt-dist fit` first")
    index = RowIndex.open(folder.rows)
    set_aside = incomplete_units(run)
    warnings = [
        f"{place} was set aside and is not part of any number here: {reason}"
        for place, reason in set_aside.items()
    ]
    if index.units < FEW_UNITS:
        warnings.append(
            f"There are only {index.units} units of rows, so the null pairs documents that may be "
            "alike, and its R² may be too high. Lower extract.rows_per_unit or use more text."
        )
    facts = {
        "lrt_dist": __version__,
        "rows": f"{index.rows:,} in {index.units} units",
        "segments": f"{index.segments:,}",
        "documents": f"{index.documents:,}",
        **_durations(folder.log),
    }
    return write_report(folder.out, warnings=warnings, facts=facts)


def _durations(log: Path) -> dict[str, str]:
    """Seconds of every stage of the run, over all attempts."""
    if not log.is_file():
        return {}
    totals: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run may be torn
        if record["event"] == "stage_end":
            totals[record["stage"]] = totals.get(record["stage"], 0.0) + record["seconds"]
    return {f"time: {stage}": format_seconds(seconds) for stage, seconds in totals.items()}
