"""One honest progress bar on a terminal, JSON lines elsewhere, and always a log file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import progress as rich
from rich.console import Console
from rich.text import Text

from lrt_dist.runtime.log import Log, open_log

EVERY = 5.0
"""Seconds between two progress lines where there is no terminal."""


class Progress:
    """Tells a person, or a log, how far the work is.

    Use as a context manager. `phase` opens one phase of a command; its `advance` is called as
    units end. Everything is also appended to `log`, one JSON object a line.
    """

    def __init__(
        self,
        log: Path | None = None,
        console: Console | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is shown yet.

        Args:
            log: where the log goes.
            console: where the bar goes.
            check: called as a phase begins and advances; raises if the work must not go on.
        """
        self._check = check
        self.console = console or Console(stderr=True)
        self._log_path = log
        self._log: Log | None = None
        self._bar: rich.Progress | None = None
        self._tasks: dict[str, rich.TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Progress:
        if self._log_path:
            self._log = open_log(self._log_path)
        if self.console.is_terminal:
            self._bar = rich.Progress(
                rich.TextColumn("{task.description:<26}"),
                rich.BarColumn(bar_width=None),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[unit]}"),
                _Rate(),
                rich.TimeRemainingColumn(compact=True),
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

    def flush(self) -> None:
        """Let everyone see the log as far as it was written."""
        if self._log:
            self._log.flush()

    def note(self, event: str, message: str, **facts: Any) -> None:
        """One line that stays."""
        self._write(event, message=message, **facts)
        if self.console.is_terminal:
            self.console.print(message, highlight=False)
        else:
            self._line(event, message=message, **facts)

    @contextmanager
    def phase(self, name: str, total: int | None, unit: str) -> Iterator[Phase]:
        """Open a phase of `total` units, e.g. `phase("extract SmolLM2", 12, "units")`; None where
        nobody knows how many."""
        self._check()
        phase = Phase(name, total, unit, self._show)
        if self._bar:
            self._tasks[name] = self._bar.add_task(name, total=total, unit=unit)
        self._write("phase", phase=name, total=total, unit=unit)
        self._last_line = 0.0
        try:
            yield phase
        finally:
            self._write("phase_end", phase=name, done=phase.done, seconds=phase.seconds)
            if self._bar:
                self._bar.remove_task(self._tasks.pop(name))

    def _show(self, phase: Phase, **facts: Any) -> None:
        """Bring the bar, or the lines, and the log up to date."""
        self._check()
        known = {**phase.facts(), **facts}
        self._write("progress", **known)
        if self._bar and phase.done == phase.resumed:  # not counted into the bar's rate either
            self._bar.reset(self._tasks[phase.name], total=phase.total, completed=phase.done)
        elif self._bar:
            self._bar.update(self._tasks[phase.name], total=phase.total, completed=phase.done)
        elif time.monotonic() - self._last_line >= EVERY or phase.done == phase.total:
            self._last_line = time.monotonic()
            self._line("progress", **known)

    def _write(self, event: str, **facts: Any) -> None:
        if self._log:
            self._log.write(event, **facts)

    def _line(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), file=sys.stderr, flush=True)


class Phase:
    """One phase of a command: how many of its units are done."""

    def __init__(self, name: str, total: int | None, unit: str, show: Callable[..., None]) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.resumed = 0
        self._began = time.monotonic()
        self._show = show

    @property
    def seconds(self) -> float:
        """Since it began."""
        return round(time.monotonic() - self._began, 2)

    def resume(self, count: int) -> None:
        """`count` units were done before; they are not counted into the rate."""
        self.done += count
        self.resumed += count
        if count:
            self._show(self)

    def ended(self) -> None:
        """All is done: what was a guess of the total is known now."""
        self.total = self.done
        self._show(self)

    def advance(self, count: int = 1, **facts: Any) -> None:
        """`count` more units are done."""
        self.done += count
        self._show(self, **facts)

    def facts(self) -> dict[str, Any]:
        """For the log."""
        elapsed = time.monotonic() - self._began
        rate = (self.done - self.resumed) / elapsed if elapsed else 0.0
        left = None if self.total is None or not rate else max(0, self.total - self.done) / rate
        return {
            "phase": self.name,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "per_second": round(rate, 3),
            "seconds_left": None if left is None else round(left),
        }


class _Rate(rich.ProgressColumn):
    def render(self, task: rich.Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")
