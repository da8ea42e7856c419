"""The commands for notebooks and scripts; the command line runs the same ones.

    import lrt_dist

    results = lrt_dist.run("RUN.yaml", out="runs/first")
    results.fits.arrow.to_pandas()

Step by step:

    from lrt_dist import api

    with api.open_run("runs/first", api.load_run("RUN.yaml")) as run:
        api.index(run)
        api.extract(run)
        fits = api.fit(run)         # Table[FitRow]
        scores = api.evaluate(run)  # Table[ScoreRow]
        page = api.report(run)      # path of report.html

Every step can be run again: what is finished is skipped.
"""

from __future__ import annotations

from pathlib import Path

from lrt_dist.atlasfile import Atlas, load_atlas
from lrt_dist.commands.atlas import atlas
from lrt_dist.commands.evaluate import evaluate
from lrt_dist.commands.extract import extract, quarantined_units
from lrt_dist.commands.fit import fit
from lrt_dist.commands.index import index
from lrt_dist.commands.plan import plan
from lrt_dist.commands.report import report
from lrt_dist.commands.status import status
from lrt_dist.commands.verify import verify
from lrt_dist.config import RunConfig
from lrt_dist.report.results import Results
from lrt_dist.runfile import load_run
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import Run, open_run

__all__ = [
    "Atlas",
    "Results",
    "Run",
    "RunFolder",
    "atlas",
    "evaluate",
    "extract",
    "fit",
    "index",
    "load_atlas",
    "load_run",
    "open_run",
    "plan",
    "quarantined_units",
    "report",
    "run",
    "run_steps",
    "status",
    "verify",
]


def run(config: RunConfig | str | Path, out: str | Path) -> Results:
    """Everything: index, extract, fit, evaluate, report. Goes on where an earlier call stopped.

    Quarantined units are in no result; the report names them.

    Args:
        config: a run, or the path of a RUN.yaml.
        out: the output directory.

    Returns:
        All result tables; `.report` is the path of the page.

    Raises:
        UserError: the input is wrong; nothing was started.
        IncompleteError: the work stopped early; the same call goes on.
    """
    chosen = config if isinstance(config, RunConfig) else load_run(config)
    with open_run(out, chosen) as live:
        run_steps(live)
    return Results.read(live.folder.out)


def run_steps(live: Run) -> None:
    """All steps of an open run, in order."""
    index(live)
    extract(live)
    fit(live)
    evaluate(live)
    report(live)
