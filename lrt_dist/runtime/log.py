"""The log of a run: one JSON object a line, over all its attempts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrt_dist.files import is_local

SEND_EVERY = 10.0
"""Seconds between two times that a log is sent to an object store, which can't be appended to."""


class Log:
    """A log that is written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        if is_local(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")
            return
        self._lines = [path.read_text(encoding="utf-8")] if path.is_file() else []
        self._thread = threading.Thread(target=self._send_often, name="log", daemon=True)
        self._thread.start()

    def write(self, event: str, **facts: Any) -> None:
        """Add a line."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n"
        if is_local(self._path):
            self._stream.write(line)
            self._stream.flush()
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Write what is left."""
        if is_local(self._path):
            self._stream.close()
        else:
            self._ended.set()
            self._thread.join()
            self._send()

    def _send_often(self) -> None:
        sent = 0
        while not self._ended.wait(SEND_EVERY):
            if len(self._lines) != sent:
                sent = self._send()

    def _send(self) -> int:
        """How many pieces were sent."""
        pieces = list(self._lines)
        self._path.write_text("".join(pieces), encoding="utf-8")
        return len(pieces)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest first; none where there is no log."""
    if not path.is_file():
        return
    with path.open("r", encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed, or is writing it
