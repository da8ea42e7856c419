"""What can go wrong, by who has to act.

Every message names the numbers, what they belong to, and the way out. The command line turns the
class into its exit code; a library user catches `LrtError` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LrtError(Exception):
    """Base of everything this package raises on purpose. Exit code 1: the work failed."""

    exit_code = 1


class UserError(LrtError, ValueError):
    """The input is wrong and nothing was started. Exit code 2."""

    exit_code = 2


class IncompleteError(LrtError):
    """The work stopped early and the same command resumes it. Exit code 3."""

    exit_code = 3


class NoReplicaError(IncompleteError):
    """Machines are gone, and what is left has no room for the work. Exit code 3."""


class NoPlaceError(LrtError):
    """No machines have room for the work, and none had. Exit code 1."""


class LostError(IncompleteError):
    """What a process or a node held in memory is gone with it. Exit code 3."""


class DiskFullError(LrtError):
    """No space left; the same command resumes once there is some. Exit code 3."""

    exit_code = 3


class CorruptionError(LrtError):
    """Bytes on disk are not the bytes that were written. Exit code 1."""


class UnitError(LrtError):
    """One unit cannot be computed, however often it is tried (non-finite states, say).

    The runtime quarantines the unit and goes on with the others.
    """


class DeviceMemoryError(LrtError):
    """A device ran out of memory; the runtime tries the same work in smaller batches."""


@contextmanager
def as_disk_full_error(path: str) -> Iterator[None]:
    """Turn a full disk into an error that says so; let everything else through."""
    try:
        yield
    # Python, arrow, safetensors and object stores each have an error of their own for it.
    except Exception as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text or "StorageFull" in text:
            raise DiskFullError(
                f"no space left while writing to {path} ({error}); nothing committed is lost: "
                "free some space and run the same command again"
            ) from error
        raise
