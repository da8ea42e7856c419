"""Propensities by sequences and slots equal those of one text at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, takewhile

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_level_tokenizer, metaspace_tokenizer
from tiny_tokenizers import closing_tokenizer, load_tokenizer

from lrt_dist.corpus.contrast import Item
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.tasks.sequences import (
    Propensities,
    contrast_texts,
    neutral_sequences,
    propensity_sequences,
)
from lrt_dist.tasks.token_trees import Read

MAKERS = {
    "byte-level": byte_level_tokenizer,
    "metaspace": metaspace_tokenizer,
    "closing": closing_tokenizer,
}
ITEMS = (
    Item(("The statement is", "The statement is"), (" true", " a list of names"), (" x",)),
    Item(("One", "Another 😀"), (" end.\n",), (" 漢字", "", " is")[::2]),
    Item(("a wor", "a wor"), ("d", "ld of words"), ("k", "m")),  # a token across the boundary
    Item(("", ""), ("These are two sentences.",), ("This is another one.",)),
)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("tokenizer"), MAKERS[request.param]())


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("byte-level"), byte_level_tokenizer())


@pytest.fixture(scope="module")
def closing(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("closing"), closing_tokenizer())


@pytest.fixture(scope="module")
def model() -> transformers.LlamaForCausalLM:
    """Large random weights, so that every token of the context matters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=600,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    made = transformers.LlamaForCausalLM(config).double().eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def log_p(model: transformers.LlamaForCausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    """float64 `[T, V]`: the log-probabilities after each token."""
    rows: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return rows


def read_out(model: transformers.LlamaForCausalLM, made: Propensities) -> torch.Tensor:
    """What stages do with the sequences, without batches or stages."""
    sums = torch.zeros(1, made.slots, dtype=torch.float64)
    for sequence in made.sequences:
        after = log_p(model, sequence.ids)
        for read in sequence.reads:
            sums[0, read.slot] += after[read.position, read.token]
    return sums


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with together."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def shared_beginning(prompt: str, text: str, tokenizer: SiteTokenizer) -> int:
    one, other = tokenizer.encode(prompt).ids, tokenizer.encode(prompt + text).ids
    return max(1, min(common(one, other), len(other) - 1))


def one_text_at_a_time(
    model: transformers.LlamaForCausalLM, item: Item, tokenizer: SiteTokenizer
) -> float:
    """log Σ p(positive) - log Σ p(negative), by the chain rule over whole texts."""

    def log_p_of(prompt: str, text: str) -> float:
        ids = tokenizer.encode(prompt + text).ids
        after = log_p(model, ids)
        begin = shared_beginning(prompt, text, tokenizer)
        return sum(float(after[p - 1, ids[p]]) for p in range(begin, len(ids)))

    def side(prompt: str, texts: tuple[str, ...]) -> float:
        return math.log(sum(math.exp(log_p_of(prompt, text)) for text in texts))

    return side(item.prompts[0], item.positive) - side(item.prompts[1], item.negative)


def test_the_read_out_is_the_propensity_of_one_text_at_a_time(
    model: transformers.LlamaForCausalLM, tokenizer: SiteTokenizer
) -> None:
    made = propensity_sequences(ITEMS, tokenizer)
    propensities = made.of(read_out(model, made))
    expected = [one_text_at_a_time(model, item, tokenizer) for item in ITEMS]
    torch.testing.assert_close(propensities[0], torch.tensor(expected, dtype=torch.float64))


def test_swapping_the_sides_turns_the_sign(
    model: transformers.LlamaForCausalLM, tokenizer: SiteTokenizer
) -> None:
    swapped = [Item(i.prompts[::-1], i.negative, i.positive) for i in ITEMS]
    one, other = (propensity_sequences(items, tokenizer) for items in (ITEMS, swapped))
    torch.testing.assert_close(one.of(read_out(model, one)), -other.of(read_out(model, other)))


def test_every_token_of_every_continuation_is_read_once_into_its_own_slot(
    tokenizer: SiteTokenizer,
) -> None:
    """But not those with which all continuations of an item begin: they cancel."""
    made = propensity_sequences(ITEMS, tokenizer)
    reads = Counter(read.slot for sequence in made.sequences for read in sequence.reads)
    assert sorted(reads) == list(range(made.slots))
    slots = zip(made.positive, made.negative, ITEMS, strict=True)
    for up, down, item in slots:
        whole = [tokenizer.encode(text).ids for text in item.texts()]
        common = next(n for n in range(len(min(whole, key=len))) if len({w[n] for w in whole}) > 1)
        sides = zip((up, down), item.prompts, (item.positive, item.negative), strict=True)
        for mine, prompt, texts in sides:
            for slot, text in zip(mine, texts, strict=True):
                begin = shared_beginning(prompt, text, tokenizer)
                left = len(tokenizer.encode(prompt + text).ids) - max(begin, common)
                assert reads[slot] == left > 0


def test_letters_are_read_where_they_first_differ(tokenizer: SiteTokenizer) -> None:
    """Of "\n(A)" and "\n(B)" the letter and what follows it, in every tokenizer."""
    item = Item(("Is it so?", "Is it so?"), ("\n(A)",), ("\n(B)",))
    made = propensity_sequences([item], tokenizer)
    firsts = {min(r.position for r in s.reads if r.slot == 0) for s in made.sequences if any(
        r.slot == 0 for r in s.reads
    )}  # fmt: skip
    ids = [tokenizer.encode(text).ids for text in item.texts()]
    assert firsts == {next(n for n, (a, b) in enumerate(zip(*ids, strict=True)) if a != b) - 1}


def test_what_is_read_lies_in_the_sequence_and_never_before_the_prompt_ends(
    tokenizer: SiteTokenizer,
) -> None:
    for sequence in propensity_sequences(ITEMS, tokenizer).sequences:
        assert 1 <= sequence.prompt <= len(sequence.ids)
        for read in sequence.reads:
            assert sequence.prompt - 1 <= read.position < len(sequence.ids)
            if read.position + 1 < len(sequence.ids):
                assert read.token == sequence.ids[read.position + 1]


def test_no_sequence_has_a_closing_token(closing: SiteTokenizer) -> None:
    """A tokenizer that closes texts would close prompts before their continuation, and have
    vectors taken at its closing token."""
    end = closing.encode("<pad>").ids[-1]
    for sequence in propensity_sequences(ITEMS, closing).sequences:
        assert end not in sequence.ids
        assert end not in {read.token for read in sequence.reads}
    texts = contrast_texts(ITEMS, closing, "last")
    for ids, position in zip(texts.ids, texts.positions, strict=True):
        assert end not in ids
        assert position == len(ids) - 1


def test_alternatives_of_one_token_share_one_forward(byte_level: SiteTokenizer) -> None:
    prompt, ups, downs = "It is (", ("a", "b", "c"), ("d", "e")
    ids = byte_level.encode(prompt).ids
    item = Item((prompt, prompt), ups, downs)
    made = propensity_sequences([item, item], byte_level)
    assert [s.ids for s in made.sequences] == [ids, ids]
    for n, sequence in enumerate(made.sequences):
        assert set(sequence.reads) == {
            Read(len(ids) - 1, byte_level.encode(text).ids[0], slot)
            for slot, text in enumerate(ups + downs, start=5 * n)
        }


def test_longer_alternatives_have_a_sequence_each(byte_level: SiteTokenizer) -> None:
    item = Item(("It is (",) * 2, ("a", "bzbz"), ("cxcx", "d"))
    made = propensity_sequences([item], byte_level)
    assert len(made.sequences) == 3
    assert sorted(len(s.reads) for s in made.sequences) == [2, 4, 4]


def test_different_prompts_share_nothing(byte_level: SiteTokenizer) -> None:
    made = propensity_sequences([Item(("X(", "Y("), ("a",), ("a",))], byte_level)
    assert {s.ids for s in made.sequences} == {byte_level.encode(p).ids for p in ("X(", "Y(")}


def test_the_tokenizer_decides_where_a_prompt_without_context_begins(
    model: transformers.LlamaForCausalLM, byte_level: SiteTokenizer
) -> None:
    """Without <bos> a first token has no probability: it is the context of the others."""
    texts = ("These are two.", "This is one.")
    made = propensity_sequences([Item(("", ""), texts[:1], texts[1:])], byte_level)
    for sequence, text in zip(made.sequences, texts, strict=True):
        ids = byte_level.encode(text).ids
        assert sequence.ids == ids[:-1]
        assert [read.position for read in sequence.reads] == list(range(len(ids) - 1))


def test_a_text_of_one_token_without_context_is_never_an_empty_sequence(
    byte_level: SiteTokenizer,
) -> None:
    """Nothing precedes it, so it has no probability: to be refused, not to be counted as 1."""
    try:
        made = propensity_sequences([Item(("", ""), ("a",), ("b",))], byte_level)
    except ValueError:
        return
    assert all(sequence.ids and sequence.reads for sequence in made.sequences)


@given(st.data())
def test_propensities_are_a_log_sum_over_the_slots_of_each_side(data: st.DataObject) -> None:
    sides = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4)
    counts = data.draw(sides)
    numbers = iter(range(99))
    slots = [
        tuple(tuple(next(numbers) for _ in range(count)) for count in sizes) for sizes in counts
    ]
    total = next(numbers)
    made = Propensities((), total, tuple(s[0] for s in slots), tuple(s[1] for s in slots))
    values = data.draw(
        st.lists(
            st.lists(st.floats(-30, 0), min_size=total, max_size=total), min_size=1, max_size=3
        )
    )
    propensities = made.of(torch.tensor(values, dtype=torch.float64))
    assert propensities.shape == (len(values), len(counts))
    for row, line in zip(propensities, values, strict=True):
        for value, (up, down) in zip(row, slots, strict=True):
            expected = math.log(sum(math.exp(line[i]) for i in up)) - math.log(
                sum(math.exp(line[i]) for i in down)
            )
            assert float(value) == pytest.approx(expected, abs=1e-9)


