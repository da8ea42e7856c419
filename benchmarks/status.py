"""How long `status` takes over a run of 25,000 units of ten layers in both stores, ÷ 10 seconds.

`status`: on a local disk. `status_s3`: where all of the run lies in the S3 store of `ledger`, which
answers 20 milliseconds late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Result, result, seconds
from benchmarks.ledger import LAYERS, UNITS, late_s3, record_of
from benchmarks.random_llama import config_of
from lrt_dist.commands.status import status
from lrt_dist.files import place
from lrt_dist.sites import Side
from lrt_dist.store.committing import Committer
from lrt_dist.store.ledger import Ledger
from lrt_dist.workspace.folder import RunFolder
from lrt_dist.workspace.run import open_run

MOST = 10.0
"""Seconds."""
ROWS = record_of(0).rows
"""Of a unit."""


def measure(wanted: Sequence[str], *, quick: bool) -> list[Result]:
    """One run of each kind, looked at in rounds."""
    units, rounds = (UNITS // 50, 1) if quick else (UNITS, 3)
    times: dict[str, list[float]] = {}
    if "status" in wanted:
        with TemporaryDirectory() as folder:
            times["status"] = _times(f"{folder}/run", units, rounds)
    if "status_s3" in wanted:
        with late_s3() as bucket:
            times["status_s3"] = _times(f"{bucket}/run", units, rounds)
    setting = f"{units:,} units of {LAYERS} layers in both stores"
    return [
        result(
            name,
            [{"seconds": time, "ratio": time / MOST, "setting": setting} for time in times[name]],
            1.0,
            higher_is_better=False,
        )
        for name in wanted
    ]


def _times(out: str, units: int, rounds: int) -> list[float]:
    _extracted(out, units)
    return [seconds(lambda: _look(out, units)) for _ in range(rounds)]


def _look(out: str, units: int) -> None:
    found = status(RunFolder.open(place(out)))
    assert found.extracted
    assert [store.rows for store in found.stores] == [units * ROWS] * len(Side)


def _extracted(out: str, units: int) -> None:
    """What an extraction leaves for `status`: its log, and ledgers whose records are all there.
    The models are mere names, and the stores are empty; neither is looked at."""
    with open_run(out, config_of(Path("models"), address="serial")) as run:
        for side in Side:
            ledger = Ledger(run.folder.ledger_url(side))
            ledger.claim({"rows": units * ROWS, "rows_per_unit": ROWS})
            with (
                run.progress.phase(f"extract {side}", units, "units") as phase,
                Committer(ledger) as committer,
            ):
                for unit in range(units):
                    committer.commit(record_of(unit), dict, failed_before=False)
                    phase.advance()
