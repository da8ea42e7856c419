"""Maps that begin at one layer, or at several jointly: moments in, maps and metrics out."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from lrt_dist.linear.fit import Coefficients, SourceFit, mismatched, pair_moments
from lrt_dist.linear.methods import Method
from lrt_dist.linear.moments import Moments, Pair, merge_all
from lrt_dist.maps.affine import AffineMap
from lrt_dist.sites import Direction, Layers, Sided
from lrt_dist.store.moments import MomentFiles
from lrt_dist.store.tables import SolvedRow, Table, is_current
from lrt_dist.tasks.blocks import variable


@dataclass(frozen=True)
class MapEnd:
    """Where one map ends.

    Attributes:
        layer: of the model across.
        norm: median norm of its hidden states.
        map_path: where the map goes.
        mismatched_paths: where the maps fitted to mismatched rows go, one for each draw.
        table: where the metrics go, one row.
    """

    layer: int
    norm: float
    map_path: Path
    mismatched_paths: tuple[Path, ...]
    table: Path


@dataclass(frozen=True)
class SolveTask:
    """Maps with one beginning.

    Attributes:
        direction: which way they go.
        layers: where they begin: one layer, or several if the direction is joint.
        norm: median norm of the hidden states where they begin; None for a joint map.
        ends: where they end.
        begin_model: name of the model where they begin.
        end_model: name of the model where they end.
        moments: for each run whose text counts, files that hold all that is needed.
        folds: their number.
        method: how the maps are fitted.
        method_name: what the method is called.
        fingerprint: of what the maps are made from; the tables keep it.
    """

    direction: Direction
    layers: tuple[int, ...]
    norm: float | None
    ends: tuple[MapEnd, ...]
    begin_model: str
    end_model: str
    moments: tuple[tuple[Path, ...], ...]
    folds: int
    method: Method
    method_name: str
    fingerprint: str

    @property
    def begin(self) -> Layers:
        """One layer as a number, several as a tuple."""
        return self.layers if self.direction is Direction.JOINT else self.layers[0]


def solve(task: SolveTask) -> list[SolvedRow]:
    """Write all maps, each with its table last; those whose table is current are left as they are.

    Returns:
        What the tables say, end by end.
    """
    moments = _TaskMoments(task)
    rows: list[SolvedRow] = []
    for end in task.ends:
        if is_current(end.table, task.fingerprint):
            rows += Table.read(end.table, SolvedRow)
            continue
        end.table.unlink(missing_ok=True)  # it would speak of a map that is about to change
        fitted = moments.source.fit(
            moments.to(end.layer), moments.end(end.layer), moments.controls(end.layer)
        )
        affine = _affine_map(task, end, fitted.map)
        replace(affine, metrics=fitted.metrics.as_json()).save(end.map_path)
        for control, path in zip(fitted.mismatched, end.mismatched_paths, strict=True):
            _affine_map(task, end, control).save(path)
        rows.append(SolvedRow(target_layer=end.layer, **asdict(fitted.metrics)))
        _save(task, end, rows[-1])
    return rows


def add_learning_curve(task: SolveTask) -> SolvedRow:
    """Put R² after training on fewer folds into the table of a map that was solved, unless it is
    there; what the table says then.

    Args:
        task: with this one end.
    """
    (end,) = task.ends
    (row,) = Table.read(end.table, SolvedRow)
    if len(row.learning) == 1:
        moments = _TaskMoments(task)
        curve = moments.source.learning_curve(moments.to(end.layer), moments.end(end.layer))
        row = replace(row, learning=(*curve, *row.learning))
        _save(task, end, row)
    return row


def _save(task: SolveTask, end: MapEnd, row: SolvedRow) -> None:
    Table.of(SolvedRow, [row]).save(end.table, task.fingerprint)


def _affine_map(task: SolveTask, end: MapEnd, fitted: Coefficients) -> AffineMap:
    return AffineMap(
        fitted.weight,
        fitted.bias,
        (task.begin_model, task.begin),
        (task.end_model, end.layer),
        task.method_name,
        fitted.ridge,
        norms=Sided(task.norm, end.norm),
    )


class _TaskMoments:
    """The moments of a task under the names that the fit sees, whichever way the maps go.

    Files hold pairs (source model, target model), with target rows as the mismatched ones. For
    reverse maps they are transposed.
    """

    def __init__(self, task: SolveTask) -> None:
        self._task = task
        self._folds = range(task.folds)
        self._draws = len(task.ends[0].mismatched_paths)
        self._direction = task.direction
        self._variables = [variable(task.direction.begin, layer) for layer in task.layers]
        self.begin = "+".join(self._variables)

    @cached_property
    def source(self) -> SourceFit:
        """Of the variables where the maps begin."""
        return SourceFit(self.of_begin(), self.begin, self._task.method)

    @cached_property
    def _runs(self) -> list[MomentFiles]:
        return [MomentFiles(paths) for paths in self._task.moments]

    def end(self, layer: int) -> str:
        """Name of the variable where a map ends."""
        return variable(self._direction.end, layer)

    def of_begin(self) -> list[Moments]:
        """Of the variables where the maps begin, fold by fold."""
        pairs = list(itertools.combinations_with_replacement(self._variables, 2))
        return [self._fold(fold, pairs) for fold in self._folds]

    def to(self, layer: int) -> list[Moments]:
        """Of beginning and end, also with mismatched rows, and of the end; fold by fold."""
        y = self.end(layer)
        if self._direction is Direction.REVERSE:
            pairs = [*pair_moments(y, self.begin, self._draws), (y, y)]
            return [self._fold(fold, pairs).transposed() for fold in self._folds]
        pairs = [(y, y)]
        for x in self._variables:
            pairs += pair_moments(x, y, self._draws)
        return [self._fold(fold, pairs) for fold in self._folds]

    def controls(self, layer: int) -> list[Pair]:
        """For each draw the pair of variables whose rows are of different documents."""
        if self._direction is Direction.REVERSE:
            return [(mismatched(self.begin, draw), self.end(layer)) for draw in range(self._draws)]
        return [(self.begin, mismatched(self.end(layer), draw)) for draw in range(self._draws)]

    def _fold(self, fold: int, pairs: list[Pair]) -> Moments:
        merged = merge_all(files.fold(fold, pairs) for files in self._runs)
        if self._direction is Direction.JOINT:
            return merged.concat(self._variables, self.begin)
        return merged
