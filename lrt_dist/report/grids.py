"""Numbers over layer pairs: what the heat maps show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lrt_dist.linear.scores import retention
from lrt_dist.report.items import ANY_LAYER, ItemScores, item_scores, same_strength

Pair = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Value per (source layer, target layer). Absent: not run. NaN: run, and undefined."""

    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    values: Mapping[Pair, float]

    @classmethod
    def of(cls, values: Mapping[Pair, float]) -> Grid:
        return cls(
            source_layers=tuple(sorted({source for source, _ in values})),
            target_layers=tuple(sorted({target for _, target in values})),
            values=dict(values),
        )


def column_grid(table: pa.Table, column: str) -> Grid:
    """A column that has one line per layer pair, as a grid."""
    lines = table.select(["source_layer", "target_layer", column]).to_pylist()
    return Grid.of({(line["source_layer"], line["target_layer"]): line[column] for line in lines})


def mean_grid(grids: Iterable[Grid]) -> Grid:
    """Mean over grids of what is defined in each; NaN where it is undefined in all."""
    found: dict[Pair, list[float]] = defaultdict(list)
    for grid in grids:
        for pair, value in grid.values.items():
            found[pair].extend([value] if math.isfinite(value) else [])
    return Grid.of(
        {pair: sum(values) / len(values) if values else math.nan for pair, values in found.items()}
    )


def cosine_grids(vectors: pa.Table) -> dict[str, Grid]:
    """Cosine of the transferred with the native vector, per concept."""
    return {
        concept: column_grid(vectors.filter(pc.field("concept") == concept), "cosine")
        for concept in sorted(vectors["concept"].unique().to_pylist())
    }


def chosen_pairs(vectors: pa.Table) -> dict[Pair, list[str]]:
    """The concepts for which each layer pair was chosen on their development items."""
    found: dict[Pair, list[str]] = defaultdict(list)
    for line in vectors.filter(pc.field("chosen")).to_pylist():
        found[line["source_layer"], line["target_layer"]].append(line["concept"])
    return dict(found)


def retention_grids(scores: pa.Table, vectors: pa.Table) -> dict[str, Grid]:
    """Retention on the development items, per concept, at each pair's own chosen strength.

    This is what the pair was chosen by, so the best cell flatters: the test split judges. Undefined
    where the native vector's effect at that target layer is not distinct from zero.
    """
    dev = scores.filter((pc.field("split") == "dev") & (pc.field("metric") == "propensity"))
    means = _transferred_means(dev)
    own = dev.filter(pc.field("source_layer") == ANY_LAYER)
    native: dict[tuple[str, int], ItemScores] = {}
    native_swings: dict[tuple[str, int, float], float] = {}
    values: dict[str, dict[Pair, float]] = defaultdict(dict)
    for line in vectors.to_pylist():
        concept, pair = line["concept"], (line["source_layer"], line["target_layer"])
        at = (concept, pair[1])
        if at not in native:
            native[at] = item_scores(
                own,
                concept=concept,
                split="dev",
                metric="propensity",
                source_layer=ANY_LAYER,
                target_layer=pair[1],
            )
        strength = line["strength"]
        if strength is None or not math.isfinite(strength):
            continue
        swing = _swing_of_means(native[at], means.get((concept, *pair), {}), strength)
        if swing is None:
            continue
        # The source layers share it, and its bootstrap is what costs.
        if (*at, strength) not in native_swings:
            native_swings[*at, strength] = _distinct_swing(native[at], strength)
        values[concept][pair] = swing / native_swings[*at, strength]
    return {concept: Grid.of(grid) for concept, grid in sorted(values.items())}


def _transferred_means(dev: pa.Table) -> dict[tuple[str, int, int], dict[float, float]]:
    """Mean propensity per (concept, pair), strength → mean. Grouped by Arrow: a grid of all layer
    pairs has millions of item lines, and Python need not see them one by one."""
    keys = ["concept", "source_layer", "target_layer", "strength"]
    groups = dev.filter(pc.field("arm") == "transferred").group_by(keys)
    found: dict[tuple[str, int, int], dict[float, float]] = defaultdict(dict)
    for line in groups.aggregate([("value", "mean")]).to_pylist():
        pair = line["concept"], line["source_layer"], line["target_layer"]
        found[pair][same_strength(line["strength"])] = line["value_mean"]
    return found


def _distinct_swing(native: ItemScores, strength: float) -> float:
    """Mean native swing; NaN where it is not distinct from zero or was not run."""
    swing = native.swing("native", strength)
    if swing is None or not retention(swing, swing, draws=500).defined:
        return math.nan
    return float(swing.mean())


def _swing_of_means(
    native: ItemScores, transferred: Mapping[float, float], strength: float
) -> float | None:
    """As `ItemScores.swing`, of means; None where it was not run."""
    strength = same_strength(abs(strength))
    up, down = transferred.get(strength), transferred.get(-strength)
    if up is not None and down is not None:
        return (up - down) / 2
    unsteered = native.values.get(("none", 0, 0.0))
    if unsteered is None:
        return None
    none = float(unsteered.mean())
    if up is not None:
        return up - none
    return None if down is None else none - down
