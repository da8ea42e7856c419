"""Large things that one process makes for another: they stay where they are, and handles travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Parcel:
    """What a stage returns at the end of a task if it has made large things for another chain.

    Attributes:
        receipt: small; the driver gets it.
        contents: by name. They stay where they are, and each goes its own way from there; the
            driver gets a `Handle` to each.
    """

    receipt: Any
    contents: Mapping[Any, Any]


class Handle(Protocol):
    """Something large that lies somewhere, until nobody has a handle to it any more.

    A task may carry handles to a stage, which gets the things while the task is opened, and keeps
    no handle: see `runtime.chain.RemoteContent` for what may happen else.
    """

    @classmethod
    def get_all(cls, handles: Sequence[Self]) -> list[Any]:
        """The things themselves, all at once; they may be shared, and must not be changed."""
        ...


def contents_of(handles: Sequence[Handle]) -> list[Any]:
    """See `Handle.get_all`; all handles are of one runtime."""
    return type(handles[0]).get_all(handles) if handles else []
