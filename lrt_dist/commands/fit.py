"""The command `fit`: moments of all units, then maps between every wanted pair of layers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lrt_dist.commands._moments import (
    RunMoments,
    delete_moments,
    fitted_units,
    moments,
    moments_fingerprint,
    moments_of_others,
)
from lrt_dist.commands._rows import LayerFacts, Records, layer_facts
from lrt_dist.commands._solving import beginnings, places_for, solve_needs, spread
from lrt_dist.commands.extract import quarantined_units
from lrt_dist.config import fingerprint_of
from lrt_dist.errors import IncompleteError
from lrt_dist.files import is_file, sweep
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.sites import Direction
from lrt_dist.store.tables import FitRow, JointFitRow, MapRow, SolvedRow, Table, is_current
from lrt_dist.tasks.solve import MapEnd, SolveTask, add_learning_curve, solve
from lrt_dist.workspace.run import Run


def fit(run: Run) -> Table[FitRow]:
    """Fit every wanted pair, unless it is done.

    Returns:
        One row for each pair of layers; reverse and joint maps have tables of their own.

    Raises:
        IncompleteError: extraction is not done.
        UserError: too few documents for the folds; see also `moments_of_others`.
    """
    quarantined_units(run)
    inputs = fit_inputs(run)
    path = run.folder.fits[Direction.FORWARD]
    if not is_current(path, inputs.fingerprint):
        _fit(run, inputs)
    return Table.read(path, FitRow)


def current_fits(run: Run) -> str:
    """Fingerprint of the maps of this configuration.

    Raises:
        IncompleteError: they were not fitted yet.
    """
    path = run.folder.fits[Direction.FORWARD]
    if is_file(path) and is_current(path, fingerprint := fit_inputs(run).fingerprint):
        return fingerprint
    raise IncompleteError(
        f"{run.folder.out} has no maps of this configuration; run `lrt-dist fit` first"
    )


@dataclass(frozen=True)
class FitInputs:
    """What the maps of a run are made from.

    Attributes:
        records: of the run's units.
        own: fingerprint of the run's own moments.
        others: moments of the runs that `fit.moments_of` names.
        fingerprint: of all of it, and of how maps are fitted.
    """

    records: Records
    own: str
    others: list[RunMoments]
    fingerprint: str


def fit_inputs(run: Run) -> FitInputs:
    """See `FitInputs`; reads ledgers, computes nothing."""
    records = fitted_units(run.folder)
    own = moments_fingerprint(run.folder, records)
    others = moments_of_others(run)
    config = run.config.fit
    fingerprint = fingerprint_of(
        {
            "moments": [own, *(other.fingerprint for other in others)],
            "pairs": [str(pair) for pair in run.pairs],
            "method": FIT_METHODS.identity(config.method),
            "reverse": config.reverse,
            "draws": config.mismatched_draws,
            "joint": run.joint,
        }
    )
    return FitInputs(records, own, others, fingerprint)


def _fit(run: Run, inputs: FitInputs) -> None:
    began = time.monotonic()
    all_moments = [moments(run, inputs.records, inputs.own), *inputs.others]
    facts = [layer_facts(moments.folder) for moments in all_moments]
    # Maps are about to change: what was made from the old ones must not look current.
    for stale in (*run.folder.fits.values(), *run.folder.evaluation):
        stale.unlink(missing_ok=True)
    tasks = list(_tasks(run, all_moments, facts[0], inputs.fingerprint))
    solved = _solve(run, tasks)
    seconds = round(time.monotonic() - began, 2)
    forward: list[FitRow] = []
    reverse: list[FitRow] = []
    joint: list[JointFitRow] = []
    for task, found in zip(tasks, solved, strict=True):
        for row in _rows(run, task, found, all_moments, facts, seconds):
            if task.direction is Direction.JOINT:
                joint.append(row.from_layers(task.layers))
            else:
                rows = forward if task.direction is Direction.FORWARD else reverse
                rows.append(row.from_layer(task.layers[0]))
    if joint:
        Table.of(JointFitRow, joint).save(run.folder.fits[Direction.JOINT], inputs.fingerprint)
    if reverse:
        Table.of(FitRow, reverse).save(run.folder.fits[Direction.REVERSE], inputs.fingerprint)
    # This table comes last: its presence says that the fit is whole.
    Table.of(FitRow, forward).save(run.folder.fits[Direction.FORWARD], inputs.fingerprint)
    if not run.config.fit.keep_moments:
        delete_moments(run)
    _note_best(run, forward)


def _tasks(
    run: Run, all_moments: list[RunMoments], facts: LayerFacts, fingerprint: str
) -> Iterator[SolveTask]:
    """One for each of the `beginnings`."""
    draws, path = range(run.config.fit.mismatched_draws), run.folder.map_path
    for beginning in beginnings(run):
        direction, layers = beginning.direction, beginning.layers
        begin = layers if direction is Direction.JOINT else layers[0]
        yield SolveTask(
            direction=direction,
            layers=layers,
            norm=(facts[direction.begin, layers[0]].median_norm if len(layers) == 1 else None),
            ends=tuple(
                MapEnd(
                    layer=end,
                    norm=facts[direction.end, end].median_norm,
                    map_path=path(begin, end, direction=direction),
                    mismatched_paths=tuple(
                        path(begin, end, direction=direction, mismatched=draw) for draw in draws
                    ),
                    table=run.folder.map_table(begin, end, direction=direction),
                )
                for end in beginning.ends
            ),
            begin_model=run.folder.model(direction.begin).model,
            end_model=run.folder.model(direction.end).model,
            moments=tuple(moments.files for moments in all_moments),
            folds=run.config.fit.folds,
            method=run.method,
            method_name=run.config.fit.method,
            fingerprint=fingerprint,
        )


def _solve(run: Run, tasks: list[SolveTask]) -> list[list[SolvedRow]]:
    """Solve some tasks wherever there is room; what is found of the maps of each, end by end."""
    needs = solve_needs(run)
    parts = spread(tasks, places_for(run, needs))
    ends = [end for task in tasks for end in task.ends]
    for folder in {path.parent for end in ends for path in (end.map_path, *end.mismatched_paths)}:
        sweep(folder)
    found: list[SolvedRow] = []
    with run.progress.phase("fit", len(ends), "maps") as phase:
        for rows in run.runtime.map(solve, parts, needs):
            found += rows
            phase.advance(len(rows))
    rest = iter(found)
    solved = [list(itertools.islice(rest, len(task.ends))) for task in tasks]
    if run.config.fit.folds < 3:  # there are no fewer folds to train on
        return solved
    best = [max(range(len(rows)), key=lambda number: rows[number].r2) for rows in solved]
    chosen = [replace(t, ends=(t.ends[number],)) for t, number in zip(tasks, best, strict=True)]
    with run.progress.phase("learning curves", len(chosen), "curves") as phase:
        curves = run.runtime.map(add_learning_curve, chosen, needs)
        for rows, number, row in zip(solved, best, curves, strict=True):
            rows[number] = row
            phase.advance()
    return solved


def _rows(
    run: Run,
    task: SolveTask,
    found: list[SolvedRow],
    all_moments: list[RunMoments],
    facts: list[LayerFacts],
    seconds: float,
) -> Iterator[MapRow]:
    """What is known of each map of a task.

    Args:
        found: of each, as it was solved.
    """
    begin, end = task.direction.begin, task.direction.end
    for row in found:
        source = [layers[begin, layer] for layers in facts for layer in task.layers]
        target = [layers[end, row.target_layer] for layers in facts]
        yield MapRow(
            **vars(row),
            source_model=task.begin_model,
            target_model=task.end_model,
            method=task.method_name,
            documents=sum(moments.documents for moments in all_moments),
            d_source=run.widths[begin] * len(task.layers),
            d_target=run.widths[end],
            rows_shrunk_source=max(layer.shrunk for layer in source),
            rows_shrunk_target=max(layer.shrunk for layer in target),
            shrunk_share_source=max(layer.shrunk_share for layer in source),
            shrunk_share_target=max(layer.shrunk_share for layer in target),
            folds=task.folds,
            seconds=seconds,
        )


def _note_best(run: Run, rows: list[FitRow]) -> None:
    best = max(rows, key=lambda row: row.r2)
    run.progress.note(
        "fit",
        f"{len(rows)} maps from {best.n:,} rows; best held-out R² {best.r2:.3f} at "
        f"{best.source_layer}→{best.target_layer}, mismatched {best.r2_mismatched:.3f}",
    )
    edge = [row for row in rows if row.ridge_at_edge]
    if edge:
        run.progress.note(
            "fit",
            f"the λ of {len(edge)} of {len(rows)} maps lies at an end of what there was to choose "
            f"from (first at {edge[0].source_layer}→{edge[0].target_layer}: "
            f"{edge[0].ridge_relative:g} × the median eigenvalue); a better one may lie beyond",
        )
