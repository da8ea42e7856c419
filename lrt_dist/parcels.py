"""Large things that one process makes for another: they stay where they are, and handles travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Parcel:
    """What a stage returns at the end of a task if it has made something large for another chain.

    Attributes:
        receipt: small; the driver gets it.
        content: stays where it is; the driver gets a `Handle` to it.
    """

    receipt: Any
    content: Any


class Handle(Protocol):
    """Something large that lies somewhere, until nobody has a handle to it any more.

    A task may carry it to a stage, which gets the thing while the task is opened, and keeps no
    handle: see `runtime.chain.RemoteContent` for what may happen else.
    """

    def get(self) -> Any:
        """The thing itself; it may be shared with others, and must not be changed."""
        ...
