"""Segments are pieces of their document that fit; sites are where both tokenizations part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import byte_level_tokenizer, documentation, metaspace_tokenizer
from tiny_tokenizers import brute_force_ends

from lrt_dist.config import SitesConfig
from lrt_dist.corpus.readers import Document
from lrt_dist.corpus.segments import cut_segments
from lrt_dist.models.tokens import NO_END, Encoding, SiteTokenizer
from lrt_dist.sites import Segment, Side, Sided

ROOM = 9
"""Enough tokens for any one character of either tokenizer, special tokens included."""
EVERYTHING = SitesConfig(min_context=0, per_segment=10_000)
WORDS = [
    "the",
    " ",
    "\n",
    "\n\n",
    " statement",
    "😀",
    "漢字",
    "é",
    "  ",
    "x",
    "\t",
    ".",
    "ing",
    "Ω",
]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map("".join)
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def both(byte_level: SiteTokenizer, metaspace: SiteTokenizer) -> Sided[SiteTokenizer]:
    return Sided(byte_level, metaspace)


@pytest.fixture(scope="module")
def backends() -> Sided[Any]:
    return Sided(byte_level_tokenizer(), metaspace_tokenizer())


def cut(
    text: str, encoders: Any, max_tokens: int = 64, sites: SitesConfig = EVERYTHING, id: str = "d"
) -> list[Segment]:
    return list(cut_segments(Document(id, text), encoders, max_tokens, sites))


class GreedyEncoder:
    """The longest known piece first, else a character: a tokenizer in eight lines."""

    def __init__(self, pieces: Sequence[str], before: int, after: int) -> None:
        self.pieces = sorted(pieces, key=len, reverse=True)
        self.before, self.after = before, after
        self.special_tokens = before

    def encode(self, text: str) -> Encoding:
        ends = [0]
        while ends[-1] < len(text):
            rest = text[ends[-1] :]
            piece = next((p for p in self.pieces if rest.startswith(p)), rest[0])
            ends.append(ends[-1] + len(piece))
        padded = (*[NO_END] * self.before, *ends[1:], *[NO_END] * self.after)
        return Encoding(tuple(range(len(padded))), padded)


PIECES = st.lists(st.text("ab \n", min_size=1, max_size=9), max_size=6)


@settings(max_examples=300)
@given(
    st.text("ab \n", min_size=1, max_size=120),
    *[st.builds(GreedyEncoder, PIECES, st.integers(0, 1), st.just(0))] * 2,
    st.integers(2, 8),
)
def test_any_two_tokenizers_cut_a_text_into_pieces_that_fit_and_concatenate(
    text: str, one: GreedyEncoder, other: GreedyEncoder, max_tokens: int
) -> None:
    check_pieces(text, cut(text, Sided(one, other), max_tokens), max_tokens)


@settings(max_examples=300)
@given(
    st.text("ab \n", min_size=1, max_size=120),
    *[st.builds(GreedyEncoder, PIECES, st.integers(0, 1), st.integers(0, 1))] * 2,
    st.integers(3, 8),
)
def test_special_tokens_behind_the_text_take_room_too(
    text: str, one: GreedyEncoder, other: GreedyEncoder, max_tokens: int
) -> None:
    segments = cut(text, Sided(one, other), max_tokens)
    assert all(len(ids) <= max_tokens for s in segments for ids in s.ids)


@given(st.text("ab \n", min_size=1, max_size=12), st.integers(0, 2), st.integers(1, 3))
def test_without_room_for_one_character_the_cutting_still_ends(
    text: str, special: int, max_tokens: int
) -> None:
    encoder = GreedyEncoder(["ab", "a b"], special, 0)
    pieces = cut(text, Sided(encoder, encoder), max_tokens)
    assert "".join(s.text for s in pieces) == text
    assert all(len(s.ids.source) <= max_tokens or len(s.text) == 1 for s in pieces)


def check_pieces(text: str, segments: list[Segment], max_tokens: int) -> None:
    assert "".join(s.text for s in segments) == text
    assert [s.start for s in segments] == [
        0,
        *itertools.accumulate(len(s.text) for s in segments[:-1]),
    ]
    for s in segments:
        assert max(len(ids) for ids in s.ids) <= max_tokens


@quick
@given(text=TEXTS, max_tokens=st.integers(ROOM, 40))
def test_real_tokenizers_cut_a_text_into_pieces_that_fit_and_concatenate(
    both: Any, text: str, max_tokens: int
) -> None:
    segments = cut(text, both, max_tokens)
    check_pieces(text, segments, max_tokens)
    for s in segments:
        assert s.ids == Sided(both.source.encode(s.text).ids, both.target.encode(s.text).ids)


def test_a_tokenizer_that_closes_its_texts_gets_room_for_it(
    byte_level: SiteTokenizer, closing: SiteTokenizer
) -> None:
    for text in documentation(4):
        for s in cut(text, Sided(byte_level, closing), 24):
            assert max(map(len, s.ids)) <= 24


def test_segments_are_cut_before_a_blank(both: Any) -> None:
    text = " ".join(documentation(1)[0].split())
    segments = cut(text, both, 32)
    assert len(segments) > 5
    assert all(s.text.startswith(" ") for s in segments[1:])


def test_segments_use_the_room_they_have(both: Any) -> None:
    """At most one word's room stays empty: two words more would not have fitted."""
    text = " ".join(documentation(1)[0].split())
    for s in cut(text, both, 32)[:-1]:
        following = text[s.start + len(s.text) :].split(" ", 3)
        longer = s.text + " ".join(following[:3])  # the first is empty: a cut is before a blank
        assert max(len(encoder.encode(longer).ids) for encoder in both) > 32


