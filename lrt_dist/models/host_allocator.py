"""How the C library of a process handles large blocks of memory that were freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = (
    -1,
    -3,
)  # https://man7.org/linux/man-pages/man3/mallopt.3.html
_LARGEST = 1 << 30
"""Bytes of a block that is kept when it is freed."""


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next layer, or the next rows, as it keeps small
    ones.

    By default glibc gives a large block back to the system, which hands it out again page by page,
    each filled with zeros: a tenth of the time of a forward pass on two cores (`extraction_bare`
    in `benchmarks/`). Where the C library has no such settings, nothing happens.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
