"""The command `extract`: hidden states of both models into activation stores, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lrt_dist.commands._busy import EVENT, busy_message
from lrt_dist.commands._unit_records import Machines, library_versions, note_versions, record_of
from lrt_dist.commands.extract_into_moments import extract_into_moments
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError
from lrt_dist.runtime.contract import Done
from lrt_dist.sites import Side, Sided
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.committing import Committer
from lrt_dist.store.lease import Lease, sole_driver
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.objects import delete_partial_writes
from lrt_dist.tasks.extract import ExtractTask
from lrt_dist.workspace.placement import compute_dtype, extraction_chain
from lrt_dist.workspace.run import Run


def extract(run: Run) -> None:
    """Fill both stores, or the moments where nothing is stored, from wherever they stand.

    Units that cannot be computed are quarantined and the others go on; see `quarantined_units`.
    """
    run.runtime.look()  # nodes may have joined since the corpus was tokenised
    if run.config.extract.store == "none":
        index = RowIndex.open(run.folder.rows)
        extract_into_moments(run, Sided.of(lambda side: identity(run, side, index)))
        return
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
    machines, versions = Machines(run, committed), library_versions()
    note_versions(run, committed, versions)

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

    spec = extraction_chain(run, side)
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
                record = record_of(outcome, fingerprint, versions)
                committer.commit(
                    record,
                    partial(store.checksums, record.unit),
                    failed_before=record.unit in quarantined,
                )
                machines.see(record)
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
