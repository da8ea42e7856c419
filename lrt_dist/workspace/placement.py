"""Where a run's models are placed: how many stages, how many replicas, on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lrt_dist.errors import UserError
from lrt_dist.formatting import format_bytes
from lrt_dist.models.sources import ModelFacts
from lrt_dist.plan.cost import NUMBER_BYTES, cores_of_task
from lrt_dist.plan.memory import (
    USABLE,
    ModelSize,
    StagePlan,
    cores_each,
    fewest_stages,
    host_bytes,
    plan_stages,
)
from lrt_dist.runtime.contract import ChainSpec, Needs, StageSpec
from lrt_dist.sites import Side
from lrt_dist.tasks.model_stage import BuildModelStage
from lrt_dist.workspace.run import Run

MOST_REPLICAS = 1024
"""Replicas that nodes may be asked for as they join."""
CPU_REPLICAS = 4
"""Most replicas of a model on a cluster without GPUs."""


def compute_dtype(run: Run, side: Side) -> str:
    """The dtype a model computes in: float32 without a GPU.

    Raises:
        UserError: the checkpoint's own is none to compute in.
    """
    if not run.machines.gpus:
        return "float32"
    asked, facts = run.folder.model(side).dtype, run.facts[side]
    dtype = facts.dtype if asked == "auto" else asked
    if dtype not in NUMBER_BYTES:
        raise UserError(
            f"{facts.name} is stored as {dtype}, in which nothing is computed here; set "
            f"{side}.dtype to {', '.join(NUMBER_BYTES)}"
        )
    return dtype


def stage_plans(run: Run, side: Side, *, head: bool, batch_tokens: int) -> list[StagePlan]:
    """How a model is cut into stages.

    Raises:
        UserError: it cannot be cut as asked, or does not fit.
    """
    facts, cluster = run.facts[side], run.config.cluster
    writes = head and run.config.evaluate.generate.tokens > 0
    size = replace(model_size(facts), remembered=facts.remembered if writes else 0)
    last = facts.layers - 1 if head else max(run.stored_layers(side))
    number_bytes = NUMBER_BYTES[compute_dtype(run, side)]
    shared = {"last_layer": last, "number_bytes": number_bytes, "batch_tokens": batch_tokens}
    memory = _stage_memory(run)
    if cluster.stages == "auto" and run.machines.gpus:
        plans = fewest_stages(size, device_bytes=memory, head=head, **shared)
        if plans is None:
            raise UserError(
                f"{facts.name}: not even one block fits a GPU of {format_bytes(memory)}; lower "
                "extract.batch_tokens or use larger GPUs"
            )
        return plans
    try:
        stages = 1 if cluster.stages == "auto" else cluster.stages
        plans = plan_stages(size, head=head, stages=stages, **shared)
    except ValueError as error:
        raise UserError(f"cluster.stages: {facts.name}: {error}") from error
    _check_memory(run, facts, plans, memory)
    return plans


def _stage_memory(run: Run) -> int:
    """Bytes that a stage may have: of a GPU, or of the largest node."""
    if not run.machines.gpus:
        return int(max(run.machines.node_memory))
    return run.machines.gpu_memory()


def _check_memory(run: Run, facts: ModelFacts, plans: list[StagePlan], memory: int) -> None:
    """Whether the stages have room.

    Raises:
        UserError: the largest has not.
    """
    together = not run.machines.gpus and run.in_this_process
    needed = sum(p.bytes for p in plans) if together else max(p.bytes for p in plans)
    if needed > memory * USABLE:
        where = "a GPU" if run.machines.gpus else "the largest node"
        raise UserError(
            f"{facts.name} in {len(plans)} stages needs {format_bytes(needed)} on {where}, which "
            f"has {format_bytes(memory)}; set cluster.stages to more, lower batch_tokens, or use "
            "larger machines"
        )


def chain(
    run: Run,
    side: Side,
    *,
    head: bool,
    batch_tokens: int,
    extracts: bool = False,
    passed_on: Sequence[int] = (),
    replicas: int | None = None,
) -> ChainSpec:
    """The chain of a model.

    Args:
        head: whether it ends with the language-model head.
        batch_tokens: of a batch.
        extracts: whether its stages hold rows of units until they are written.
        passed_on: layers whose rows are left for another chain.
        replicas: how many; None for as many as the cluster holds.
    """
    plans = stage_plans(run, side, head=head, batch_tokens=batch_tokens)
    gpus = 1.0 if run.machines.gpus else 0.0
    carry = batch_tokens * run.facts[side].width * NUMBER_BYTES[compute_dtype(run, side)]
    memory = [host_memory(run, side, plan, carry, extracts=extracts) for plan in plans]
    count = _replicas(run, plans, memory) if replicas is None else replicas
    cpus = 1.0 if gpus else cores_each(run.machines.node_cpus, count * len(plans))
    stages = tuple(
        StageSpec(
            build=BuildModelStage(
                run.model(side),
                plan.owned,
                head and plan is plans[-1],
                _device(run, index),
            ),
            cpus=cpus,
            gpus=gpus,
            memory=memory[index],
            leaves=tuple(layer for layer in passed_on if layer in plan.owned),
        )
        for index, plan in enumerate(plans)
    )
    # GPUs that join later are for one more replica each; cores are shared as they are now.
    grows = gpus and replicas is None and run.config.cluster.replicas == "auto"
    return ChainSpec(
        stages,
        count,
        most=MOST_REPLICAS if grows else count,
        placement_timeout=run.config.cluster.placement_timeout,
        carry_bytes=carry,
    )


def extraction_chain(
    run: Run, side: Side, replicas: int | None = None, passed_on: Sequence[int] = ()
) -> ChainSpec:
    """The chain of a model whose hidden states are wanted; see `chain`."""
    return chain(
        run,
        side,
        head=False,
        batch_tokens=run.config.extract.batch_tokens,
        extracts=True,
        passed_on=passed_on,
        replicas=replicas,
    )


def host_memory(run: Run, side: Side, plan: StagePlan, carry_bytes: int, *, extracts: bool) -> int:
    """Bytes that a stage needs of its node's memory, which Ray is asked for.

    Raises:
        UserError: no node has them.
    """
    extract, facts = run.config.extract, run.facts[side]
    layers = sum(layer in plan.owned for layer in run.stored_layers(side)) if extracts else 0
    needed = (0 if run.machines.gpus else plan.bytes) + host_bytes(
        layers,
        extract.rows_per_unit,
        facts.width,
        NUMBER_BYTES[extract.store_dtype],
        carry_bytes,
    )
    largest = max(run.machines.node_memory)
    if needed > largest:
        raise UserError(
            f"a stage of {facts.name} with {layers} layers needs {format_bytes(needed)} of its "
            f"node's memory, and the largest node offers {format_bytes(largest)}: use larger "
            "nodes, set cluster.stages to more, lower batch_tokens, or begin anew with fewer "
            "extract.rows_per_unit"
        )
    return needed


def _device(run: Run, stage: int) -> str:
    """Ray gives each stage a GPU of its own; in one process they are told apart by number.

    Raises:
        UserError: there are fewer GPUs than stages.
    """
    if not run.machines.gpus:
        return "cpu"
    if not run.in_this_process:
        return "cuda"
    if stage >= run.machines.gpus:
        raise UserError(
            f"this process has {run.machines.gpus:g} GPUs, and stage {stage} needs one more; use a "
            "Ray cluster, or set cluster.stages"
        )
    return f"cuda:{stage}"


def _replicas(run: Run, plans: list[StagePlan], memory: list[int]) -> int:
    """One for each set of GPUs. Without GPUs a few that share the cores, since one small
    model does not keep many cores busy, as long as half of the memory holds them."""
    asked, machines = run.config.cluster.replicas, run.machines
    if asked != "auto":
        return asked
    by_memory = sum(machines.node_memory) / sum(memory)
    if machines.gpus:
        return max(1, int(min(machines.gpus // len(plans), by_memory)))
    return max(1, int(min(CPU_REPLICAS, sum(machines.node_cpus) // len(plans), by_memory / 2)))


def model_size(facts: ModelFacts) -> ModelSize:
    """The arithmetic's view of a model."""
    return ModelSize(
        facts.block_parameters,
        facts.embedding_parameters,
        facts.head_parameters,
        facts.width,
        facts.reads_embeddings,
    )


def task_needs(run: Run, width: int, memory: int) -> Needs:
    """What a task on matrices of some width needs: as many cores as it can use of a node that has
    the memory."""
    nodes = zip(run.machines.node_cpus, run.machines.node_memory, strict=True)
    roomy = [cpus for cpus, there in nodes if there >= memory]
    return Needs(cpus=cores_of_task(width, max(roomy or run.machines.node_cpus)), memory=memory)
