"""Choices of a question, the letters of answers, and both swapped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrt_dist.config import DataConfig
from lrt_dist.corpus.choices import answer_letter, choices, question_of, swapped
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.items import read_items
from lrt_dist.errors import UserError

FORMS = {
    "caa": "Is it?\n\nChoices:\n (A) Yes, it is\n (B) No",
    "colon": "Is it?\n\nChoices:\n(A):  Yes, it is\n(B):  No",
    "bare": "Is it?\nA. Yes, it is\nB. No\nAnswer:",
    "no blank": "Is it?\n (A)Yes, it is\n (B)No",
    "dialogue": "Q: Is it?\nA:\n (A) Yes, it is\n (B) No",
    "several lines": "Is it?\n(A) Yes,\nit is\n(B) No\n\nAnswer:",
}


@pytest.mark.parametrize("form", FORMS)
def test_choices_are_found(form: str) -> None:
    found = choices(FORMS[form])
    assert [(c.letter, " ".join(c.text.split())) for c in found] == [
        ("A", "Yes, it is"),
        ("B", "No"),
    ]
    assert all(FORMS[form][c.begin : c.end] == c.text for c in found)


@pytest.mark.parametrize(
    "text", ["", "Is it?", "(A) Yes or (B) No?", "(A) alone", "(B) x\n(C) y", "(A) x\n(C) y"]
)
def test_what_has_no_choices(text: str) -> None:
    assert not choices(text)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(A)", "A"), (" (B)", "B"), ("\n(C)", "C"), ("A", "A"), ("B.", "B"), ("A)", "A"),
        ("(B) No", "B"), ("B. No", "B"), ("(A):", "A"),
        ("Yes", None), ("A dog", None), ("a", None), ("(AB)", None), ("", None), ("AI", None),
    ],
)  # fmt: skip
def test_letters_of_answers(answer: str, letter: str | None) -> None:
    assert answer_letter(answer) == letter


def item(question: str, positive: str, negative: str) -> Item:
    return Item((question, question), (positive,), (negative,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("answer", ["({})", " ({})", "{}", "{}."])
def test_swapped_letters_name_the_same_choices(form: str, answer: str) -> None:
    """What the positive answer named before, it names now; swapped twice, nothing has changed
    but the lines of a choice that has several."""
    one = item(FORMS[form], answer.format("A"), answer.format("B"))
    other = swapped(one)
    assert other is not None
    assert (other.positive, other.negative) == (one.negative, one.positive)
    named = [
        next(c.text for c in choices(i.prompts[0]) if c.letter == answer_letter(i.positive[0]))
        for i in (one, other)
    ]
    assert named[0].split() == named[1].split()
    assert [c.letter for c in choices(other.prompts[0])] == ["A", "B"]
    again = swapped(other)
    assert again is not None
    assert again.prompts[0] == one.prompts[0].replace("Yes,\n", "Yes, ")
    assert (again.positive, again.negative) == (one.positive, one.negative)
    assert question_of(one) == question_of(other)


def test_questions_differ_by_their_choices_and_their_words() -> None:
    one = item("Which?\n(A) x\n(B) y", "(A)", "(B)")
    for other in ("Which?\n(A) x\n(B) z", "What?\n(A) x\n(B) y"):
        assert question_of(item(other, "(A)", "(B)")) != question_of(one)


def caa(question: str, positive: str = "(A)") -> str:
    return json.dumps(
        {
            "question": question,
            "answer_matching_behavior": positive,
            "answer_not_matching_behavior": "(B)",
        }
    )


def test_three_choices_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(caa("Which?\n(A) x\n(B) y\n(C) z") + "\n" + caa("Which?\n(A) x\n(B) y"))
    read = read_items(DataConfig(file=str(path)), swap_letters=True).items
    assert [i.positive for i in read] == [("\n(A)",), ("\n(A)",), ("\n(B)",)]
    assert read[2].prompts[0] == "Which?\n(A) y\n(B) x"


@pytest.mark.parametrize(
    ("question", "positive"), [("Is it?", "(A)"), ("Which?\n(A) x\n(B) y", "Yes")]
)
def test_letters_that_are_not_there_cannot_be_swapped(
    tmp_path: Path, question: str, positive: str
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(caa("Which?\n(A) x\n(B) y") + "\n" + caa(question, positive))
    with pytest.raises(UserError, match=r"line 2: swap_letters is on, .*not multiple choice"):
        read_items(DataConfig(file=str(path)), swap_letters=True)