def test_improbable_alternatives_do_not_underflow() -> None:
    made = Propensities((), 2, ((0,),), ((1,),))
    assert made.of(torch.tensor([[-2000.0, -3000.0]], dtype=torch.float64)).item() == 1000


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=40).map(tuple), max_size=4),
    st.integers(0, 2),
    st.integers(1, 12),
)
def test_neutral_reads_are_evenly_spaced_tokens_of_the_second_half(
    texts: list[tuple[int, ...]], special: int, reads_each: int
) -> None:
    sequences = neutral_sequences(texts, special, reads_each)
    assert [s.ids for s in sequences] == texts
    for slot, sequence in enumerate(sequences):
        ids = sequence.ids
        read = [r.position + 1 for r in sequence.reads]
        assert sequence.reads == tuple(Read(p - 1, ids[p], slot) for p in read)
        assert sequence.prompt == 0
        first = max(len(ids) // 2, special + 1)
        candidates = len(ids) - first
        assert read[0] == first
        assert read[-1] < len(ids)
        assert len(read) == min(reads_each, candidates)
        steps = {b - a for a, b in pairwise(read)}
        assert steps <= {candidates // len(read), candidates // len(read) + 1}


def members_in_order(items: tuple[Item, ...]) -> list[tuple[int, str]]:
    return [(n, text) for n, item in enumerate(items) for text in item.texts()]


@pytest.mark.parametrize("at", ["last", "answer"])
def test_the_texts_of_a_vector_are_whole_texts_in_order(tokenizer: SiteTokenizer, at: str) -> None:
    texts = contrast_texts(ITEMS, tokenizer, at)
    wanted = members_in_order(ITEMS)
    assert texts.ids == tuple(tokenizer.encode(text).ids for _, text in wanted)
    assert all(0 <= p < len(i) for p, i in zip(texts.positions, texts.ids, strict=True))
    members = list(zip(texts.positive, texts.negative, strict=True))
    flat = [index for up, down in members for index in (*up, *down)]
    assert flat == list(range(len(texts.ids)))
    for (up, down), item in zip(members, ITEMS, strict=True):
        assert (len(up), len(down)) == (len(item.positive), len(item.negative))


def test_last_is_the_last_token_of_each_text(tokenizer: SiteTokenizer) -> None:
    texts = contrast_texts(ITEMS, tokenizer, "last")
    assert texts.positions == tuple(len(ids) - 1 for ids in texts.ids)


def test_answer_is_the_first_token_in_which_the_two_texts_differ(tokenizer: SiteTokenizer) -> None:
    items = (
        Item(("Is it? ",) * 2, ("Yes, it is", "Sure"), ("No, it is not",)),
        Item(("So be ", "So bad "), ("it",), ("it",)),
    )
    texts = contrast_texts(items, tokenizer, "answer")
    for up, down in zip(texts.positive, texts.negative, strict=True):
        for mine, others in ((up, down), (down, up)):
            for index in mine:
                other = texts.ids[others[0]]
                assert texts.positions[index] == common(texts.ids[index], other)
                assert texts.ids[index] != other


def test_a_text_that_is_the_beginning_of_the_other_is_read_at_its_last_token(
    byte_level: SiteTokenizer,
) -> None:
    texts = contrast_texts([Item(("x ",) * 2, ("a",), ("a z",))], byte_level, "answer")
    short, long = texts.ids
    assert long[: len(short)] == short
    assert texts.positions == (len(short) - 1,) * 2
