"""A chain of Ray actors, gang-placed: one replica.

The driver submits every step of a task at once; carries flow from actor to actor as object
references, and only receipts come back.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lrt_dist.errors import LrtError
from lrt_dist.runtime.contract import ChainSpec, StageSpec, Task, route


@ray.remote(concurrency_groups={"receipts": 1})
class StageActor:
    """Holds one stage. Receipts are waited for in a thread of their own, so that the next task
    computes while the last one is still being written."""

    def __init__(self, spec: StageSpec) -> None:
        if not spec.gpus:  # Ray no longer hides GPUs from actors that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._failure: LrtError | None = None
        try:
            self._stage = spec.build()
        except LrtError as error:  # told by `ready`: an actor that dies loses the error's class
            self._failure = error

    def ready(self) -> int:
        """Process id, once the stage is built."""
        if self._failure is not None:
            raise self._failure
        return os.getpid()

    def open(self, task: Any) -> bool:
        self._stage.open(task)
        return True

    def step(self, key: str, batch: int, carry: Any, opened: bool) -> tuple[Any, bool]:
        return self._stage.step(key, batch, carry), True

    def close(self, key: str, *steps: bool) -> bool:
        self._stage.close(key)
        return True

    @ray.method(concurrency_group="receipts")  # type: ignore[untyped-decorator]
    def receipt(self, key: str, closed: bool) -> Any:
        return self._stage.receipt(key)


class Chain:
    """One replica: its actors and their placement group."""

    def __init__(self, spec: ChainSpec) -> None:
        self._group = reserve(spec)
        self._actors = [
            StageActor.options(  # type: ignore[attr-defined]
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=index
                ),
            ).remote(stage)
            for index, stage in enumerate(spec.stages)
        ]

    def ready(self) -> list[int]:
        """Process ids of the stages, once all are built.

        Raises:
            LrtError: what building a stage raised.
        """
        try:
            pids = [result(ref) for ref in [actor.ready.remote() for actor in self._actors]]
        except ray.exceptions.RayActorError as error:
            raise LrtError(f"a stage died while it was built: {error}") from error
        return pids

    def submit(self, task: Task) -> list[ray.ObjectRef]:
        """Send a task through; one reference to a receipt of each stage.

        Every call depends on the ones before it, so that an error anywhere reaches the receipts
        and nothing waits for ever.
        """
        shared = ray.put(task)
        opened = [actor.open.remote(shared) for actor in self._actors]
        steps: list[list[ray.ObjectRef]] = [[] for _ in self._actors]
        for batch in range(task.batches):
            carry = None
            for index in route(task, len(self._actors)):
                carry, done = (
                    self._actors[index]
                    .step.options(num_returns=2)
                    .remote(task.key, batch, carry, opened[index])
                )
                steps[index].append(done)
        closed = [
            actor.close.remote(task.key, *done)
            for actor, done in zip(self._actors, steps, strict=True)
        ]
        return [
            actor.receipt.remote(task.key, ref)
            for actor, ref in zip(self._actors, closed, strict=True)
        ]

    def stop(self) -> None:
        """Kill the actors and give their resources back."""
        for actor in self._actors:
            ray.kill(actor)
        remove_placement_group(self._group)


def result(ref: ray.ObjectRef) -> Any:
    """The value, or the error that the remote code raised, as itself."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from error


def reserve(spec: ChainSpec) -> PlacementGroup:
    """Reserve the resources of all stages at once.

    Raises:
        LrtError: they did not come free in time; says what is missing.
    """
    bundles = [
        {"CPU": stage.cpus, **({"GPU": stage.gpus} if stage.gpus else {})} for stage in spec.stages
    ]
    group = placement_group(bundles, strategy="PACK")
    if not group.wait(timeout_seconds=spec.placement_timeout):
        remove_placement_group(group)
        needed = {kind: sum(b.get(kind, 0) for b in bundles) for kind in ("CPU", "GPU")}
        free = ray.available_resources()
        missing = ", ".join(
            f"{amount:g} {kind} needed, {free.get(kind, 0):g} free of "
            f"{ray.cluster_resources().get(kind, 0):g}"
            for kind, amount in needed.items()
            if amount
        )
        raise LrtError(
            f"no place for a chain of {len(bundles)} stages within "
            f"{spec.placement_timeout:g} s ({missing}; each stage on one node: {bundles}); wait "
            "for other jobs, add nodes, or change cluster.stages and cluster.replicas"
        )
    return group
