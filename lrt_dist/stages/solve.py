"""All maps from one place in a model: moments in, maps and a table of their reports out."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lrt_dist.linear.fit import FitReport, SourceFit, pair_moments, shuffled
from lrt_dist.linear.moments import Moments, Pair, merge_all
from lrt_dist.stages.accumulate import source_variable, target_variable
from lrt_dist.store.artifacts import is_current, save_table
from lrt_dist.store.moments import MomentFiles


@dataclass(frozen=True)
class SolveTask:
    """Maps from one place to many.

    Attributes:
        layers: where they begin: one layer, or several whose states are put side by side.
        targets: layers of the other model, each with where its map and the null of it go.
        back: from the target model to the source model.
        models: names of the models of (layers, targets).
        moments: for each run whose text counts, files that hold all that is needed.
        folds: their number.
        method: see `lrt_dist.linear.solutions`.
        table: where the reports go, one line for each target, stamped with `stamp`.
    """

    layers: tuple[int, ...]
    targets: tuple[tuple[int, Path, Path], ...]
    back: bool
    models: tuple[str, str]
    moments: tuple[tuple[Path, ...], ...]
    folds: int
    method: str
    table: Path
    stamp: str


def solve(task: SolveTask) -> Path:
    """Write all maps, their nulls and the table; a table that is there is left as it is."""
    if is_current(task.table, task.stamp):
        return task.table
    task.table.unlink(missing_ok=True)  # it would speak of maps that are about to change
    moments = _TaskMoments(task)
    source = SourceFit(moments.own(), moments.source, task.method)
    lines: list[dict[str, Any]] = []
    for target, map_path, null_path in task.targets:
        fitted = source.fit(moments.to(target), moments.name(target), moments.null(target))
        for affine, path in ((fitted.map, map_path), (fitted.null, null_path)):
            placed = replace(
                affine,
                source=(task.models[0], task.layers if len(task.layers) > 1 else task.layers[0]),
                target=(task.models[1], target),
                report=_json_numbers(fitted.report) if path is map_path else {},
            )
            placed.save(path)
        lines.append({"layers": list(task.layers), "target": target, **asdict(fitted.report)})
    best = max(lines, key=lambda line: line["r2"])
    curve = source.learning_curve(moments.to(best["target"]), moments.name(best["target"]))
    best["learning"] = [*curve, *best["learning"]]
    save_table(task.table, lines, task.stamp)
    return task.table


def _json_numbers(report: FitReport) -> dict[str, Any]:
    """A report as JSON has it: no NaN."""
    numbers = asdict(report)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


class _TaskMoments:
    """The moments of a task under the names that the fit sees, whichever way it goes."""

    def __init__(self, task: SolveTask) -> None:
        self._runs = [MomentFiles(paths) for paths in task.moments]
        self._folds = range(task.folds)
        self._back = task.back
        here, self.name = (
            (target_variable, source_variable) if task.back else (source_variable, target_variable)
        )
        self._sources = [here(layer) for layer in task.layers]
        self.source = "+".join(self._sources)

    def own(self) -> list[Moments]:
        """Of the source, fold by fold."""
        pairs = list(itertools.combinations_with_replacement(self._sources, 2))
        return [self._fold(fold, pairs) for fold in self._folds]

    def to(self, target: int) -> list[Moments]:
        """Of the source with a target and its null, and of the target, fold by fold."""
        y = self.name(target)
        if self._back:
            (x,) = self._sources
            return [
                self._fold(fold, [*pair_moments(y, x), (y, y)]).reversed() for fold in self._folds
            ]
        pairs = [(y, y), *(pair for x in self._sources for pair in pair_moments(x, y))]
        return [self._fold(fold, pairs) for fold in self._folds]

    def null(self, target: int) -> Pair:
        """The pair of variables whose rows do not belong together."""
        if self._back:  # the target model's rows were the strangers
            return shuffled(self.source), self.name(target)
        return self.source, shuffled(self.name(target))

    def _fold(self, fold: int, pairs: list[Pair]) -> Moments:
        found = merge_all(files.fold(fold, pairs) for files in self._runs)
        return found if len(self._sources) == 1 else found.joined(self._sources, self.source)
