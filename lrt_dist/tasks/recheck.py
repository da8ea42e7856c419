"""Committed units read again: is what the store holds what the ledger says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger, UnitRecord


@dataclass(frozen=True)
class RecheckTask:
    """Some committed units of one model.

    Attributes:
        side: which model.
        units: their numbers.
        rows_path: the row index.
        store_url: the activation store.
        ledger_url: its ledger.
    """

    side: Side
    units: tuple[int, ...]
    rows_path: Path
    store_url: str
    ledger_url: str


@dataclass(frozen=True)
class Finding:
    """One bad unit of one store: which arrays, and what is wrong."""

    side: Side
    unit: int
    problems: tuple[str, ...]


def recheck(task: RecheckTask) -> list[Finding]:
    """Read every chunk of the units, and compare checksums and counts.

    Raises:
        CorruptionError: a record of the ledger cannot be read.
    """
    index, store = RowIndex.open(task.rows_path), ActivationStore.open(task.store_url)
    records = Ledger(task.ledger_url).records(task.units)
    found = (
        Finding(task.side, unit, tuple(_problems(index, store, record)))
        for unit, record in records.items()
    )
    return [finding for finding in found if finding.problems]


def _problems(index: RowIndex, store: ActivationStore, record: UnitRecord) -> Iterator[str]:
    """What is wrong with one unit, in words."""
    if record.fingerprint != store.fingerprint:
        yield "record and store belong to different runs"
    if record.unit >= index.units or record.rows != len(index.unit_rows(record.unit)):
        yield f"{record.rows} rows, not as many as the row index has"
    arrays = {f"{kind}/{layer}" for kind in ("layers", "norms") for layer in store.layers}
    if arrays != record.checksums.keys():
        yield "the record does not name every array of the store"
    for name in sorted(store.arrays(record.unit) & record.checksums.keys()):
        checksum = record.checksums[name]
        try:
            stored = store.checksum(name, record.unit)
        except CorruptionError as error:
            yield f"{name}: {error}"
            continue
        if stored != checksum:
            yield f"{name}: crc32 is {stored}, the ledger says {checksum}"
