"""How much of their time the stages of a run's chains computed, as its log has it.

The rest of the time a stage waited: for a carry of the stage before, for the driver, or for room.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrt_dist.runtime.log import read_log

EVENT = "busy"
Shares = Sequence[Sequence[float | None]]
"""Of every stage of every replica; None of a stage that did nothing."""


def shares_text(replicas: Shares) -> str:
    """E.g. `97%, 93%; 95%, 94%`: stages side by side, replicas apart; empty where nothing ran."""
    known = [[share for share in replica if share is not None] for replica in replicas]
    return "; ".join(", ".join(f"{share:.0%}" for share in shares) for shares in known if shares)


def busy_message(phase: str, replicas: Shares) -> str | None:
    """A sentence of the shares; None where nothing ran."""
    text = shares_text(replicas)
    return f"{phase}: stages computed {text} of the time" if text else None


def busy_shares(log: Path) -> dict[str, Shares]:
    """The latest of each phase; none of a run that has not come so far."""
    return {e["phase"]: e["shares"] for e in read_log(log) if e.get("event") == EVENT}


def busy_messages(log: Path) -> list[str]:
    """A sentence for each phase."""
    found = (busy_message(phase, shares) for phase, shares in busy_shares(log).items())
    return [message for message in found if message]
