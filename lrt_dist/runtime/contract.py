"""What the runtimes run: tasks that flow through a chain of stages.

A *chain* is one replica of something that may be too large for one process, cut into stages. A
task goes through it in batches: the carry of batch b goes from stage to stage, so that all stages
work at once. `SerialRuntime` and `RayRuntime` keep one contract, written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar, runtime_checkable

from lrt_dist.errors import DeviceMemoryError, LostError, LrtError, UnitError, UserError
from lrt_dist.parcels import Handle

A = TypeVar("A")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Task(Protocol):
    """A piece of work, small enough to be sent; the unit of retry.

    `key` names it in a run; `batches` is how many steps it takes; `smaller()` is the same work in
    smaller batches, or None where it cannot be cut further.
    """

    @property
    def key(self) -> str: ...
    @property
    def batches(self) -> int: ...
    def smaller(self) -> Self | None: ...


T = TypeVar("T", bound=Task)
T_co = TypeVar("T_co", bound=Task, covariant=True)


@runtime_checkable
class RoundTrip(Protocol):
    """A task whose carry goes back as well: from the last stage to the first again, which is how
    gradients go. A stage but the last sees each batch twice."""

    @property
    def turns_back(self) -> bool: ...


@runtime_checkable
class GoesOn(Protocol):
    """A task some of whose batches go on where an earlier one ended: what the last stage returned
    of that one is the carry with which they begin. It is how generated tokens go on."""

    def goes_on_from(self, batch: int) -> int | None:
        """The earlier batch, which no other batch goes on from; None for a new beginning."""
        ...


@runtime_checkable
class TriedBefore(Protocol):
    """A task that may have been given up by an earlier run: that it is given up again says nothing
    new, and does not stop a run."""

    @property
    def given_up_before(self) -> bool: ...


@runtime_checkable
class Divided(Protocol):
    """A task that brings every stage something of its own."""

    def for_stage(self, stage: int) -> Self:
        """The task as the stage of that number gets it."""
        ...


def for_stage(task: T, stage: int) -> T:
    """The task as the stage of that number gets it."""
    return task.for_stage(stage) if isinstance(task, Divided) else task


def route(task: Task, stages: int) -> list[int]:
    """The stages that a batch of a task visits, by number, in order."""
    there = list(range(stages))
    turns = isinstance(task, RoundTrip) and task.turns_back
    return [*there, *reversed(there[:-1])] if turns else there


class Ends(Generic[A]):
    """What the last stage returned of batches that others go on from."""

    def __init__(self, task: Task) -> None:
        self._task = task if isinstance(task, GoesOn) else None
        self._by_batch: dict[int, A] = {}

    def beginning(self, batch: int) -> A | None:
        """The carry with which a batch begins."""
        earlier = self._task.goes_on_from(batch) if self._task else None
        return None if earlier is None else self._by_batch.pop(earlier)

    def keep(self, batch: int, end: A) -> None:
        """Keep what came out of the last stage, if another batch may want it."""
        if self._task:
            self._by_batch[batch] = end


class Stage(Protocol):
    """One stage of a chain; lives in one process.

    For each task: `open`, then `step` for every batch in order (twice for a `RoundTrip`, except in
    the last stage), then `finish`, which returns the stage's receipt, or a `Parcel`; or `forget` at
    any time after `open`. The first stage's carry is None, unless the task `GoesOn`. `step` is
    called from one thread, the others from other threads: so the next task is opened, and the last
    one written, while one computes.
    """

    def open(self, task: Any) -> None: ...
    def step(self, key: str, batch: int, carry: Any) -> Any: ...
    def finish(self, key: str) -> Any: ...
    def forget(self, key: str) -> None: ...


@dataclass(frozen=True)
class StageSpec:
    """How to build a stage, and what it needs.

    Attributes:
        build: called in the stage's own process; must be picklable.
        cpus: cores that it uses.
        gpus: GPUs that it uses.
        memory: bytes of the host's memory that it uses.
        leaves: names of the contents of the `Parcel` that its `finish` returns; none where it
            returns a receipt alone. No two stages of a chain have a name in common.
        node: stages of a chain with the same number are on one node, and others on others as far
            as can be; None in all: on as few nodes as have room.
    """

    build: Callable[[], Stage]
    cpus: float
    gpus: float
    memory: int = 0
    leaves: tuple[Hashable, ...] = ()
    node: int | None = None


@dataclass(frozen=True)
class ChainSpec:
    """What is run, and on how much.

    Attributes:
        stages: of one replica.
        replicas: number of replicas; work begins with the first.
        most: replicas that may be added as nodes join.
        placement_timeout: seconds to wait for resources that the cluster does not have.
        carry_bytes: of what goes from stage to stage, at most; 0 if it is small.
        accumulates: whether its stages gather what the tasks bring, and hand nothing on: every
            stage gets all batches, with the carry with which they begin, and the tasks in the order
            in which they come. What they gathered is lost if one of them dies or a task fails. Such
            a chain has one replica.
        waits_for_others: whether it waits, however long, for resources that others use.
    """

    stages: tuple[StageSpec, ...]
    replicas: int = 1
    most: int = 1
    placement_timeout: float = 300.0
    carry_bytes: int = 0
    accumulates: bool = False
    waits_for_others: bool = True


@dataclass(frozen=True)
class FailurePolicy:
    """When to give up.

    Attributes:
        retries: further attempts of a task after a transient error or a dead process.
        consecutive: so many tasks given up in a row stop the run before any has gone through.
        later: the same after one has: a part of a corpus may be bad.
        evict: so many attempts in a row that fail in one replica, and it is built anew.
        stall: seconds without an answer after which a replica counts as dead.
    """

    retries: int = 2
    consecutive: int = 3
    later: int = 10
    evict: int = 2
    stall: float = 1800.0


class StoppedError(Exception):
    """Whoever wanted the work of a chain does not want it any more."""


DEFAULT_POLICY = FailurePolicy()
SOON = 0.02
"""Seconds after which a task is asked for again that was not there yet."""


@dataclass(frozen=True)
class Done(Generic[T_co]):
    """A task that went through.

    Attributes:
        receipts: one of each stage, in chain order; see `receipts_of`.
        contents: handles to what all stages left, by name, see `StageSpec.leaves`.
    """

    task: T_co
    receipts: list[Any]
    contents: Mapping[Any, Handle] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed(Generic[T_co]):
    """A task given up, with the reason."""

    task: T_co
    reason: str


class WithReceipts(Task, Protocol[R_co]):
    """A task that says of which type its stages' receipts are."""

    @property
    def receipt_type(self) -> type[R_co]: ...


