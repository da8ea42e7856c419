"""Numbers over layer pairs: what the heat maps show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from lrt_dist.effects import retention
from lrt_dist.plan.conditions import NO_LAYER, Arm
from lrt_dist.report.items import ItemScores, item_scores, same_strength
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import FitRow, ScoreRow, Table, VectorRow


@dataclass(frozen=True)
class Grid:
    """Value per layer pair. Absent: not run. NaN: run, and undefined."""

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    values: Mapping[LayerPair, float]

    @classmethod
    def of(cls, values: Mapping[LayerPair, float]) -> Grid:
        """The grid of all layers that some pair names."""
        return cls(
            source_layers=tuple(sorted({pair.source for pair in values})),
            target_layers=tuple(sorted({pair.target for pair in values})),
            values=dict(values),
        )


def column_grid(table: Table[FitRow] | Table[VectorRow], column: str) -> Grid:
    """A column that has one row per layer pair, as a grid."""
    pairs = map(LayerPair, table.column("source_layer"), table.column("target_layer"))
    return Grid.of(dict(zip(pairs, table.column(column), strict=True)))


def mean_grid(grids: Iterable[Grid]) -> Grid:
    """Mean over grids of what is defined in each; NaN where it is undefined in all."""
    by_pair: dict[LayerPair, list[float]] = defaultdict(list)
    for grid in grids:
        for pair, value in grid.values.items():
            by_pair[pair].extend([value] if math.isfinite(value) else [])
    return Grid.of(
        {
            pair: sum(values) / len(values) if values else math.nan
            for pair, values in by_pair.items()
        }
    )


def cosine_grids(vectors: Table[VectorRow]) -> dict[str, Grid]:
    """Cosine of the transferred with the native vector, per concept."""
    return {
        concept: column_grid(vectors.filter(pc.field("concept") == concept), "cosine")
        for concept in sorted(set(vectors.column("concept")))
    }


def chosen_pairs(vectors: Table[VectorRow]) -> dict[LayerPair, list[str]]:
    """The concepts for which each layer pair was chosen on their development items."""
    concepts: dict[LayerPair, list[str]] = defaultdict(list)
    for row in vectors:
        if row.chosen:
            concepts[LayerPair(row.source_layer, row.target_layer)].append(row.concept)
    return dict(concepts)


def retention_grids(
    scores: Table[ScoreRow], vectors: Table[VectorRow], metric: str
) -> dict[str, Grid]:
    """Retention on the development items, per concept, at each pair's own chosen strength.

    This is what the pair was chosen by, so the best cell flatters: the test split judges. Undefined
    where the native vector's effect at that target layer is not distinct from zero.
    """
    dev = scores.filter((pc.field("split") == "dev") & (pc.field("metric") == metric))
    means = _transferred_means(dev)
    own = dev.filter(pc.field("source_layer") == NO_LAYER)
    native_effects: dict[tuple[str, int, float], float] = {}
    values: dict[str, dict[LayerPair, float]] = defaultdict(dict)
    for row in vectors:
        pair = LayerPair(row.source_layer, row.target_layer)
        # The source layers share the native effect, and its bootstrap is what costs.
        native = (row.concept, row.target_layer, row.strength)
        if native not in native_effects:
            items = item_scores(own, row.concept, "dev", metric, pair)
            native_effects[native] = _distinct_effect(items, row.strength)
        by_strength = means.get((row.concept, pair), {})
        up, down = (by_strength.get(same_strength(sign * row.strength)) for sign in (1, -1))
        if up is not None and down is not None:
            values[row.concept][pair] = (up - down) / 2 / native_effects[native]
    return {concept: Grid.of(grid) for concept, grid in sorted(values.items())}


def _transferred_means(
    dev: Table[ScoreRow],
) -> dict[tuple[str, LayerPair], dict[float, float]]:
    """Mean score per (concept, pair), strength → mean. Grouped by Arrow: a grid of all layer
    pairs has millions of rows, and Python need not see them one by one."""
    keys = ["concept", "source_layer", "target_layer", "strength"]
    groups = dev.filter(pc.field("arm") == Arm.TRANSFERRED.value).arrow.group_by(keys)
    columns = groups.aggregate([("value", "mean")]).select([*keys, "value_mean"]).to_pydict()
    means: dict[tuple[str, LayerPair], dict[float, float]] = defaultdict(dict)
    for concept, source, target, strength, mean in zip(*columns.values(), strict=True):
        means[concept, LayerPair(source, target)][same_strength(strength)] = mean
    return means


def _distinct_effect(native: ItemScores, strength: float) -> float:
    """Mean native effect; NaN where it is not distinct from zero or was not run."""
    effect = native.effect(Arm.NATIVE, strength)
    if effect is None or not retention(effect, effect, draws=500).defined:
        return math.nan
    return float(effect.mean())
