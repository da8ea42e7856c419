"""One client for local folders and object stores."""

from __future__ import annotations

import os
import re
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore

_STAGED = re.compile(r"#\d+$")


def open_objects(url: str) -> ObjectStore:
    """A client for a folder or a URL (`s3://…`, `gs://…`, `az://…`).

    Credentials and endpoints come from the provider's usual environment variables, e.g.
    `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`.
    """
    if "://" not in url:
        return LocalStore(Path(url), mkdir=True)
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if url.startswith("az://") and account:
        # obstore takes it from there too, but then it can't say what it is when zarr asks it.
        return obstore.store.from_url(url, account_name=account)
    return obstore.store.from_url(url)


def exists_at(url: str) -> bool:
    """Whether there can be anything at a url: false for a local folder that does not exist."""
    return "://" in url or Path(url).is_dir()


def child(url: str, name: str) -> str:
    """`url/name`."""
    return f"{url.rstrip('/')}/{name}"


def delete_partial_writes(url: str) -> int:
    """Delete what killed writers left half-written in a local folder; how many files.

    Writes go to `NAME#1` and are renamed, so such files were never part of the store. Call this
    only while nobody writes. Object stores stage nothing that can be seen.
    """
    if "://" in url or not Path(url).is_dir():
        return 0
    staged = [path for path in Path(url).rglob("*#*") if _STAGED.search(path.name)]
    for path in staged:
        path.unlink()
    return len(staged)
