"""The command `verify`: re-read every committed chunk and compare it with the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError
from lrt_dist.runtime.progress import Progress
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.workspace.folder import RunFolder


@dataclass(frozen=True)
class Finding:
    """One bad unit of one store: which arrays, and what is wrong."""

    side: Side
    unit: int
    problems: tuple[str, ...]


def verify(folder: RunFolder, progress: Progress, *, repair: bool) -> list[Finding]:
    """Check checksums and counts of both stores.

    Args:
        repair: drop bad units from the ledger, so that `extract` redoes them.
    """
    index = RowIndex.open(folder.rows)
    findings: list[Finding] = []
    for side in Side:
        ledger = Ledger(folder.ledger_url(side))
        committed = ledger.committed()
        if not committed:
            continue
        store = ActivationStore.open(folder.store_url(side))
        with progress.phase(f"verify ({side})", len(committed), "units") as phase:
            for unit, record in committed.items():
                problems = tuple(_problems(index, store, record))
                if problems:
                    findings.append(Finding(side, unit, problems))
                    if repair:
                        ledger.drop(unit)
                phase.advance()
    return findings


def _problems(index: RowIndex, store: ActivationStore, record: UnitRecord) -> Iterator[str]:
    """What is wrong with one unit, in words."""
    if record.fingerprint != store.fingerprint:
        yield "record and store belong to different runs"
    if record.unit >= index.units or record.rows != len(index.unit_rows(record.unit)):
        yield f"{record.rows} rows, not as many as the row index has"
    arrays = {f"{kind}/{layer}" for kind in ("layers", "norms") for layer in store.layers}
    if arrays != record.checksums.keys():
        yield "the record does not name every array of the store"
    for name, checksum in record.checksums.items():
        try:
            stored = store.checksum(name, record.unit)
        except CorruptionError as error:
            yield f"{name}: {error}"
            continue
        if stored != checksum:
            yield f"{name}: crc32 is {stored}, the ledger says {checksum}"
