"""Predicted effects of every vector at every pair of layers: dot products with mean gradients.

A displacement `α · s · v/‖v‖` of a layer changes an item's score by `α · s · g · v/‖v‖` to first
order (see `tasks.gradient`), so the mean over items needs the mean gradient alone. *Effect* here is
that mean at strength 1, in units of the score. Controls have the length of the claim.

Each drawn control is searched as the claim is: of all pairs of layers it takes the one at which the
weaker of the native and its own effect on the development items is largest, and is judged there on
the test items.

Shape suffixes: N draws, D width.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from lrt_dist.effects import cosine
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.controls import heavy_share
from lrt_dist.maps.vectors import SteeringVector, length_at_one
from lrt_dist.plan.conditions import TARGET_DRAWS, Arm
from lrt_dist.sites import LayerPair
from lrt_dist.tasks.control_directions import (
    TargetDraws,
    mapped_directions,
    permuted_source_vectors,
    random_source_vectors,
    sampled_rows,
    transferred_vectors,
)
from lrt_dist.tensorfiles import open_tensors

MEAN_GRADIENTS = "mean gradients"
"""Kind of the file with mean gradients; tensors `{concept}/{layer}/{split}`, float32 `[d]`."""


@dataclass(frozen=True)
class Native:
    """What the native vector of a concept does at one target layer, as predicted.

    Attributes:
        dev, test: effect on the development and on the test items.
    """

    dev: float
    test: float


@dataclass(frozen=True)
class Draws:
    """Where the draws of one control would have been chosen, and what they do there.

    Attributes:
        score: float64 `[N]`, the weaker of the native and the control's effect on the development
            items at the best pair.
        effect: float64 `[N]`, the control's effect on the test items there.
        source, target: int64 `[N]`, the pair.
    """

    score: torch.Tensor
    effect: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor

    @classmethod
    def at(
        cls, pair: LayerPair, native: Native, dev_N: torch.Tensor, test_N: torch.Tensor
    ) -> Draws:
        """Draws that were looked at in one pair alone."""
        return cls(
            dev_N.to(torch.float64).clamp(max=native.dev),
            test_N.to(torch.float64),
            torch.full((len(dev_N),), pair.source),
            torch.full((len(dev_N),), pair.target),
        )

    def or_better(self, other: Draws) -> Draws:
        """Each draw where it scores higher; at equal scores the first pair."""
        # In the order of pairs, so that it does not matter in which order they are looked at.
        earlier = (other.source < self.source) | (
            (other.source == self.source) & (other.target < self.target)
        )
        wins = (other.score > self.score) | ((other.score == self.score) & earlier)
        return Draws(
            torch.where(wins, other.score, self.score),
            torch.where(wins, other.effect, self.effect),
            torch.where(wins, other.source, self.source),
            torch.where(wins, other.target, self.target),
        )


Key = TypeVar("Key", bound=Hashable)


def keep_better(best: dict[Key, Draws], key: Key, found: Draws) -> None:
    """Let `best[key]` have each draw where it scores higher."""
    best[key] = best[key].or_better(found) if key in best else found


@dataclass(frozen=True)
class PairScreen:
    """A concept's transferred vector at one pair of layers.

    Attributes:
        concept, pair: which.
        dev, test: effect on the development and on the test items, as predicted.
        cosine: with the native vector.
        cosine_mismatched: the same under the maps of mismatched rows, mean over these maps.
        norm_ratio: norm of the transferred vector over that of the native one.
        projection: of the transferred vector on the native one, over the native norm.
        heavy_share: share of the transferred vector's squared norm in its largest 1 % of channels.
        length, native_length: of what a strength of 1 adds along the transferred and along the
            native vector.
    """

    concept: str
    pair: LayerPair
    dev: float
    test: float
    cosine: float
    cosine_mismatched: float
    norm_ratio: float
    projection: float
    heavy_share: float
    length: float
    native_length: float


@dataclass(frozen=True)
class MappedReceipt:
    """Of a `MappedTask`: one entry for each concept and target; draws by concept and arm."""

    pairs: tuple[PairScreen, ...]
    draws: dict[tuple[str, Arm], Draws]


@dataclass(frozen=True)
class ScreenedConcept:
    """One concept, as tasks need it.

    Attributes:
        name: of the concept.
        method, parameters: how vectors are made.
        states: file of the source model's contrast states.
        native: `{target layer: file}` of native vectors.
        effects: `{target layer: what they do}`.
    """

    name: str
    method: str
    parameters: Mapping[str, Any]
    states: Path
    native: dict[int, Path]
    effects: dict[int, Native]

    def permuted(self, source: int, draws: int, seed: int) -> torch.Tensor:
        """See `permuted_source_vectors`."""
        return permuted_source_vectors(
            self.name, self.method, self.parameters, self.states, source, draws, seed
        )


@dataclass(frozen=True)
class MappedTask:
    """Everything that goes through the maps of one source layer.

    Attributes:
        source: the layer.
        maps: `{target layer: files}`: the map first, those of mismatched rows after it.
        concepts: the concepts.
        vectors: the source model's vector of each concept.
        transferred: `{(concept, target layer): file}` to write transferred vectors to.
        gradients: file of mean gradients; None where effects cannot be predicted.
        scales: see `maps.vectors.length_at_one`, by target layer.
        bias: whether a map's bias is added to a mapped vector.
        draws: of each drawn control.
        seed: of the draws.
    """

    source: int
    maps: dict[int, tuple[Path, ...]]
    concepts: tuple[ScreenedConcept, ...]
    vectors: dict[str, Path]
    transferred: dict[tuple[str, int], Path]
    gradients: Path | None
    scales: Mapping[int, float | None]
    bias: bool
    draws: int
    seed: int


def screen_mapped(task: MappedTask) -> MappedReceipt:
    """Map vectors and controls of one source layer to every target layer; predict their effects.

    Transferred vectors are saved on the way: every map is read once.
    """
    vectors = {name: SteeringVector.load(path) for name, path in task.vectors.items()}
    width = len(next(iter(vectors.values())).values)
    random_ND = random_source_vectors(task.source, width, task.draws, task.seed)
    permuted = {
        concept.name: concept.permuted(task.source, task.draws, task.seed)
        for concept in task.concepts
    }
    pairs: list[PairScreen] = []
    draws: dict[tuple[str, Arm], Draws] = {}
    for target, (path, *mismatched_paths) in sorted(task.maps.items()):
        pair = LayerPair(task.source, target)
        affine = AffineMap.load(path)
        mismatched = [AffineMap.load(other) for other in mismatched_paths]
        for concept in task.concepts:
            gradients = None
            if task.gradients is not None:
                gradients = mean_gradients(task.gradients, concept.name, target)
            scale, native = task.scales[target], concept.effects[target]
            original = vectors[concept.name]
            vector = affine.transfer(original, bias=task.bias)
            vector.save(task.transferred[concept.name, target])
            length = length_at_one(vector.values, scale)
            others = [m.transfer(original, bias=task.bias).values for m in mismatched]
            pairs.append(_compare(concept, pair, vector.values, others, gradients, scale))
            if gradients is None:
                continue
            for arm, units_ND in (
                (Arm.RANDOM_SOURCE, random_ND),
                (Arm.PERMUTED, permuted[concept.name]),
            ):
                directions_ND = mapped_directions(units_ND, affine, original.values, bias=task.bias)
                here = Draws.at(pair, native, *predicted(directions_ND, gradients, length))
                keep_better(draws, (concept.name, arm), here)
    return MappedReceipt(tuple(pairs), draws)


@dataclass(frozen=True)
class TargetTask:
    """Controls that are drawn at one target layer.

    Attributes:
        target: the layer.
        transferred: `{(concept, source layer): file}` of transferred vectors at this layer.
        concepts: the concepts.
        rows: file with some of the layer's hidden states, see `sampled_rows`.
        gradients: file of mean gradients.
        scale: see `maps.vectors.length_at_one`.
        draws: of each drawn control.
        seed: of the draws.
    """

    target: int
    transferred: dict[tuple[str, int], Path]
    concepts: tuple[ScreenedConcept, ...]
    rows: Path
    gradients: Path
    scale: float | None
    draws: int
    seed: int


def screen_target(task: TargetTask) -> dict[tuple[str, Arm], Draws]:
    """Predict the effects of directions that were drawn at one target layer."""
    rows = sampled_rows(task.rows, task.target)
    sources = sorted({source for _, source in task.transferred})
    best: dict[tuple[str, Arm], Draws] = {}
    for concept in task.concepts:
        name = concept.name
        gradients = mean_gradients(task.gradients, name, task.target)
        vectors = transferred_vectors({s: task.transferred[name, s] for s in sources})
        lengths_S = torch.tensor([length_at_one(vectors[s], task.scale) for s in sources])
        for arm in TARGET_DRAWS:
            drawn = TargetDraws(arm, task.target, vectors, rows, task.seed)
            effects = [
                predicted(chunk.flatten(0, 1), gradients, lengths_S.repeat(len(chunk)))
                for chunk in drawn.chunks(task.draws)
            ]
            dev_NS, test_NS = (
                torch.cat(parts).reshape(-1, len(sources)) for parts in zip(*effects, strict=True)
            )
            for number, source in enumerate(sources):
                pair, native = LayerPair(source, task.target), concept.effects[task.target]
                here = Draws.at(pair, native, dev_NS[:, number], test_NS[:, number])
                keep_better(best, (name, arm), here)
    return best


def predicted(
    directions_ND: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor],
    length: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Effects at strength 1 on the development and on the test items, float64 `[N]` each.

    Args:
        directions_ND: of any length; 0 where one is zero.
        gradients: mean over development items, mean over test items, float32 `[d]`.
        length: of what a strength of 1 adds, for all directions or `[N]`.
    """
    norms_N = torch.linalg.vector_norm(directions_ND, dim=1).clamp_min(1e-30)
    dev_N, test_N = (directions_ND @ g.to(directions_ND) / norms_N * length for g in gradients)
    return dev_N.to(torch.float64), test_N.to(torch.float64)


