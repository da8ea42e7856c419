"""The command `run`: all steps, in order."""

from __future__ import annotations

from lrt_dist.commands.evaluate import evaluate
from lrt_dist.commands.extract import extract
from lrt_dist.commands.fit import fit
from lrt_dist.commands.index import index
from lrt_dist.commands.report import report
from lrt_dist.workspace.run import Run


def run_steps(live: Run) -> None:
    """All steps of an open run."""
    index(live)
    extract(live)
    fit(live)
    evaluate(live)
    report(live)
