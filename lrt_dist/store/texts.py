"""Texts kept by content: what a model wrote once is not written again.

As `store.cells` for scores: a text's address is a hash of everything that decides it, and each
finished task adds one file, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrt_dist.store.cells import address
from lrt_dist.store.tables import Table, TextRow


class TextStore:
    """All texts in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            CorruptionError: a file cannot be read.
        """
        self._folder = folder
        tables = [Table.read(path, TextRow) for path in sorted(folder.glob("*.parquet"))]
        self._texts = {row.address: row.text for table in tables for row in table}

    def __contains__(self, address: bytes) -> bool:
        """Whether the text of an address is there."""
        return address.hex() in self._texts

    def __getitem__(self, address: bytes) -> str:
        return self._texts[address.hex()]

    def add(self, addresses: Sequence[bytes], texts: Sequence[str]) -> None:
        """Keep the texts of a finished task.

        Raises:
            DiskFullError: there is no space left.
        """
        pairs = zip(addresses, texts, strict=True)
        rows = [TextRow(address=address.hex(), text=text) for address, text in pairs]
        name = address(*addresses).hex()
        Table.of(TextRow, rows).save(self._folder / f"{name}.parquet", name)
        self._texts |= {row.address: row.text for row in rows}