def test_a_beginning_that_needs_more_tokens_than_the_whole_is_cut_again() -> None:
    """`\\n\\n\\n` is one token here and `\\n\\n` two, as runs of blanks are in real tokenizers."""
    encoder = GreedyEncoder(["a" * 9, "\n\n\n"], 0, 0)
    text = "a" * 9 + "\n\n\n" + "b"  # the first window, 6 characters a token, ends before the b
    check_pieces(text, cut(text, Sided(encoder, encoder), 2), 2)


def test_pieces_without_a_site_are_left_out_and_the_others_stay_where_they_are(both: Any) -> None:
    text = documentation(1)[0] + "\n\nshort"
    sites = SitesConfig(min_context=12, per_segment=1000)
    for s in cut(text, both, 24, sites):
        assert text[s.start : s.start + len(s.text)] == s.text
        assert s.char_ends


def test_a_text_too_short_for_the_context_has_no_segment(both: Any) -> None:
    assert cut("ab", both, 64, SitesConfig(min_context=8)) == []


@quick
@given(text=TEXTS, min_context=st.integers(0, 4))
def test_sites_are_exactly_the_characters_at_which_tokens_of_both_models_end(
    both: Any, backends: Any, text: str, min_context: int
) -> None:
    """By spelling out every beginning of the tokens, pieces of characters included."""
    sites = SitesConfig(min_context=min_context, per_segment=10_000)
    for s in cut(text, both, 48, sites):
        truth = [brute_force_ends(b, ids, s.text) for b, ids in zip(backends, s.ids, strict=True)]
        first = [encoder.special_tokens + min_context for encoder in both]
        allowed = [{e for e, p in t.items() if p >= f} for t, f in zip(truth, first, strict=True)]
        assert s.char_ends == tuple(sorted(allowed[0] & allowed[1]))
        for positions, t in zip(s.positions, truth, strict=True):
            assert positions == tuple(t[end] for end in s.char_ends)


def test_a_character_of_several_tokens_has_one_site_at_its_last(both: Any, backends: Any) -> None:
    text = "the 😀 and 漢字 é"
    (s,) = cut(text, both)
    assert {5, 11, 12, 14} <= set(s.char_ends)
    for backend, ids, positions in zip(backends, s.ids, s.positions, strict=True):
        position = positions[s.char_ends.index(5)]
        spelling = [backend.id_to_token(i) for i in ids[position - 3 : position + 1]]
        assert all("0x" in piece or len(piece) == 1 for piece in spelling)  # its four bytes
        assert len(set(positions)) == len(positions)


