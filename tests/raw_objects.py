"""Objects as they lie in a folder or an object store."""

from __future__ import annotations

import obstore

from lrt_dist.store.objects import open_objects


class Objects:
    """The bare objects below a URL, by which a test sees and spoils what was written."""

    def __init__(self, url: str) -> None:
        self._store = open_objects(url)

    def names(self, prefix: str = "") -> list[str]:
        listed = obstore.list(self._store, prefix).collect()
        return sorted(str(entry["path"]) for entry in listed)

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self._store, name).bytes())

    def write(self, name: str, content: bytes) -> None:
        obstore.put(self._store, name, content)

    def delete(self, name: str) -> None:
        obstore.delete(self._store, name)
