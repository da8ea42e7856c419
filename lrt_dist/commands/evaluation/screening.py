"""The whole grid, searched by predicted effects: for the claim, and for every control alike."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lrt_dist.commands._rows import Records
from lrt_dist.commands.evaluation.carriers import Carriers
from lrt_dist.commands.evaluation.gradients import GradientFiles
from lrt_dist.errors import LrtError
from lrt_dist.maps.vectors import SteeringVector, length_at_one
from lrt_dist.plan.conditions import Arm
from lrt_dist.runtime.contract import Needs
from lrt_dist.sites import LayerPair, Side, seed_of
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.cells import address
from lrt_dist.tasks.control_directions import SAMPLED_ROWS
from lrt_dist.tasks.screen import (
    Draws,
    MappedTask,
    Native,
    PairScreen,
    ScreenedConcept,
    TargetTask,
    keep_better,
    mean_gradients,
    predicted,
    screen_mapped,
    screen_target,
)
from lrt_dist.tensorfiles import save_tensors
from lrt_dist.workspace.run import Run

MOST_SAMPLED_ROWS = 1024
"""Hidden states of a layer from which its mean and covariance are taken for controls."""


@dataclass(frozen=True)
class Screen:
    """What was predicted of one concept.

    Attributes:
        concept: as the tasks saw it.
        pairs: its transferred vector at every pair of layers.
        draws: of every drawn control.
    """

    concept: ScreenedConcept
    pairs: dict[LayerPair, PairScreen]
    draws: dict[Arm, Draws]

    @property
    def chosen(self) -> LayerPair:
        """The pair at which the weaker of the native and the transferred effect on the
        development items is largest.

        (By the transferred one alone, layers would win at which the native vector hardly steers,
        and a large share of nothing would be reported.)
        """
        natives = self.concept.effects
        return max(self.pairs, key=lambda p: min(natives[p.target].dev, self.pairs[p].dev))

    def best_to(self, target: int) -> LayerPair:
        """The pair that would be chosen if there were no other target layer."""
        pairs = [pair for pair in self.pairs if pair.target == target]
        return max(pairs, key=lambda p: self.pairs[p].dev)

    @property
    def best_native(self) -> int:
        """The target layer at which the native effect on the development items is largest."""
        return max(self.concept.effects, key=lambda layer: self.concept.effects[layer].dev)


def screen(
    run: Run,
    carriers: Carriers,
    states: dict[str, Path],
    gradients: GradientFiles | None,
    scales: Mapping[int, float | None],
    rows: Path,
) -> dict[str, Screen]:
    """Predict every concept's vectors and controls at every pair of layers.

    Args:
        carriers: the maps.
        states: the source model's contrast states, by concept.
        gradients: of all items; None where effects cannot be predicted, which are then NaN, and
            no control is drawn.
        scales: see `maps.vectors.length_at_one`, by target layer.
        rows: see `sample_rows`.
    """
    means = None
    if gradients is not None:
        means = run.folder.gradients(f"means-{gradients.address}")
        if not means.exists():
            gradients.save_means(means, run.layers.target)
    concepts = _concepts(run, states, means, scales)
    mapped, drawn = _tasks(run, carriers, concepts, means, scales, rows)
    pairs: dict[str, dict[LayerPair, PairScreen]] = {c.name: {} for c in concepts}
    draws: dict[str, dict[Arm, Draws]] = {c.name: {} for c in concepts}

    def keep(found: dict[tuple[str, Arm], Draws]) -> None:
        for (name, arm), these in found.items():
            keep_better(draws[name], arm, these)

    needs = _needs(run)
    with run.progress.phase("screen", len(mapped) + len(drawn), "layers") as phase:
        for receipt in run.runtime.map(screen_mapped, mapped, needs):
            for found in receipt.pairs:
                pairs[found.concept][found.pair] = found
            keep(receipt.draws)
            phase.advance()
        for best in run.runtime.map(screen_target, drawn, needs):
            keep(best)
            phase.advance()
    return {c.name: Screen(c, dict(sorted(pairs[c.name].items())), draws[c.name]) for c in concepts}


def sample_rows(run: Run, records: Records) -> Path:
    """Write some hidden states of every target layer, from one unit; unless they are there.

    States that the fits scale down (attention sinks) are left out.

    Raises:
        LrtError: the store holds no states of these units.
    """
    store = ActivationStore.open(run.folder.store_url(Side.TARGET))
    units = [unit for unit in sorted(records) if store.holds_states(unit)]
    if not units:
        raise LrtError(
            f"{store.url} holds the states of units {sorted(store.states_of or ())} alone, which "
            "were quarantined: controls cannot be drawn; extract with extract.store: zarr, or "
            "leave these texts out, in another --out"
        )
    units = units[:-1] or units  # the last one may be short
    unit = units[seed_of(f"{run.config.evaluate.seed}/rows", bits=64) % len(units)]
    checksums = records[unit].target.checksums
    what = json.dumps(
        [unit, run.layers.target, sorted(checksums.items()), run.config.fit.shrink_norm_above]
    )
    path = run.folder.sampled_rows(address(what.encode()).hex())
    if path.exists():
        return path
    factor = run.config.fit.shrink_norm_above or math.inf
    rows = {}
    for layer in run.layers.target:
        states = store.states(layer, unit, checksums[f"layers/{layer}"]).to(torch.float32)
        lengths = torch.linalg.vector_norm(states, dim=1)
        there = lengths > 0  # rows that the model does not have are zero
        usual = states[there & (lengths <= factor * lengths[there].median())]
        step = max(1, len(usual) // MOST_SAMPLED_ROWS)
        rows[str(layer)] = usual[::step][:MOST_SAMPLED_ROWS].contiguous()
    save_tensors(path, rows, {"kind": SAMPLED_ROWS})
    return path


def _concepts(
    run: Run, states: dict[str, Path], means: Path | None, scales: Mapping[int, float | None]
) -> tuple[ScreenedConcept, ...]:
    screened = []
    for concept in run.config.concepts:
        native = {
            layer: run.folder.native_vector(concept.name, Side.TARGET, layer)
            for layer in run.layers.target
        }
        effects = {}
        for layer, path in native.items():
            effects[layer] = Native(math.nan, math.nan)
            if means is not None:
                vector = SteeringVector.load(path).values
                gradients = mean_gradients(means, concept.name, layer)
                length = length_at_one(vector, scales[layer])
                (dev,), (test,) = predicted(vector.unsqueeze(0), gradients, length)
                effects[layer] = Native(float(dev), float(test))
        method, parameters = concept.vector.method, concept.vector.parameters
        screened.append(
            ScreenedConcept(concept.name, method, parameters, states[concept.name], native, effects)
        )
    return tuple(screened)


def _tasks(
    run: Run,
    carriers: Carriers,
    concepts: tuple[ScreenedConcept, ...],
    means: Path | None,
    scales: Mapping[int, float | None],
    rows: Path,
) -> tuple[list[MappedTask], list[TargetTask]]:
    config = run.config.evaluate
    by_source = {
        source: [pair.target for pair in pairs]
        for source, pairs in itertools.groupby(run.pairs, key=lambda pair: pair.source)
    }
    # Concepts that share their maps go together, so that every map is read once.
    together = [concepts] if carriers.on_corpus else [(concept,) for concept in concepts]
    mapped = [
        MappedTask(
            source=source,
            maps={
                target: carriers.of(some[0].name, LayerPair(source, target)) for target in targets
            },
            concepts=some,
            vectors={c.name: run.folder.native_vector(c.name, Side.SOURCE, source) for c in some},
            transferred={
                (c.name, target): run.folder.transferred_vector(c.name, LayerPair(source, target))
                for c in some
                for target in targets
            },
            gradients=means,
            scales={target: scales[target] for target in targets},
            bias=config.map_bias,
            draws=config.control_draws,
            seed=config.seed,
        )
        for source, targets in by_source.items()
        for some in together
    ]
    if means is None:
        return mapped, []
    drawn = [
        TargetTask(
            target=target,
            transferred={
                (c.name, pair.source): run.folder.transferred_vector(c.name, pair)
                for c in concepts
                for pair in run.pairs
                if pair.target == target
            },
            concepts=concepts,
            rows=rows,
            gradients=means,
            scale=scales[target],
            draws=config.control_draws,
            seed=config.seed,
        )
        for target in sorted({pair.target for pair in run.pairs})
    ]
    return mapped, drawn


def _needs(run: Run) -> Needs:
    """Of one task: a map and those of mismatched rows, and the draws on both sides of it."""
    source, target = run.widths
    numbers = 6 * source * target + run.config.evaluate.control_draws * (source + 4 * target)
    return Needs(cpus=1, memory=4 * numbers)
