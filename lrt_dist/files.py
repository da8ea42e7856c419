"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrt_dist.errors import explain_full


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what shall lie at `path`: it is moved there if all goes well, else deleted.

    Raises:
        DiskFullError: there is no space left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with explain_full(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
