"""The command `verify`: re-read every committed chunk and compare it with the ledger."""

from __future__ import annotations

from lrt_dist.errors import UserError
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger
from lrt_dist.tasks.recheck import Finding, RecheckTask, recheck
from lrt_dist.workspace.run import Run

UNITS_A_TASK = 16


def verify(run: Run, *, repair: bool) -> list[Finding]:
    """Check checksums and counts of both stores, as tasks over the cluster.

    Args:
        repair: drop bad units from the ledger, so that `extract` redoes them.

    Raises:
        CorruptionError: a record of a ledger cannot be read.
        UserError: a repair of a run that stores nothing: no unit of it is ever done again.
    """
    if repair and run.config.extract.store == "none":
        raise UserError(
            "extract.store is none: all units are in moments already, so none can be done again "
            "alone; verify without --repair, and extract anew in another --out"
        )
    findings: list[Finding] = []
    for side in Side:
        ledger = Ledger(run.folder.ledger_url(side))
        units = sorted(ledger.committed_units())
        tasks = [
            RecheckTask(
                side,
                tuple(units[begin : begin + UNITS_A_TASK]),
                run.folder.rows,
                run.folder.store_url(side),
                ledger.url,
            )
            for begin in range(0, len(units), UNITS_A_TASK)
        ]
        if not tasks:
            continue
        with run.progress.phase(f"verify ({side})", len(units), "units") as phase:
            for task, found in zip(tasks, run.runtime.map(recheck, tasks), strict=True):
                findings += found
                phase.advance(len(task.units))
    if repair:
        for finding in findings:
            Ledger(run.folder.ledger_url(finding.side)).drop(finding.unit)
    return findings