def mean_gradients(path: Path, concept: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean gradients over the development and over the test items, float32 `[d]` each."""
    with open_tensors(path, MEAN_GRADIENTS) as (file, _):
        dev, test = (file.get_tensor(f"{concept}/{layer}/{split}") for split in ("dev", "test"))
    return dev, test


def _compare(
    concept: ScreenedConcept,
    pair: LayerPair,
    vector: torch.Tensor,
    mismatched: Sequence[torch.Tensor],
    gradients: tuple[torch.Tensor, torch.Tensor] | None,
    scale: float | None,
) -> PairScreen:
    native = SteeringVector.load(concept.native[pair.target]).values.double()
    exact = vector.double()
    dev = test = math.nan
    length = length_at_one(exact, scale)
    if gradients is not None:
        dev, test = (float(e) for e in predicted(exact.unsqueeze(0), gradients, length))
    native_norm = float(native.norm())
    cosines = [cosine(other, native) for other in mismatched]
    return PairScreen(
        concept=concept.name,
        pair=pair,
        dev=dev,
        test=test,
        cosine=cosine(exact, native),
        cosine_mismatched=sum(cosines) / len(cosines),
        norm_ratio=float(exact.norm()) / native_norm,
        projection=float(exact @ native) / native_norm**2,
        heavy_share=heavy_share(exact),
        length=length,
        native_length=length_at_one(native, scale),
    )
