"""Many steering conditions at once are each of them alone, by a plain forward with a plain hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from lrt_dist.config import ModelConfig
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.injection import OPERATORS, POSITIONS, Intervention, Steering
from lrt_dist.models.loading import load_blocks
from lrt_dist.runtime.contract import DEFAULT_POLICY, Done
from lrt_dist.runtime.serial import SerialChains
from lrt_dist.tasks.model_stage import BuildModelStage, ModelStage
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.token_trees import Read, SteeredSequence, trees_of

SEQUENCES = (
    SteeredSequence((5, 9, 20, 7, 31), 3, (Read(2, 7, 0), Read(3, 31, 0))),
    SteeredSequence((5, 11), 2, (Read(1, 40, 1), Read(1, 41, 2))),
    SteeredSequence((8, 9, 10, 11, 12, 13, 14), 6, (Read(5, 14, 3),)),
)


def displacements(width: int, layer: int, count: int = 4) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(layer))
    rows[0] = 0
    return rows


def by_hand(folder: Path, added: Mapping[int, torch.Tensor], positions: str) -> list[float]:
    """Slots of every sequence with a displacement at each of some layers, one forward at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    by_block = {find_blocks(model)[layer]: displacement for layer, displacement in added.items()}
    slots = [0.0] * 4
    for sequence in SEQUENCES:

        def steer(
            block: nn.Module, args: object, out: torch.Tensor, s: SteeredSequence = sequence
        ) -> object:
            steered = out.clone()
            steered[:, slice(None) if positions == "all" else s.prompt - 1] += by_block[block]
            return steered

        handles = [block.register_forward_hook(steer) for block in by_block]
        with torch.inference_mode():
            log_p = model(torch.tensor([sequence.ids]), use_cache=False).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        for read in sequence.reads:
            slots[read.slot] += float(log_p[read.position, read.token])
    return slots


def score(folder: Path, task: ScoreTask, cuts: tuple[int, ...]) -> torch.Tensor:
    edges = (*cuts, 4)
    stages = []
    start = 0
    for stop in edges:
        build = BuildModelStage(
            ModelConfig(model=str(folder)), range(start, stop), stop == 4, "cpu"
        )
        stages.append(build())
        start = stop
    (outcome,) = SerialChains(stages, DEFAULT_POLICY).run([task])
    assert isinstance(outcome, Done), outcome
    assert all(receipt is None for receipt in outcome.receipts[:-1])
    receipt: torch.Tensor = outcome.receipts[-1]
    return receipt


def task(*layers: int, positions: str = "all", budget: int = 40) -> ScoreTask:
    trees = trees_of(SEQUENCES, POSITIONS.find(positions), shared=False)
    by_layer = {layer: Steering.adding(displacements(32, layer)) for layer in layers}
    return ScoreTask("t", Intervention(by_layer), trees, 4, budget)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("layers", [(0,), (1,), (3,), (0, 1), (1, 2, 3)])
@pytest.mark.parametrize("cuts", [(), (2,), (1, 2)])
def test_all_conditions_at_once(
    tiny_source: Path, layers: tuple[int, ...], positions: str, cuts: tuple[int, ...]
) -> None:
    """To rounding: 1e-5, since each condition alone is another batch."""
    together = score(tiny_source, task(*layers, positions=positions), cuts)
    for condition in range(4):
        added = {layer: displacements(32, layer)[condition] for layer in layers}
        alone = by_hand(tiny_source, added, positions)
        torch.testing.assert_close(
            together[condition], torch.tensor(alone).double(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_the_sign_of_a_direction_plays_no_part_in_ablation(
    tiny_source: Path, cuts: tuple[int, ...]
) -> None:
    """To rounding: 1e-5. Without a direction nothing is steered: equal bits."""
    plain = task(1).intervention.by_layer[1]
    steering = replace(plain, operator=OPERATORS.find("ablate"))
    minus = replace(steering, displacements=-steering.displacements)
    one, other = (
        score(tiny_source, replace(task(1), intervention=Intervention({1: s})), cuts)
        for s in (steering, minus)
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (one[1:] - one[0]).abs().max() > 0.01
    assert torch.equal(one[0], score(tiny_source, task(1), cuts)[0])


def test_stages_change_no_bit(tiny_source: Path) -> None:
    """Same shapes: equal bits."""
    whole = score(tiny_source, task(1), ())
    several = score(tiny_source, task(0, 1, 3), ())
    for cuts in ((1,), (2,), (3,), (1, 2, 3)):
        assert torch.equal(score(tiny_source, task(1), cuts), whole)
        assert torch.equal(score(tiny_source, task(0, 1, 3), cuts), several)


def test_smaller_batches_score_the_same(tiny_source: Path) -> None:
    """To rounding: 1e-5."""
    large = task(1, budget=4096)
    small = large
    while (smaller := small.smaller()) is not None:
        small = smaller
    assert small.batches > large.batches
    torch.testing.assert_close(
        score(tiny_source, small, ()), score(tiny_source, large, ()), rtol=1e-5, atol=1e-6
    )


def test_steering_does_something(tiny_source: Path) -> None:
    scores = score(tiny_source, task(1), ())
    assert (scores[1:] - scores[0]).abs().max() > 0.1


def test_a_stage_without_a_head_refuses_to_read(tiny_source: Path) -> None:
    stack = load_blocks(ModelConfig(model=str(tiny_source)), range(4), head=False)
    with pytest.raises(ValueError, match="without a head"):
        stack.logits(torch.zeros(1, 2, 32), torch.tensor([0]), torch.tensor([0]))


def test_a_failed_task_can_be_opened_again(tiny_source: Path) -> None:
    """Same shapes: equal bits."""
    half = task(1)
    stage = ModelStage(ModelConfig(model=str(tiny_source)), range(4), head=True, device="cpu")
    stage.open(half)
    stage.step(half.key, 0, None)  # and then something breaks elsewhere
    (outcome,) = SerialChains([stage], DEFAULT_POLICY).run([half])
    assert isinstance(outcome, Done)
    assert torch.equal(outcome.receipts[0], score(tiny_source, half, ()))
