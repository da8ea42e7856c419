"""What the driver does for a unit beside scheduling it: its lengths out of a real row index, and
its commit to a real ledger, both on a local disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.ledger import record_of
from benchmarks.row_index import made_index
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.sites import Side
from lrt_dist.store.committing import Committer
from lrt_dist.store.ledger import Ledger


@contextmanager
def index_of(units: int) -> Iterator[RowIndex]:
    """A row index, while the context lasts."""
    with TemporaryDirectory() as folder:
        yield made_index(Path(folder), units)


class DriverWork:
    """The work of one run; use as a context manager.

    A run of more units than the index has begins again at the index's first unit, in a new ledger.
    """

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._kept = ExitStack()
        self._spent: deque[float] = deque()

    def __enter__(self) -> DriverWork:
        self.renew()
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.close()

    def is_full(self, unit: int) -> bool:
        """Whether a unit belongs to a ledger that isn't there yet."""
        return unit > 0 and unit % self._index.units == 0

    def renew(self) -> None:
        """Delete the ledger, and begin another."""
        self._kept.close()
        folder = self._kept.enter_context(TemporaryDirectory())
        ledger = _TimedLedger(f"{folder}/model.ledger", self._spent)
        self._committer = self._kept.enter_context(Committer(ledger))

    def lengths(self, unit: int) -> tuple[int, ...]:
        """Of the segments of a unit."""
        return self._index.lengths(unit % self._index.units, Side.SOURCE)

    def commit(self, unit: int) -> None:
        """In the background."""
        record = record_of(unit % self._index.units)
        self._committer.commit(record, dict, failed_before=False)

    def spent_behind(self) -> float:
        """Seconds of computing in the background since this was last asked: the driver's own
        thread cannot compute meanwhile."""
        return sum(self._spent.popleft() for _ in range(len(self._spent)))


class _TimedLedger(Ledger):
    """Takes down the computing of each commit, in whichever thread."""

    def __init__(self, url: str, spent: deque[float]) -> None:
        super().__init__(url)
        self._spent = spent

    def commit(self, *arguments: Any, **named: Any) -> None:
        began = time.thread_time()
        super().commit(*arguments, **named)
        self._spent.append(time.thread_time() - began)
