"""What is written down of an extracted unit, and said of machines and versions that differ."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from lrt_dist.errors import CorruptionError
from lrt_dist.runtime.contract import Done, receipts_of
from lrt_dist.store.ledger import UnitRecord
from lrt_dist.tasks.extract import ExtractTask
from lrt_dist.workspace.run import Run


def record_of(done: Done[ExtractTask], fingerprint: str, versions: dict[str, str]) -> UnitRecord:
    """What all stages say of a unit, as one.

    Args:
        fingerprint: of the store's identity.

    Raises:
        CorruptionError: the stages saw different texts.
    """
    receipts = receipts_of(done)
    unequal = {(receipt.rows, receipt.token_digest) for receipt in receipts}
    if len(unequal) > 1:
        raise CorruptionError(
            f"the stages of a chain saw different texts as {done.task.key}: "
            + " and ".join(f"{rows} rows of tokens {digest}" for rows, digest in sorted(unequal))
            + f"; is {done.task.rows_path} the same file on every node?"
        )
    return UnitRecord(
        unit=done.task.unit,
        rows=receipts[0].rows,
        checksums={name: c for receipt in receipts for name, c in receipt.checksums.items()},
        mean_norms={layer: n for receipt in receipts for layer, n in receipt.mean_norms.items()},
        machines=tuple(receipt.machine for receipt in receipts if receipt.checksums),
        token_digest=receipts[0].token_digest,
        fingerprint=fingerprint,
        seconds=max(receipt.seconds for receipt in receipts),
        versions=versions,
        token_budget=done.task.token_budget,
    )


def library_versions() -> dict[str, str]:
    """Of the libraries on which bits depend."""
    return {name: version(name) for name in ("torch", "transformers", "zarr")}


class Machines:
    """Says it where a store gets units of another kind of machine; see `UnitRecord.conflict`."""

    def __init__(self, run: Run, committed: Mapping[int, UnitRecord]) -> None:
        self._run = run
        self._known = {record.machines for record in committed.values()}

    def see(self, record: UnitRecord) -> None:
        """Of each unit that is computed."""
        if record.machines in self._known:
            return
        if self._known:
            self._run.progress.note(
                "machine",
                f"from unit {record.unit} on computed by {', then '.join(record.machines)}, "
                "unlike the units before: numbers agree to rounding, not bit for bit",
            )
        self._known.add(record.machines)


def note_versions(
    run: Run, committed: Mapping[int, UnitRecord], versions: Mapping[str, str]
) -> None:
    """Say it where a store was begun with other versions; see `UnitRecord.conflict`."""
    others = {
        f"{name} {record.versions.get(name)}"
        for record in committed.values()
        for name in versions
        if record.versions.get(name) != versions[name]
    }
    if others:
        now = ", ".join(f"{name} {number}" for name, number in versions.items())
        run.progress.note(
            "versions",
            f"{len(committed)} units were computed with {', '.join(sorted(others))}, the others "
            f"will be with {now}: numbers agree to rounding, not bit for bit",
        )
