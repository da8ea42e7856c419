"""Gradients by one pass are finite differences of steered scores; a chain is the whole model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tiny_models import metaspace_tokenizer
from tiny_tokenizers import load_tokenizer

from lrt_dist.config import ModelConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.models.injection import POSITIONS, Intervention, Steering
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.runtime.contract import DEFAULT_POLICY, Done, receipts_of
from lrt_dist.runtime.serial import SerialChains
from lrt_dist.tasks.gradient import GradientTask
from lrt_dist.tasks.model_stage import BuildModelStage, ModelStage
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.score_choice import SCORES
from lrt_dist.tasks.scored_items import ScoredItem
from lrt_dist.tasks.scores import ForcedScore
from lrt_dist.tasks.token_trees import trees_of

LAYERS = (0, 1, 2)
FORCED = [name for name in SCORES.names if isinstance(SCORES.find(name), ForcedScore)]
CHOICES = (
    Item(("The statement is", "The statement is"), (" (A)",), (" (B)",)),
    Item(("One", "Another"), (" end.",), (" more", " is")),
)
ITEMS = (
    Item(("The statement is", "The statement is"), (" true", " a list of names"), (" x",)),
    Item(("One", "Another"), (" end.",), (" more", " is")),
    Item(("The value of the", "The value of the"), (" name",), (" object",)),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("tokenizer"), metaspace_tokenizer())


def scored(
    tokenizer: SiteTokenizer, positions: str, *, shared: bool, score: str = "propensity"
) -> tuple[ScoredItem, ...]:
    read = SCORES.find(score)
    assert isinstance(read, ForcedScore)
    readouts = [
        read.read([item], tokenizer) for item in (ITEMS if score == "propensity" else CHOICES)
    ]
    return tuple(
        ScoredItem(trees_of(r.sequences, POSITIONS.find(positions), shared=shared), r)
        for r in readouts
    )


def run(
    folder: Path, items: tuple[ScoredItem, ...], cuts: tuple[int, ...] = (), budget: int = 999
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    edges = (0, *cuts, 3)
    stages = [
        BuildModelStage(ModelConfig(model=str(folder)), range(a, b), b == 3, "cpu")()
        for a, b in itertools.pairwise(edges)
    ]
    task = GradientTask("g", LAYERS, items, budget)
    (outcome,) = SerialChains(stages, DEFAULT_POLICY).run([task])
    assert isinstance(outcome, Done), outcome
    receipts = receipts_of(outcome)
    assert all(receipt.scores is None for receipt in receipts[:-1])
    assert receipts[-1].scores is not None
    return receipts[-1].scores, {k: v for r in receipts for k, v in r.by_layer.items()}


def steered(
    stage: ModelStage, item: ScoredItem, layer: int, displacements: torch.Tensor
) -> torch.Tensor:
    task = ScoreTask(
        "s",
        Intervention({layer: Steering.adding(displacements)}),
        item.trees,
        item.readout.slots,
        999,
    )
    (outcome,) = SerialChains([stage], DEFAULT_POLICY).run([task])
    assert isinstance(outcome, Done), outcome
    (sums,) = receipts_of(outcome)
    return item.readout.of(sums)[:, 0]


@pytest.mark.parametrize(
    ("score", "positions", "shared"),
    [
        *(("propensity", positions, shared) for positions in ("all", "last") for shared in (1, 0)),
        *((score, "all_but_special", True) for score in FORCED[1:]),
    ],
)
def test_gradients_are_finite_differences(
    tiny_target: Path, tokenizer: SiteTokenizer, score: str, positions: str, shared: bool
) -> None:
    """Central differences of steered scores, in float32: to 2 %."""
    items = scored(tokenizer, positions, shared=shared, score=score)
    scores, gradients = run(tiny_target, items)
    stage = BuildModelStage(ModelConfig(model=str(tiny_target)), range(3), True, "cpu")()
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for layer in LAYERS:
        width = gradients[layer].shape[1]
        directions = torch.randn(4, width, generator=generator)
        step = 1e-2
        both = torch.cat([step * directions, -step * directions, torch.zeros(1, width)])
        for number, item in enumerate(items):
            values = steered(stage, item, layer, both)
            torch.testing.assert_close(scores[number], values[-1], rtol=1e-4, atol=1e-5)
            measured = (values[:4] - values[4:8]) / (2 * step)
            predicted = (directions @ gradients[layer][number]).double()
            torch.testing.assert_close(predicted, measured, rtol=0.02, atol=1e-3)
            largest = max(largest, float(measured.abs().max()))
    assert largest > (0.01 if score == "probability" else 0.05)


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2)])
def test_a_chain_is_the_whole_model(
    tiny_target: Path, tokenizer: SiteTokenizer, cuts: tuple[int, ...]
) -> None:
    """Same shapes: equal bits."""
    items = scored(tokenizer, "all", shared=True)
    scores, gradients = run(tiny_target, items)
    staged_scores, staged = run(tiny_target, items, cuts)
    assert torch.equal(scores, staged_scores)
    assert staged.keys() == gradients.keys() == set(LAYERS)
    for layer in LAYERS:
        assert torch.equal(staged[layer], gradients[layer])


def test_batches_change_rounding_alone(tiny_target: Path, tokenizer: SiteTokenizer) -> None:
    items = scored(tokenizer, "all", shared=True)
    _, together = run(tiny_target, items)
    _, apart = run(tiny_target, items, budget=1)
    for layer in LAYERS:
        torch.testing.assert_close(apart[layer], together[layer], rtol=1e-4, atol=1e-5)
    small: GradientTask | None = GradientTask("g", LAYERS, items, 999)
    while small is not None and (smaller := small.smaller()) is not None:
        small = smaller
    assert small is not None
    assert small.batches == len(items)