def receipts_of(done: Done[WithReceipts[R]]) -> list[R]:
    """What the stages of a chain returned, in chain order; stages that returned None left out."""
    receipts = [receipt for receipt in done.receipts if receipt is not None]
    for receipt in receipts:
        assert isinstance(receipt, done.task.receipt_type), type(receipt)
    return receipts


class Chains(Protocol):
    """Running replicas of a chain."""

    def run(self, tasks: Iterable[T | None]) -> Iterator[Done[T] | Failed[T]]:
        """Put tasks through; yields each once, as it ends, in any order.

        Tasks are drawn from the iterable as there is room. None means that the next one is not
        there yet: it is asked for again soon.

        Raises:
            LrtError: too many tasks in a row were given up, see `FailurePolicy`.
            NoReplicaError: no replica is left.
            LostError: what a chain has accumulated is lost.
        """
        ...

    def busy_shares(self) -> list[list[float | None]]:
        """Of every stage of every replica, the share of the time since its first step in which it
        computed; None of one that has not begun."""
        ...


@dataclass(frozen=True)
class Needs:
    """What one call of a function needs: cores, bytes of memory, and GPUs."""

    cpus: int = 1
    memory: int = 0
    gpus: int = 0


class Machines(Protocol):
    """What work is placed on: the cores, memory (bytes) and GPUs of each node."""

    node_cpus: tuple[float, ...]
    node_memory: tuple[float, ...]
    node_gpus: tuple[float, ...]

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        ...

    def gpu_memory(self) -> int:
        """Bytes of memory of a GPU. All GPUs are taken to be alike.

        Raises:
            LrtError: no GPU came free to be asked.
        """
        ...


