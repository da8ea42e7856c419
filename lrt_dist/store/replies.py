"""Replies that were paid for, one file each, so that none is lost and none is asked for twice."""

from __future__ import annotations

import math
import threading
from collections import Counter
from pathlib import Path

from lrt_dist.store.tables import ReplyRow, Table


class ReplyStore:
    """All replies in a folder; may be used by several threads."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            CorruptionError: a file cannot be read.
        """
        self._folder = folder
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        self._count: Counter[str] = Counter()
        self.tokens_in = self.tokens_out = 0
        for path in sorted(folder.glob("*.parquet")):
            for reply in Table.read(path, ReplyRow):
                self._note(reply)

    def value(self, request: str) -> float | None:
        """What a reply to a request said; None where none said anything."""
        return self._values.get(request)

    def add(self, reply: ReplyRow) -> None:
        """Keep a reply.

        Raises:
            DiskFullError: there is no space left.
        """
        with self._lock:
            name = f"{reply.request}-{self._count[reply.request]}"
            self._note(reply)
        Table.of(ReplyRow, [reply]).save(self._folder / f"{name}.parquet", reply.request)

    def _note(self, reply: ReplyRow) -> None:
        self._count[reply.request] += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        if not math.isnan(reply.value):
            self._values[reply.request] = reply.value
