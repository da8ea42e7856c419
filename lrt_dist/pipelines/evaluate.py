"""The verb `evaluate`: steer the target with native, transferred and control vectors.

Development split on all pairs, choice of pair and strength, then everything on the test split.
Each task's scores are kept as a part, so that an interrupted evaluation goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lrt_dist.config import fingerprint
from lrt_dist.corpus.contrast import ConceptData
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError
from lrt_dist.linear.scores import cosine
from lrt_dist.linear.vectors import SteeringVector
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.pipelines.fit import fit
from lrt_dist.pipelines.folder import SIDES
from lrt_dist.pipelines.index import check_overlap
from lrt_dist.pipelines.moments import fitted_units, median_norms
from lrt_dist.pipelines.run import Run
from lrt_dist.pipelines.vectors import ConceptVectors, native_vectors
from lrt_dist.plan.arms import (
    Variant,
    choose,
    dev_variants,
    neutral_variants,
    sample_variants,
    test_variants,
)
from lrt_dist.runtime.tasks import Chains, Failed
from lrt_dist.sites import LayerPair
from lrt_dist.stages.score import Scored, ScoreTask
from lrt_dist.stages.sequences import Propensities, neutral_sequences, propensity_sequences
from lrt_dist.store.artifacts import is_current, save_table

NEUTRAL_TOKENS = 64
NEUTRAL_READS = 16
SAMPLE_BEGINNING = 5


@dataclass(frozen=True)
class _Planned:
    """A task and what its numbers mean."""

    task: ScoreTask
    concept: str
    split: str
    target_layer: int
    variants: list[Variant]
    readout: Propensities | None


def evaluate(run: Run) -> str | None:
    """Score every concept; returns the fingerprint of the scores, None without concepts.

    Raises:
        UserError: unusable contrast data, or concept texts inside the corpus.
        IncompleteError: extraction is not done.
    """
    if not run.config.concepts:
        for stale in run.folder.evaluation:
            stale.unlink(missing_ok=True)
        return None
    fits = fit(run)
    stamp = fingerprint({"fits": fits, "concepts": _concept_identity(run), "evaluate": _plain(run)})
    if all(is_current(path, stamp) for path in run.folder.evaluation):
        return stamp
    return _Evaluation(run, stamp).run_all()


class _Evaluation:
    def __init__(self, run: Run, stamp: str) -> None:
        self.run, self.stamp = run, stamp
        settings = run.config.evaluate
        self.settings = settings
        self.concepts = run.concepts
        self.overlap = check_overlap(run, RowIndex.open(run.folder.rows))
        self.scale = median_norms(run, 1, fitted_units(run.folder))
        self.tokenizer = SiteTokenizer.load(run.config.target)
        self.vectors: dict[str, ConceptVectors] = {}
        self.strengths = [s for s in settings.strengths if s > 0]

    def run_all(self) -> str:
        run = self.run
        budget = self.settings.batch_tokens
        spec = run.chain(0, head=False, batch_tokens=run.config.extract.batch_tokens)
        with run.runtime.chains(spec) as chains:
            source = self._native(0, chains, SiteTokenizer.load(run.config.source))
        del chains  # in one process it holds the source model
        spec = run.chain(1, head=True, batch_tokens=budget)
        with run.runtime.chains(spec) as chains:
            native = self._native(1, chains, self.tokenizer)
            self.vectors = {n: ConceptVectors(source[n], native[n]) for n in self.concepts}
            dev = self._scores("evaluate (dev)", chains, self._dev_tasks())
            chosen = {name: self._choose(name, dev) for name in self.concepts}
            test = self._scores("evaluate (test)", chains, self._test_tasks(chosen))
            samples = self._samples(chains, chosen)
        save_table(run.folder.vectors, self._vector_lines(chosen), self.stamp)
        save_table(run.folder.samples, samples, self.stamp)
        # Written last: its presence says that the evaluation is whole.
        save_table(run.folder.scores, pa.concat_tables([dev, test]), self.stamp)
        return self.stamp

    def _native(
        self, side: int, chains: Chains, tokenizer: SiteTokenizer
    ) -> dict[str, dict[int, SteeringVector]]:
        """Vectors of every concept at every wanted layer of one model."""
        found = {}
        with self.run.reporter.stage(
            f"vectors ({SIDES[side]})", len(self.concepts), "concepts"
        ) as bar:
            for name, by_layer in native_vectors(self.run, side, chains, tokenizer, self.concepts):
                found[name] = by_layer
                bar.advance()
        return found

    # -- tasks ------------------------------------------------------------------------------

    def _dev_tasks(self) -> list[_Planned]:
        by_target: dict[int, list[int]] = {}
        for pair in self.run.pairs:
            by_target.setdefault(pair.target, []).append(pair.source)
        return [
            self._propensities(
                name, "dev", target, dev_variants(sources, self.settings.strengths), data.dev
            )
            for name, data in self.concepts.items()
            for target, sources in by_target.items()
        ]

    def _test_tasks(self, chosen: Mapping[str, tuple[LayerPair, float]]) -> list[_Planned]:
        planned = []
        for name, (pair, strength) in chosen.items():
            variants = test_variants(
                pair.source, self.settings.strengths, self.settings.random_draws
            )
            items = self.concepts[name].test
            planned.append(self._propensities(name, "test", pair.target, variants, items))
            planned.append(self._neutral(name, pair, strength))
        return planned

    def _propensities(
        self, name: str, split: str, target: int, variants: list[Variant], items: Sequence[Any]
    ) -> _Planned:
        readout = propensity_sequences(items, self.tokenizer)
        task = self._task(
            "-".join([name, split, *sorted({str(v.source_layer) for v in variants}), str(target)]),
            name,
            target,
            variants,
            readout.sequences,
            readout.slots,
        )
        return _Planned(task, name, split, target, variants, readout)

    @cached_property
    def _neutral_sequences(self) -> tuple[Scored, ...]:
        """Segments spread evenly over the corpus, cut short."""
        index = RowIndex.open(self.run.folder.rows)
        count = min(self.settings.neutral_segments, index.segments)
        texts = []
        for number in range(count):
            unit, rest = divmod(number * index.units, count)
            segments = index.unit(unit)
            texts.append(segments[rest * len(segments) // count].ids[1][:NEUTRAL_TOKENS])
        return neutral_sequences(texts, self.tokenizer.special_tokens, NEUTRAL_READS)

    def _neutral(self, name: str, pair: LayerPair, strength: float) -> _Planned:
        sequences = self._neutral_sequences
        variants = neutral_variants(pair.source, strength)
        task = self._task(
            f"{name}-neutral-{pair.source}-{pair.target}-{strength}",
            name,
            pair.target,
            variants,
            sequences,
            len(sequences),
        )
        return _Planned(task, name, "neutral", pair.target, variants, None)

    def _task(
        self,
        key: str,
        concept: str,
        target: int,
        variants: list[Variant],
        sequences: tuple[Scored, ...],
        slots: int,
        *,
        greedy: bool = False,
    ) -> ScoreTask:
        displacements = torch.stack([self._displacement(concept, target, v) for v in variants])
        return ScoreTask(
            key=key,
            layer=target,
            displacements=displacements,
            everywhere=self.settings.positions == "all",
            sequences=sequences,
            slots=slots,
            token_budget=self.settings.batch_tokens,
            greedy=greedy,
        )

    def _displacement(self, concept: str, target: int, variant: Variant) -> torch.Tensor:
        """`α · s · v/‖v‖`, float32 `[d_target]`; s is the layer's median residual norm."""
        if variant.arm == "none":
            return torch.zeros(self.run.facts[1].width)
        direction = self._direction(concept, target, variant)
        length = max(float(torch.linalg.vector_norm(direction)), torch.finfo(torch.float64).tiny)
        return (direction * (variant.strength * self.scale[target] / length)).to(torch.float32)

    def _direction(self, concept: str, target: int, variant: Variant) -> torch.Tensor:
        vectors = self.vectors[concept]
        if variant.arm == "native":
            return vectors.native[target].values
        if variant.arm == "random":
            text = f"{self.settings.seed}/{concept}/{target}/{variant.draw}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
            generator = torch.Generator().manual_seed(seed)
            width = self.run.facts[1].width
            return torch.randn(width, generator=generator, dtype=torch.float64)
        pair = LayerPair(variant.source_layer, target)
        return vectors.transferred(self.run, pair, shuffled=variant.arm == "shuffled")

    # -- running ----------------------------------------------------------------------------

    def _scores(self, stage: str, chains: Chains, planned: list[_Planned]) -> pa.Table:
        """All scores of some tasks; finished parts of an earlier attempt are taken as they are."""
        parts: dict[str, Path] = {
            p.task.key: self.run.folder.part_path(p.task.key) for p in planned
        }
        open_ = {p.task.key: p for p in planned if not is_current(parts[p.task.key], self.stamp)}
        with self.run.reporter.stage(stage, len(planned), "tasks") as bar:
            bar.resume(len(planned) - len(open_))
            for outcome in chains.run(p.task for p in open_.values()):
                if isinstance(outcome, Failed):
                    raise LrtError(f"evaluation of {outcome.task.key} failed: {outcome.reason}")
                done = open_[outcome.task.key]
                save_table(parts[done.task.key], _lines(done, outcome.receipts[-1]), self.stamp)
                bar.advance()
        tables = [pq.read_table(path) for path in parts.values()]
        return pa.concat_tables([t.replace_schema_metadata(None) for t in tables])

    def _choose(self, name: str, dev: pa.Table) -> tuple[LayerPair, float]:
        means: dict[tuple[str, int, int, float], list[float]] = {}
        for line in dev.to_pylist():
            if line["concept"] == name:
                key = (line["arm"], line["source_layer"], line["target_layer"], line["strength"])
                means.setdefault(key, []).append(line["value"])

        def swing(arm: str, source: int, target: int, strength: float) -> float:
            up, down = (means[arm, source, target, s] for s in (strength, -strength))
            return (sum(up) - sum(down)) / (2 * len(up))

        return choose(
            {
                (pair, s): (
                    swing("native", -1, pair.target, s),
                    swing("transferred", pair.source, pair.target, s),
                )
                for pair in self.run.pairs
                for s in self.strengths
            }
        )

    def _samples(
        self, chains: Chains, chosen: Mapping[str, tuple[LayerPair, float]]
    ) -> list[dict[str, Any]]:
        """Greedy continuations of one test prompt per concept, all concepts at once."""
        length = self.settings.sample_tokens
        variants = {n: sample_variants(pair.source, s) for n, (pair, s) in chosen.items()}
        start = {name: self._beginning(data) for name, data in self.concepts.items()}
        prompts = {name: self.tokenizer.decode(list(known)) for name, known in start.items()}
        prompt_length = {name: len(known) for name, known in start.items()}
        ids = {name: [start[name]] * len(variants[name]) for name in prompts}
        with self.run.reporter.stage("samples", length * len(ids), "tokens") as bar:
            for _ in range(length):
                tasks = [
                    self._task(
                        name,
                        name,
                        chosen[name][0].target,
                        variants[name],
                        tuple(Scored(known, prompt_length[name], ()) for known in ids[name]),
                        slots=0,
                        greedy=True,
                    )
                    for name in ids
                ]
                for outcome in chains.run(tasks):
                    if isinstance(outcome, Failed):
                        raise LrtError(f"samples of {outcome.task.key}: {outcome.reason}")
                    name, chosen_tokens = outcome.task.key, outcome.receipts[-1].tolist()
                    ids[name] = [
                        (*known, token)
                        for known, token in zip(ids[name], chosen_tokens, strict=True)
                    ]
                bar.advance(len(ids))
        return [
            {
                "concept": name,
                "prompt": prompts[name],
                "arm": variant.arm,
                "strength": variant.strength,
                "text": self.tokenizer.decode(list(ids[name][number][prompt_length[name] :])),
            }
            for name in ids
            for number, variant in enumerate(variants[name])
        ]

    def _beginning(self, data: ConceptData) -> tuple[int, ...]:
        """Tokens of a test item's prompt; where items have none, the first words of its text."""
        prompt = self.tokenizer.encode(data.test[0].prompts[0]).ids
        if len(prompt) > self.tokenizer.special_tokens:
            return prompt
        return self.tokenizer.encode(data.test[0].texts()[0]).ids[:SAMPLE_BEGINNING]

    def _vector_lines(
        self, chosen: Mapping[str, tuple[LayerPair, float]]
    ) -> Iterable[dict[str, Any]]:
        lines = []
        for name, vectors in self.vectors.items():
            for pair in self.run.pairs:
                native = vectors.native[pair.target]
                lines.append(
                    {
                        "concept": name,
                        "source_layer": pair.source,
                        "target_layer": pair.target,
                        "cosine": cosine(vectors.transferred(self.run, pair), native.values),
                        "cosine_shuffled": cosine(
                            vectors.transferred(self.run, pair, shuffled=True), native.values
                        ),
                        "chosen": chosen[name][0] == pair,
                        "strength": chosen[name][1],
                        "pairs": native.pairs,
                        "overlap": name in self.overlap,
                    }
                )
        return lines


