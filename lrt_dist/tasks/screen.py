"""Predicted effects of every vector at every pair of layers: dot products with mean gradients.

A displacement `α · s · v/‖v‖` of a layer changes an item's score by `α · s · g · v/‖v‖` to first
order (see `tasks.gradient`), so the mean over items needs the mean gradient alone. *Effect* here is
that mean at strength 1, in units of the score.

Each drawn control is searched as the claim is: of all pairs of layers it takes the one at which the
weaker of the native and its own effect on the development items is largest, and is judged there on
the test items.

Shape suffixes: N draws, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lrt_dist.effects import cosine
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.controls import (
    covariance_directions,
    generator,
    heavy_share,
    permuted_vectors,
    random_directions,
)
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.conditions import TARGET_DRAWS, Arm
from lrt_dist.sites import LayerPair
from lrt_dist.store.states import ContrastStates
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
        norms: median norm of each target layer's hidden states.
        draws: of each drawn control.
        seed: of the draws.
    """

    source: int
    maps: dict[int, tuple[Path, ...]]
    concepts: tuple[ScreenedConcept, ...]
    vectors: dict[str, Path]
    transferred: dict[tuple[str, int], Path]
    gradients: Path | None
    norms: dict[int, float]
    draws: int
    seed: int


def screen_mapped(task: MappedTask) -> MappedReceipt:
    """Map vectors and controls of one source layer to every target layer; predict their effects.

    Transferred vectors are saved on the way: every map is read once.
    """
    vectors = {name: SteeringVector.load(path) for name, path in task.vectors.items()}
    width = len(next(iter(vectors.values())).values)
    random_ND = random_directions(
        width, task.draws, generator(task.seed, Arm.RANDOM_SOURCE, task.source)
    )
    permuted = {concept.name: _permuted(task, concept) for concept in task.concepts}
    pairs: list[PairScreen] = []
    draws: dict[tuple[str, Arm], Draws] = {}
    for target, (path, *mismatched_paths) in sorted(task.maps.items()):
        pair = LayerPair(task.source, target)
        affine = AffineMap.load(path)
        mismatched = [AffineMap.load(other) for other in mismatched_paths]
        weight = affine.weight.to(torch.float32)
        random_mapped_ND = random_ND @ weight
        for concept in task.concepts:
            gradients = None
            if task.gradients is not None:
                gradients = mean_gradients(task.gradients, concept.name, target)
            norm, native = task.norms[target], concept.effects[target]
            vector = affine.transfer(vectors[concept.name])
            vector.save(task.transferred[concept.name, target])
            others = [m.transfer(vectors[concept.name]).values for m in mismatched]
            pairs.append(_compare(concept, pair, vector.values, others, gradients, norm))
            if gradients is None:
                continue
            for arm, directions_ND in (
                (Arm.RANDOM_SOURCE, random_mapped_ND),
                (Arm.PERMUTED, permuted[concept.name] @ weight),
            ):
                here = Draws.at(pair, native, *predicted(directions_ND, gradients, norm))
                best = draws.get((concept.name, arm))
                draws[concept.name, arm] = best.or_better(here) if best else here
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
        norm: median norm of the layer's hidden states.
        draws: of each drawn control.
        seed: of the draws.
    """

    target: int
    transferred: dict[tuple[str, int], Path]
    concepts: tuple[ScreenedConcept, ...]
    rows: Path
    gradients: Path
    norm: float
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
        for arm in TARGET_DRAWS:
            effects = [
                predicted(chunk.flatten(0, 1), gradients, task.norm)
                for chunk in _chunks(arm, task.target, vectors, rows, task.draws, task.seed)
            ]
            dev_NS, test_NS = (
                torch.cat(parts).reshape(-1, len(sources)) for parts in zip(*effects, strict=True)
            )
            for number, source in enumerate(sources):
                pair, native = LayerPair(source, task.target), concept.effects[task.target]
                here = Draws.at(pair, native, dev_NS[:, number], test_NS[:, number])
                known = best.get((name, arm))
                best[name, arm] = known.or_better(here) if known else here
    return best


def target_directions(
    arm: Arm,
    target: int,
    vectors: Mapping[int, torch.Tensor],
    rows: torch.Tensor,
    draw: int,
    seed: int,
) -> dict[int, torch.Tensor]:
    """One draw of a control that is drawn at a target layer: a direction for each source layer.

    Across source layers the directions have the same angles as the transferred vectors, which are
    much alike: so a control is searched over as many different vectors as the claim is.

    Args:
        vectors: of the claim, by source layer, `[d]`.
        rows: some hidden states of the layer, `[rows, d]`.

    Returns:
        float32 `[d]` by source layer, of any length.
    """
    number, place = divmod(draw, CHUNK)
    chunk = _chunk(arm, target, vectors, rows, number, seed)
    return dict(zip(sorted(vectors), chunk[place], strict=True))


def transferred_vectors(paths: Mapping[int, Path]) -> dict[int, torch.Tensor]:
    """A concept's transferred vectors at one target layer, by source layer, float64 `[d]`."""
    return {source: SteeringVector.load(path).values.double() for source, path in paths.items()}


