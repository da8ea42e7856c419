"""The target model under steering: it scores items, and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from lrt_dist.commands._displacements import Displacements
from lrt_dist.commands._generation import Prompts, continuations
from lrt_dist.corpus.contrast import ConceptData, Item
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import Chosen, Condition, sample_conditions
from lrt_dist.runtime.contract import Chains, Failed, receipts_of
from lrt_dist.store.tables import SampleRow, ScoreRow
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.scores import GeneratedScore, Readout
from lrt_dist.tasks.sequences import CrossEntropies, neutral_sequences
from lrt_dist.tasks.token_trees import trees_of
from lrt_dist.workspace.run import Run

NEUTRAL_TOKENS = 64
NEUTRAL_READS = 16
SAMPLE_BEGINNING = 5
CROSS_ENTROPY = "cross_entropy"
"""Metric of neutral text: nats per token."""


@dataclass(frozen=True)
class Part:
    """Scores of one concept at one target layer that are made, and kept, together.

    Attributes:
        key: names it.
        concept: whose vectors are injected.
        split: dev, test or neutral.
        metric: what is measured.
        target: the layer that is steered.
        conditions: what is injected.
        items: what is scored; none for neutral text.
    """

    key: str
    concept: str
    split: str
    metric: str
    target: int
    conditions: list[Condition]
    items: tuple[Item, ...] = ()


class SteeredTarget:
    """The target model under steering: runs parts, and lets the model write."""

    def __init__(
        self, run: Run, chains: Chains, displacements: Displacements, tokenizer: SiteTokenizer
    ) -> None:
        self._run, self._chains = run, chains
        self._displacements, self._tokenizer = displacements, tokenizer
        self._settings = run.config.evaluate

    def scores(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[ScoreRow]]]:
        """Rows of each part, in the order in which parts end.

        Raises:
            LrtError: a part failed.
        """
        forced: dict[str, tuple[Part, Readout]] = {}
        for part in parts:
            if part.metric == CROSS_ENTROPY:
                forced[part.key] = part, self._neutral
            elif isinstance(self._run.score, GeneratedScore):
                yield part, list(_rows(part, self._judged(part, self._run.score)))
            else:
                forced[part.key] = part, self._run.score.read(part.items, self._tokenizer)
        tasks = [self._task(part, readout) for part, readout in forced.values()]
        for outcome in self._chains.run(tasks):
            if isinstance(outcome, Failed):
                raise LrtError(f"evaluation of {outcome.task.key} failed: {outcome.reason}")
            part, readout = forced[outcome.task.key]
            (sums,) = receipts_of(outcome)
            yield part, list(_rows(part, readout.of(sums)))

    def samples(self, chosen: dict[str, Chosen]) -> list[SampleRow]:
        """Greedy continuations of one test prompt per concept, all concepts at once."""
        length = self._settings.sample_tokens
        conditions = {n: sample_conditions(c.pair.source, c.strength) for n, c in chosen.items()}
        begin = {name: self._beginning(self._run.concepts[name]) for name in chosen}
        prompts = [
            Prompts(
                name,
                choice.pair.target,
                self._displacements.of(name, choice.pair.target, conditions[name]),
                tuple(range(len(conditions[name]))),
                (begin[name],) * len(conditions[name]),
            )
            for name, choice in chosen.items()
        ]
        with self._run.progress.phase("samples", length * len(chosen), "tokens") as phase:
            written = continuations(
                self._chains,
                prompts,
                self._run.positions,
                tokens=length,
                token_budget=self._settings.batch_tokens,
                on_token=lambda: phase.advance(len(chosen)),
            )
        return [
            SampleRow(
                concept=name,
                prompt=self._tokenizer.decode(list(begin[name])),
                arm=condition.arm,
                strength=condition.strength,
                text=self._tokenizer.decode(list(ids)),
            )
            for name in chosen
            for condition, ids in zip(conditions[name], written[name], strict=True)
        ]

    def _judged(self, part: Part, score: GeneratedScore) -> torch.Tensor:
        """Continue every item's prompt under every condition, and judge the texts.

        Returns:
            float64 `[conditions, items]`.
        """
        prompts = [self._tokenizer.encode(item.prompts[0]).ids for item in part.items]
        numbers = range(len(part.conditions))
        written = continuations(
            self._chains,
            [
                Prompts(
                    part.key,
                    part.target,
                    self._displacements.of(part.concept, part.target, part.conditions),
                    tuple(number for number in numbers for _ in prompts),
                    tuple(prompts) * len(part.conditions),
                )
            ],
            self._run.positions,
            tokens=score.tokens,
            token_budget=self._settings.batch_tokens,
        )
        texts = iter(self._tokenizer.decode(list(ids)) for ids in written[part.key])
        values = [[score.judge(item, next(texts)) for item in part.items] for _ in numbers]
        return torch.tensor(values, dtype=torch.float64)

    def _task(self, part: Part, readout: Readout) -> ScoreTask:
        return ScoreTask(
            key=part.key,
            layer=part.target,
            displacements=self._displacements.of(part.concept, part.target, part.conditions),
            trees=trees_of(readout.sequences, self._run.positions, shared=False),
            slots=readout.slots,
            token_budget=self._settings.batch_tokens,
        )

    @cached_property
    def _neutral(self) -> CrossEntropies:
        """Segments spread evenly over the corpus, cut short."""
        index = RowIndex.open(self._run.folder.rows)
        count = min(self._settings.neutral_segments, index.segments)
        texts = []
        for number in range(count):
            unit, remainder = divmod(number * index.units, count)
            segments = index.unit(unit)
            segment = segments[remainder * len(segments) // count]
            texts.append(segment.ids.target[:NEUTRAL_TOKENS])
        return CrossEntropies(
            neutral_sequences(texts, self._tokenizer.special_tokens, NEUTRAL_READS)
        )

    def _beginning(self, data: ConceptData) -> tuple[int, ...]:
        """Tokens of a test item's prompt; where items have none, the first words of its text."""
        prompt = self._tokenizer.encode(data.test[0].prompts[0]).ids
        if len(prompt) > self._tokenizer.special_tokens:
            return prompt
        return self._tokenizer.encode(data.test[0].texts()[0]).ids[:SAMPLE_BEGINNING]


def _rows(part: Part, values: torch.Tensor) -> Iterator[ScoreRow]:
    """Scores of one part in long form.

    Args:
        values: `[conditions, items]`.
    """
    for condition, by_item in zip(part.conditions, values.tolist(), strict=True):
        for item, value in enumerate(by_item):
            yield ScoreRow(
                concept=part.concept,
                split=part.split,
                item=item,
                target_layer=part.target,
                metric=part.metric,
                value=value,
                **asdict(condition),
            )
