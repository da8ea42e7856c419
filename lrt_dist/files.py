"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrt_dist.errors import as_disk_full_error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces `path` if all goes well and is deleted otherwise.

    Two processes may write the same file at once; the last one to end wins.

    Raises:
        DiskFullError: there is no space left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with as_disk_full_error(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
