"""What can go wrong, by who has to act.

Every message names the numbers, the place and the way out. The command line turns the class into
its exit code; a library user catches `LrtError` for all of them.
"""

from __future__ import annotations


class LrtError(Exception):
    """Base of everything this package raises on purpose. Exit code 1: the work failed."""

    exit_code = 1


class UserError(LrtError, ValueError):
    """The input is wrong and nothing was started. Exit code 2."""

    exit_code = 2


class IncompleteError(LrtError):
    """The work stopped early and the same command resumes it. Exit code 3."""

    exit_code = 3


class CorruptionError(LrtError):
    """Bytes on disk are not the bytes that were written. Exit code 1."""


class UnitError(LrtError):
    """One unit cannot be computed, however often it is tried (non-finite states, say).

    The runtime quarantines the unit and goes on with the others.
    """


class DeviceMemoryError(LrtError):
    """A device ran out of memory; the runtime tries the same work in smaller batches."""
