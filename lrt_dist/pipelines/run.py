"""A run in progress: its folder, its models' facts, its runtime, its reporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from lrt_dist.config import RunConfig
from lrt_dist.corpus.contrast import ConceptData, load_concept
from lrt_dist.errors import UserError
from lrt_dist.models.sources import ModelFacts, check_layers, describe
from lrt_dist.pipelines.folder import RunFolder, exclusive
from lrt_dist.plan.cost import NUMBER_BYTES
from lrt_dist.plan.memory import (
    ModelSize,
    StagePlan,
    cores_each,
    fewest_stages,
    plan_stages,
)
from lrt_dist.runtime.progress import Reporter
from lrt_dist.runtime.serial import SerialRuntime
from lrt_dist.runtime.tasks import ChainSpec, Runtime, StageSpec
from lrt_dist.sites import LayerPair
from lrt_dist.sizes import format_bytes
from lrt_dist.stages.model_stage import BuildModelStage


@dataclass
class Run:
    """What every verb works on; made by `open_run`."""

    folder: RunFolder
    reporter: Reporter

    @property
    def config(self) -> RunConfig:
        return self.folder.config

    @cached_property
    def facts(self) -> tuple[ModelFacts, ModelFacts]:
        """Facts of the (source, target) model."""
        return describe(self.config.source), describe(self.config.target)

    @cached_property
    def layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Wanted layers of the (source, target) model."""
        return (
            check_layers("source", self.config.source, self.facts[0]),
            check_layers("target", self.config.target, self.facts[1]),
        )

    @cached_property
    def pairs(self) -> list[LayerPair]:
        """Wanted pairs of layers.

        Raises:
            UserError: a pair names a layer that is not extracted.
        """
        if self.config.fit.pairs == "all":
            return [LayerPair(s, t) for s in self.layers[0] for t in self.layers[1]]
        pairs = [LayerPair(s, t) for s, t in self.config.fit.pairs]
        for pair in pairs:
            if pair.source not in self.layers[0] or pair.target not in self.layers[1]:
                raise UserError(
                    f"fit.pairs: {pair} is not among source.layers {list(self.layers[0])} × "
                    f"target.layers {list(self.layers[1])}"
                )
        return sorted(set(pairs))

    @cached_property
    def together(self) -> tuple[tuple[int, ...], ...]:
        """Groups of source layers for maps from several layers.

        Raises:
            UserError: a group names a layer that is not extracted.
        """
        for group in self.config.fit.together:
            absent = [layer for layer in group if layer not in self.layers[0]]
            if absent:
                raise UserError(
                    f"fit.together: layer {absent[0]} of {list(group)} is not among source.layers "
                    f"{list(self.layers[0])}"
                )
        return self.config.fit.together

    @property
    def widths(self) -> tuple[int, int]:
        """Dimensions of the hidden states of the (source, target) model."""
        return self.facts[0].width, self.facts[1].width

    @cached_property
    def concepts(self) -> dict[str, ConceptData]:
        """Every concept's items, split."""
        limit = self.config.evaluate.max_items
        return {concept.name: load_concept(concept, limit) for concept in self.config.concepts}

    def check(self) -> None:
        """Find what is wrong with the input before anything is started.

        Raises:
            UserError: see `layers`, `pairs`, `together` and `load_concept`.
        """
        _ = self.layers, self.pairs, self.together, self.concepts

    @cached_property
    def runtime(self) -> Runtime:
        """Where the work runs; Ray is only imported if it is asked for."""
        address = self.config.cluster.address
        if address == "serial":
            return SerialRuntime(gpus=torch.cuda.device_count())
        from lrt_dist.runtime.pool import RayRuntime

        return RayRuntime(address)

    def compute_dtype(self, side: int) -> str:
        """The dtype a model computes in: float32 without a GPU."""
        if not self.runtime.gpus:
            return "float32"
        asked = self.folder.model(side).dtype
        return self.facts[side].dtype if asked == "auto" else asked

    def stage_plans(self, side: int, *, head: bool, batch_tokens: int) -> list[StagePlan]:
        """How a model is cut into stages.

        Raises:
            UserError: it cannot be cut as asked, or does not fit.
        """
        facts, cluster = self.facts[side], self.config.cluster
        size = model_size(facts)
        last = facts.layers - 1 if head else max(self.layers[side])
        number_bytes = NUMBER_BYTES[self.compute_dtype(side)]
        shared = {"last_layer": last, "number_bytes": number_bytes, "batch_tokens": batch_tokens}
        if cluster.stages != "auto":
            try:
                return plan_stages(size, head=head, stages=cluster.stages, **shared)
            except ValueError as error:
                raise UserError(f"cluster.stages: {facts.name}: {error}") from error
        if not self.runtime.gpus:
            return plan_stages(size, head=head, stages=1, **shared)
        from lrt_dist.runtime.preflight import gpu_memory

        memory = gpu_memory(self.runtime)
        plans = fewest_stages(size, device_bytes=memory, head=head, **shared)
        if plans is None:
            raise UserError(
                f"{facts.name}: not even one block fits a GPU of {format_bytes(memory)}; lower "
                "extract.batch_tokens or use larger GPUs"
            )
        return plans

    def chain(self, side: int, *, head: bool, batch_tokens: int) -> ChainSpec:
        """The chain of a model, with as many replicas as the cluster holds."""
        plans = self.stage_plans(side, head=head, batch_tokens=batch_tokens)
        gpus = 1.0 if self.runtime.gpus else 0.0
        replicas = self._replicas(plans)
        cpus = 1.0 if gpus else cores_each(self.runtime.node_cpus, replicas * len(plans))
        stages = tuple(
            StageSpec(
                build=BuildModelStage(
                    self.folder.model(side),
                    plan.owned,
                    head and plan is plans[-1],
                    "cuda" if gpus else "cpu",
                ),
                cpus=cpus,
                gpus=gpus,
                name=f"{self.facts[side].name} blocks {plan.owned.start} … {plan.owned.stop - 1}",
            )
            for plan in plans
        )
        return ChainSpec(stages, replicas, self.config.cluster.placement_timeout)

    def _replicas(self, plans: list[StagePlan]) -> int:
        """One for each set of GPUs. Without GPUs a few that share the cores, since one small
        model does not keep many cores busy, as long as half of the memory holds them."""
        asked, runtime = self.config.cluster.replicas, self.runtime
        if asked != "auto":
            return asked
        if runtime.gpus:
            return max(1, int(runtime.gpus // len(plans)))
        by_memory = sum(runtime.node_memory) / 2 / sum(plan.bytes for plan in plans)
        return max(1, int(min(CPU_REPLICAS, sum(runtime.node_cpus) // len(plans), by_memory)))


CPU_REPLICAS = 4
"""Most replicas of a model on a cluster without GPUs."""


def model_size(facts: ModelFacts) -> ModelSize:
    """The arithmetic's view of a model."""
    return ModelSize(
        facts.block_parameters,
        facts.embedding_parameters,
        facts.head_parameters,
        facts.width,
        facts.vocabulary,
    )


@contextmanager
def open_run(out: Path, config: RunConfig, reporter: Reporter | None = None) -> Iterator[Run]:
    """Claim an output directory for a run and keep others out of it meanwhile.

    Raises:
        UserError: the directory belongs to another run or another process works in it.
    """
    out = out.resolve()
    with exclusive(out):
        folder = RunFolder.claim(out, config)
        with reporter or Reporter(folder.log) as live:
            yield Run(folder, live)
