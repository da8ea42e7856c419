"""Sequences that share their beginnings, run as one tree, are each of them alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrt_dist.config import ModelConfig
from lrt_dist.models.injection import POSITIONS, Intervention, Parts, Positions, Steering
from lrt_dist.models.loading import load_blocks
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.token_trees import ROOT, Read, SteeredSequence, trees_of

PROMPT = (5, 9, 20, 7)
SEQUENCES = (
    SteeredSequence((*PROMPT, 31, 8), 4, (Read(3, 31, 0), Read(4, 8, 0), Read(5, 9, 0))),
    SteeredSequence((*PROMPT, 31, 12), 4, (Read(3, 31, 1), Read(4, 12, 1), Read(5, 40, 1))),
    SteeredSequence(PROMPT, 4, (Read(3, 11, 2),)),
    SteeredSequence((6, 9, 20), 3, (Read(2, 11, 3),)),
)
ALL = POSITIONS.find("all")


def score(folder: Path, task: ScoreTask) -> torch.Tensor:
    stack = load_blocks(ModelConfig(model=str(folder)), range(4), head=True)
    work = task.start(stack)
    for batch in range(task.batches):
        work.step(batch, None)
    receipt = work.finish()
    assert receipt is not None
    return receipt


def task(width: int, *, shared: bool, positions: Positions = ALL, budget: int = 999) -> ScoreTask:
    generator = torch.Generator().manual_seed(0)
    displacements = torch.randn(3, width, generator=generator)
    trees = trees_of(SEQUENCES, positions, shared=shared)
    steered = Intervention({1: Steering.adding(displacements)})
    return ScoreTask("t", steered, trees, 4, budget)


def test_what_is_common_is_there_once() -> None:
    tree, other = trees_of(SEQUENCES, ALL, shared=True)
    assert tree.ids == (*PROMPT, 31, 8, 12)
    assert tree.parents == (ROOT, 0, 1, 2, 3, 4, 4)
    assert tree.branches
    assert not other.branches
    apart = trees_of(SEQUENCES, ALL, shared=False)
    assert [tree.ids for tree in apart] == [sequence.ids for sequence in SEQUENCES]


@pytest.mark.parametrize("positions", POSITIONS.names)
@pytest.mark.parametrize("budget", [999, 8, 1])
def test_a_tree_scores_what_its_sequences_score(
    tiny_source: Path, positions: str, budget: int
) -> None:
    """To rounding: 1e-5."""
    chosen = POSITIONS.find(positions)
    together = score(tiny_source, task(32, shared=True, positions=chosen, budget=budget))
    apart = score(tiny_source, task(32, shared=False, positions=chosen))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def last_token(parts: Parts) -> list[int]:
    return [parts.tokens - 1]


def test_sequences_that_steer_a_common_token_differently_stay_apart() -> None:
    trees = trees_of(SEQUENCES, Positions(last_token), shared=True)
    assert [tree.ids for tree in trees] == [sequence.ids for sequence in SEQUENCES]
    assert [tree.steered for tree in trees] == [(5,), (5,), (3,), (2,)]


def test_sequences_beyond_an_attention_window_stay_apart() -> None:
    assert len(trees_of(SEQUENCES, ALL, shared=True, window=5)) == 4
    assert len(trees_of(SEQUENCES, ALL, shared=True, window=6)) == 2


def test_conditions_are_divided_where_one_tree_under_all_is_too_much() -> None:
    shared = task(32, shared=True, budget=14)
    sizes = [(s.stop - s.start) * sum(len(shared.trees[i].ids) for i in t) for s, t in shared.cut()]
    assert max(sizes) <= 14
    seen = sorted((n, i) for s, t in shared.cut() for n in range(s.start, s.stop) for i in t)
    assert seen == [(n, i) for n in range(3) for i in range(2)]