@quick
@given(text=TEXTS)
def test_the_same_tokenizer_twice_shares_every_token_that_ends_a_character(
    metaspace: SiteTokenizer, backends: Any, text: str
) -> None:
    for s in cut(text, Sided(metaspace, metaspace), 48):
        assert s.char_ends == tuple(sorted(brute_force_ends(backends.target, s.ids.source, s.text)))
        assert s.positions.source == s.positions.target


def test_the_same_tokenizer_shares_every_token_of_plain_text(byte_level: SiteTokenizer) -> None:
    for s in cut(documentation(1)[0], Sided(byte_level, byte_level)):
        assert s.positions.source == tuple(range(len(s.ids.source)))


@pytest.mark.parametrize("min_context", [0, 3])
def test_what_a_tokenizer_puts_behind_a_text_costs_no_site(
    closing: SiteTokenizer, min_context: int
) -> None:
    """Only those in front come before the context."""
    sites = SitesConfig(min_context=min_context)
    (s,) = cut("the statement is executed", Sided(closing, closing), 64, sites)
    assert s.positions.source == tuple(range(1 + min_context, len(s.ids.source)))


@quick
@given(text=TEXTS, per_segment=st.integers(1, 6), seed=st.integers(0, 3))
def test_sampled_sites_are_some_of_all_sites_as_many_as_asked(
    both: Any, text: str, per_segment: int, seed: int
) -> None:
    sites = SitesConfig(min_context=0, per_segment=per_segment, seed=seed)
    for s, whole in zip(cut(text, both, 30, sites), cut(text, both, 30), strict=True):
        assert len(s.char_ends) == min(per_segment, len(whole.char_ends))
        assert list(s.char_ends) == sorted(set(s.char_ends))
        number = {end: i for i, end in enumerate(whole.char_ends)}
        chosen = [number[end] for end in s.char_ends]
        for side in Side:
            assert s.positions[side] == tuple(whole.positions[side][i] for i in chosen)


def test_sampling_depends_on_seed_and_text_never_on_order_or_name(both: Any) -> None:
    sites = SitesConfig(min_context=0, per_segment=3, seed=5)
    texts = documentation(4)

    def sample(order: Sequence[str], chosen: SitesConfig, prefix: str) -> dict[str, list[Any]]:
        return {
            text: [s.char_ends for s in cut(text, both, 40, chosen, id=f"{prefix}{n}")]
            for n, text in enumerate(order)
        }

    assert sample(texts, sites, "a") == sample(texts[::-1], sites, "b")
    other = sites.model_copy(update={"seed": 6})
    assert sample(texts, sites, "a") != sample(texts, other, "a")


def test_sampled_sites_are_spread_over_the_segment(both: Any) -> None:
    """Every site is as likely as any other: none is left out by all of 300 seeds."""
    text = documentation(1)[0][:120]
    (whole,) = cut(text, both, 120)
    seen: set[int] = set()
    for seed in range(300):
        sites = SitesConfig(min_context=0, per_segment=4, seed=seed)
        seen.update(cut(text, both, 120, sites)[0].char_ends)
    assert seen == set(whole.char_ends)


@pytest.mark.parametrize("text", ["x", "the statement 😀", "漢字", "ends in blanks  \n\n"])
def test_mode_last_has_one_site_at_the_end_of_the_document(both: Any, text: str) -> None:
    (s,) = cut(text, both, 64, SitesConfig(mode="last", min_context=40))
    assert s.text == text
    assert s.char_ends == (len(text),)
    for side in Side:
        assert s.positions[side] == (len(s.ids[side]) - 1,)


def test_mode_last_cuts_a_text_that_does_not_fit_and_says_where(both: Any) -> None:
    text = documentation(1)[0]
    (s,) = cut(text, both, 24, SitesConfig(mode="last"))
    assert s.start == 0
    assert text.startswith(s.text)
    assert s.char_ends == (len(s.text),)
    assert max(map(len, s.ids)) <= 24
