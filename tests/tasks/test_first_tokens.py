"""Scores of single tokens are what a plain forward of the prompt says of them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import byte_level_tokenizer
from tiny_tokenizers import load_tokenizer

from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.tasks.first_tokens import letter_logits, probability, refusal
from lrt_dist.tasks.scores import Readout

PROMPT = ("The statement is", "The statement is")
CHOICE = Item(PROMPT, (" (A)",), (" (B)",))
WORDS = Item(PROMPT, (" xa", " xb", " a name"), (" the list", " more"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("tokenizer"), byte_level_tokenizer())


def log_p(ids: tuple[int, ...]) -> torch.Tensor:
    """A model that knows the whole text: other numbers after each."""
    random = torch.Generator().manual_seed(hash(ids) % 2**31)
    rows: torch.Tensor = torch.randn(700, generator=random, dtype=torch.float64)
    return (3 * rows).log_softmax(0)


def value(readout: Readout) -> float:
    sums = torch.zeros(1, readout.slots, dtype=torch.float64)
    for sequence in readout.sequences:
        for read in sequence.reads:
            assert read.position == len(sequence.ids) - 1, "nothing is run that is not read"
            sums[0, read.slot] += log_p(sequence.ids)[read.token]
    return float(readout.of(sums)[0, 0])


def test_a_choice_is_the_difference_of_logits_at_its_letter(tokenizer: SiteTokenizer) -> None:
    whole = tokenizer.encode(PROMPT[0] + " (A)").ids
    other = tokenizer.encode(PROMPT[0] + " (B)").ids
    place = next(i for i, (a, b) in enumerate(zip(whole, other, strict=True)) if a != b)
    after = log_p(whole[:place])
    difference = float(after[whole[place]] - after[other[place]])
    assert value(letter_logits([CHOICE], tokenizer)) == pytest.approx(difference)
    share = 1 / (1 + math.exp(-difference))
    assert value(probability([CHOICE], tokenizer)) == pytest.approx(share)
    swapped = Item(PROMPT, CHOICE.negative, CHOICE.positive)
    assert value(letter_logits([swapped], tokenizer)) == pytest.approx(-difference)
    assert value(probability([swapped], tokenizer)) == pytest.approx(1 - share)


def test_alternatives_with_one_first_token_count_once(tokenizer: SiteTokenizer) -> None:
    head = tokenizer.encode(PROMPT[0]).ids
    after = log_p(head).exp()

    def p(texts: tuple[str, ...]) -> float:
        first = {tokenizer.encode(PROMPT[0] + text).ids[len(head)] for text in texts}
        return float(sum(after[token] for token in first))

    up, down = p(WORDS.positive), p(WORDS.negative)
    assert value(letter_logits([WORDS], tokenizer)) == pytest.approx(math.log(up / down))
    assert value(probability([WORDS], tokenizer)) == pytest.approx(up / (up + down))
    assert value(refusal([WORDS], tokenizer)) == pytest.approx(math.log(up / (1 - up)))


@pytest.mark.parametrize("log_p", [0.0, -1e-9, -(2.0**-23), -3.0, -80.0])
def test_the_odds_of_what_is_as_good_as_sure_are_finite(
    tokenizer: SiteTokenizer, log_p: float
) -> None:
    readout = refusal([CHOICE], tokenizer)
    sums = torch.full((1, 1), log_p, dtype=torch.float64, requires_grad=True)
    odds = readout.of(sums)
    odds.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(odds).all())
    assert sums.grad is not None
    assert bool(torch.isfinite(sums.grad).all())


def test_continuations_that_one_token_cannot_tell_apart_are_refused(
    tokenizer: SiteTokenizer,
) -> None:
    item = Item(PROMPT, (" a",), (" a list",))
    with pytest.raises(UserError, match=r"' a' and ' a list' have the same token where an item's"):
        letter_logits([item], tokenizer)
