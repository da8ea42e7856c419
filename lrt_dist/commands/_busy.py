"""How much of their time the stages of a run's chains computed, as its log has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

EVENT = "busy"


def busy_message(phase: str, replicas: Sequence[Sequence[float | None]]) -> str | None:
    """A sentence of the shares of every stage; None where nothing ran."""
    known = [[share for share in replica if share is not None] for replica in replicas]
    if not any(known):
        return None
    text = "; ".join(", ".join(f"{share:.0%}" for share in shares) for shares in known if shares)
    return f"{phase}: stages computed {text} of the time"


def busy_messages(log: Path) -> list[str]:
    """The latest of each phase; none of a run that has not come so far."""
    if not log.is_file():
        return []
    latest: dict[str, str] = {}
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if f'"{EVENT}"' not in line:
                continue
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that is writing it
                continue
            if event.get("event") == EVENT:
                latest[event["phase"]] = event["message"]
    return list(latest.values())
