"""Contrast items as token sequences: what is run, what is read, where vectors are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import Encoding, SiteTokenizer
from lrt_dist.tasks.token_trees import Read, SteeredSequence


@dataclass(frozen=True)
class Propensities:
    """How slots of log-probabilities become propensities; see `tasks.scores.Readout`.

    Attributes:
        sequences: what is run.
        slots: number of slots.
        positive, negative: for each item the slots of its alternatives.
    """

    sequences: tuple[SteeredSequence, ...]
    slots: int
    positive: tuple[tuple[int, ...], ...]
    negative: tuple[tuple[int, ...], ...]

    def of(self, sums: torch.Tensor) -> torch.Tensor:
        """float64 `[N, slots]` -> `[N, items]`: log Σ p(positive) - log Σ p(negative)."""
        columns = [
            sums[:, list(up)].logsumexp(1) - sums[:, list(down)].logsumexp(1)
            for up, down in zip(self.positive, self.negative, strict=True)
        ]
        return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class CrossEntropies:
    """How slots of log-probabilities become cross-entropies; see `tasks.scores.Readout`.

    Attributes:
        sequences: what is run; each has a slot.
    """

    sequences: tuple[SteeredSequence, ...]

    @property
    def slots(self) -> int:
        """One for each sequence."""
        return len(self.sequences)

    def of(self, sums: torch.Tensor) -> torch.Tensor:
        """float64 `[N, slots]` -> `[N, slots]`: nats per token that was read."""
        reads = torch.tensor([len(s.reads) for s in self.sequences], dtype=torch.float64)
        return -sums / reads


def propensity_sequences(items: Sequence[Item], tokenizer: SiteTokenizer) -> Propensities:
    """Sequences that score every alternative of every item, teacher-forced.

    Alternatives of one token share one sequence (the prompt); longer ones have their own. A
    continuation is what remains of the whole text's tokens behind those it shares with the
    prompt's, so a token across the boundary belongs to the continuation. Tokens with which all
    alternatives of an item begin are not read: they would cancel.
    """
    sequences: list[SteeredSequence] = []
    positive: list[tuple[int, ...]] = []
    negative: list[tuple[int, ...]] = []
    slots, special = 0, tokenizer.special_tokens
    for item in items:
        continuations = []
        for prompt, alternatives, slots_of_item in zip(
            item.prompts, (item.positive, item.negative), (positive, negative), strict=True
        ):
            slots_of_item.append(tuple(range(slots, slots + len(alternatives))))
            slots += len(alternatives)
            continuations += [continuation(prompt, text, tokenizer) for text in alternatives]
        same = common_reads(continuations)
        at_prompt: dict[tuple[int, ...], list[Read]] = {}
        for (ids, begin), slot in zip(continuations, (*positive[-1], *negative[-1]), strict=True):
            read = [p for p in range(begin, len(ids)) if p not in same]
            reads = [Read(p - 1, ids[p], slot) for p in read]
            if len(ids) - begin == 1:
                at_prompt.setdefault(ids[:begin], []).extend(reads)
            else:
                sequences.append(SteeredSequence(ids[:-1], begin, tuple(reads), special))
        sequences += [
            SteeredSequence(ids, len(ids), tuple(reads), special)
            for ids, reads in at_prompt.items()
        ]
    return Propensities(tuple(sequences), slots, tuple(positive), tuple(negative))


def common_reads(continuations: Sequence[tuple[tuple[int, ...], int]]) -> range:
    """Positions whose tokens and contexts are the same in all continuations of an item; at least
    one token of each is left to read."""
    shortest = min(len(ids) for ids, _ in continuations)
    end = 0
    while end < shortest - 1 and len({ids[end] for ids, _ in continuations}) == 1:
        end += 1
    return range(max(begin for _, begin in continuations), end)


def neutral_sequences(
    texts: Sequence[tuple[int, ...]], special_tokens: int, reads_each: int
) -> tuple[SteeredSequence, ...]:
    """One slot for each text: the log-probabilities of evenly spaced tokens in its second half.

    Neutral text has no prompt. Texts too short to have such a token are left out.
    """
    sequences: list[SteeredSequence] = []
    for ids in texts:
        candidates = range(max(len(ids) // 2, special_tokens + 1), len(ids))
        count = min(reads_each, len(candidates))
        if count:
            chosen = [candidates[i * len(candidates) // count] for i in range(count)]
            reads = tuple(Read(p - 1, ids[p], len(sequences)) for p in chosen)
            sequences.append(SteeredSequence(ids, 0, reads, special_tokens))
    return tuple(sequences)


@dataclass(frozen=True)
class ContrastTexts:
    """Texts whose states make a vector.

    Attributes:
        ids: token ids of each text.
        positions: for each text the position whose state is read.
        positive: for each item the indices of its positive texts.
        negative: for each item the indices of its negative texts.
    """

    ids: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    positive: tuple[tuple[int, ...], ...]
    negative: tuple[tuple[int, ...], ...]


def contrast_texts(items: Sequence[Item], tokenizer: SiteTokenizer, at: str) -> ContrastTexts:
    """The texts of some items.

    Args:
        at: `last` token of each text, or the `answer` token, the first one in which the two texts
            of an item differ.
    """
    ids: list[tuple[int, ...]] = []
    positions: list[int] = []
    members: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for item in items:
        whole = item.texts()
        reference = tokenizer.encode(whole[len(item.positive) or 1])
        opposite = tokenizer.encode(whole[0])
        for texts, prompt, alternatives, other in zip(
            members, item.prompts, (item.positive or ("",), item.negative or ("",)),
            (reference, opposite), strict=True,
        ):  # fmt: skip
            texts.append(tuple(range(len(ids), len(ids) + len(alternatives))))
            for text in alternatives:
                encoding = tokenizer.encode(prompt + text)
                ids.append(encoding.ids)
                positions.append(
                    len(encoding.ids) - 1 if at == "last" else _first_difference(encoding, other)
                )
    return ContrastTexts(tuple(ids), tuple(positions), tuple(members[0]), tuple(members[1]))


def continuation(prompt: str, text: str, tokenizer: SiteTokenizer) -> tuple[tuple[int, ...], int]:
    """Ids of prompt + text, and where the continuation begins (at least one token before it).

    Raises:
        UserError: a single token with nothing before it.
    """
    whole, head = tokenizer.encode(prompt + text).ids, tokenizer.encode(prompt).ids
    begin = 0
    while begin < min(len(head), len(whole) - 1) and head[begin] == whole[begin]:
        begin += 1
    begin = max(begin, 1)
    if len(whole) == begin:
        raise UserError(
            f"{text!r} is a single token with nothing before it, so it has no probability; give "
            "the item a prompt"
        )
    return whole, begin


def _first_difference(one: Encoding, other: Encoding) -> int:
    for position, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)):
        if a != b:
            return position
    return min(len(one.ids), len(other.ids)) - 1
