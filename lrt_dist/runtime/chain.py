"""A chain of Ray actors, gang-placed: one replica.

Carries flow from actor to actor as object references; the driver sees references and receipts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lrt_dist.errors import LostError
from lrt_dist.formatting import format_bytes
from lrt_dist.parcels import Parcel
from lrt_dist.runtime.carry import has_direct_transport, packed, unpacked
from lrt_dist.runtime.contract import ChainSpec, StageSpec, Task, for_stage, route

PLACING = 1.0
"""Seconds that it may take to place a group for which there is room."""
SETTLING = 60.0
"""Seconds in which Ray finds out that a node is gone; five checks, three seconds apart, by
default."""
FINISHING = 4
"""Tasks that a stage writes at once."""


@ray.remote(
    concurrency_groups={"ahead": 1, "steps": 1, "behind": FINISHING},
    # Else a call that waits for what it needs would hold up all that were sent after it. What must
    # keep its order depends on what comes before it.
    allow_out_of_order_execution=True,
)
class StageActor:
    """Holds one stage. It is built and its steps run in one thread, the rest in others.

    Every thread that computes gets OpenMP threads of its own, and where a process has more of them
    than it has cores, GNU's OpenMP lets them sleep between any two operators instead of waiting: an
    eighth of a forward pass's time on two cores. So only one thread may compute with torch.

    Every method is in a group: while a call outside of one runs, Ray starts no other.
    """

    def __init__(self, spec: StageSpec) -> None:
        if not spec.gpus:  # Ray no longer hides GPUs from actors that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._direct = bool(spec.gpus) and has_direct_transport()
        self._spec = spec
        self._busy = 0.0
        self._began: float | None = None
        self._ended = 0.0

    @ray.method(concurrency_group="steps")  # type: ignore[untyped-decorator]
    def build(self) -> int:
        """Build the stage; the process id."""
        self._stage = self._spec.build()
        return os.getpid()

    @ray.method(concurrency_group="ahead")  # type: ignore[untyped-decorator]
    def open(self, task: Any, forgotten: Any) -> bool:
        """`forgotten` is what `forget` returned, if the task was here before."""
        self._stage.open(task)
        return True

    @ray.method(num_returns=2, concurrency_group="steps")  # type: ignore[untyped-decorator]
    def step(
        self, key: str, batch: int, carry: Any, before: bool, after: bool | None = None
    ) -> tuple[Any, bool]:
        """`before` is what `open` or the step before returned, so that steps keep their order;
        `after` what a step of another task returned, if tasks keep theirs."""
        began = time.monotonic()
        self._began = self._began or began
        try:
            sent = self._stage.step(key, batch, unpacked(carry))
            return packed(sent, direct=self._direct), True
        finally:
            self._ended = time.monotonic()
            self._busy += self._ended - began

    @ray.method(concurrency_group="behind")  # type: ignore[untyped-decorator]
    def finish(self, key: str, last_step: bool) -> Any:
        """The receipt, and what the stage leaves, each as a value of its own: the driver owns them
        all, so that they outlive this process."""
        made, names = self._stage.finish(key), self._spec.leaves
        if not names:
            return made.receipt if isinstance(made, Parcel) else made
        return made.receipt, *(made.contents[name] for name in names)

    @ray.method(concurrency_group="behind")  # type: ignore[untyped-decorator]
    def forget(self, key: str) -> None:
        self._stage.forget(key)

    @ray.method(concurrency_group="ahead")  # type: ignore[untyped-decorator]
    def busy_share(self) -> float | None:
        """Share of the time since its first step that it computed; None before."""
        if self._began is None:
            return None
        return self._busy / max(self._ended - self._began, 1e-9)


@dataclass(frozen=True)
class RemoteContent:
    """See `parcels.Handle`.

    A process must let go of it in the thread that received it. In Ray (2.60), when one thread lets
    go of the last reference to a value that another process owns, while another thread receives a
    reference to the same value, the value may be lost, and `get` waits for ever.
    """

    ref: ray.ObjectRef

    @classmethod
    def get_all(cls, handles: Sequence[RemoteContent]) -> list[Any]:
        """Arrays are mapped where they lie on this node, and fetched once from another.

        Raises:
            LostError: the node is gone on which they lay.
        """
        try:
            values: list[Any] = ray.get([handle.ref for handle in handles])
        except ray.exceptions.ObjectLostError as error:
            raise LostError("what another chain had left lay on a node that is gone") from error
        return values


class Chain:
    """One replica: its actors and their placement group, which may not be placed yet."""

    def __init__(self, spec: ChainSpec) -> None:
        self._spec = spec
        apart = any(stage.node is not None for stage in spec.stages)
        strategy = "SPREAD" if apart else "PACK"
        self._group: PlacementGroup = placement_group(bundles(spec), strategy=strategy)
        self._actors: list[Any] = []
        self._after: list[ray.ObjectRef | None] = [None] * len(spec.stages)
        self.placed: ray.ObjectRef = self._group.ready()

    def build(self) -> list[ray.ObjectRef]:
        """Start the actors, once the group is placed; references to their process ids."""
        self._actors = [
            StageActor.options(  # type: ignore[attr-defined]
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                memory=stage.memory or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=bundle
                ),
            ).remote(stage)
            for stage, bundle in zip(self._spec.stages, _bundle_numbers(self._spec), strict=True)
        ]
        return [actor.build.remote() for actor in self._actors]

    def open(self, task: Task, forgotten: Sequence[ray.ObjectRef] = ()) -> list[ray.ObjectRef]:
        """Prepare a task in every stage; a reference for each.

        Args:
            forgotten: what `forget` returned, if the task was here before.
        """
        before = forgotten or [None] * len(self._actors)
        return [
            actor.open.remote(for_stage(task, number), ref)
            for number, (actor, ref) in enumerate(zip(self._actors, before, strict=True))
        ]

    def step(
        self,
        task: Task,
        batch: int,
        before: Sequence[ray.ObjectRef],
        carry: ray.ObjectRef | None,
    ) -> tuple[list[tuple[int, ray.ObjectRef]], ray.ObjectRef]:
        """Send a batch through.

        Args:
            before: for each stage what its last step returned, or `open`.
            carry: with which it begins.

        Returns:
            (stage, reference) in the order of the batch's way, and what its last step sends. An
            error anywhere reaches all that come after it, so nothing waits for ever. In a chain
            that accumulates it reaches all later tasks of its stage, and no other stage.
        """
        last, steps = list(before), []
        for index in route(task, len(self._actors)):
            step, after = self._actors[index].step, self._after[index]
            sent, last[index] = step.remote(task.key, batch, carry, last[index], after)
            if self._spec.accumulates:
                carry, self._after[index] = None, last[index]
            else:
                carry = sent
            steps.append((index, last[index]))
        return steps, sent

    def finish(
        self, task: Task, steps: Sequence[ray.ObjectRef]
    ) -> tuple[list[ray.ObjectRef], dict[Hashable, ray.ObjectRef]]:
        """End a task in every stage; references to the receipts, and to what all stages leave.

        Args:
            steps: each stage's last step.
        """
        receipts, left = [], dict[Hashable, ray.ObjectRef]()
        for actor, stage, ref in zip(self._actors, self._spec.stages, steps, strict=True):
            if stage.leaves:
                finish = actor.finish.options(num_returns=1 + len(stage.leaves))
                receipt, *contents = finish.remote(task.key, ref)
                left.update(zip(stage.leaves, contents, strict=True))
            else:
                receipt = actor.finish.remote(task.key, ref)
            receipts.append(receipt)
        return receipts, left

    def forget(self, task: Task) -> list[ray.ObjectRef]:
        """Drop what is left of a task that failed; a reference for each stage."""
        return [actor.forget.remote(task.key) for actor in self._actors]

    def busy_shares(self) -> list[float | None]:
        """Of every stage; None of one that has not begun, or is gone."""
        shares = []
        for ref in [actor.busy_share.remote() for actor in self._actors]:
            try:
                shares.append(ray.get(ref, timeout=5))
            except ray.exceptions.RayError:
                shares.append(None)
        return shares

    def settle(self) -> None:
        """Wait until Ray knows of an actor that is unavailable whether it is gone: as long as it
        does not know that a node is, the node counts as a place for others."""
        deadline = time.monotonic() + SETTLING
        while time.monotonic() < deadline:
            try:
                ray.get([actor.busy_share.remote() for actor in self._actors], timeout=SETTLING)
            except ray.exceptions.ActorUnavailableError:
                time.sleep(1)
            except ray.exceptions.RayError:
                return
            else:
                return

    def stop(self) -> None:
        """Kill the actors and give their resources back."""
        for actor in self._actors:
            ray.kill(actor)
        # Ray loses the resources of a group that is removed while it is being placed.
        ray.wait([self.placed], timeout=PLACING, fetch_local=False)
        remove_placement_group(self._group)


def result(ref: ray.ObjectRef) -> Any:
    """The value, or the error that the remote code raised, as itself."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from error


