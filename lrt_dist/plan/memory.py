"""How much memory a stage needs, on its device and its host, and how many stages a model gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.plan.units import split_blocks

USABLE = 0.9
"""Share of a device's memory that may be planned for; fragmentation needs the rest."""
STATES_PER_TOKEN = 24
"""Working tensors of a block's forward pass, in multiples of one hidden state: attention and MLP
intermediates of the families in the tests stay below it."""


PROCESS_BYTES = 1 << 30
"""Of a stage's process without its model: Python, torch and Ray, some 0.6 GiB as measured."""
UNITS_HELD = 5
"""Units whose rows a stage may hold: one computed, four written."""
CARRIES_HELD = 3
"""Carries that a stage may hold: one computed from, one received ahead, one sent."""


@dataclass(frozen=True)
class ModelSize:
    """What the arithmetic needs of a model.

    Attributes:
        blocks: parameters of each block.
        embedding: parameters of the token embedding.
        embedding_everywhere: whether every stage holds it, not the first alone.
        remembered: numbers that a block keeps of each token, where the model writes; else 0.
        head: parameters of the LM head, also where it is tied to the embedding.
        width: size d of the residual stream.
    """

    blocks: Sequence[int]
    embedding: int
    head: int
    width: int
    embedding_everywhere: bool = False
    remembered: int = 0


@dataclass(frozen=True)
class StagePlan:
    """One stage: its blocks, and the bytes it will hold at once."""

    owned: range
    weight_bytes: int
    working_bytes: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.working_bytes


def plan_stages(
    size: ModelSize,
    *,
    last_layer: int,
    head: bool,
    stages: int,
    number_bytes: int,
    batch_tokens: int,
) -> list[StagePlan]:
    """Cut blocks `0 … last_layer` into stages of even weight.

    Args:
        number_bytes: bytes of a weight and of an activation on the device.
        batch_tokens: tokens of a batch.

    Raises:
        ValueError: more stages than blocks.
    """
    wanted = list(size.blocks[: last_layer + 1])
    costs = [float(n) for n in wanted]
    costs[0] += size.embedding
    costs[-1] += size.head if head else 0
    working = batch_tokens * size.width * STATES_PER_TOKEN * number_bytes
    plans = []
    for owned in split_blocks(costs, stages):
        weights = sum(wanted[owned.start : owned.stop])
        weights += size.embedding if owned.start == 0 or size.embedding_everywhere else 0
        weights += size.head if head and owned.stop == len(wanted) else 0
        # As many batches take turns as there are stages, and each stage keeps all of them.
        kept = stages * batch_tokens * len(owned) * size.remembered * number_bytes
        plans.append(StagePlan(owned, weights * number_bytes, working + kept))
    return plans


def host_bytes(layers: int, rows: int, width: int, number_bytes: int, carry_bytes: int) -> int:
    """Of the host's memory that a stage needs beside its model.

    Args:
        layers: that it collects.
        rows: of a unit.
        width: of the hidden states.
        number_bytes: of a stored number.
        carry_bytes: of what it receives, and sends.
    """
    unit = layers * rows * (width * number_bytes + 4)  # and a norm
    return PROCESS_BYTES + UNITS_HELD * unit + CARRIES_HELD * carry_bytes


def cores_each(node_cores: Sequence[float], stages: int) -> float:
    """The most cores that each of `stages` can have, where a stage must fit on one node; at
    least 1, even if that is not there."""
    cores = max(1, int(max(node_cores)))
    while cores > 1 and sum(node // cores for node in node_cores) < stages:
        cores -= 1
    return float(cores)


def cores_shared(node_cores: Sequence[float], stages: int) -> float:
    """Cores for each of `stages` that run at once, each on one node: whole ones, or where there are
    too few a share of one, in hundredths."""
    cores = cores_each(node_cores, stages)
    if cores > 1:
        return cores
    shares = range(100, 1, -1)
    enough = (n for n in shares if sum(int(100 * c) // n for c in node_cores) >= stages)
    return next(enough, 1) / 100


def fewest_stages(
    size: ModelSize,
    *,
    device_bytes: int,
    last_layer: int,
    head: bool,
    number_bytes: int,
    batch_tokens: int,
) -> list[StagePlan] | None:
    """The plan with the fewest stages that fits a device; None where even one block a stage
    does not."""
    for stages in range(1, last_layer + 2):
        plans = plan_stages(
            size,
            last_layer=last_layer,
            head=head,
            stages=stages,
            number_bytes=number_bytes,
            batch_tokens=batch_tokens,
        )
        if max(plan.bytes for plan in plans) <= device_bytes * USABLE:
            return plans
    return None
