"""Files of a run, on a file system or in an object store: whole or not at all.

A path is a `pathlib.Path`, or a `upath.UPath` that has the methods of one and speaks to an object
store through obstore, the client of the activation stores too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import obstore.exceptions
import obstore.fsspec
from upath import UPath

from lrt_dist.errors import UserError, as_disk_full_error

SCHEMES = ("s3", "gs", "az")
"""Object stores that can be spoken to: S3 and whatever is compatible, Google's and Azure's."""

PARTIAL = (".*.partial", ".tmp??????")
"""What a file is called that is not whole yet: by us, and by safetensors."""
StorageError = obstore.exceptions.BaseError
"""What an object store answers that cannot be used, after all retries."""

for _scheme in SCHEMES:
    obstore.fsspec.register(_scheme)


def place(at: str | Path) -> Path:
    """A path from what a user wrote: of a file system, or `s3://…`, `gs://…`, `az://…`.

    Raises:
        UserError: it is a URL of another kind.
    """
    if not isinstance(at, str):
        return at
    scheme, separator, _ = at.partition("://")
    if not separator:
        return Path(at)
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise UserError(f"{at}: only a path, or a URL that begins with {known}, can be used")
    return cast(Path, UPath(at.rstrip("/")))


def is_local(path: Path) -> bool:
    """Whether it is a path of a file system."""
    return isinstance(path, Path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A local path to write to, which replaces `path` if all goes well and is deleted otherwise.

    Two processes may write the same file at once; the last one to end wins. What belongs into an
    object store is written to the machine's own folder for temporary files, and sent from there.

    Raises:
        DiskFullError: there is no space left.
    """
    if is_local(path):
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with as_disk_full_error(str(path)):
                path.parent.mkdir(parents=True, exist_ok=True)
                yield partial
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return
    temporary = f"{tempfile.gettempdir()} ($TMPDIR), on the way to {path}"
    with (
        as_disk_full_error(temporary),
        tempfile.TemporaryDirectory(prefix="lrt-dist-") as folder,
    ):
        partial = Path(folder) / path.name
        yield partial
        remote = _remote(path)
        remote.fs.put_file(str(partial), remote.path)


def sweep(folder: Path) -> None:
    """Delete what killed processes left of `atomic_write` in a folder; nobody may write there."""
    if is_local(folder):
        for pattern in PARTIAL:
            for partial in folder.glob(pattern):
                partial.unlink(missing_ok=True)


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    A path's own `is_file` also says no where an object store could not be asked.

    Raises:
        StorageError: it could not be asked.
    """
    if is_local(path):
        return path.is_file()
    remote = _remote(path)
    try:
        return bool(remote.fs.info(remote.path)["type"] == "file")
    except FileNotFoundError:
        return False


def delete_tree(path: Path) -> None:
    """Delete a folder and all that is in it; there may be none."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=not path.exists())
        return
    remote = _remote(path)
    for name in remote.fs.find(remote.path):  # a folder itself is no object
        remote.fs.rm_file(name)


def read_range(path: Path, begin: int, end: int) -> bytes:
    """Bytes from `begin` up to `end` of a file in an object store."""
    if begin == end:
        return b""
    remote = _remote(path)
    fetched: bytes = remote.fs.cat_file(remote.path, start=begin, end=end)
    return fetched


def _remote(path: Path) -> Any:
    return path
