"""The verb `fit`: moments of all units, then a map and its null for every pair of layers."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict

import numpy as np

from lrt_dist.config import fingerprint
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.linear.affine import AffineMap
from lrt_dist.linear.fit import Fit, fit_source, wanted_moments
from lrt_dist.linear.moments import Moments
from lrt_dist.pipelines.extract import incomplete_units
from lrt_dist.pipelines.run import Run
from lrt_dist.stages.accumulate import (
    AccumulateTask,
    accumulate,
    source_variable,
    target_variable,
)
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.artifacts import is_current, load_moments, save_moments, save_table
from lrt_dist.store.ledger import Ledger, UnitRecord

CHECKPOINT_SECONDS = 60.0
UNITS_PER_TASK = 4
"""Units that are merged where they are read, before moments travel."""


def fit(run: Run) -> str:
    """Fit every wanted pair; returns the fingerprint of the fits.

    Raises:
        IncompleteError: extraction is not done.
        UserError: too few documents for the folds.
    """
    incomplete_units(run)
    index = RowIndex.open(run.folder.rows)
    ledgers = [Ledger(run.folder.ledger_url(side)) for side in (0, 1)]
    records = fitted_units(run)
    units = list(records)
    config = run.config.fit
    of_moments = fingerprint(
        {
            "stores": [ledger.identity() for ledger in ledgers],
            "folds": config.folds,
            "exclude_norm_above": config.exclude_norm_above,
            "units": units,
            "pairs": [str(pair) for pair in run.pairs],
        }
    )
    stamp = fingerprint({"moments": of_moments, "method": config.method})
    if is_current(run.folder.fits, stamp):
        return stamp
    began = time.monotonic()
    folds = _moments(run, records, of_moments)
    kept = sum(fold.n for fold in folds)
    rows = sum(len(index.unit_rows(unit)) for unit in units)
    empty = [number for number, fold in enumerate(folds) if fold.n == 0]
    if empty:
        raise UserError(
            f"fold {empty[0]} of {config.folds} got no document ({index.documents} documents are "
            "spread by a hash of their names); lower fit.folds or use more documents"
        )
    # Maps are about to change: what was made from the old ones must not look current.
    for stale in (run.folder.fits, *run.folder.evaluation):
        stale.unlink(missing_ok=True)
    lines = []
    by_source = {
        s: [pair.target for pair in run.pairs if pair.source == s]
        for s in sorted({pair.source for pair in run.pairs})
    }
    with run.reporter.stage("fit", len(run.pairs), "pairs") as bar:
        arguments = [
            (
                _only(folds, source, targets),
                source_variable(source),
                [target_variable(target) for target in targets],
                config.method,
            )
            for source, targets in by_source.items()
        ]
        results = run.runtime.map(fit_source, arguments)
        for (source, targets), fits in zip(by_source.items(), results, strict=True):
            for target, fitted in zip(targets, fits, strict=True):
                _save_maps(run, source, target, fitted)
                lines.append(
                    {
                        "source_model": run.config.source.model,
                        "source_layer": source,
                        "target_model": run.config.target.model,
                        "target_layer": target,
                        "method": config.method,
                        "documents": index.documents,
                        "d_source": run.facts[0].width,
                        "d_target": run.facts[1].width,
                        "rows_left_out": rows - kept,
                        "folds": config.folds,
                        **asdict(fitted.report),
                        "seconds": round(time.monotonic() - began, 2),
                    }
                )
            bar.advance(len(targets))
    save_table(run.folder.fits, lines, stamp)
    best = max(lines, key=lambda line: line["r2"])
    run.reporter.note(
        "fit",
        f"{len(lines)} maps from {kept:,} rows ({rows - kept:,} left out); best held-out R² "
        f"{best['r2']:.3f} at {best['source_layer']}→{best['target_layer']}, shuffled "
        f"{best['r2_shuffled']:.3f}",
    )
    return stamp


def _moments(
    run: Run, records: dict[int, tuple[UnitRecord, UnitRecord]], stamp: str
) -> list[Moments]:
    """Moments of every fold over all units; goes on from a checkpoint."""
    config, units = run.config.fit, list(records)
    folds = load_moments(run.folder.moments, stamp) or [Moments()] * config.folds
    counted = {int(part.split()[1]) for fold in folds for part in fold.parts}
    missing = [unit for unit in units if unit not in counted]
    stores = (run.folder.store_url(0), run.folder.store_url(1))
    limits = tuple(_norm_limits(run, side, units) for side in (0, 1))
    groups = [missing[i : i + UNITS_PER_TASK] for i in range(0, len(missing), UNITS_PER_TASK)]
    # The null's partner of a unit lies half a corpus away, where other documents are.
    stranger = {unit: units[(i + len(units) // 2) % len(units)] for i, unit in enumerate(units)}
    tasks = [
        AccumulateTask(
            units=tuple(group),
            strangers=tuple(stranger[unit] for unit in group),
            rows_path=run.folder.rows,
            stores=stores,
            pairs=tuple(run.pairs),
            limits=(limits[0], limits[1]),
            crcs={
                unit: (records[unit][0].crc, records[unit][1].crc)
                for unit in {*group, *(stranger[unit] for unit in group)}
            },
            folds=config.folds,
        )
        for group in groups
    ]
    saved = time.monotonic()
    with run.reporter.stage("moments", len(units), "units") as bar:
        bar.resume(len(units) - len(missing))
        # Merged here and in unit order, so that no number depends on the number of workers.
        parts = run.runtime.map(accumulate, [(task,) for task in tasks])
        for task, part in zip(tasks, parts, strict=True):
            folds = [fold.merge(more) for fold, more in zip(folds, part, strict=True)]
            bar.advance(len(task.units))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save_moments(run.folder.moments, folds, stamp)
                saved = time.monotonic()
    if missing:
        save_moments(run.folder.moments, folds, stamp)
    return folds


def _norm_limits(run: Run, side: int, units: list[int]) -> dict[int, float]:
    """The largest norm that is kept, for each layer: attention sinks lie far beyond it."""
    factor = run.config.fit.exclude_norm_above
    if factor is None:
        return {}
    medians = median_norms(run, side, units)
    return {layer: factor * median for layer, median in medians.items()}


def median_norms(run: Run, side: int, units: Collection[int]) -> dict[int, float]:
    """Median norm of the hidden states of each layer of one model, over all rows of some units."""
    store = ActivationStore.open(run.folder.store_url(side))
    return {
        layer: float(
            np.median(np.concatenate([store.norms(layer, store.unit_rows(u)) for u in units]))
        )
        for layer in run.layers[side]
    }


def fitted_units(run: Run) -> dict[int, tuple[UnitRecord, UnitRecord]]:
    """Units that are committed for both models, ascending, with both records.

    Raises:
        LrtError: there is none.
    """
    source, target = (Ledger(run.folder.ledger_url(side)).committed() for side in (0, 1))
    units = {u: (source[u], target[u]) for u in sorted(source.keys() & target.keys())}
    if not units:
        raise LrtError("every unit was set aside: there is nothing to fit; see `lrt-dist status`")
    return units


def _only(folds: list[Moments], source: int, targets: list[int]) -> list[Moments]:
    """The moments that one source layer's fits need."""
    wanted = wanted_moments((source_variable(source), target_variable(t)) for t in targets)
    names = {name for pair in wanted for name in pair}
    return [
        Moments(
            fold.n,
            fold.parts,
            {name: fold.mean[name] for name in names},
            {pair: fold.second[pair] for pair in wanted},
        )
        for fold in folds
    ]


def _save_maps(run: Run, source: int, target: int, fitted: Fit) -> None:
    weights = {
        False: (fitted.weight, fitted.bias),
        True: (fitted.shuffled_weight, fitted.shuffled_bias),
    }
    for shuffled, (weight, bias) in weights.items():
        AffineMap(
            weight,
            bias,
            (run.config.source.model, source),
            (run.config.target.model, target),
            run.config.fit.method,
            fitted.report.ridge,
            {} if shuffled else asdict(fitted.report),
        ).save(run.folder.map_path(source, target, shuffled=shuffled))
