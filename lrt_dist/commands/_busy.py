"""How much of their time the stages of a run's chains computed, as its log has it.

The rest of the time a stage waited: for a carry of the stage before, for the driver, or for room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def busy_shares(events: Iterable[Mapping[str, Any]]) -> dict[str, Shares]:
    """The latest of each phase among the events of a log."""
    return {e["phase"]: e["shares"] for e in events if e.get("event") == EVENT}


def busy_messages(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each phase among the events of a log."""
    found = (busy_message(phase, shares) for phase, shares in busy_shares(events).items())
    return [message for message in found if message]
