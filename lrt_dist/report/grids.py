"""Numbers over layer pairs: what the heat maps show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
        kept = _retention_of_means(native[at], means.get((concept, *pair), {}), line["strength"])
        if kept is not None:
            values[concept][pair] = kept
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


def _retention_of_means(
    native: ItemScores, transferred: Mapping[float, float], strength: float | None
) -> float | None:
    """Ratio of mean swings; None where it was not run, NaN where it is undefined."""
    if strength is None or not math.isfinite(strength):
        return None
    native_swing = native.swing("native", strength)
    swing = _swing_of_means(native, transferred, same_strength(abs(strength)))
    if native_swing is None or swing is None:
        return None
    if not retention(native_swing, native_swing, draws=500).defined:
        return math.nan
    return swing / float(native_swing.mean())


def _swing_of_means(
    native: ItemScores, transferred: Mapping[float, float], strength: float
) -> float | None:
    """As `ItemScores.swing`, of means."""
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


def best_pair(grid: Grid) -> Pair | None:
    """The pair with the largest defined value; the first of equals."""
    defined: Sequence[Pair] = [p for p, v in sorted(grid.values.items()) if math.isfinite(v)]
    return max(defined, key=lambda pair: grid.values[pair]) if defined else None
