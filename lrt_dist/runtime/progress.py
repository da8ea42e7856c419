"""One honest progress bar on a terminal, JSON lines elsewhere, and always a log file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EVERY = 5.0
"""Seconds between two progress lines where there is no terminal."""


class Reporter:
    """Tells a person, or a log, how far the work is.

    Use as a context manager. `stage` opens one stage of a run; its `advance` is called as units
    end. Everything is also appended to `log`, one JSON object a line.
    """

    def __init__(self, log: Path | None = None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._log_path = log
        self._log: IO[str] | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> Reporter:
        if self._log_path:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_path.open("a", encoding="utf-8")
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<26}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                _Rate(),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._log:
            self._log.close()

    def note(self, event: str, message: str, **facts: Any) -> None:
        """One line that stays."""
        self._write(event, message=message, **facts)
        if self.console.is_terminal:
            self.console.print(message, highlight=False)
        else:
            self._line(event, message=message, **facts)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[StageBar]:
        """Open a stage of `total` units, e.g. `stage("extract SmolLM2", 12, "units")`."""
        stage = StageBar(self, name, total, unit)
        try:
            yield stage
        finally:
            stage.end()

    def _write(self, event: str, **facts: Any) -> None:
        if self._log:
            record = {"time": round(time.time(), 3), "event": event, **facts}
            self._log.write(json.dumps(record) + "\n")
            self._log.flush()

    def _line(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), file=sys.stderr, flush=True)


class StageBar:
    """One stage of a run on the bar."""

    def __init__(self, reporter: Reporter, name: str, total: int, unit: str) -> None:
        self._reporter, self.name, self.total, self._unit = reporter, name, total, unit
        self.done = self._before = 0
        self._began = time.monotonic()
        self._last_line = 0.0
        bar = reporter._bar
        self._task = bar.add_task(name, total=total, unit=unit) if bar else None
        reporter._write("stage", stage=name, total=total, unit=unit)

    def resume(self, count: int) -> None:
        """`count` units were done before; they are not counted into the rate."""
        self.done += count
        self._before = count
        if self._reporter._bar and self._task is not None:
            self._reporter._bar.reset(self._task, total=self.total, completed=count)

    def advance(self, count: int = 1, **facts: Any) -> None:
        """`count` more units are done."""
        self.done += count
        elapsed = time.monotonic() - self._began
        rate = (self.done - self._before) / elapsed if elapsed else 0.0
        known = {
            "stage": self.name,
            "done": self.done,
            "total": self.total,
            "unit": self._unit,
            "per_second": round(rate, 3),
            "seconds_left": round((self.total - self.done) / rate) if rate else None,
            **facts,
        }
        self._reporter._write("progress", **known)
        if self._reporter._bar and self._task is not None:
            self._reporter._bar.advance(self._task, count)
        elif time.monotonic() - self._last_line >= EVERY or self.done >= self.total:
            self._last_line = time.monotonic()
            self._reporter._line("progress", **known)

    def end(self) -> None:
        """Take the bar away; the log keeps how long it took."""
        seconds = round(time.monotonic() - self._began, 2)
        self._reporter._write("stage_end", stage=self.name, done=self.done, seconds=seconds)
        if self._reporter._bar and self._task is not None:
            self._reporter._bar.remove_task(self._task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")
