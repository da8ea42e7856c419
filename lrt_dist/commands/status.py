"""The command `status`: how far a run is, from its ledgers alone."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lrt_dist.commands._busy import busy_messages
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.files import is_file
from lrt_dist.runtime.log import read_log
from lrt_dist.sites import Direction, Side
from lrt_dist.store.ledger import Ledger
from lrt_dist.workspace.folder import RunFolder


@dataclass(frozen=True)
class StoreStatus:
    """One activation store.

    Attributes:
        side: source or target.
        model: its name.
        committed: units that are done.
        units: units in all; None before extraction began.
        rows: rows committed.
        quarantined: `{unit: reason}`.
        seconds: median seconds of a unit; None before the first one.
        machines: units that each kind of machine computed.
    """

    side: Side
    model: str
    committed: int
    units: int | None
    rows: int
    quarantined: dict[int, str]
    seconds: float | None
    machines: dict[str, int]


@dataclass(frozen=True)
class RunStatus:
    """Both stores, and which later results exist.

    Attributes:
        name: of the run.
        indexed: whether there is a row index.
        stores: of both models.
        present: which results exist.
        busy: how much of their time stages computed, a sentence for each extraction.
    """

    name: str
    indexed: bool
    stores: tuple[StoreStatus, ...]
    present: dict[str, bool]
    busy: tuple[str, ...]

    @property
    def extracted(self) -> bool:
        """Whether every unit of both stores is committed."""
        return all(store.units == store.committed for store in self.stores)


def status(folder: RunFolder) -> RunStatus:
    """Read the ledgers; works while a run goes on, after a crash, and from another machine."""
    with ThreadPoolExecutor(len(Side), thread_name_prefix="status") as at_once:
        stores = tuple(at_once.map(partial(_store_status, folder), Side))
    present = {
        "fits": is_file(folder.fits[Direction.FORWARD]),
        "scores": is_file(folder.scores),
        "report": is_file(folder.report),
    }
    busy = tuple(busy_messages(read_log(folder.log)))
    return RunStatus(folder.config.name, RowIndex.is_at(folder.rows), stores, present, busy)


def _store_status(folder: RunFolder, side: Side) -> StoreStatus:
    ledger = Ledger(folder.ledger_url(side))
    identity, committed = ledger.identity(), ledger.committed()
    seconds = sorted(record.seconds for record in committed.values())
    return StoreStatus(
        side=side,
        model=folder.model(side).model,
        committed=len(committed),
        units=-(-identity["rows"] // identity["rows_per_unit"]) if identity else None,
        rows=sum(record.rows for record in committed.values()),
        quarantined=ledger.quarantined(),
        seconds=seconds[len(seconds) // 2] if seconds else None,
        machines=Counter(" → ".join(r.machines) for r in committed.values()),
    )
