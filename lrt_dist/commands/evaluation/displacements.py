"""From a condition to what is done to the target's hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from lrt_dist.commands.evaluation.carriers import Carriers
from lrt_dist.commands.evaluation.detours import Detour
from lrt_dist.commands.evaluation.screening import Screen
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vectors import SteeringVector, displacement, length_at_one
from lrt_dist.models.injection import Intervention, Steering
from lrt_dist.plan.conditions import MAPPED_DRAWS, NONE, TARGET_DRAWS, Arm, Condition
from lrt_dist.sites import Band, LayerPair, Side
from lrt_dist.tasks.control_directions import (
    TargetDraws,
    mapped_directions,
    random_source_vectors,
    sampled_rows,
    transferred_vectors,
)
from lrt_dist.workspace.run import Run

KEPT_LAYERS = 16
"""Source layers, over all concepts, whose draws of permuted labels are kept."""


class Displacements:
    """Directions of all arms, read or drawn as they are asked for."""

    def __init__(
        self,
        run: Run,
        carriers: Carriers,
        detours: Sequence[Detour],
        screens: dict[str, Screen],
        scales: Mapping[int, float | None],
        rows: Path,
    ) -> None:
        """Nothing is read yet.

        Args:
            carriers: the maps.
            detours: ways by a third model.
            screens: by concept; their order numbers the concepts.
            scales: see `maps.vectors.length_at_one`, by layer of the target model.
            rows: see `sample_rows`.
        """
        self._run, self._carriers, self._detours = run, carriers, detours
        self._screens, self._scales, self._rows = screens, scales, rows
        self._names = list(screens)
        self._permuted = lru_cache(KEPT_LAYERS)(self._permuted_units)

    def of(
        self, concept: str, target: int, conditions: Sequence[Condition], band: Band = ()
    ) -> Intervention:
        """What each condition does, by the displacement `α · s · v/‖v‖`: s is the layer's scale, or
        where it has none the native vector's length for that vector, and the transferred one's for
        all others.

        Args:
            target: the layer that is steered.
            band: pairs of layers that are steered at once in place of it: each target layer with
                the vector that comes from its source layer, and all with one random direction.
        """
        if not band:
            return Intervention({target: self._at(concept, target, conditions)})
        return Intervention(
            {
                pair.target: self._at(concept, pair.target, _from(pair.source, conditions), band[0])
                for pair in band
            }
        )

    def _at(
        self,
        concept: str,
        target: int,
        conditions: Sequence[Condition],
        drawn_at: LayerPair | None = None,
    ) -> Steering:
        """At one layer.

        Args:
            drawn_at: the pair whose random directions are used, in a band; None for the layer's
                own. Those of each layer would cancel, where vectors of neighbours add up.
        """
        known = {NONE: (torch.zeros(self._run.widths.target), 0.0)}
        rows, strengths = [], []
        for condition in conditions:
            whose = replace(condition, strength=0.0)
            if whose not in known:
                if drawn_at and whose.arm in TARGET_DRAWS:
                    there = replace(whose, source_layer=drawn_at.source)
                    direction = self._direction(concept, drawn_at.target, there)
                else:
                    direction = self._direction(concept, target, whose)
                known[whose] = direction, self._length(concept, target, whose)
            direction, length = known[whose]
            rows.append(displacement(direction, condition.strength * length))
            strengths.append([condition.strength])
        return Steering(self._run.operator, torch.stack(rows), torch.tensor(strengths))

    def vector_of(self, concept: str, condition: Condition) -> str:
        """The concept from whose texts an injected vector, or its map, was made, or the third
        model by which it came; empty where there is none."""
        if condition.arm in (Arm.FOREIGN, Arm.CONCEPT_MAP):
            return self._names[condition.draw]
        if condition.arm is Arm.DETOUR:
            return self._detours[condition.draw].by_way_of
        made = (Arm.NATIVE, Arm.TRANSFERRED, Arm.MISMATCHED, Arm.IDENTITY)
        return concept if condition.arm in made else ""

    def _length(self, concept: str, target: int, condition: Condition) -> float:
        """Of what a strength of 1 adds."""
        scale = self._scales[target]
        if scale is not None:
            return scale
        claim = replace(condition, arm=Arm.TRANSFERRED)
        own = condition if condition.arm is Arm.NATIVE else claim
        return length_at_one(self._direction(concept, target, own), scale)

    def _direction(self, concept: str, target: int, condition: Condition) -> torch.Tensor:
        arm, source, draw = condition.arm, condition.source_layer, condition.draw
        pair, folder = LayerPair(source, target), self._run.folder
        if arm is Arm.NATIVE:
            return _values(folder.native_vector(concept, Side.TARGET, target))
        if arm is Arm.TRANSFERRED:
            return _values(folder.transferred_vector(concept, pair))
        if arm is Arm.MEAN:
            return sampled_rows(self._rows, target).double().mean(0)
        if arm is Arm.IDENTITY:
            return _values(folder.native_vector(concept, Side.SOURCE, source))
        if arm is Arm.DETOUR:
            return self._mapped(concept, pair, self._detours[draw].map(pair))
        maps = self._carriers.of(concept, pair)
        if arm is Arm.FOREIGN:
            return self._mapped(self._names[draw], pair, AffineMap.load(maps[0]))
        if arm is Arm.MISMATCHED:
            return self._mapped(concept, pair, AffineMap.load(maps[1 + draw]))
        if arm is Arm.CONCEPT_MAP:
            path = self._carriers.on(self._names[draw], pair)
            return self._mapped(concept, pair, AffineMap.load(path))
        return self._drawn(concept, pair, arm, draw)

    def _mapped(self, concept: str, pair: LayerPair, affine: AffineMap) -> torch.Tensor:
        """A concept's vector of the source model under some map of the pair."""
        native = self._run.folder.native_vector(concept, Side.SOURCE, pair.source)
        vector, bias = SteeringVector.load(native), self._run.config.evaluate.map_bias
        return affine.transfer(vector, bias=bias).values

    def _permuted_units(self, concept: str, source: int) -> torch.Tensor:
        """All draws at a source layer: but for the mean difference each takes its time."""
        config = self._run.config.evaluate
        return self._screens[concept].concept.permuted(source, config.control_draws, config.seed)

    def _drawn(self, concept: str, pair: LayerPair, arm: Arm, draw: int) -> torch.Tensor:
        """One draw of a control at a pair, float32 `[d_target]`."""
        config, folder = self._run.config.evaluate, self._run.folder
        if arm in TARGET_DRAWS:
            sources = [p.source for p in self._run.pairs if p.target == pair.target]
            vectors = transferred_vectors(
                {
                    source: folder.transferred_vector(concept, LayerPair(source, pair.target))
                    for source in sources
                }
            )
            rows = sampled_rows(self._rows, pair.target)
            return TargetDraws(arm, pair.target, vectors, rows, config.seed)[draw][pair.source]
        assert arm in MAPPED_DRAWS, arm
        draws, seed = config.control_draws, config.seed
        units_ND = (
            self._permuted(concept, pair.source)
            if arm is Arm.PERMUTED
            else random_source_vectors(pair.source, self._run.widths.source, draws, seed)
        )
        affine = AffineMap.load(self._carriers.of(concept, pair)[0])
        claim = _values(folder.native_vector(concept, Side.SOURCE, pair.source))
        return mapped_directions(
            units_ND[draw : draw + 1], affine, claim, bias=config.map_bias
        ).squeeze(0)


def _from(source: int, conditions: Sequence[Condition]) -> list[Condition]:
    """Conditions of a band at a layer whose vectors come from a source layer."""
    return [
        c if c.arm in (Arm.NONE, Arm.NATIVE) else replace(c, source_layer=source)
        for c in conditions
    ]


def _values(path: Path) -> torch.Tensor:
    return SteeringVector.load(path).values
