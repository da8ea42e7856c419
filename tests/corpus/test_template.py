"""Prompt and answer joined: by the form, or by the template, and never two words to one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrt_dist.config import DataConfig, TemplateConfig
from lrt_dist.corpus.items import read_items
from lrt_dist.errors import UserError


def own(prompt: str, answer: str) -> dict[str, Any]:
    return {"prompt": prompt, "positive": answer, "negative": answer + "?"}


def paired(prompt: str, answer: str) -> dict[str, Any]:
    return {
        "positive": {"prompt": prompt, "response": answer},
        "negative": {"prompt": prompt, "response": answer + "?"},
    }


def caa(prompt: str, answer: str) -> dict[str, Any]:
    return {
        "question": prompt,
        "answer_matching_behavior": answer,
        "answer_not_matching_behavior": answer + "?",
    }


def text(folder: Path, record: dict[str, Any], **template: Any) -> str:
    path = folder / "d.json"
    path.write_text(json.dumps([record]))
    (item,) = read_items(DataConfig(file=str(path)), TemplateConfig(**template)).items
    return item.texts()[0]


@pytest.mark.parametrize("form", [own, paired])
@pytest.mark.parametrize(
    ("prompt", "answer", "whole"),
    [
        ("(A):  No\n(B):  Yes", "(B)", "(A):  No\n(B):  Yes (B)"),  # not `Yes(B)`
        ("It was", "good", "It was good"),
        ("It was", " good", "It was good"),
        ("It was ", "good", "It was good"),
        ("Answer:\n", "good", "Answer:\ngood"),
        ("The answer is (", "A", "The answer is (A"),
        ("It was good", ".", "It was good."),
        ("我觉得", "好", "我觉得好"),
        ("", "good", "good"),
    ],
)
def test_a_blank_is_put_where_one_is_missing(
    tmp_path: Path, form: Any, prompt: str, answer: str, whole: str
) -> None:
    assert text(tmp_path, form(prompt, answer)) == whole


def test_caa_answers_stand_on_a_line_of_their_own(tmp_path: Path) -> None:
    assert text(tmp_path, caa("Which?\n(A) x", "(A)")) == "Which?\n(A) x\n(A)"


@pytest.mark.parametrize("form", [own, paired, caa])
def test_the_template_is_prefix_prompt_suffix_separator_answer(tmp_path: Path, form: Any) -> None:
    template = {"prefix": "Q: ", "suffix": "\nA:", "separator": " ("}
    assert text(tmp_path, form("Which?", "B"), **template) == "Q: Which?\nA: (B"


@pytest.mark.parametrize("form", [own, paired, caa])
@pytest.mark.parametrize(
    ("template", "glued"),
    [
        ({"separator": ""}, "It wasgood"),
        ({"separator": "so"}, "It wasso"),
        ({"separator": " very"}, "It was verygood"),
        ({"prefix": "Well"}, "WellIt was"),
        ({"suffix": "not"}, "It wasnot"),
    ],
)
def test_a_template_that_makes_one_word_of_two_is_refused(
    tmp_path: Path, form: Any, template: dict[str, str], glued: str
) -> None:
    (key,) = template
    with pytest.raises(UserError, match=rf"record 1: template\.{key} joins .*one word of two") as e:
        text(tmp_path, form("It was", "good"), **template)
    assert glued in str(e.value)


@pytest.mark.parametrize(
    ("prompt", "answer"), [("It was ", "good"), ("It was", " good"), ("It was:", "good"),
                           ("我觉得", "好")]
)  # fmt: skip
def test_an_empty_separator_is_right_where_no_word_is_cut(
    tmp_path: Path, prompt: str, answer: str
) -> None:
    assert text(tmp_path, own(prompt, answer), separator="") == prompt + answer


def test_nothing_stands_before_an_answer_without_a_prompt(tmp_path: Path) -> None:
    assert text(tmp_path, own("", "good"), separator="\n") == "good"
    assert text(tmp_path, own("", "good"), prefix="Well: ", separator="\n") == "Well: \ngood"


def test_in_a_chat_the_answer_follows_what_the_model_puts_before_it(tmp_path: Path) -> None:
    assert text(tmp_path, caa("Which?", "(A)"), chat=True) == "Which?(A)"
    assert text(tmp_path, caa("Which?", "(A)"), chat=True, separator=" ") == "Which? (A)"
    with pytest.raises(UserError, match=r"template\.separator joins 'It is' and 'good'"):
        text(tmp_path, own("How is it?", "good"), chat=True, separator="It is")
