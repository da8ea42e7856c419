"""Token sequences that share their beginnings, as trees: what is common is run once.

The continuations of one prompt branch from it. In one forward pass each token attends to the
tokens on its own branch alone, and its position is its depth there, so every branch is computed as
if it stood alone.

Shape suffixes: B trees of a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lrt_dist.models.blocks import Branches
from lrt_dist.models.injection import Parts, Positions, chosen_positions
from lrt_dist.tasks.model_stage import pad

ROOT = -1
"""Parent of a first token."""


@dataclass(frozen=True)
class Read:
    """log p(token | the text up to and with a position), which is added to a slot.

    Attributes:
        position: index of the last token of that text.
        token: id of the token whose probability is read.
        slot: number of the sum to which it is added.
    """

    position: int
    token: int
    slot: int


@dataclass(frozen=True)
class SteeredSequence:
    """One sequence that is run while it is steered.

    Attributes:
        ids: token ids.
        prompt: tokens of the prompt; 0 where the text has none.
        reads: what is read from it.
        special: special tokens that the tokenizer puts in front.
    """

    ids: tuple[int, ...]
    prompt: int
    reads: tuple[Read, ...] = ()
    special: int = 0

    @property
    def parts(self) -> Parts:
        """What its tokens are."""
        return Parts(len(self.ids), self.prompt, self.special)


@dataclass(frozen=True)
class TokenTree:
    """Sequences with a common beginning.

    Attributes:
        ids: token ids; a parent stands before its children.
        parents: for each token the index of the one before it, or `ROOT`.
        steered: indices of the tokens that are steered, ascending.
        reads: what is read; positions are indices of tokens.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    steered: tuple[int, ...]
    reads: tuple[Read, ...]

    @property
    def branches(self) -> bool:
        """Whether it is more than one sequence."""
        return any(parent != index - 1 for index, parent in enumerate(self.parents))

    def shifted(self, slots: int) -> TokenTree:
        """The same tree, read to slots that are numbered from another one on."""
        reads = tuple(replace(read, slot=read.slot + slots) for read in self.reads)
        return replace(self, reads=reads)


@dataclass(frozen=True)
class TreeBatch:
    """Trees that go through a model together, right-padded.

    Attributes:
        ids_BT: int64 `[B, T]`.
        steered_BT: bool `[B, T]`.
        branches: None where no tree branches, so that attention takes its fast causal way.
    """

    ids_BT: torch.Tensor
    steered_BT: torch.Tensor
    branches: Branches | None

    @classmethod
    def of(cls, trees: Sequence[TokenTree]) -> TreeBatch:
        """Pad some trees."""
        ids_BT = pad([tree.ids for tree in trees])
        steered_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
        for row, tree in enumerate(trees):
            steered_BT[row, list(tree.steered)] = True
        branching = any(tree.branches for tree in trees)
        return cls(ids_BT, steered_BT, _branches(trees, ids_BT.shape[1]) if branching else None)


def trees_of(
    sequences: Sequence[SteeredSequence],
    positions: Positions,
    *,
    shared: bool,
    window: int | None = None,
) -> tuple[TokenTree, ...]:
    """One tree for each sequence, or for all sequences with the same prompt.

    Sequences stay apart where they are longer than an attention window, which the attention mask
    of a tree does not know, and where a common token would be steered in one and not in another.

    Args:
        positions: which tokens are steered.
        shared: whether sequences may share their beginnings.
        window: tokens that the model's attention sees back; None without limit.

    Raises:
        UserError: see `chosen_positions`.
    """
    groups: dict[object, list[SteeredSequence]] = {}
    for number, sequence in enumerate(sequences):
        within = window is None or len(sequence.ids) <= window
        key = sequence.ids[: sequence.prompt] if shared and sequence.prompt and within else number
        groups.setdefault(key, []).append(sequence)
    trees: list[TokenTree] = []
    for group in groups.values():
        merged = _merge(group, positions)
        trees += [merged] if merged else [tree_of(sequence, positions) for sequence in group]
    return tuple(trees)


def tree_of(sequence: SteeredSequence, positions: Positions) -> TokenTree:
    """A sequence alone.

    Raises:
        UserError: see `chosen_positions`.
    """
    tree = _merge([sequence], positions)
    assert tree is not None, "a sequence cannot disagree with itself"
    return tree


def _merge(sequences: Sequence[SteeredSequence], positions: Positions) -> TokenTree | None:
    """The tree of some sequences; None where they steer a common token differently."""
    nodes: dict[tuple[int, int], int] = {}
    steered: list[bool] = []
    reads: list[Read] = []
    for sequence in sequences:
        chosen = set(chosen_positions(positions, sequence.parts))
        path: list[int] = []
        for position, token in enumerate(sequence.ids):
            key = (path[-1] if path else ROOT, token)
            if key not in nodes:
                nodes[key] = len(nodes)
                steered.append(position in chosen)
            elif steered[nodes[key]] != (position in chosen):
                return None
            path.append(nodes[key])
        reads += [Read(path[read.position], read.token, read.slot) for read in sequence.reads]
    return TokenTree(
        ids=tuple(token for _, token in nodes),
        parents=tuple(parent for parent, _ in nodes),
        steered=tuple(index for index, is_steered in enumerate(steered) if is_steered),
        reads=tuple(reads),
    )


def _branches(trees: Sequence[TokenTree], width: int) -> Branches:
    depth_BT = torch.zeros(len(trees), width, dtype=torch.int64)
    # Padding sees itself: a row of attention that sees nothing would not be a number.
    sees_BTT = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        for index, parent in enumerate(tree.parents):
            if parent != ROOT:
                depth_BT[row, index] = depth_BT[row, parent] + 1
                sees_BTT[row, index] |= sees_BTT[row, parent]
    return Branches(depth_BT, sees_BTT)
