"""Contrast items as token sequences: what is run, what is read, where vectors are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import Encoding, SiteTokenizer
from lrt_dist.stages.score import Scored


@dataclass(frozen=True)
class Propensities:
    """How slots of log-probabilities become propensities.

    Attributes:
        sequences: what is run.
        slots: number of slots.
        positive, negative: for each item the slots of its alternatives.
    """

    sequences: tuple[Scored, ...]
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


def propensity_sequences(items: Sequence[Item], tokenizer: SiteTokenizer) -> Propensities:
    """Sequences that score every alternative of every item, teacher-forced.

    Alternatives of one token share one sequence (the prompt); longer ones have their own. A
    continuation is what remains of the whole text's tokens behind those it shares with the
    prompt's, so a token across the boundary belongs to the continuation.
    """
    sequences: list[Scored] = []
    sides: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    slots = 0
    for item in items:
        shared: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
        for prompt, alternatives, slots_of_item in zip(
            item.prompts, (item.positive, item.negative), sides, strict=True
        ):
            mine = range(slots, slots + len(alternatives))
            slots = mine.stop
            slots_of_item.append(tuple(mine))
            for text, slot in zip(alternatives, mine, strict=True):
                ids, begin = _continuation(prompt, text, tokenizer)
                if len(ids) == begin:
                    raise UserError(
                        f"{text!r} is a single token with nothing before it, so it has no "
                        "probability; give the item a prompt"
                    )
                if len(ids) - begin == 1:
                    shared.setdefault(ids[:begin], []).append((begin - 1, ids[begin], slot))
                else:
                    reads = tuple((p - 1, ids[p], slot) for p in range(begin, len(ids)))
                    sequences.append(Scored(ids[:-1], begin, reads))
        sequences += [Scored(ids, len(ids), tuple(reads)) for ids, reads in shared.items()]
    return Propensities(tuple(sequences), slots, tuple(sides[0]), tuple(sides[1]))


def neutral_sequences(
    texts: Sequence[tuple[int, ...]], special_tokens: int, reads_each: int
) -> tuple[Scored, ...]:
    """One slot a text: the log-probabilities of evenly spaced tokens in its second half.

    Texts too short to have such a token are left out.
    """
    sequences: list[Scored] = []
    for ids in texts:
        candidates = range(max(len(ids) // 2, special_tokens + 1), len(ids))
        count = min(reads_each, len(candidates))
        if count:
            chosen = [candidates[i * len(candidates) // count] for i in range(count)]
            reads = tuple((p - 1, ids[p], len(sequences)) for p in chosen)
            sequences.append(Scored(ids, len(ids), reads))
    return tuple(sequences)


def contrast_texts(
    items: Sequence[Item], tokenizer: SiteTokenizer, at: str
) -> tuple[list[tuple[int, ...]], list[int], list[tuple[list[int], list[int]]]]:
    """Texts whose states make a vector.

    Args:
        at: `last` token of each text, or the `answer` token, the first one in which the two texts
            of an item differ.

    Returns:
        Token ids of every text, the position read in each, and for each item the indices of its
        (positive, negative) texts.
    """
    ids: list[tuple[int, ...]] = []
    positions: list[int] = []
    members: list[tuple[list[int], list[int]]] = []
    for item in items:
        groups: tuple[list[int], list[int]] = ([], [])
        reference = tokenizer.encode(item.prompts[1] + item.negative[0])
        opposite = tokenizer.encode(item.prompts[0] + item.positive[0])
        for group, prompt, alternatives, other in zip(
            groups, item.prompts, (item.positive, item.negative), (reference, opposite), strict=True
        ):
            for text in alternatives:
                encoding = tokenizer.encode(prompt + text)
                group.append(len(ids))
                ids.append(encoding.ids)
                positions.append(
                    len(encoding.ids) - 1 if at == "last" else _first_difference(encoding, other)
                )
        members.append(groups)
    return ids, positions, members


def _continuation(prompt: str, text: str, tokenizer: SiteTokenizer) -> tuple[tuple[int, ...], int]:
    """Ids of prompt + text, and where the continuation begins (at least one token before it)."""
    whole, head = tokenizer.encode(prompt + text).ids, tokenizer.encode(prompt).ids
    begin = 0
    while begin < min(len(head), len(whole) - 1) and head[begin] == whole[begin]:
        begin += 1
    return whole, max(begin, 1)


def _first_difference(one: Encoding, other: Encoding) -> int:
    for position, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)):
        if a != b:
            return position
    return min(len(one.ids), len(other.ids)) - 1
