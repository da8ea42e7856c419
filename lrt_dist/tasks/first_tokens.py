"""Scores that read one token of each continuation, as multiple choice and refusals are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.tasks.sequences import Propensities, common_reads, continuation
from lrt_dist.tasks.token_trees import Read, SteeredSequence

ALMOST_SURE = -(2.0**-24)
"""log p where float32 cannot tell p from 1."""


@dataclass(frozen=True)
class Probabilities(Propensities):
    """See `probability`."""

    def of(self, sums: torch.Tensor) -> torch.Tensor:
        """float64 `[N, slots]` -> `[N, items]`: p(positive) / (p(positive) + p(negative))."""
        return super().of(sums).sigmoid()


@dataclass(frozen=True)
class FirstTokenOdds:
    """See `refusal`; the attributes are those of `Propensities`."""

    sequences: tuple[SteeredSequence, ...]
    slots: int
    positive: tuple[tuple[int, ...], ...]

    def of(self, sums: torch.Tensor) -> torch.Tensor:
        """float64 `[N, slots]` -> `[N, items]`: log p - log(1 - p)."""
        columns = []
        for slots in self.positive:
            log_p = sums[:, list(slots)].logsumexp(1).clamp(max=ALMOST_SURE)
            columns.append(log_p - (-torch.expm1(log_p)).log())
        return torch.stack(columns, dim=1)


def letter_logits(items: Sequence[Item], tokenizer: SiteTokenizer) -> Propensities:
    """log p(positive) - log p(negative) of the first token in which the continuations of an item
    differ: the difference of its logits, as LRT reads it at the letter of a choice (arXiv
    2506.00653).

    Alternatives whose token is the same count once.

    Raises:
        UserError: a positive and a negative continuation have the same token there.
    """
    reads = _Reads(tokenizer)
    positive, negative = [], []
    for item in items:
        sides = [
            [continuation(prompt, text, tokenizer) for text in alternatives]
            for prompt, alternatives in zip(
                item.prompts, (item.positive, item.negative), strict=True
            )
        ]
        same = common_reads([*sides[0], *sides[1]])
        up, down = (
            reads.add([(ids, begin, max(begin, same.stop)) for ids, begin in side])
            for side in sides
        )
        if set(up) & set(down):
            raise UserError(
                f"{item.positive[0]!r} and {item.negative[0]!r} have the same token where an "
                "item's continuations first differ, so no single token tells them apart; use "
                "evaluate.score: propensity, which reads whole continuations"
            )
        positive.append(up)
        negative.append(down)
    return Propensities(reads.sequences, reads.slots, tuple(positive), tuple(negative))


def probability(items: Sequence[Item], tokenizer: SiteTokenizer) -> Probabilities:
    """p(positive) / (p(positive) + p(negative)) of the token that `letter_logits` reads, as CAA
    (arXiv 2312.06681) and L-Cross (arXiv 2501.02009) score choices.

    Raises:
        UserError: see `letter_logits`.
    """
    return Probabilities(**vars(letter_logits(items, tokenizer)))


def refusal(items: Sequence[Item], tokenizer: SiteTokenizer) -> FirstTokenOdds:
    """log p - log(1 - p), p being the probability that the text goes on with the first token of
    any positive continuation (Arditi et al., arXiv 2406.11717, appendix B; LRT, arXiv 2506.00653).

    Negative continuations are not read.
    """
    reads = _Reads(tokenizer)
    positive = []
    for item in items:
        begun = [continuation(item.prompts[0], text, tokenizer) for text in item.positive]
        positive.append(reads.add([(ids, begin, begin) for ids, begin in begun]))
    return FirstTokenOdds(reads.sequences, reads.slots, tuple(positive))


class _Reads:
    """Slots and sequences of single tokens; the same token after the same text is read once."""

    def __init__(self, tokenizer: SiteTokenizer) -> None:
        self._special = tokenizer.special_tokens
        self._slots: dict[tuple[int, ...], int] = {}
        self._reads: dict[tuple[tuple[int, ...], int], list[Read]] = {}

    def add(self, tokens: Sequence[tuple[tuple[int, ...], int, int]]) -> tuple[int, ...]:
        """Read one token of each text (ids, length of its prompt, position); their slots."""
        slots = []
        for ids, prompt, position in tokens:
            text = ids[: position + 1]
            if text not in self._slots:
                self._slots[text] = len(self._slots)
                read = Read(position - 1, ids[position], self._slots[text])
                self._reads.setdefault((text[:-1], prompt), []).append(read)
            slots.append(self._slots[text])
        return tuple(dict.fromkeys(slots))

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def sequences(self) -> tuple[SteeredSequence, ...]:
        return tuple(
            SteeredSequence(ids, prompt, tuple(reads), self._special)
            for (ids, prompt), reads in self._reads.items()
        )
