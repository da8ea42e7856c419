"""The log of a run: one JSON object a line, over all its attempts.

That a line can't be written ends no run: it is said on standard error, and the work goes on until
something that matters can't be written either.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lrt_dist.files import StorageError, is_file, is_local

SEND_EVERY = 10.0
"""Seconds between two times that a log is sent to an object store, which can't be appended to."""


class Log(Protocol):
    """A log that is written to."""

    def write(self, event: str, **facts: Any) -> None:
        """Add a line."""

    def flush(self) -> None:
        """Let everyone see what was written so far."""

    def close(self) -> None:
        """Write what is left."""


def open_log(path: Path) -> Log:
    """The log at `path`, e.g. `OUT/log.jsonl`, which this attempt adds to."""
    return _FileLog(path) if is_local(path) else _ObjectLog(path)


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


class _FileLog:
    """One file for all attempts. Everyone sees a line as soon as it is written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._torn = not _ends_with_a_line(path)
        self._stream = path.open("ab", buffering=0)

    def write(self, event: str, **facts: Any) -> None:
        line = (b"\n" if self._torn else b"") + _line(event, facts).encode()
        try:
            written = self._stream.write(line)
        except OSError as error:
            print(f"the log {self._path} could not be written: {error}", file=sys.stderr)
            written = 0
        self._torn = written < len(line)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._stream.close()


class _ObjectLog:
    """One object for each attempt, sent whole every few seconds."""

    def __init__(self, path: Path) -> None:
        self._path = _folder(path) / f"{time.time():.3f}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lines: list[str] = []
        self._sent = 0
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_often, name="log", daemon=True)
        self._thread.start()

    def write(self, event: str, **facts: Any) -> None:
        self._lines.append(_line(event, facts))

    def flush(self) -> None:
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
        self._ended.set()
        self._thread.join()
        self.flush()

    def _send_often(self) -> None:
        while not self._ended.wait(SEND_EVERY):
            self.flush()


def _line(event: str, facts: dict[str, Any]) -> str:
    return json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n"


def _ends_with_a_line(path: Path) -> bool:
    """Whether nothing is in the file, or a whole line at its end: an attempt may be killed."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _folder(path: Path) -> Path:
    """`log/` for `log.jsonl`."""
    return path.with_suffix("")
