"""What scores say of the texts that the model wrote, as means over items with their intervals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow.compute as pc
import torch

from lrt_dist.intervals import mean_interval
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.store.tables import GeneratedRow


@dataclass(frozen=True)
class JudgedArm:
    """One arm under one score; of several samples and draws an item has their mean.

    Attributes:
        arm: what was injected.
        low: mean over items at the negative strength.
        high: mean at the positive one.
        effect: half of their difference.
        interval: 95 % interval of the effect, over items by question.
    """

    arm: Arm
    low: float
    high: float
    effect: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class JudgedScore:
    """All arms under one score.

    Attributes:
        title: of the score.
        unsteered: mean over items without steering.
        arms: in the order of the arms.
    """

    title: str
    unsteered: float
    arms: tuple[JudgedArm, ...]


@dataclass(frozen=True)
class Judged:
    """Every score of one concept's texts.

    Attributes:
        items: prompts that were continued.
        texts: number of texts.
        scores: in the order of the run.
    """

    items: int
    texts: int
    scores: tuple[JudgedScore, ...]


def judged_of(results: Results, concept: str) -> Judged | None:
    """The scores of a concept's texts; None where nothing was judged."""
    rows = list(results.generated.filter(pc.field("concept") == concept))
    if not rows or not rows[0].scores:
        return None
    titles = rows[0].scores
    scores = tuple(_score(rows, n, title) for n, title in enumerate(titles))
    return Judged(len({row.item for row in rows}), len(rows), scores)


def _score(rows: list[GeneratedRow], number: int, title: str) -> JudgedScore:
    by_arm: defaultdict[tuple[Arm, int], defaultdict[int, list[float]]]
    by_arm = defaultdict(lambda: defaultdict(list))
    for row in rows:
        sign = (row.strength > 0) - (row.strength < 0)
        by_arm[Arm(row.arm), sign][row.item].append(row.values[number])
    means = {
        key: torch.tensor([sum(v) / len(v) for _, v in sorted(of_items.items())]).double()
        for key, of_items in by_arm.items()
    }
    clusters = [question for _, question in sorted({(row.item, row.question) for row in rows})]
    arms = []
    for arm in Arm:
        if (arm, 1) in means:
            low, high = means[arm, -1], means[arm, 1]
            effect = (high - low) / 2
            arms.append(
                JudgedArm(
                    arm,
                    low=float(low.mean()),
                    high=float(high.mean()),
                    effect=float(effect.mean()),
                    interval=mean_interval(effect, clusters),
                )
            )
    none = means[Arm.NONE, 0]
    return JudgedScore(title, float(none.mean()), tuple(arms))
