"""What the target model writes under conditions of steering, kept text by text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.scored_items import model_context
from lrt_dist.errors import LrtError
from lrt_dist.models.injection import Intervention
from lrt_dist.models.memory_gate import why_not
from lrt_dist.models.tokens import SiteTokenizer, stop_tokens
from lrt_dist.plan.conditions import Condition
from lrt_dist.runtime.contract import Failed, receipts_of
from lrt_dist.sites import Band, Side
from lrt_dist.store.cells import address
from lrt_dist.store.texts import TextStore
from lrt_dist.tasks.generate import GenerateTask, Prompt, steered_tokens
from lrt_dist.tasks.sampling import Sampling
from lrt_dist.workspace.placement import stage_plans
from lrt_dist.workspace.run import Run

TEXTS_PER_TASK = 256
"""Texts of one task: the most that a kill can lose."""


@dataclass(frozen=True)
class Writing:
    """Texts that are wanted: each prompt under each condition, as often as the run has samples.

    Attributes:
        concept: whose vectors are injected.
        target: the layer that is steered.
        conditions: what is injected.
        prompts: token ids of each prompt.
        band: see `Displacements.of`.
    """

    concept: str
    target: int
    conditions: tuple[Condition, ...]
    prompts: tuple[tuple[int, ...], ...]
    band: Band = ()


@dataclass(frozen=True)
class _Cell:
    """One text.

    Attributes:
        address: of all that decides it.
        prompt: what is continued.
    """

    address: bytes
    prompt: Prompt


@dataclass(frozen=True)
class _Chunk:
    """Missing texts that one task writes."""

    intervention: Intervention
    cells: tuple[_Cell, ...]

    @property
    def key(self) -> str:
        return address(*(cell.address for cell in self.cells)).hex()


class Writer:
    """Lets the target model write; texts that were ever written are read."""

    def __init__(
        self,
        run: Run,
        chains: OnDemandChains,
        displacements: Displacements,
        tokenizer: SiteTokenizer,
    ) -> None:
        self._run, self._chains = run, chains
        self._displacements, self._tokenizer = displacements, tokenizer
        self._config = run.config.evaluate.generate
        self._sampling = Sampling(self._config.temperature, self._config.top_p)
        self._texts = TextStore(run.folder.texts)
        self._context = model_context(run)

    def write(self, name: str, writings: Sequence[Writing]) -> list[list[str]]:
        """The texts of each writing, condition by condition, in it prompt by prompt, in it sample
        by sample.

        Args:
            name: of the phase, for the progress bar.

        Raises:
            LrtError: some texts could not be written.
        """
        cells: list[list[_Cell]] = []
        chunks: list[_Chunk] = []
        asked: set[bytes] = set()
        for writing in writings:
            intervention = self._displacements.of(
                writing.concept, writing.target, writing.conditions, writing.band
            )
            cells.append(list(self._cells(writing, intervention)))
            for first in range(0, len(cells[-1]), TEXTS_PER_TASK):
                some = cells[-1][first : first + TEXTS_PER_TASK]
                missing = [
                    c for c in some if c.address not in self._texts and c.address not in asked
                ]
                asked.update(c.address for c in missing)
                if missing:
                    chunks.append(_Chunk(intervention, tuple(missing)))
        total = sum(map(len, cells))
        with self._run.progress.phase(name, total, "texts") as phase:
            phase.resume(total - len(asked))
            waiting = {chunk.key: chunk for chunk in chunks}
            for outcome in self._chains.run(self._task(chunk) for chunk in chunks):
                chunk = waiting.pop(outcome.task.key)
                if isinstance(outcome, Failed):
                    raise LrtError(
                        f"generation at layer {chunk.intervention.layers}: {outcome.reason}"
                    )
                (written,) = receipts_of(outcome)
                texts = [self._tokenizer.decode(list(ids)) for ids in written]
                self._texts.add([cell.address for cell in chunk.cells], texts)
                phase.advance(len(texts))
        return [[self._texts[cell.address] for cell in of_writing] for of_writing in cells]

    def _cells(self, writing: Writing, intervention: Intervention) -> Iterator[_Cell]:
        """All texts of a writing, in order; without steering the layer does not matter."""
        tokens, special = self._config.tokens, self._tokenizer.special_tokens
        steered = {
            length: steered_tokens(self._run.positions, length, tokens, special=special)
            for length in set(map(len, writing.prompts))
        }
        for row, (condition, content) in enumerate(
            zip(writing.conditions, intervention.contents, strict=True)
        ):
            where = address((intervention.layers if content else "no layer").encode(), content)
            for ids in writing.prompts:
                for sample in range(self._config.samples):
                    seed = self._seed(writing.concept, condition, ids, sample)
                    what = repr((ids, tokens, self._stops, self._sampling, seed)).encode()
                    prompt = Prompt(ids, row, steered[len(ids)], seed)
                    yield _Cell(address(self._context, where, what), prompt)

    def _seed(self, concept: str, condition: Condition, ids: tuple[int, ...], sample: int) -> str:
        """Of what is drawn for one text; empty where nothing is drawn."""
        if not self._sampling.temperature:
            return ""
        what = (self._run.config.evaluate.seed, concept, condition, ids, sample)
        return address(repr(what).encode()).hex()

    def _task(self, chunk: _Chunk) -> GenerateTask:
        return GenerateTask(
            chunk.key,
            chunk.intervention,
            tuple(cell.prompt for cell in chunk.cells),
            self._config.tokens,
            self._stops,
            self._sampling,
            self._keeps,
            self._stages,
            self._run.config.evaluate.batch_tokens,
        )

    @cached_property
    def _stops(self) -> tuple[int, ...]:
        return stop_tokens(self._run.model(Side.TARGET))

    @cached_property
    def _stages(self) -> int:
        budget = self._run.config.evaluate.batch_tokens
        return len(stage_plans(self._run, Side.TARGET, head=True, batch_tokens=budget))

    @cached_property
    def _keeps(self) -> bool:
        """Whether keys and values are kept; a model that cannot do it is told."""
        reason = why_not(self._run.model(Side.TARGET))
        if reason is not None:
            self._run.progress.note(
                "evaluate",
                f"{self._run.facts.target.name} cannot go on from kept keys and values ({reason}), "
                "so every text is run from its beginning for every token, which takes longer",
            )
        return reason is None
