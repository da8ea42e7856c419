"""The target model under steering: exact scores, cell by cell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.generated import judge
from lrt_dist.commands.evaluation.generation import Writer, Writing
from lrt_dist.commands.evaluation.scored_items import PromptSharing, readout_address, score_context
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError
from lrt_dist.models.injection import Intervention
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import CROSS_ENTROPY, NONE, Arm, Condition
from lrt_dist.runtime.contract import Failed, receipts_of
from lrt_dist.sites import Band
from lrt_dist.store.cells import Addresses, CellStore, address, addresses_of
from lrt_dist.store.tables import ScoreRow
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.scored_items import JoinedItems
from lrt_dist.tasks.scores import ForcedScore, GeneratedScore, Readout
from lrt_dist.tasks.sequences import CrossEntropies, neutral_sequences
from lrt_dist.workspace.run import Run

NEUTRAL_TOKENS = 64
NEUTRAL_READS = 16

CONDITIONS_PER_TASK = 32
"""Conditions that share the layers before the steered one in one task."""

ITEMS_PER_TASK = 16
"""Items of one task: with `CONDITIONS_PER_TASK` the most that a kill can lose."""


@dataclass(frozen=True)
class Request:
    """Scores that are wanted of one concept at one target layer.

    Attributes:
        concept: whose vectors are injected.
        split: dev, test or neutral.
        metric: what is measured.
        target: the layer that is steered.
        conditions: what is injected.
        items: what is scored; none for neutral text.
        band: see `Displacements.of`.
    """

    concept: str
    split: str
    metric: str
    target: int
    conditions: tuple[Condition, ...]
    items: tuple[Item, ...] = ()
    band: Band = ()


@dataclass(frozen=True)
class _Wanted:
    """A request, with how its items are read.

    Attributes:
        addresses: of its cells, `[conditions, items]`.
    """

    request: Request
    readouts: tuple[Readout, ...]
    addresses: Addresses


@dataclass(frozen=True)
class _Block:
    """Missing cells that one task computes: some conditions × some items.

    Attributes:
        intervention: of the conditions.
        addresses: `[conditions, items]`.
    """

    intervention: Intervention
    items: JoinedItems
    addresses: Addresses

    @property
    def key(self) -> str:
        """Of its cells: blocks of different requests that are one have one key."""
        return address(self.addresses.tobytes()).hex()


class SteeredTarget:
    """Runs requests; cells that were ever computed are read."""

    def __init__(
        self,
        run: Run,
        chains: OnDemandChains,
        displacements: Displacements,
        tokenizer: SiteTokenizer,
        writer: Writer,
    ) -> None:
        self._run, self._chains = run, chains
        self._displacements, self._tokenizer, self._writer = displacements, tokenizer, writer
        self._budget = run.config.evaluate.batch_tokens
        self._cells = CellStore(run.folder.cells)
        self._sharing = PromptSharing(run, chains)
        self._context = score_context(run)

    def scores(self, name: str, requests: Sequence[Request]) -> list[torch.Tensor]:
        """Scores of each request, float64 `[conditions, items]`.

        Args:
            name: of the phase, for the progress bar.

        Raises:
            LrtError: some cells could not be computed.
        """
        score = self._run.score
        if isinstance(score, GeneratedScore):
            generated = [r.metric != CROSS_ENTROPY for r in requests]
            forced = iter(
                self._forced(name, [r for r, g in zip(requests, generated, strict=True) if not g])
            )
            judged = iter(
                self._judged(
                    name, [r for r, g in zip(requests, generated, strict=True) if g], score
                )
            )
            return [next(judged if g else forced) for g in generated]
        return self._forced(name, requests)

    def rows(
        self, requests: Sequence[Request], values: Sequence[torch.Tensor]
    ) -> Iterator[ScoreRow]:
        """The scores of some requests in long form."""
        for request, values_of in zip(requests, values, strict=True):
            for condition, by_item in zip(request.conditions, values_of.tolist(), strict=True):
                vector = self._displacements.vector_of(request.concept, condition)
                for item, value in enumerate(by_item):
                    yield ScoreRow(
                        concept=request.concept,
                        split=request.split,
                        item=item,
                        target_layer=request.target,
                        vector=vector,
                        metric=request.metric,
                        value=value,
                        **vars(condition),
                    )

    def _forced(self, name: str, requests: Sequence[Request]) -> list[torch.Tensor]:
        if not requests:
            return []
        wanted = [self._wanted(request) for request in requests]
        total = sum(w.addresses.size for w in wanted)
        with self._run.progress.phase(name, total, "passes") as phase:
            missing = sum(int(np.isnan(self._cells.find(w.addresses)).sum()) for w in wanted)
            phase.resume(total - missing)
            if missing:
                self._sharing.decide(readout for w in wanted for readout in w.readouts)
            blocks: dict[str, _Block] = {}
            for outcome in self._chains.run(self._tasks(wanted, blocks)):
                block = blocks.pop(outcome.task.key)
                if isinstance(outcome, Failed):
                    raise LrtError(
                        f"evaluation at layer {block.intervention.layers}: {outcome.reason}"
                    )
                (sums,) = receipts_of(outcome)
                self._cells.add(block.addresses, block.items.scores(sums).numpy())
                phase.advance(block.addresses.size)
        return [torch.from_numpy(self._cells.find(w.addresses)) for w in wanted]

    def _wanted(self, request: Request) -> _Wanted:
        if request.metric == CROSS_ENTROPY:
            readouts = self._neutral
        else:
            score = self._run.score
            assert isinstance(score, ForcedScore)
            items = self._rendered(request)
            readouts = tuple(score.read([item], self._tokenizer) for item in items)
        addresses = self._addresses(request, [readout_address(r) for r in readouts])
        return _Wanted(request, readouts, addresses)

    def _addresses(self, request: Request, items: Sequence[bytes]) -> Addresses:
        """Of cells, `[conditions, items]`; without steering the layer does not matter."""
        rows = []
        intervention = self._intervention(request, request.conditions)
        for content in intervention.contents:
            layer = intervention.layers if content else "no layer"
            rows.append(address(self._context, request.metric.encode(), layer.encode(), content))
        return addresses_of(rows, items)

    def _intervention(self, request: Request, conditions: Sequence[Condition]) -> Intervention:
        return self._displacements.of(request.concept, request.target, conditions, request.band)

    def _tasks(self, wanted: Sequence[_Wanted], blocks: dict[str, _Block]) -> Iterator[ScoreTask]:
        """Tasks for what is missing, made as they are drawn.

        How cells are cut into tasks depends on the requests alone, and a task is kept whole or not
        at all: so a run that was killed goes on with the same tasks, and ends with the same bits.
        """
        for w in wanted:
            request = w.request
            for chunk in _chunks(request.conditions):
                missing = np.isnan(self._cells.find(w.addresses[chunk]))
                if not missing.any():
                    continue
                conditions = [request.conditions[i] for i in chunk]
                intervention = self._intervention(request, conditions)
                for first in range(0, missing.shape[1], ITEMS_PER_TASK):
                    some = slice(first, first + ITEMS_PER_TASK)
                    (rows,) = np.nonzero(missing[:, some].any(axis=1))
                    if len(rows):
                        block = _Block(
                            intervention[torch.from_numpy(rows)],
                            JoinedItems.of(map(self._sharing.item, w.readouts[some])),
                            w.addresses[chunk][rows, some],
                        )
                        if block.key not in blocks:  # else another request waits for it, too
                            blocks[block.key] = block
                            yield self._task(block)

    def _task(self, block: _Block) -> ScoreTask:
        items = block.items
        return ScoreTask(block.key, block.intervention, items.trees, items.slots, self._budget)

    def _judged(
        self, name: str, requests: Sequence[Request], score: GeneratedScore
    ) -> list[torch.Tensor]:
        """Scores of what the model writes, float64 `[conditions, items]` of each request: of
        several samples their mean."""
        if not requests:
            return []
        prompts = [
            tuple(self._tokenizer.encode(i.prompts[0]).ids for i in self._rendered(request))
            for request in requests
        ]
        texts = self._writer.write(
            name,
            [
                Writing(r.concept, r.target, r.conditions, p, r.band)
                for r, p in zip(requests, prompts, strict=True)
            ],
        )
        samples = self._run.config.evaluate.generate.samples
        of_texts = [
            (item, text)
            for request, texts_of in zip(requests, texts, strict=True)
            for item, text in zip(
                (i for _ in request.conditions for i in request.items for _ in range(samples)),
                texts_of,
                strict=True,
            )
        ]
        values = iter(judge(self._run, f"{name}: judge", score, of_texts))
        return [
            torch.tensor(
                list(itertools.islice(values, len(r.conditions) * len(r.items) * samples)),
                dtype=torch.float64,
            )
            .reshape(len(r.conditions), len(r.items), samples)
            .mean(-1)
            for r in requests
        ]

    def _rendered(self, request: Request) -> tuple[Item, ...]:
        template = self._run.concepts[request.concept].template
        return rendered(request.items, template, self._tokenizer)

    @cached_property
    def _neutral(self) -> tuple[Readout, ...]:
        """Segments spread evenly over the corpus, cut short; without those that have no token to
        read."""
        index = RowIndex.open(self._run.folder.rows)
        count = min(self._run.config.evaluate.neutral_segments, index.segments)
        texts = []
        for number in range(count):
            unit, remainder = divmod(number * index.units, count)
            segments = index.unit(unit)
            segment = segments[remainder * len(segments) // count]
            texts.append(segment.ids.target[:NEUTRAL_TOKENS])
        special = self._tokenizer.special_tokens
        made = (neutral_sequences([text], special, NEUTRAL_READS) for text in texts)
        return tuple(CrossEntropies(sequences) for sequences in made if sequences)


def _chunks(conditions: Sequence[Condition]) -> Iterator[list[int]]:
    """Conditions that one task takes; no steering alone, since it is the same at every layer."""
    if NONE in conditions:
        yield [conditions.index(NONE)]
    steered = [i for i, condition in enumerate(conditions) if condition.arm is not Arm.NONE]
    for first in range(0, len(steered), CONDITIONS_PER_TASK):
        yield steered[first : first + CONDITIONS_PER_TASK]


def effects_of(request: Request, values: torch.Tensor) -> dict[Condition, torch.Tensor]:
    """(score at +strength - score at -strength) / 2 of every vector at every positive strength,
    float64 `[items]`: all that any push does alike, to whichever side, cancels."""
    by_condition = dict(zip(request.conditions, values, strict=True))
    return {
        condition: (value - by_condition[replace(condition, strength=-condition.strength)]) / 2
        for condition, value in by_condition.items()
        if condition.strength > 0
    }