CHUNK = 32
"""Draws at a target layer that are made at once."""


def _chunks(
    arm: Arm,
    target: int,
    vectors: Mapping[int, torch.Tensor],
    rows: torch.Tensor,
    draws: int,
    seed: int,
) -> Iterator[torch.Tensor]:
    """All draws, some at a time: float32 `[chunk, sources, d]`."""
    for first in range(0, draws, CHUNK):
        chunk = _chunk(arm, target, vectors, rows, first // CHUNK, seed)
        yield chunk[: draws - first]


def _chunk(
    arm: Arm,
    target: int,
    vectors: Mapping[int, torch.Tensor],
    rows: torch.Tensor,
    number: int,
    seed: int,
) -> torch.Tensor:
    random = generator(seed, arm, target, number)
    count = CHUNK * len(vectors)
    if arm is Arm.COVARIANCE:
        apart = covariance_directions(rows, count, random)
    else:
        apart = random_directions(rows.shape[1], count, random)
    units = torch.stack([vectors[source] for source in sorted(vectors)])
    units = units / torch.linalg.vector_norm(units, dim=1, keepdim=True).clamp_min(1e-30)
    w, V = torch.linalg.eigh(units @ units.T)
    root = (V * w.clamp_min(0).sqrt()) @ V.T
    return torch.einsum("st,ctd->csd", root.to(apart), apart.reshape(CHUNK, len(vectors), -1))


def source_directions(
    arm: Arm, concept: ScreenedConcept, source: int, width: int, draws: int, seed: int
) -> torch.Tensor:
    """Vectors of a control drawn at a source layer, not yet mapped, float32 `[draws, d]`."""
    if arm is Arm.RANDOM_SOURCE:
        return random_directions(width, draws, generator(seed, arm, source))
    states = ContrastStates.load(concept.states, [source])
    return permuted_vectors(
        concept.method,
        concept.parameters,
        *states.of(source),
        draws,
        generator(seed, arm, concept.name),
    )


def predicted(
    directions_ND: torch.Tensor, gradients: tuple[torch.Tensor, torch.Tensor], norm: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Effects at strength 1 on the development and on the test items, float64 `[N]` each.

    Args:
        directions_ND: of any length; 0 where one is zero.
        gradients: mean over development items, mean over test items, float32 `[d]`.
        norm: median norm of the layer's hidden states.
    """
    lengths_N = torch.linalg.vector_norm(directions_ND, dim=1).clamp_min(1e-30)
    dev_N, test_N = (directions_ND @ g.to(directions_ND) / lengths_N * norm for g in gradients)
    return dev_N.to(torch.float64), test_N.to(torch.float64)


def mean_gradients(path: Path, concept: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean gradients over the development and over the test items, float32 `[d]` each."""
    with open_tensors(path, MEAN_GRADIENTS) as (file, _):
        dev, test = (file.get_tensor(f"{concept}/{layer}/{split}") for split in ("dev", "test"))
    return dev, test


SAMPLED_ROWS = "sampled rows"
"""Kind of the file with some hidden states of each target layer; tensors `{layer}`, `[rows, d]`."""


def sampled_rows(path: Path, layer: int) -> torch.Tensor:
    """Some hidden states of a layer, float32 `[rows, d]`."""
    with open_tensors(path, SAMPLED_ROWS) as (file, _):
        rows: torch.Tensor = file.get_tensor(str(layer))
    return rows


def _permuted(task: MappedTask, concept: ScreenedConcept) -> torch.Tensor:
    return source_directions(Arm.PERMUTED, concept, task.source, 0, task.draws, task.seed)


def _compare(
    concept: ScreenedConcept,
    pair: LayerPair,
    vector: torch.Tensor,
    mismatched: Sequence[torch.Tensor],
    gradients: tuple[torch.Tensor, torch.Tensor] | None,
    norm: float,
) -> PairScreen:
    native = SteeringVector.load(concept.native[pair.target]).values.double()
    exact = vector.double()
    dev = test = math.nan
    if gradients is not None:
        dev, test = (float(e) for e in predicted(exact.unsqueeze(0), gradients, norm))
    length = float(native.norm())
    cosines = [cosine(other, native) for other in mismatched]
    return PairScreen(
        concept=concept.name,
        pair=pair,
        dev=dev,
        test=test,
        cosine=cosine(exact, native),
        cosine_mismatched=sum(cosines) / len(cosines),
        norm_ratio=float(exact.norm()) / length,
        projection=float(exact @ native) / length**2,
        heavy_share=heavy_share(exact),
    )
