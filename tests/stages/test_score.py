"""Many steering variants at once are each of them alone, by a plain forward with a plain hook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from lrt_dist.config import ModelConfig
from lrt_dist.models.blocks import BlockStack, find_blocks
from lrt_dist.runtime.serial import SerialChains
from lrt_dist.runtime.tasks import DEFAULT_POLICY, Done
from lrt_dist.stages.model_stage import BuildModelStage, ModelStage
from lrt_dist.stages.score import Scored, ScoreTask

SEQUENCES = (
    Scored((5, 9, 20, 7, 31), 3, ((2, 7, 0), (3, 31, 0))),
    Scored((5, 11), 2, ((1, 40, 1), (1, 41, 2))),
    Scored((8, 9, 10, 11, 12, 13, 14), 6, ((5, 14, 3),)),
)


def displacements(width: int, count: int = 4) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    rows[0] = 0
    return rows


def by_hand(
    folder: Path, layer: int, displacement: torch.Tensor, everywhere: bool
) -> tuple[list[float], list[int]]:
    """Slots and next tokens of every sequence, one forward at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    slots, following = [0.0] * 4, []
    for sequence in SEQUENCES:

        def steer(module: object, args: object, out: torch.Tensor, s: Scored = sequence) -> object:
            added = out.clone()
            where = slice(None) if everywhere else s.prompt - 1
            added[:, where] += displacement
            return added

        handle = find_blocks(model)[layer].register_forward_hook(steer)
        with torch.inference_mode():
            log_p = model(torch.tensor([sequence.ids]), use_cache=False).logits[0].log_softmax(-1)
        handle.remove()
        for position, token, slot in sequence.reads:
            slots[slot] += float(log_p[position, token])
        following.append(int(log_p[-1].argmax()))
    return slots, following


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


def task(width: int, layer: int, everywhere: bool = True, budget: int = 40) -> ScoreTask:
    return ScoreTask("t", layer, displacements(width), everywhere, SEQUENCES, 4, budget)


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("cuts", [(), (2,), (1, 2)])
def test_all_variants_at_once(
    tiny_source: Path, layer: int, everywhere: bool, cuts: tuple[int, ...]
) -> None:
    found = score(tiny_source, task(32, layer, everywhere), cuts)
    for variant, displacement in enumerate(displacements(32)):
        expected, _ = by_hand(tiny_source, layer, displacement, everywhere)
        torch.testing.assert_close(
            found[variant], torch.tensor(expected).double(), rtol=1e-5, atol=1e-5
        )


def test_stages_change_no_bit(tiny_source: Path) -> None:
    whole = score(tiny_source, task(32, 1), ())
    for cuts in ((1,), (2,), (3,), (1, 2, 3)):
        assert torch.equal(score(tiny_source, task(32, 1), cuts), whole)


def test_smaller_batches_score_the_same(tiny_source: Path) -> None:
    large = task(32, 1, budget=4096)
    small = large
    while (smaller := small.smaller()) is not None:
        small = smaller
    assert small.batches > large.batches
    torch.testing.assert_close(
        score(tiny_source, small, ()), score(tiny_source, large, ()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_greedy_steers_each_sequence_by_its_own_variant(
    tiny_source: Path, cuts: tuple[int, ...]
) -> None:
    greedy = replace(task(32, 1), displacements=displacements(32, 3) * 5, greedy=True)
    found = score(tiny_source, greedy, cuts).tolist()
    steered = [by_hand(tiny_source, 1, row, True)[1] for row in greedy.displacements]
    assert found == [steered[i][i] for i in range(3)]


def test_steering_does_something(tiny_source: Path) -> None:
    found = score(tiny_source, task(32, 1), ())
    assert (found[1:] - found[0]).abs().max() > 0.1


def test_a_stage_without_a_head_refuses_to_read(tiny_source: Path) -> None:
    stack = BlockStack.load(ModelConfig(model=str(tiny_source)), range(4), head=False)
    with pytest.raises(ValueError, match="without a head"):
        stack.logits(torch.zeros(1, 2, 32), torch.tensor([0]), torch.tensor([0]))


def test_a_failed_task_can_be_opened_again(tiny_source: Path) -> None:
    stage = ModelStage(ModelConfig(model=str(tiny_source)), range(4), head=True, device="cpu")
    half = task(32, 1)
    stage.open(half)
    stage.step(half.key, 0, None)  # and then something breaks elsewhere
    (outcome,) = SerialChains([stage], DEFAULT_POLICY).run([half])
    assert isinstance(outcome, Done)
    assert torch.equal(outcome.receipts[0], score(tiny_source, half, ()))