def _lines(planned: _Planned, sums: torch.Tensor) -> pa.Table:
    """Scores of one task in long form."""
    if planned.readout is None:
        reads = torch.tensor([len(s.reads) for s in planned.task.sequences], dtype=torch.float64)
        values, metric = -sums / reads, "cross_entropy"
    else:
        values, metric = planned.readout.of(sums), "propensity"
    return pa.Table.from_pylist(
        [
            {
                "concept": planned.concept,
                "split": planned.split,
                "item": item,
                "target_layer": planned.target_layer,
                **asdict(variant),
                "metric": metric,
                "value": float(value),
            }
            for variant, row in zip(planned.variants, values, strict=True)
            for item, value in enumerate(row)
        ]
    )


def _plain(run: Run) -> dict[str, Any]:
    settings = run.config.evaluate.model_dump(mode="json")
    return {key: value for key, value in settings.items() if key != "batch_tokens"}


def _concept_identity(run: Run) -> list[dict[str, Any]]:
    found = []
    for concept in run.config.concepts:
        files = [Path(p) for p in (concept.data, concept.items) if p]
        hashes = [
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None for p in files
        ]
        # By content: the same data under another path is the same data.
        known = concept.model_dump(mode="json", exclude={"data", "items"})
        found.append({**known, "content": hashes})
    return found
