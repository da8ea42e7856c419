"""The verb `fit`: moments of all units, then a map and its null for every pair of layers."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lrt_dist.config import fingerprint
from lrt_dist.pipelines.extract import incomplete_units
from lrt_dist.pipelines.moments import (
    RunMoments,
    fitted_units,
    moments,
    moments_of_others,
    moments_stamp,
)
from lrt_dist.pipelines.run import Run
from lrt_dist.plan.cost import cores_of_task, solve_bytes
from lrt_dist.runtime.tasks import Needs
from lrt_dist.sites import LayerPair
from lrt_dist.stages.solve import SolveTask, solve
from lrt_dist.store.artifacts import is_current, save_table


def fit(run: Run) -> str:
    """Fit every wanted pair; returns the fingerprint of the fits.

    Raises:
        IncompleteError: extraction is not done.
        UserError: too few documents for the folds; see also `moments_of_others`.
    """
    incomplete_units(run)
    records = fitted_units(run.folder)
    own = moments_stamp(run.folder, records)
    others = moments_of_others(run)
    config = run.config.fit
    stamp = fingerprint(
        {
            "moments": [own, *(other.stamp for other in others)],
            "pairs": [str(pair) for pair in run.pairs],
            "method": config.method,
            "reverse": config.reverse,
            "together": run.together,
        }
    )
    if is_current(run.folder.fits, stamp):
        return stamp
    began = time.monotonic()
    found = [moments(run, records, own), *others]
    # Maps are about to change: what was made from the old ones must not look current.
    for stale in (*run.folder.fit_tables, *run.folder.evaluation):
        stale.unlink(missing_ok=True)
    tasks = _tasks(run, found, stamp)
    with run.reporter.stage("fit", sum(len(task.targets) for task in tasks), "maps") as bar:
        results = run.runtime.map(solve, [(task,) for task in tasks], _needs(run, tasks))
        for task, _ in zip(tasks, results, strict=True):
            bar.advance(len(task.targets))
    seconds = round(time.monotonic() - began, 2)
    by_table: dict[Path, list[dict[str, Any]]] = {path: [] for path in run.folder.fit_tables}
    for task in tasks:
        by_table[_table(run, task)] += _lines(run, task, found, seconds)
    # The pairs come last: their presence says that the fit is whole.
    for path in reversed(run.folder.fit_tables):
        if by_table[path]:
            save_table(path, by_table[path], stamp)
    if not config.keep_moments:
        shutil.rmtree(run.folder.moments)
    _say(run, by_table[run.folder.fits])
    return stamp


def _tasks(run: Run, found: list[RunMoments], stamp: str) -> list[SolveTask]:
    """One for each source layer, each group of them, and each target layer on the way back."""

    def task(layers: tuple[int, ...], targets: list[int], back: bool = False) -> SolveTask:
        place = layers[0] if len(layers) == 1 else layers
        path = partial(run.folder.map_path, place, back=back)
        models = (run.config.source.model, run.config.target.model)
        return SolveTask(
            layers=layers,
            targets=tuple((t, path(t), path(t, shuffled=True)) for t in targets),
            back=back,
            models=(models[1], models[0]) if back else models,
            moments=tuple(some.files for some in found),
            folds=run.config.fit.folds,
            method=run.config.fit.method,
            table=run.folder.map_table(layers, back=back),
            stamp=stamp,
        )

    sources = sorted({pair.source for pair in run.pairs})
    targets = sorted({pair.target for pair in run.pairs})
    tasks = [task((s,), [pair.target for pair in run.pairs if pair.source == s]) for s in sources]
    tasks += [
        task(group, [t for t in targets if all(LayerPair(s, t) in run.pairs for s in group)])
        for group in run.together
    ]
    if run.config.fit.reverse:
        tasks += [
            task((t,), [pair.source for pair in run.pairs if pair.target == t], back=True)
            for t in targets
        ]
    return [some for some in tasks if some.targets]


def _needs(run: Run, tasks: list[SolveTask]) -> Needs:
    """What the largest of the tasks needs."""
    wide = max(len(task.layers) for task in tasks) * run.widths[0]
    sizes = [(wide, run.widths[1]), *([run.widths[::-1]] if run.config.fit.reverse else [])]
    return Needs(
        cpus=cores_of_task(max(wide, run.widths[1]), max(run.runtime.node_cpus)),
        memory=max(solve_bytes(d, e, run.config.fit.folds) for d, e in sizes),
    )


def _table(run: Run, task: SolveTask) -> Path:
    """The table to which a task's reports belong."""
    if task.back:
        return run.folder.fits_back
    return run.folder.fits if len(task.layers) == 1 else run.folder.fits_together


def _lines(
    run: Run, task: SolveTask, found: list[RunMoments], seconds: float
) -> list[dict[str, Any]]:
    """A task's reports as lines of the table."""
    widths = run.widths[::-1] if task.back else run.widths
    side = int(task.back)
    lines = []
    for line in pq.read_table(task.table).to_pylist():
        layers, target = line.pop("layers"), line.pop("target")
        together = len(task.layers) > 1
        lines.append(
            {
                "source_model": task.models[0],
                **({"source_layers": layers} if together else {"source_layer": layers[0]}),
                "target_model": task.models[1],
                "target_layer": target,
                "method": task.method,
                "documents": sum(some.documents for some in found),
                "d_source": widths[0] * len(task.layers),
                "d_target": widths[1],
                "rows_left_out": sum(some.rows for some in found) - line["n"],
                "left_out_share_source": max(found[0].left_out[side, s] for s in layers),
                "left_out_share_target": found[0].left_out[1 - side, target],
                "folds": task.folds,
                **line,
                "seconds": seconds,
            }
        )
    return lines


def _say(run: Run, lines: list[dict[str, Any]]) -> None:
    best = max(lines, key=lambda line: float(line["r2"]))
    run.reporter.note(
        "fit",
        f"{len(lines)} maps from {best['n']:,} rows ({best['rows_left_out']:,} left out); best "
        f"held-out R² {best['r2']:.3f} at {best['source_layer']}→{best['target_layer']}, shuffled "
        f"{best['r2_shuffled']:.3f}",
    )
