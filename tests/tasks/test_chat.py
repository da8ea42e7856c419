"""Prompts in each model's own chat format."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import byte_level_tokenizer, metaspace_tokenizer
from tiny_tokenizers import tokenizer_folder

from lrt_dist.config import ModelConfig, TemplateConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.sequences import contrast_texts

ITEM = Item(("Is it?", "Is it not?"), ("(A)",), ("(B)",), "is it?")
CHAT = TemplateConfig(chat=True)


def chatting(folder: Path, chat_template: str) -> SiteTokenizer:
    make = byte_level_tokenizer if folder.name == "one" else metaspace_tokenizer
    tokenizer_folder(folder, make(), chat_template=chat_template)
    return SiteTokenizer.load(ModelConfig(model=str(folder)))


def test_each_model_has_its_own_text_of_the_same_item(tmp_path: Path) -> None:
    one = chatting(tmp_path / "one", "USER {{ messages[0].content }}\nMODEL{{ '\n' }}")
    other = chatting(tmp_path / "other", "<bos>[INST] {{ messages[0].content }} [/INST]")
    (first,), (second,) = (rendered([ITEM], CHAT, tokenizer) for tokenizer in (one, other))
    assert first.texts() == ["USER Is it?\nMODEL\n(A)", "USER Is it not?\nMODEL\n(B)"]
    assert second.texts() == ["[INST] Is it? [/INST](A)", "[INST] Is it not? [/INST](B)"]
    assert first.question == second.question == ITEM.question


def test_without_chat_nothing_changes(tmp_path: Path) -> None:
    tokenizer = chatting(tmp_path / "one", "USER {{ messages[0].content }}")
    assert rendered([ITEM], TemplateConfig(), tokenizer) == (ITEM,)


def test_a_chat_format_that_glues_words_is_refused(tmp_path: Path) -> None:
    tokenizer = chatting(tmp_path / "one", "{{ messages[0].content }} MODEL")
    word = Item(("Is it?",) * 2, ("Yes",), ("No",))
    with pytest.raises(UserError, match=r"chat format of .*one: template\.separator .*MODELYes"):
        rendered([word], CHAT, tokenizer)


def test_the_state_of_a_text_that_is_a_turn_is_where_the_model_would_answer(
    tmp_path: Path,
) -> None:
    tokenizer = chatting(tmp_path / "one", "USER {{ messages[0].content }}\nMODEL:")
    items = rendered([Item(("Help me.", "Hurt me."), (), ())], CHAT, tokenizer)
    texts = contrast_texts(items, tokenizer, "last")
    whole = [f"USER {text}\nMODEL:" for text in ("Help me.", "Hurt me.")]
    assert texts.ids == tuple(tokenizer.encode(text).ids for text in whole)
    assert texts.positions == tuple(len(ids) - 1 for ids in texts.ids)
    assert (texts.positive, texts.negative) == (((0,),), ((1,),))


def test_an_item_without_a_prompt_has_nothing_to_ask(tmp_path: Path) -> None:
    tokenizer = chatting(tmp_path / "one", "{{ messages[0].content }}:")
    with pytest.raises(UserError, match=r"no prompt \('It is.'\), so template.chat"):
        rendered([Item(("", ""), ("It is.",), ("Not.",))], CHAT, tokenizer)
