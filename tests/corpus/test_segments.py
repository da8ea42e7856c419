"""Segments are pieces of their document that fit; sites are where both tokenizations part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import byte_level_tokenizer, documentation, metaspace_tokenizer
from tiny_tokenizers import brute_force_ends, position_of, spelled

from lrt_dist.config import SitesConfig
from lrt_dist.corpus.readers import Document
from lrt_dist.corpus.segment_tables import segments_of, table_of
from lrt_dist.corpus.segments import cut_segments
from lrt_dist.models.spelling import NO_END
from lrt_dist.models.tokens import Encoding, SiteTokenizer
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
SHORT = 50 * documentation(12)
"""Texts of 900 characters, half a million in all."""
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
    return made([Document(id, text)], encoders, max_tokens, sites)


def made(
    documents: Sequence[Document], encoders: Any, max_tokens: int, sites: SitesConfig
) -> list[Segment]:
    """As they are in a row index."""
    return segments_of(table_of(list(cut_segments(documents, encoders, max_tokens, sites))))


class GreedyEncoder:
    """The longest known piece first, else a character: a tokenizer in eight lines."""

    def __init__(self, pieces: Sequence[str], special_tokens: int) -> None:
        self.pieces = sorted(pieces, key=len, reverse=True)
        self.special_tokens = special_tokens
        self.encoded = 0
        """Characters, in all."""

    def encode_all(self, texts: Sequence[str]) -> list[Encoding]:
        return [self.encode(text) for text in texts]

    def encode(self, text: str) -> Encoding:
        self.encoded += len(text)
        ends = [0]
        while ends[-1] < len(text):
            rest = text[ends[-1] :]
            piece = next((p for p in self.pieces if rest.startswith(p)), rest[0])
            ends.append(ends[-1] + len(piece))
        whole = np.array([*[NO_END] * self.special_tokens, *ends[1:]], dtype=np.int32)
        return Encoding(np.arange(len(whole), dtype=np.int32), whole)


class CountingEncoder:
    """A tokenizer, and the characters that it was given."""

    def __init__(self, tokenizer: SiteTokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_tokens = tokenizer.special_tokens
        self.encoded = 0

    def encode_all(self, texts: Sequence[str]) -> list[Encoding]:
        self.encoded += sum(map(len, texts))
        return self._tokenizer.encode_all(texts)


PIECES = st.lists(st.text("ab \n", min_size=1, max_size=9), max_size=6)
ENCODERS = st.builds(GreedyEncoder, PIECES, st.integers(0, 2))


@settings(max_examples=400)
@given(st.text("ab \n", min_size=1, max_size=120), ENCODERS, ENCODERS, st.integers(1, 8))
def test_segments_of_any_two_tokenizers_fit_and_leave_out_only_what_has_no_site(
    text: str, one: GreedyEncoder, other: GreedyEncoder, max_tokens: int
) -> None:
    """The whole text is a piece here, so what is in no segment can be told."""
    segments = cut(text, Sided(one, other), max_tokens)
    encoded = [encoder.encode(text) for encoder in (one, other)]
    shared = [0, *sorted(set.intersection(*(set(position_of(e)) for e in encoded)))]
    covered = 0
    for s in segments:
        assert s.text
        assert s.text == text[s.start : s.start + len(s.text)]
        assert {s.start, s.start + len(s.text)} <= set(shared)
        assert max(map(len, s.ids)) <= max_tokens
        check_left_out(covered, s.start, shared, encoded, (one, other), max_tokens)
        covered = s.start + len(s.text)
        for encoder, whole, ids in zip((one, other), encoded, s.ids, strict=True):
            first = position_of(whole).get(s.start, encoder.special_tokens - 1) + 1
            assert ids[encoder.special_tokens :] == tuple(
                range(first, first + len(ids) - encoder.special_tokens)
            )
            assert ids[: encoder.special_tokens] == tuple(range(encoder.special_tokens))
    check_left_out(covered, len(text), shared, encoded, (one, other), max_tokens)


def check_left_out(
    begin: int,
    end: int,
    shared: list[int],
    encoded: Sequence[Encoding],
    encoders: Sequence[GreedyEncoder],
    max_tokens: int,
) -> None:
    """Between two neighbouring shared ends of what is left out are too many tokens of a model."""
    inside = [character for character in shared if begin <= character <= end]
    for left, right in itertools.pairwise(inside):
        between = [
            sum(left < stop <= right for stop in encoding.ends.tolist()) for encoding in encoded
        ]
        room = [max_tokens - encoder.special_tokens for encoder in encoders]
        assert any(count > most for count, most in zip(between, room, strict=True))


def test_a_long_document_is_encoded_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its segments go on where the one before ended, also from piece to piece."""
    monkeypatch.setattr("lrt_dist.corpus.segments.SHORTEST_PIECE", 100)
    text = " ".join(" ".join(documentation(9)).split())
    encoders = Sided(GreedyEncoder(["the", " the", "ing"], 1), GreedyEncoder([" a"], 0))
    segments = cut(text, encoders, 8)
    assert len(text) > 3 * 16 * 8 * 6  # pieces
    check_pieces(text, segments, 8)
    for encoder in encoders:
        assert encoder.encoded < 1.1 * len(text)


@pytest.mark.parametrize("max_tokens", [256, 512])
@pytest.mark.parametrize("texts", [SHORT, ["\n\n".join(SHORT)]], ids=["short", "long"])
def test_a_corpus_is_encoded_at_most_a_fifth_more_than_once(
    both: Any, texts: list[str], max_tokens: int
) -> None:
    """Many short documents, and one of half a million characters."""
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    encoders = Sided.of(lambda side: CountingEncoder(both[side]))
    segments = list(cut_segments(documents, encoders, max_tokens, SitesConfig()))
    characters = sum(map(len, texts))
    assert sum(len(segment.text) for segment in segments) > 0.9 * characters
    for encoder in encoders:
        assert characters <= encoder.encoded <= 1.2 * characters


def test_what_follows_a_stretch_without_ends_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stretch fills all of a piece but a segment, which ends where the piece does."""
    monkeypatch.setattr("lrt_dist.corpus.segments.SHORTEST_PIECE", 1)
    text = 190 * "x" + "abcdefgh"  # a piece is 192 characters
    encoders = Sided(GreedyEncoder([190 * "x"], 0), GreedyEncoder([], 0))
    assert "".join(segment.text for segment in cut(text, encoders, 2)) == "abcdefgh"


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
    both: Any, backends: Any, text: str, max_tokens: int
) -> None:
    segments = cut(text, both, max_tokens)
    check_pieces(text, segments, max_tokens)
    for s in segments:
        for backend, ids in zip(backends, s.ids, strict=True):
            assert spelled(backend, ids) == s.text.encode()


def test_many_documents_at_once_are_cut_as_one_by_one(both: Any) -> None:
    documents = [Document(f"d{n}", text) for n, text in enumerate(["", *documentation(5), " "])]
    together = made(documents, both, 24, EVERYTHING)
    assert together == [s for one in documents for s in cut(one.text, both, 24, id=one.id)]


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


def test_segments_use_the_room_they_have(byte_level: SiteTokenizer) -> None:
    """At most one word's room stays empty: two words more would not have fitted."""
    text, both = " ".join(documentation(1)[0].split()), Sided(byte_level, byte_level)
    for s in cut(text, both, 32)[:-1]:
        following = text[s.start + len(s.text) :].split(" ", 3)
        longer = s.text + " ".join(following[:3])  # the first is empty: a cut is before a blank
        assert max(len(encoder.encode(longer).ids) for encoder in both) > 32


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
