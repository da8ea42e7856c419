"""The verb `extract`: hidden states of both models into activation stores, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError
from lrt_dist.pipelines.run import Run
from lrt_dist.runtime.tasks import Done
from lrt_dist.stages.extract import ExtractTask
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.store.objects import sweep_staged


def extract(run: Run) -> None:
    """Fill both stores, from wherever they stand.

    Units that cannot be computed are quarantined and the others go on; see `incomplete_units`.
    """
    for side in (0, 1):
        extract_side(run, side)


def extract_side(run: Run, side: int) -> None:
    """Fill the store of one model."""
    index = RowIndex.open(run.folder.rows)
    ledger = Ledger(run.folder.ledger_url(side))
    stamp = ledger.claim(identity(run, side, index))
    committed = ledger.committed()
    missing = [unit for unit in range(index.units) if unit not in committed]
    facts, layers = run.facts[side], run.layers[side]
    if not missing:
        return
    url = run.folder.store_url(side)
    sweep_staged(url)
    sweep_staged(ledger.url)
    ActivationStore.create(
        url,
        layers=dict.fromkeys(layers, facts.width),
        rows=index.rows,
        rows_per_unit=index.rows_per_unit,
        logical_dtype=run.config.extract.store_dtype,
        compress=run.config.extract.compress,
        fingerprint=stamp,
    )
    budget = run.config.extract.batch_tokens
    versions = {name: version(name) for name in ("torch", "transformers", "zarr")}

    def tasks() -> Iterator[ExtractTask]:
        for unit in missing:
            lengths = tuple(len(segment.ids[side]) for segment in index.unit(unit))
            yield ExtractTask(unit, side, run.folder.rows, url, layers, lengths, budget)

    spec = run.chain(side, head=False, batch_tokens=budget)
    name = f"extract {run.folder.model(side).model.rsplit('/', 1)[-1]}"
    with (
        run.reporter.stage(name, index.units, "units") as bar,
        run.runtime.chains(spec) as chains,
    ):
        bar.resume(len(committed))
        for outcome in chains.run(tasks()):
            if isinstance(outcome, Done):
                ledger.commit(_record(outcome, stamp, versions))
            else:
                ledger.quarantine(outcome.task.unit, outcome.reason)
                run.reporter.note(
                    "quarantined", f"unit {outcome.task.unit} set aside: {outcome.reason}"
                )
            bar.advance()


def identity(run: Run, side: int, index: RowIndex) -> dict[str, Any]:
    """Everything that the bytes of a store depend on, beside the libraries' versions."""
    model, extract_config = run.folder.model(side), run.config.extract
    return {
        "model": model.model,
        "revision": model.revision,
        "weights": run.facts[side].identity,
        "layers": list(run.layers[side]),
        "compute_dtype": run.compute_dtype(side),
        "store_dtype": extract_config.store_dtype,
        "compress": extract_config.compress,
        "batch_tokens": extract_config.batch_tokens,
        "rows": index.rows,
        "rows_per_unit": index.rows_per_unit,
        "row_index": index.content,
    }


def incomplete_units(run: Run) -> dict[str, str]:
    """Quarantined units of both models, with reasons.

    Raises:
        IncompleteError: a unit is neither committed nor quarantined.
    """
    index = RowIndex.open(run.folder.rows)
    set_aside: dict[str, str] = {}
    for side in (0, 1):
        ledger = Ledger(run.folder.ledger_url(side))
        quarantined = ledger.quarantined()
        missing = index.units - len(ledger.committed().keys() | quarantined.keys())
        if missing:
            raise IncompleteError(
                f"{run.folder.store_url(side)} is incomplete: {missing} of {index.units} units are "
                "missing; run `lrt-dist extract` to go on"
            )
        name = run.folder.model(side).model
        set_aside |= {f"{name}, unit {unit}": reason for unit, reason in quarantined.items()}
    return set_aside


def _record(done: Done, stamp: str, versions: dict[str, str]) -> UnitRecord:
    first = done.receipts[0]
    return UnitRecord(
        unit=done.task.unit,
        rows=first["rows"],
        crc={name: crc for receipt in done.receipts for name, crc in receipt["crc"].items()},
        tokens=first["tokens"],
        fingerprint=stamp,
        nonfinite=0,
        seconds=max(receipt["seconds"] for receipt in done.receipts),
        versions=versions,
        token_budget=done.task.token_budget,
    )
