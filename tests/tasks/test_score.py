"""Many steering conditions at once are each of them alone, by a plain forward with a plain hook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from lrt_dist.config import ModelConfig
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.injection import OPERATORS, POSITIONS, Steering
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


def displacements(width: int, count: int = 4) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    rows[0] = 0
    return rows


def by_hand(folder: Path, layer: int, displacement: torch.Tensor, positions: str) -> list[float]:
    """Slots of every sequence, one forward at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    slots = [0.0] * 4
    for sequence in SEQUENCES:

        def steer(
            module: object, args: object, out: torch.Tensor, s: SteeredSequence = sequence
        ) -> object:
            added = out.clone()
            added[:, slice(None) if positions == "all" else s.prompt - 1] += displacement
            return added

        handle = find_blocks(model)[layer].register_forward_hook(steer)
        with torch.inference_mode():
            log_p = model(torch.tensor([sequence.ids]), use_cache=False).logits[0].log_softmax(-1)
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


def task(layer: int, positions: str = "all", budget: int = 40) -> ScoreTask:
    trees = trees_of(SEQUENCES, POSITIONS.find(positions), shared=False)
    return ScoreTask("t", layer, Steering.adding(displacements(32)), trees, 4, budget)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("cuts", [(), (2,), (1, 2)])
def test_all_conditions_at_once(
    tiny_source: Path, layer: int, positions: str, cuts: tuple[int, ...]
) -> None:
    """To rounding: 1e-5, since each condition alone is another batch."""
    together = score(tiny_source, task(layer, positions), cuts)
    for condition, displacement in enumerate(displacements(32)):
        alone = by_hand(tiny_source, layer, displacement, positions)
        torch.testing.assert_close(
            together[condition], torch.tensor(alone).double(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_the_sign_of_a_direction_plays_no_part_in_ablation(
    tiny_source: Path, cuts: tuple[int, ...]
) -> None:
    """To rounding: 1e-5. Without a direction nothing is steered: equal bits."""
    steering = replace(task(1).steering, operator=OPERATORS.find("ablate"))
    minus = replace(steering, displacements=-steering.displacements)
    one, other = (score(tiny_source, replace(task(1), steering=s), cuts) for s in (steering, minus))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (one[1:] - one[0]).abs().max() > 0.01
    assert torch.equal(one[0], score(tiny_source, task(1), cuts)[0])


def test_stages_change_no_bit(tiny_source: Path) -> None:
    """Same shapes: equal bits."""
    whole = score(tiny_source, task(1), ())
    for cuts in ((1,), (2,), (3,), (1, 2, 3)):
        assert torch.equal(score(tiny_source, task(1), cuts), whole)


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
