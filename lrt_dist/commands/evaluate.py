"""The command `evaluate`: steer the target with native, transferred and control vectors.

Development split on all pairs, choice of pair and strength, then everything on the test split.
Each task's scores are kept as a part, so that an interrupted evaluation goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrt_dist.commands._displacements import Displacements
from lrt_dist.commands._moments import fitted_units, median_norms
from lrt_dist.commands._steered import CROSS_ENTROPY, Part, SteeredTarget
from lrt_dist.commands._vectors import LayerVectors, native_vectors
from lrt_dist.commands.fit import current_fits
from lrt_dist.commands.index import check_overlap
from lrt_dist.config import fingerprint_of
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.effects import cosine
from lrt_dist.maps.vectors import VECTOR_METHODS
from lrt_dist.models.injection import POSITIONS
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import (
    NO_LAYER,
    Arm,
    Chosen,
    Condition,
    choose,
    dev_conditions,
    neutral_conditions,
    test_conditions,
)
from lrt_dist.runtime.contract import Chains
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.tables import SampleRow, ScoreRow, Table, VectorRow, concat, is_current
from lrt_dist.tasks.scores import SCORES
from lrt_dist.workspace.placement import chain
from lrt_dist.workspace.run import Run


def evaluate(run: Run) -> Table[ScoreRow]:
    """Score every concept, unless it is done.

    Returns:
        One row for each item under each condition; none where the run has no concepts.

    Raises:
        UserError: unusable contrast data, or concept texts inside the corpus.
        IncompleteError: extraction or fit are not done.
    """
    if not run.config.concepts:
        for stale in run.folder.evaluation:
            stale.unlink(missing_ok=True)
        return Table.of(ScoreRow, [])
    fingerprint = evaluation_fingerprint(run)
    if not all(is_current(path, fingerprint) for path in run.folder.evaluation):
        _Evaluation(run, fingerprint).run_all()
    return Table.read(run.folder.scores, ScoreRow)


def evaluation_fingerprint(run: Run) -> str:
    """Of everything that scores depend on.

    Raises:
        IncompleteError: the maps of this configuration were not fitted yet.
    """
    return fingerprint_of(
        {
            "fits": current_fits(run),
            "concepts": _concept_identity(run),
            "evaluate": _settings(run),
        }
    )


class _Evaluation:
    """The flow: vectors, development split, choice, test split, samples, tables."""

    def __init__(self, run: Run, fingerprint: str) -> None:
        self._run, self._fingerprint = run, fingerprint
        self._strengths = run.config.evaluate.strengths
        self._tokenizer = SiteTokenizer.load(run.config.target)

    def run_all(self) -> None:
        """Write all tables."""
        run = self._run
        overlap = check_overlap(run, RowIndex.open(run.folder.rows))
        units = fitted_units(run.folder)
        norms = Sided.of(lambda side: median_norms(run, side, units))
        spec = chain(run, Side.SOURCE, head=False, batch_tokens=run.config.extract.batch_tokens)
        with run.runtime.chains(spec) as chains:
            tokenizer = SiteTokenizer.load(run.config.source)
            source = self._native(Side.SOURCE, chains, tokenizer, norms.source)
        del chains  # in one process it holds the source model
        spec = chain(run, Side.TARGET, head=True, batch_tokens=run.config.evaluate.batch_tokens)
        with run.runtime.chains(spec) as chains:
            target = self._native(Side.TARGET, chains, self._tokenizer, norms.target)
            displacements = Displacements(run, Sided(source, target), norms.target)
            steered = SteeredTarget(run, chains, displacements, self._tokenizer)
            dev = self._scores("evaluate (dev)", steered, self._dev_parts())
            chosen = {name: self._choose(name, dev) for name in run.concepts}
            test = self._scores("evaluate (test)", steered, self._test_parts(chosen))
            samples = steered.samples(chosen)
        vectors = self._vector_rows(displacements, chosen, overlap)
        Table.of(VectorRow, vectors).save(run.folder.vectors, self._fingerprint)
        Table.of(SampleRow, samples).save(run.folder.samples, self._fingerprint)
        # Written last: its presence says that the evaluation is whole.
        concat([dev, test], ScoreRow).save(run.folder.scores, self._fingerprint)

    def _native(
        self, side: Side, chains: Chains, tokenizer: SiteTokenizer, norms: dict[int, float]
    ) -> dict[str, LayerVectors]:
        """Vectors of every concept at every wanted layer of one model."""
        vectors = {}
        with self._run.progress.phase(
            f"vectors ({side})", len(self._run.concepts), "concepts"
        ) as phase:
            for name, by_layer in native_vectors(self._run, side, chains, tokenizer, norms):
                vectors[name] = by_layer
                phase.advance()
        return vectors

    def _dev_parts(self) -> list[Part]:
        by_target: dict[int, list[int]] = {}
        for pair in self._run.pairs:
            by_target.setdefault(pair.target, []).append(pair.source)
        return [
            self._items_part(name, "dev", target, dev_conditions(sources, self._strengths))
            for name in self._run.concepts
            for target, sources in by_target.items()
        ]

    def _test_parts(self, chosen: dict[str, Chosen]) -> list[Part]:
        parts = []
        for name, choice in chosen.items():
            source, target = choice.pair.source, choice.pair.target
            draws = self._run.config.evaluate.random_draws
            conditions = test_conditions(source, self._strengths, draws)
            parts.append(self._items_part(name, "test", target, conditions))
            if not self._run.positions.needs_prompt:  # else nothing of neutral text is steered
                key = f"{name}-neutral-{source}-{target}-{choice.strength}"
                conditions = neutral_conditions(source, choice.strength)
                parts.append(Part(key, name, "neutral", CROSS_ENTROPY, target, conditions))
        return parts

    def _items_part(
        self, concept: str, split: str, target: int, conditions: list[Condition]
    ) -> Part:
        layers = sorted({condition.source_layer for condition in conditions})
        key = f"{concept}-{split}-{fingerprint_of({'source_layers': layers})}-{target}"
        data = self._run.concepts[concept]
        items = data.dev if split == "dev" else data.test
        metric = self._run.config.evaluate.score
        return Part(key, concept, split, metric, target, conditions, items)

    def _scores(self, name: str, steered: SteeredTarget, parts: list[Part]) -> Table[ScoreRow]:
        """All scores of some parts; those that an earlier attempt finished are read."""
        paths = {part.key: self._run.folder.part_path(part.key) for part in parts}
        missing = [p for p in parts if not is_current(paths[p.key], self._fingerprint)]
        with self._run.progress.phase(name, len(parts), "tasks") as phase:
            phase.resume(len(parts) - len(missing))
            for part, rows in steered.scores(missing):
                Table.of(ScoreRow, rows).save(paths[part.key], self._fingerprint)
                phase.advance()
        return concat([Table.read(path, ScoreRow) for path in paths.values()], ScoreRow)

    def _choose(self, concept: str, dev: Table[ScoreRow]) -> Chosen:
        values: dict[tuple[str, int, int, float], list[float]] = {}
        for row in dev:
            if row.concept == concept:
                cell = (row.arm, row.source_layer, row.target_layer, row.strength)
                values.setdefault(cell, []).append(row.value)

        def effect(arm: Arm, source: int, target: int, strength: float) -> float:
            up, down = (values[arm, source, target, s] for s in (strength, -strength))
            return (sum(up) - sum(down)) / (2 * len(up))

        return choose(
            {
                (pair, s): (
                    effect(Arm.NATIVE, NO_LAYER, pair.target, s),
                    effect(Arm.TRANSFERRED, pair.source, pair.target, s),
                )
                for pair in self._run.pairs
                for s in self._strengths
                if s > 0
            }
        )

    def _vector_rows(
        self, displacements: Displacements, chosen: dict[str, Chosen], overlap: dict[str, list[str]]
    ) -> Iterator[VectorRow]:
        for name, choice in chosen.items():
            for pair in self._run.pairs:
                native = displacements.native[name][pair.target]

                def to_native(arm: Arm, name: str = name, pair: LayerPair = pair) -> float:
                    mapped = displacements.mapped(name, arm, pair).values
                    return cosine(mapped, displacements.native[name][pair.target].values)

                yield VectorRow(
                    concept=name,
                    source_layer=pair.source,
                    target_layer=pair.target,
                    cosine=to_native(Arm.TRANSFERRED),
                    cosine_mismatched=to_native(Arm.MISMATCHED),
                    chosen=choice.pair == pair,
                    strength=choice.strength,
                    pairs=native.pairs,
                    overlap=name in overlap,
                )


def _settings(run: Run) -> dict[str, Any]:
    settings = run.config.evaluate.model_dump(mode="json", exclude={"batch_tokens"})
    settings["positions"] = POSITIONS.identity(run.config.evaluate.positions)
    settings["score"] = SCORES.identity(run.config.evaluate.score)
    return settings


def _concept_identity(run: Run) -> list[dict[str, Any]]:
    concepts = []
    for concept in run.config.concepts:
        files = [Path(p) for p in (concept.data, concept.items) if p]
        digests = [
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None for p in files
        ]
        # By content: the same data under another path is the same data.
        known = concept.model_dump(mode="json", exclude={"data", "items"})
        method = VECTOR_METHODS.identity(concept.vector.method)
        concepts.append({**known, "method": method, "content": digests})
    return concepts
