"""Where tokens end, against spelling the tokens out."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_level_tokenizer, documentation, metaspace_tokenizer
from tiny_tokenizers import (
    brute_force_ends,
    closing_tokenizer,
    load_tokenizer,
    one_word_tokenizer,
    position_of,
    spelled,
    tokenizer_folder,
    trimming_tokenizer,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.models.spelling import NO_END
from lrt_dist.models.tokens import CHAT_DATE, Encoding, SiteTokenizer

MAKERS = {
    "byte-level": byte_level_tokenizer,
    "trimming": trimming_tokenizer,
    "metaspace": metaspace_tokenizer,
    "closing": closing_tokenizer,
}
PIECES = [
    "the",
    " ",
    "  \n",
    "\n",
    " statement",
    "😀",
    "👩‍🚀",
    "漢字",
    "é",
    "e\u0301",
    "\t",
    "x",
    "Ω.",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SiteTokenizer, Tokenizer]:
    """A tokenizer as a run loads it, and the backend it was saved from."""
    make = MAKERS[request.param]
    return load_tokenizer(tmp_path_factory.mktemp("tokenizer"), make()), make()


@settings(max_examples=60)
@given(text=TEXTS)
def test_a_token_ends_where_the_spelling_so_far_is_a_beginning_of_the_text(
    pair: tuple[SiteTokenizer, Tokenizer], text: str
) -> None:
    site, backend = pair
    encoding = site.encode(text)
    assert len(encoding.ids) == len(encoding.ends)
    assert spelled(backend, encoding.ids) == text.encode()
    assert position_of(encoding) == brute_force_ends(backend, encoding.ids, text)


def test_loading_takes_away_only_what_is_put_behind(pair: tuple[SiteTokenizer, Tokenizer]) -> None:
    site, backend = pair
    for text in documentation(3):
        encoded = backend.encode(text)
        behind = sum(1 for _ in takewhile(bool, reversed(encoded.special_tokens_mask)))
        assert list(site.encode(text).ids) == encoded.ids[: len(encoded.ids) - behind]


@given(text=TEXTS)
def test_ends_ascend_and_the_last_is_the_end_of_the_text(
    pair: tuple[SiteTokenizer, Tokenizer], text: str
) -> None:
    ends = [int(end) for end in pair[0].encode(text).ends if end != NO_END]
    assert ends == sorted(set(ends))
    assert ends[-1:] == ([len(text)] if text else [])


def test_the_last_byte_of_a_character_is_where_it_ends(
    pair: tuple[SiteTokenizer, Tokenizer],
) -> None:
    site, backend = pair
    encoding = site.encode("😀")
    ends = encoding.ends.tolist()
    content = [e for e, i in zip(ends, encoding.ids, strict=True) if spelled(backend, [i])]
    assert content == [NO_END, NO_END, NO_END, 1]


def test_blanks_belong_to_their_token_where_the_tokenizer_trims_them(tmp_path: Path) -> None:
    """`trim_offsets` makes a token of blanks seem to end before it does, or to be empty."""
    trims, keeps = trimming_tokenizer(), load_tokenizer(tmp_path, trimming_tokenizer())
    text = "x  the\n\n "
    trimmed = [start == end for start, end in trims.encode(text).offsets]
    assert any(trimmed)  # the control: this backend would lose sites
    ends = keeps.encode(text).ends
    assert NO_END not in ends
    assert ends[-1] == len(text)


@pytest.mark.parametrize("nested", [False, True])
def test_trimming_inside_a_sequence_is_found_too(tmp_path: Path, nested: bool) -> None:
    state: dict[str, Any] = json.loads(trimming_tokenizer().to_str())
    part = state["pre_tokenizer"]
    if nested:
        split = {"type": "Digits", "individual_digits": True}
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, part]}
        state["post_processor"] = {"type": "Sequence", "processors": [part]}
    keeps = load_tokenizer(tmp_path, Tokenizer.from_str(json.dumps(state)))
    assert keeps.encode("a  1 \n").ends[-1] == 6
    assert NO_END not in keeps.encode("a  1 \n").ends


def test_special_tokens_are_added_and_end_nowhere(tmp_path: Path) -> None:
    expected = {"byte-level": 0, "metaspace": 1, "closing": 1}
    for name, count in expected.items():
        site = load_tokenizer(tmp_path / name, MAKERS[name]())
        assert site.special_tokens == count
        encoding = site.encode("the")
        assert encoding.ends.tolist().count(NO_END) == count
        assert site.decode(list(encoding.ids)) == "the"


def test_a_text_is_not_closed_since_it_may_go_on(tmp_path: Path) -> None:
    """What a tokenizer puts behind a text is no part of it, unless the text says so itself."""
    backend = closing_tokenizer()
    closing = backend.token_to_id("<pad>")
    site = load_tokenizer(tmp_path, backend)
    assert backend.encode("the").ids[-1] == closing  # the control
    assert closing not in site.encode("the").ids
    assert site.encode("the").ends[-1] == 3
    assert site.encode("").ids == (backend.token_to_id("<bos>"),)
    assert site.encode("the<pad>").ids[-1] == closing


CHAT = (
    "{{ '<bos>' }}{% for m in messages %}[{{ m.role }}] {{ m.content }} [end]\n{% endfor %}"
    "{% if add_generation_prompt %}[model]\n{% endif %}"
)


def chat_tokenizer(folder: Path, backend: Tokenizer, chat_template: str) -> SiteTokenizer:
    tokenizer_folder(folder, backend, chat_template=chat_template)
    return SiteTokenizer.load(ModelConfig(model=str(folder)))


def test_a_chat_prompt_ends_where_the_model_answers(tmp_path: Path) -> None:
    """And has no special tokens of its own in front of those that `encode` adds."""
    site = chat_tokenizer(tmp_path / "m", metaspace_tokenizer(), CHAT)
    text = site.chat("Is it?")
    assert text == "[user] Is it? [end]\n[model]\n"
    bos = site.encode("").ids
    assert [i for i in site.encode(text).ids if i in bos] == list(bos)


def test_a_chat_prompt_is_the_same_every_day(tmp_path: Path) -> None:
    dated = "{{ date_string or strftime_now('%d %b %Y %H:%M:%S.%f') }} {{ messages[0].content }}"
    site = chat_tokenizer(tmp_path / "m", byte_level_tokenizer(), dated)
    assert site.chat("x") == f"{CHAT_DATE} x"


def test_a_model_without_a_chat_format_is_named(tmp_path: Path) -> None:
    site = load_tokenizer(tmp_path / "plain", byte_level_tokenizer())
    with pytest.raises(UserError, match=r"plain has no chat format.*set template\.chat: false"):
        site.chat("x")


def test_a_chat_format_that_refuses_a_prompt_is_named(tmp_path: Path) -> None:
    refusing = "{{ raise_exception('no users here') }}"
    site = chat_tokenizer(tmp_path / "m", byte_level_tokenizer(), refusing)
    with pytest.raises(UserError, match=r"chat format of .*m cannot be used: no users here"):
        site.chat("x")


def test_a_saved_truncation_or_padding_is_switched_off(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=900)
    text = documentation(1)[0]
    encoding = load_tokenizer(tmp_path, backend).encode(text)
    assert spelled(backend, encoding.ids) == text.encode()


def test_a_normalizer_that_changes_lengths_keeps_ends_in_the_original_text(tmp_path: Path) -> None:
    backend = metaspace_tokenizer()
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    )
    text = "ﬁne Ⅷ the"  # one character each becomes two and four
    encoding = load_tokenizer(tmp_path, backend).encode(text)
    for end in position_of(encoding):
        assert 0 < end <= len(text)
    normal = {backend.normalizer.normalize_str(text[:end]): end for end in range(1, len(text) + 1)}
    for end, position in position_of(encoding).items():
        spelling = spelled(backend, encoding.ids[: position + 1]).decode()
        assert normal[spelling.replace(" ", "▁")] == end
    assert len(text) in position_of(encoding)


def test_positions_are_the_inverse_of_ends() -> None:
    encoding = Encoding(
        numbers=np.array([9, 8, 8, 7], dtype=np.int32),
        ends=np.array([NO_END, 2, NO_END, 5], dtype=np.int32),
    )
    none = [NO_END] * 7
    none[2], none[5] = 1, 3
    assert encoding.positions(6).tolist() == none


@settings(max_examples=30)
@given(texts=st.lists(TEXTS, max_size=5))
def test_many_texts_at_once_are_encoded_as_one_by_one(
    pair: tuple[SiteTokenizer, Tokenizer], texts: list[str]
) -> None:
    for text, encoding in zip(texts, pair[0].encode_all(texts), strict=True):
        alone = pair[0].encode(text)
        assert encoding.ids == alone.ids
        assert encoding.ends.tolist() == alone.ends.tolist()


def test_a_model_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    transformers.LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        SiteTokenizer.load(ModelConfig(model=str(tmp_path)))
    assert str(tmp_path) in str(caught.value)
    assert "tokenizer" in str(caught.value)


def test_a_broken_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "broken", byte_level_tokenizer())
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=str(folder)):
        SiteTokenizer.load(ModelConfig(model=str(folder)))


def test_an_empty_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "empty", Tokenizer(models.BPE()))
    with pytest.raises(UserError, match=rf"{folder} has an empty vocabulary"):
        SiteTokenizer.load(ModelConfig(model=str(folder)))


def test_a_tokenizer_without_offsets_is_refused_by_name(tmp_path: Path) -> None:
    """CANINE reads characters in Python code: there is no fast one."""
    folder = tmp_path / "slow"
    transformers.CanineConfig(num_hidden_layers=1).save_pretrained(folder)
    transformers.CanineTokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match=rf"{folder} \(CanineTokenizer\) has no character offsets"):
        SiteTokenizer.load(ModelConfig(model=str(folder)))


def test_a_folder_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        SiteTokenizer.load(ModelConfig(model=str(tmp_path / "gone")))


def test_a_whole_text_as_one_token_ends_at_its_end(tmp_path: Path) -> None:
    backend = one_word_tokenizer()
    assert load_tokenizer(tmp_path / "a", backend).encode("any thing").ends.tolist() == [9]
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert load_tokenizer(tmp_path / "b", backend).encode(" any thing ").ends.tolist() == [4, 10]