def bundles(spec: ChainSpec) -> list[dict[str, float]]:
    """What the stages of a chain need that are on one node, or one stage that may be on any."""
    made: dict[int, dict[str, float]] = {}
    for stage, number in zip(spec.stages, _bundle_numbers(spec), strict=True):
        bundle = made.setdefault(number, {"CPU": 0})
        for kind, amount in (("CPU", stage.cpus), ("GPU", stage.gpus), ("memory", stage.memory)):
            if amount:
                bundle[kind] = bundle.get(kind, 0) + amount
    return list(made.values())


def _bundle_numbers(spec: ChainSpec) -> list[int]:
    """The bundle of each stage, from 0 on."""
    numbers: dict[tuple[str, int], int] = {}
    places = [
        ("stage", number) if stage.node is None else ("node", stage.node)
        for number, stage in enumerate(spec.stages)
    ]
    return [numbers.setdefault(place, len(numbers)) for place in places]


def what_is_missing(spec: ChainSpec) -> str:
    """What a chain needs, beside what is free and there, as part of a sentence."""
    kinds = ("CPU", "GPU", "memory")
    needed = {kind: sum(b.get(kind, 0) for b in bundles(spec)) for kind in kinds}
    free, there = ray.available_resources(), ray.cluster_resources()
    parts = [
        f"{_number(kind, amount)} {kind} needed, {_number(kind, free.get(kind, 0))} free of "
        f"{_number(kind, there.get(kind, 0))}"
        for kind, amount in needed.items()
        if amount
    ]
    each = [
        ", ".join(f"{_number(kind, amount)} {kind}" for kind, amount in bundle.items())
        for bundle in bundles(spec)
    ]
    return ", ".join(parts) + f"; on one node each: {'; '.join(each)}"


