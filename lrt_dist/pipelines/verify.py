"""The verb `verify`: re-read every committed chunk and compare it with the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError
from lrt_dist.pipelines.folder import RunFolder
from lrt_dist.runtime.progress import Reporter
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger


@dataclass(frozen=True)
class Finding:
    """One bad unit of one store: which arrays, and what is wrong."""

    side: int
    unit: int
    problems: tuple[str, ...]


def verify(folder: RunFolder, reporter: Reporter, *, repair: bool) -> list[Finding]:
    """Check checksums and counts of both stores.

    Args:
        repair: drop bad units from the ledger, so that `extract` redoes them.
    """
    index = RowIndex.open(folder.rows)
    findings: list[Finding] = []
    for side in (0, 1):
        ledger = Ledger(folder.ledger_url(side))
        committed = ledger.committed()
        if not committed:
            continue
        store = ActivationStore.open(folder.store_url(side))
        with reporter.stage(
            f"verify {folder.store_url(side)[-24:]}", len(committed), "units"
        ) as bar:
            for unit, record in committed.items():
                problems = []
                if record.fingerprint != store.fingerprint:
                    problems.append("record and store belong to different runs")
                if unit >= index.units or record.rows != len(index.unit_rows(unit)):
                    problems.append(f"{record.rows} rows, not as many as the row index has")
                expected = {
                    f"{kind}/{layer}" for kind in ("layers", "norms") for layer in store.layers
                }
                if expected != record.crc.keys():
                    problems.append("the record does not name every array of the store")
                for name, crc in record.crc.items():
                    try:
                        found = store.crc(name, unit)
                    except CorruptionError as error:
                        problems.append(f"{name}: {error}")
                        continue
                    if found != crc:
                        problems.append(f"{name}: crc32 is {found}, the ledger says {crc}")
                if problems:
                    findings.append(Finding(side, unit, tuple(problems)))
                    if repair:
                        ledger.drop(unit)
                bar.advance()
    return findings
