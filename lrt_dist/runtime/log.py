"""The log of a run: one JSON object a line, over all its attempts."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrt_dist.files import StorageError, is_file, is_local

SEND_EVERY = 10.0
"""Seconds between two times that a log is sent to an object store, which can't be appended to."""


class Log:
    """A log that is written to: a file, or in an object store one object for each attempt.

    Such an object is sent whole every few seconds. That it could not be sent ends no run.
    """

    def __init__(self, path: Path) -> None:
        self._local = is_local(path)
        if self._local:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")
            return
        self._path = _folder(path) / f"{time.time():.3f}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lines: list[str] = []
        self._sent = 0
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_often, name="log", daemon=True)
        self._thread.start()

    def write(self, event: str, **facts: Any) -> None:
        """Add a line."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n"
        if self._local:
            self._stream.write(line)
            self._stream.flush()
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Let everyone see what was written so far."""
        if self._local:
            return
        with self._sending:
            lines = list(self._lines)
            if len(lines) == self._sent:
                return
            try:
                self._path.write_text("".join(lines), encoding="utf-8")
            except (StorageError, OSError) as error:
                print(f"the log could not be sent to {self._path}: {error}", file=sys.stderr)
            else:
                self._sent = len(lines)

    def close(self) -> None:
        """Write what is left."""
        if self._local:
            self._stream.close()
            return
        self._ended.set()
        self._thread.join()
        self.flush()

    def _send_often(self) -> None:
        while not self._ended.wait(SEND_EVERY):
            self.flush()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest attempt first; none where there is no log."""
    if is_local(path):
        files = [path] if is_file(path) else []
    else:
        folder = _folder(path)
        files = sorted(folder.iterdir(), key=str) if folder.exists() else []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed, or is writing it


def _folder(path: Path) -> Path:
    """`log/` for `log.jsonl`."""
    return path.with_suffix("")