def _number(kind: str, amount: float) -> str:
    return format_bytes(amount) if kind == "memory" else f"{amount:g}"


def others_hold_something(beside: Sequence[dict[str, float]]) -> bool:
    """Whether anything of the cluster is taken now but `beside`.

    Args:
        beside: see `fits_when_idle`.
    """
    free, there = ray.available_resources(), ray.cluster_resources()
    for kind in ("CPU", "GPU", "memory"):
        total = there.get(kind, 0)
        taken = total - free.get(kind, 0) - sum(bundle.get(kind, 0) for bundle in beside)
        if taken > 1e-4 * total:  # sums are rounded
            return True
    return False


def nodes_alive() -> dict[str, dict[str, float]]:
    """What each node has that is alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def fits_when_idle(
    spec: ChainSpec, beside: Sequence[dict[str, float]], on: Mapping[str, dict[str, float]]
) -> bool:
    """Whether some nodes would hold one chain if nothing but `beside` ran on them.

    Args:
        beside: what stages of this driver's other chains hold, which go on.
        on: what each of the nodes has, by its id.
    """
    nodes = [dict(resources) for resources in list(on.values())]  # other threads see nodes, too
    needed = [*bundles(spec), *beside]
    scarcest = sorted(needed, key=lambda b: (b.get("GPU", 0), *b.values()), reverse=True)
    for bundle in scarcest:
        home = next(
            (n for n in nodes if all(n.get(kind, 0) >= amount for kind, amount in bundle.items())),
            None,
        )
        if home is None:
            return False
        for kind, amount in bundle.items():
            home[kind] -= amount
    return True
