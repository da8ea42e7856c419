"""Commits in the background: an object store may take longer to answer than a unit to compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from lrt_dist.errors import DiskFullError, IncompleteError, LostError, NoReplicaError
from lrt_dist.files import StorageError
from lrt_dist.store.ledger import Ledger, UnitRecord

AT_ONCE = 16
"""Commits that are under way at once."""
WAITING = 64
"""Commits that were asked for and are not done, at most; a kill forgets as many units."""


HOPELESS = (StorageError, DiskFullError, IncompleteError)
"""Errors after which no commit would go through."""
OF_MACHINES = (LostError, NoReplicaError)
"""Those among them that say nothing of storage: what was asked for before is committed."""


class Committer:
    """Commits units to a ledger; use as a context manager, which ends when all are committed. Where
    storage fails, or the store is another driver's now, those that wait are given up; their units
    are done again.
    """

    def __init__(self, ledger: Ledger, check: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            check: raises where this process may no longer commit; asked before each commit.
        """
        self._ledger, self._check = ledger, check
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="committer")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Committer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        hopeless = isinstance(error, HOPELESS) and not isinstance(error, OF_MACHINES)
        self._threads.shutdown(cancel_futures=hopeless)
        if error is None:
            self._take(at_most=0)

    def commit(
        self,
        record: UnitRecord,
        stored: Callable[[], Mapping[str, str]],
        *,
        failed_before: bool,
    ) -> None:
        """See `Ledger.commit`, which raises here or later what it raises."""
        self._waiting.append(
            self._threads.submit(self._commit, record, stored, failed_before=failed_before)
        )
        self._take(at_most=WAITING)

    def _commit(
        self,
        record: UnitRecord,
        stored: Callable[[], Mapping[str, str]],
        *,
        failed_before: bool,
    ) -> None:
        self._check()
        self._ledger.commit(record, stored, failed_before=failed_before)

    def _take(self, at_most: int) -> None:
        """Hear of the oldest commits: of those that are done, and of more than may wait."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > at_most):
            self._waiting.popleft().result()
