"""How much of their time the stages of a run's chains computed, as its log has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrt_dist.runtime.log import read_log

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
    latest = {e["phase"]: e["message"] for e in read_log(log) if e.get("event") == EVENT}
    return list(latest.values())
