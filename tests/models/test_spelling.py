"""Where tokens end by what they spell, against spelling them out and against offsets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_level_tokenizer, documentation, metaspace_tokenizer
from tiny_tokenizers import (
    brute_force_ends,
    closing_tokenizer,
    one_word_tokenizer,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from lrt_dist.models.spelling import NO_END, Spelling
from lrt_dist.models.tokens import SiteTokenizer

PIECES = [
    "the",
    " ",
    "\n",
    "  ",
    "😀",
    "漢字",
    "é",
    "e\u0301",
    "▁",
    "Ġ",
    "<0x41>",
    "x",
    " statement",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


def prepending_tokenizer() -> Tokenizer:
    """A tokenizer that puts a blank in front of every text, as Llama 2's does."""
    backend = metaspace_tokenizer()
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return backend


def metaspace_pre_tokenizer() -> Tokenizer:
    backend = metaspace_tokenizer()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return backend


def prefixed_byte_level_tokenizer() -> Tokenizer:
    backend = byte_level_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False)
    return backend


def added_tokens_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with whole runs of blanks, and a special token, beside its pieces."""
    backend = byte_level_tokenizer()
    backend.add_tokens(["  ", AddedToken("漢字", normalized=False)])
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return backend


def stripping_tokenizer() -> Tokenizer:
    """A special token that takes the blank behind it, before a blank that the tokenizer puts in
    front of the rest, as Phi-3 has it: the bytes are right, and the places are not."""
    backend = prepending_tokenizer()
    backend.add_special_tokens([AddedToken("<t>", rstrip=True, special=True)])
    return backend


def unigram_tokenizer() -> Tokenizer:
    """Single characters in a list, the others in bytes: a run of them has one offset."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "abcdefghijklmnopqrstuvwxyz\n")]
    singles = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    backend = Tokenizer(models.Unigram([*pieces, *singles], unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return backend


class _Joined:
    """A decoder written in Python."""

    def decode_chain(self, tokens: list[str]) -> list[str]:
        return ["".join(tokens)]


def python_decoder_tokenizer() -> Tokenizer:
    backend = byte_level_tokenizer()
    backend.decoder = decoders.Decoder.custom(_Joined())
    return backend


SITES: dict[str, SiteTokenizer] = {}
MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level_tokenizer,
    "byte-level, prefixed": prefixed_byte_level_tokenizer,
    "byte-level, added tokens": added_tokens_tokenizer,
    "metaspace": metaspace_tokenizer,
    "metaspace, closing": closing_tokenizer,
    "metaspace, prepending": prepending_tokenizer,
    "metaspace, pre-tokenizer": metaspace_pre_tokenizer,
}


BY_OFFSETS: dict[str, Callable[[], Tokenizer]] = {
    "unigram": unigram_tokenizer,
    "decoder in Python": python_decoder_tokenizer,
    "word": one_word_tokenizer,
}


@settings(max_examples=60)
@pytest.mark.parametrize("name", [*BY_OFFSETS, "stripping"])
@given(texts=st.lists(st.lists(st.sampled_from([*PIECES, "<t>"])).map("".join), max_size=4))
def test_what_a_spelling_cannot_say_is_left_to_offsets(name: str, texts: list[str]) -> None:
    made = SITES.setdefault(
        name, SiteTokenizer(name, (BY_OFFSETS | {"stripping": stripping_tokenizer})[name]())
    )
    for text, encoding in zip(texts, made.encode_all(texts), strict=True):
        assert encoding.ids == made.encode(text).ids
        assert encoding.ends.tolist() == made.encode(text).ends.tolist()


@pytest.mark.parametrize("make", BY_OFFSETS.values(), ids=list(BY_OFFSETS))
def test_vocabularies_of_another_kind_spell_nothing(make: Callable[[], Tokenizer]) -> None:
    assert Spelling.of(make()) is None


@pytest.fixture(scope="module", params=MAKERS)
def site(request: pytest.FixtureRequest) -> SiteTokenizer:
    return SiteTokenizer(request.param, MAKERS[request.param]())


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, max_size=4))
def test_the_spelling_says_what_offsets_say(site: SiteTokenizer, texts: list[str]) -> None:
    """Also in texts with the very characters by which vocabularies write blanks and bytes."""
    for text, encoding in zip(texts, site.encode_all(texts), strict=True):
        alone = site.encode(text)
        assert encoding.ids == alone.ids
        assert encoding.ends.tolist() == alone.ends.tolist()


def test_no_offsets_are_asked_for_where_tokens_spell_the_text(
    site: SiteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [site.encode(text).ends.tolist() for text in documentation(5)]

    def refuse(*_: object) -> None:
        raise AssertionError("offsets were asked for")

    monkeypatch.setattr(site, "_known", refuse)
    found = site.encode_all(documentation(5))
    assert [encoding.ends.tolist() for encoding in found] == expected


@pytest.mark.parametrize("make", [byte_level_tokenizer, metaspace_tokenizer])
@settings(max_examples=30)
@given(text=st.lists(st.sampled_from(["the", " ", "😀", "é", "x\n"]), max_size=12).map("".join))
def test_a_token_ends_where_the_spelling_so_far_is_a_beginning_of_the_text(
    make: Callable[[], Tokenizer], text: str
) -> None:
    backend = make()
    ids = backend.encode(text, add_special_tokens=False).ids
    spelling = Spelling.of(backend)
    assert spelling is not None
    ends = spelling.ends(np.array(ids, dtype=np.int32), text)
    assert ends is not None
    found = {int(end): at for at, end in enumerate(ends) if end != NO_END}
    assert found == brute_force_ends(backend, ids, text)


def test_tokens_that_do_not_spell_the_text_say_nothing() -> None:
    backend = byte_level_tokenizer()
    encoded = backend.encode("the statement", add_special_tokens=False)
    ids = np.array(encoded.ids, dtype=np.int32)
    spelling = Spelling.of(backend)
    assert spelling is not None
    assert spelling.ends(ids, "the statement") is not None
    assert spelling.ends(ids, "The statement") is None
    assert spelling.ends(ids, "the statement ") is None
    assert spelling.ends(ids[:-1], "the statement") is None
    assert spelling.ends(ids[:0], "the") is None


def test_a_normalizer_that_changes_the_text_leaves_it_to_offsets() -> None:
    backend = metaspace_tokenizer()
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    )
    site = SiteTokenizer("lowercase", backend)
    texts = ["ﬁne Ⅷ the", "the", "The"]
    for text, encoding in zip(texts, site.encode_all(texts), strict=True):
        assert encoding.ends.tolist() == site.encode(text).ends.tolist()