class Runtime(Machines, Protocol):
    """Where work runs."""

    def look(self) -> None:
        """See what machines there are now."""
        ...

    def chains(
        self, spec: ChainSpec, stopped: Callable[[], bool] = lambda: False
    ) -> AbstractContextManager[Chains]:
        """Start the replicas; all ends with the context.

        Args:
            stopped: asked now and then; once it says so, starting or running raises StoppedError.

        Raises:
            NoPlaceError: the cluster cannot hold one replica.
            StoppedError: see above.
        """
        ...

    def map(
        self, function: Callable[[A], R], arguments: Iterable[A], needs: Needs = Needs()
    ) -> Iterator[R]:
        """`function(a)` for each `a`, results in the order of the arguments, which are drawn as
        there is room."""
        ...

    def reduce(
        self,
        leaf: Callable[[A], R],
        merge: Callable[[R, R], R],
        trees: Sequence[Sequence[Node[A]]],
        needs: Needs = Needs(),
        on_leaf: Callable[[], None] = lambda: None,
    ) -> Iterator[R]:
        """The root of each tree, in order; see `merge_tree`.

        Args:
            on_leaf: called here, once for every node of level 0 that is made.
        """
        ...


@dataclass(frozen=True)
class Node(Generic[A]):
    """A node of a tree of merges: `leaf(argument)` makes it, and it stands for `2^level` leaves
    of which some may be done already."""

    level: int
    argument: A


def merge_tree(
    nodes: Iterable[Node[A]], make: Callable[[Node[A]], R], merge: Callable[[R, R], R]
) -> R:
    """Make all nodes, in order, and merge neighbours of one level as soon as both are there.

    The last operands are merged from the right. So what is merged with what depends on the
    nodes alone, and nodes that take the place of their leaves change nothing.
    """
    waiting: list[tuple[int, R]] = []

    def merge_last() -> None:
        (level, left), (_, right) = waiting[-2:]
        waiting[-2:] = [(level + 1, merge(left, right))]

    for node in nodes:
        waiting.append((node.level, make(node)))
        while len(waiting) > 1 and waiting[-2][0] == waiting[-1][0]:
            merge_last()
    while len(waiting) > 1:
        merge_last()
    return waiting[0][1]


def raise_lost(task: Task, error: Exception) -> NoReturn:
    """A task has failed in a chain that accumulates.

    Raises:
        LrtError: `error` itself, if it is one: it says more than that something is lost.
        LostError: else.
    """
    if isinstance(error, LrtError):
        raise error
    raise LostError(f"{task.key} failed ({type(error).__name__}: {error})") from error


class Attempts:
    """Counts failures and decides: again, smaller, or give up. Shared by both runtimes."""

    def __init__(self, policy: FailurePolicy) -> None:
        self._policy = policy
        self._failures: dict[str, int] = {}
        self._halvings = 0
        self._halved: dict[str, int] = {}
        self._went_through = False
        self._given_up_in_a_row = 0

    def first(self, task: T) -> T:
        """The task as it is tried first: in batches as small as memory has wanted them so far."""
        self._halved[task.key] = self._halvings
        for _ in range(self._halvings):
            task = task.smaller() or task
        return task

    def succeeded(self) -> None:
        """A task went through."""
        self._went_through = True
        self._given_up_in_a_row = 0

    def next_try(self, task: T, error: BaseException) -> T | None:
        """The task to try next, or None to give it up.

        Raises:
            LrtError: `error` itself, where no further attempt can help; or too many tasks in a
                row were given up.
        """
        if isinstance(error, DeviceMemoryError):
            smaller = task.smaller()
            if smaller is not None:
                # Others of the same size may be on their way, and fail for the same reason.
                self._halved[task.key] = self._halved.get(task.key, 0) + 1
                self._halvings = max(self._halvings, self._halved[task.key])
                return smaller
        elif isinstance(error, LrtError) and not isinstance(error, UnitError | UserError):
            raise error  # a full disk, corruption: another attempt changes nothing
        elif not isinstance(error, UnitError):
            # Errors of the user's show before anything starts: here a worker lacks something.
            self._failures[task.key] = self._failures.get(task.key, 0) + 1
            if self._failures[task.key] <= self._policy.retries:
                return task
        if isinstance(task, TriedBefore) and task.given_up_before:
            return None
        self._given_up_in_a_row += 1
        most = self._policy.later if self._went_through else self._policy.consecutive
        if self._given_up_in_a_row >= most:
            raise LrtError(
                f"{self._given_up_in_a_row} tasks in a row failed, the last one {task.key}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return None
