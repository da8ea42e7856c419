"""The command `extract`: hidden states of both models into activation stores, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

from lrt_dist.commands._busy import EVENT, busy_message
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError, IncompleteError
from lrt_dist.runtime.contract import Done, receipts_of
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.committing import Committer
from lrt_dist.store.lease import Lease, sole_driver
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.store.objects import delete_partial_writes
from lrt_dist.tasks.extract import ExtractTask
from lrt_dist.workspace.placement import chain, compute_dtype
from lrt_dist.workspace.run import Run


def extract(run: Run) -> None:
    """Fill both stores, from wherever they stand.

    Units that cannot be computed are quarantined and the others go on; see `quarantined_units`.
    """
    run.runtime.look()  # nodes may have joined since the corpus was tokenised
    for side in Side:
        extract_side(run, side)


def extract_side(run: Run, side: Side) -> None:
    """Fill the store of one model.

    Raises:
        UserError: the store holds something else, or another driver works on it.
        IncompleteError: another driver took the store over.
    """
    index = RowIndex.open(run.folder.rows)
    ledger = Ledger(run.folder.ledger_url(side))
    fingerprint = ledger.claim(identity(run, side, index))
    if len(ledger.committed_units()) == index.units:
        return
    with sole_driver(ledger.url, partial(run.progress.note, "lease")) as lease:
        _extract_missing(run, side, index, ledger, fingerprint, lease)


def _extract_missing(
    run: Run, side: Side, index: RowIndex, ledger: Ledger, fingerprint: str, lease: Lease
) -> None:
    """All units that are not committed."""
    committed = ledger.committed()
    quarantined = ledger.quarantined()
    missing = [unit for unit in range(index.units) if unit not in committed]
    missing.sort(key=quarantined.__contains__)  # what failed before comes last
    url, layers = run.folder.store_url(side), run.stored_layers(side)
    delete_partial_writes(url)
    delete_partial_writes(ledger.url)
    store = ActivationStore.create(
        url,
        layers=dict.fromkeys(layers, run.facts[side].width),
        rows=index.rows,
        rows_per_unit=index.rows_per_unit,
        logical_dtype=run.config.extract.store_dtype,
        compress=run.config.extract.compress,
        fingerprint=fingerprint,
    )
    budget = run.config.extract.batch_tokens
    machines = {record.machines for record in committed.values()}
    versions = _versions()
    _note_versions(run, committed, versions)

    def tasks() -> Iterator[ExtractTask]:
        for unit in missing:
            lengths = index.lengths(unit, side)
            if unit == missing[0] and run.machines.gpus:
                message = small_units_message(sum(lengths), index.rows_per_unit, budget)
                if message:
                    run.progress.note("small units", message)
            yield ExtractTask(
                unit,
                side,
                run.folder.rows,
                url,
                layers,
                lengths,
                budget,
                fingerprint,
                unit in quarantined,
            )

    spec = chain(run, side, head=False, batch_tokens=budget, extracts=True)
    model = run.folder.model(side).model.rsplit("/", 1)[-1]
    name = f"extract {model}"
    count = len(spec.stages)
    run.progress.note("load", f"loading {model} in {count} stage{'s' if count > 1 else ''}")
    with (
        run.runtime.chains(spec) as chains,
        run.progress.phase(name, index.units, "units") as bar,
        Committer(ledger, lease.check) as committer,
    ):
        bar.resume(len(committed))
        for outcome in chains.run(tasks()):
            lease.check()
            if isinstance(outcome, Done):
                record = _record(outcome, fingerprint, versions)
                committer.commit(
                    record,
                    partial(store.checksums, record.unit),
                    failed_before=record.unit in quarantined,
                )
                if record.machines not in machines:
                    machines.add(record.machines)
                    _note_machine(run, record, first=len(machines) == 1)
            else:
                ledger.quarantine(outcome.task.unit, outcome.reason)
                run.progress.note(
                    "quarantined", f"unit {outcome.task.unit} quarantined: {outcome.reason}"
                )
            bar.advance()
        shares = chains.busy_shares()
        if message := busy_message(name, shares):
            run.progress.note(EVENT, message, phase=name, shares=shares)


def small_units_message(tokens: int, rows: int, budget: int) -> str | None:
    """What to say where no batch will be full, since batches do not span units; else None.

    Args:
        tokens: of a unit.
        rows: of a unit.
        budget: tokens of a batch.
    """
    if 2 * tokens > budget:
        return None
    return (
        f"a unit holds {tokens:,} tokens, and a batch may hold {budget:,}: the GPUs have more to "
        f"do at once with extract.rows_per_unit: {rows * (budget // tokens)}, in a new --out"
    )


def _note_machine(run: Run, record: UnitRecord, *, first: bool) -> None:
    """Say it where a store gets units of another kind of machine; see `UnitRecord.conflict`."""
    if not first:
        run.progress.note(
            "machine",
            f"from unit {record.unit} on computed by {', then '.join(record.machines)}, unlike the "
            "units before: numbers agree to rounding, not bit for bit",
        )


def _versions() -> dict[str, str]:
    """Of the libraries on which bits depend."""
    return {name: version(name) for name in ("torch", "transformers", "zarr")}


def _note_versions(
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


def identity(run: Run, side: Side, index: RowIndex) -> dict[str, Any]:
    """Everything that the bytes of a store depend on, beside the libraries' versions."""
    model, extract_config = run.folder.model(side), run.config.extract
    return {
        "model": model.model,
        "revision": model.revision,
        "weights": run.facts[side].digest,
        "layers": list(run.stored_layers(side)),
        "compute_dtype": compute_dtype(run, side),
        "store_dtype": extract_config.store_dtype,
        "compress": extract_config.compress,
        "rows": index.rows,
        "rows_per_unit": index.rows_per_unit,
        "row_index": index.digests[side],
    }


def quarantined_units(run: Run) -> dict[str, str]:
    """Quarantined units of both models, with reasons, of an extraction that is complete but for
    them.

    Raises:
        IncompleteError: a unit is neither committed nor quarantined.
    """
    index = RowIndex.open(run.folder.rows)
    reasons: dict[str, str] = {}
    for side in Side:
        ledger = Ledger(run.folder.ledger_url(side))
        quarantined = ledger.quarantined()
        missing = index.units - len(ledger.committed_units() | quarantined.keys())
        if missing:
            raise IncompleteError(
                f"{run.folder.store_url(side)} is incomplete: {missing} of {index.units} units are "
                "missing; run `lrt-dist extract` to go on"
            )
        name = run.folder.model(side).model
        reasons |= {f"{name}, unit {unit}": reason for unit, reason in quarantined.items()}
    return reasons


def _record(done: Done[ExtractTask], fingerprint: str, versions: dict[str, str]) -> UnitRecord:
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
