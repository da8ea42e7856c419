"""Splits: by seed and content alone, every kind of answer in each, no question on two sides."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lrt_dist.config import ConceptConfig, DataConfig
from lrt_dist.corpus.confounds import check_letters, concept_warnings
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.items import read_items
from lrt_dist.corpus.splits import SPLITS, ConceptData, check_files, load_concept
from lrt_dist.errors import UserError

quick = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def write(folder: Path, records: list[Any], name: str = "d.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


def numbered(folder: Path, count: int, mark: str = "n") -> str:
    """Items told apart by their prompts."""
    records = [{"prompt": f"{mark}{n}", "positive": " a", "negative": " b"} for n in range(count)]
    return write(folder, records, f"{mark}.jsonl")


def choice(question: str, positive: str, *, yes_first: bool = True) -> dict[str, str]:
    """A question of two choices; `positive` is the letter of the matching one."""
    first, second = ("Yes", "No") if yes_first else ("No", "Yes")
    return {
        "question": f"{question}\n\nChoices:\n (A) {first}\n (B) {second}",
        "answer_matching_behavior": f"({positive})",
        "answer_not_matching_behavior": f"({'B' if positive == 'A' else 'A'})",
    }


def of_period_four(count: int) -> list[dict[str, str]]:
    """BBAA BBAA …: of every two lines in turn, one takes B alone and the other A alone."""
    return [choice(f"Do you like number {n}?", "BBAA"[n % 4]) for n in range(count)]


def load(data: str, **config: Any) -> ConceptData:
    return load_concept(ConceptConfig.model_validate({"name": "c", "data": data, **config}))


def letters(items: tuple[Item, ...]) -> Counter[str]:
    return Counter(item.letter for item in items)


def test_answers_of_period_four_are_balanced_in_every_split(tmp_path: Path) -> None:
    """Where a split by lines gives all of one letter to the one and of the other to the other."""
    path = write(tmp_path, of_period_four(200))
    evaluated = read_items(DataConfig(file=path)).items[1::2]
    by_lines = [letters(tuple(evaluated[begin::2])) for begin in (0, 1)]
    assert by_lines == [{"B": 50}, {"A": 50}]  # the control
    data = load(path)
    for items in data.splits().values():
        assert abs(letters(items)["A"] - letters(items)["B"]) <= 1
        check_letters("c", data)


@quick
@given(
    kinds=st.lists(st.sampled_from(["A", "B"]), min_size=12, max_size=60),
    says_yes=st.randoms(use_true_random=False),
    seed=st.integers(0, 3),
)
def test_every_split_has_its_share_of_every_kind_of_answer(
    tmp_path: Path, kinds: list[str], says_yes: Any, seed: int
) -> None:
    """To within one item for each kind that comes before it in the deal."""
    records = [
        choice(f"Number {n}?", letter, yes_first=says_yes.random() < 0.5)
        for n, letter in enumerate(kinds)
    ]
    path = write(tmp_path, records)
    data = load(path, split={"seed": seed})

    def kinds_of(items: Any) -> Counter[tuple[str, str]]:
        return Counter((item.letter, item.says) for item in items)

    everything = kinds_of(read_items(DataConfig(file=path)).items)
    for name, items in data.splits().items():
        share = {"vector": 0.5, "dev": 0.25, "test": 0.25}[name]
        for kind, count in kinds_of(items).items():
            assert abs(count - share * everything[kind]) <= 2


@quick
@given(order=st.permutations(range(24)), seed=st.integers(0, 2))
def test_the_order_of_the_file_does_not_matter(tmp_path: Path, order: list[int], seed: int) -> None:
    records = of_period_four(24)
    one = load(write(tmp_path, records), split={"seed": seed})
    other = load(write(tmp_path, [records[i] for i in order], "o.jsonl"), split={"seed": seed})
    assert one == other


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    path = numbered(tmp_path, 40)
    splits = {load(path, split={"seed": seed}).test for seed in range(5)}
    assert len(splits) == 5


def test_a_split_is_not_the_head_of_the_file(tmp_path: Path) -> None:
    path = numbered(tmp_path, 200)
    chosen = {int(i.prompts[0][1:]) for i in load(path, split={"vector": 20}).vector}
    assert max(chosen) > 100


def test_a_question_never_stands_on_two_sides(tmp_path: Path) -> None:
    """With its choices swapped, other blanks, other case or other letters."""
    records = []
    for n in range(40):
        records.append(choice(f"Do you like number {n}?", "AB"[n % 2]))
        other = choice(f"do you  LIKE number {n}?", "BA"[n % 2], yes_first=False)
        other["question"] = other["question"].replace("(A)", "A.").replace("(B)", "B.")
        records.append(other)
    data = load(write(tmp_path, records))
    asked = [{item.question for item in items} for items in data.splits().values()]
    assert sum(map(len, asked)) == len(set.union(*asked)) == 40
    assert [len(items) for items in data.splits().values()] == [40, 20, 20]


def test_the_same_prompt_with_other_answers_is_the_same_question(tmp_path: Path) -> None:
    records = [
        {"prompt": f"It was {n}", "positive": good, "negative": bad}
        for n in range(12)
        for good, bad in (("good", "bad"), ("nice", "nasty"), ("fine", "poor"))
    ]
    data = load(write(tmp_path, records))
    asked = [{item.question for item in items} for items in data.splits().values()]
    assert not asked[0] & asked[1]
    assert not asked[2] & (asked[0] | asked[1])
    for items in data.splits().values():
        assert set(Counter(item.question for item in items).values()) == {3}


def test_sentences_without_prompts_are_questions_of_their_own(tmp_path: Path) -> None:
    lists = {"positive": [f"Good {n}." for n in range(12)],
             "negative": [f"Bad {n}." for n in range(12)]}  # fmt: skip
    data = load(write(tmp_path, [lists]))
    assert [len(items) for items in data.splits().values()] == [6, 3, 3]


@quick
@given(
    count=st.integers(24, 90),
    split=st.fixed_dictionaries({name: st.sampled_from([0.2, 0.25, 0.5, 2, 5]) for name in SPLITS}),
)
def test_numbers_are_kept_and_shares_divide_the_rest(
    tmp_path: Path, count: int, split: dict[str, float]
) -> None:
    fixed = sum(n for n in split.values() if isinstance(n, int))
    assume(count >= fixed + 24)  # else a small share may be less than two items
    data = load(numbered(tmp_path, count), split=split)
    shares = sum(n for n in split.values() if isinstance(n, float))
    sizes = {name: len(items) for name, items in data.splits().items()}
    for name, amount in split.items():
        if isinstance(amount, int):
            assert sizes[name] == amount
        else:
            assert abs(sizes[name] - (count - fixed) * amount / shares) <= 1
    if shares:
        assert sum(sizes.values()) == count
    prompts = [item.prompts for items in data.splits().values() for item in items]
    assert len(set(prompts)) == len(prompts)


def test_with_items_all_data_make_the_vector_unless_it_has_a_number(tmp_path: Path) -> None:
    data, items = numbered(tmp_path, 30), numbered(tmp_path, 40, "i")
    whole = load(data, items=items)
    assert set(whole.vector) == set(read_items(DataConfig(file=data)).items)
    assert (len(whole.dev), len(whole.test)) == (20, 20)
    assert set(whole.dev + whole.test) == set(read_items(DataConfig(file=items)).items)
    fewer = load(data, items=items, split={"vector": 7, "dev": 4})
    assert [len(split) for split in fewer.splits().values()] == [7, 4, 36]
    assert set(fewer.vector) < set(whole.vector)


def test_items_that_ask_a_question_of_the_data_are_left_out(tmp_path: Path) -> None:
    data = write(tmp_path, of_period_four(20))
    again = [choice(f"Do you like number {n}?", "A", yes_first=False) for n in range(15, 40)]
    split = load(data, items=write(tmp_path, again, "i.jsonl"), split={"test": 0.5})
    assert split.left_out == 5
    assert len(split.dev) + len(split.test) == 20
    assert "5 items ask a question that also makes the vector" in concept_warnings("c", split)[0]


@pytest.mark.parametrize(
    ("count", "items", "split", "told"),
    [
        (2, None, {}, r"1 items in the vector split, at least 2 are needed; add items to .*n\.js"),
        (6, None, {}, "1 items in the test split"),
        (1, 8, {}, "1 items in the vector split"),
        (8, 2, {}, r"1 items in the dev split, .*i\.jsonl"),
        (20, None, {"vector": 10, "test": 15}, r"asks for 25 items \(vector: 10, test: 15\)"),
        (20, 5, {"dev": 6}, r"asks for 6 items .*i\.jsonl has 5"),
        (20, 5, {"vector": 21}, r"asks for 21 items .*n\.jsonl has 20"),
    ],
)
def test_a_split_that_cannot_be_filled_is_refused(
    tmp_path: Path, count: int, items: int | None, split: dict[str, Any], told: str
) -> None:
    data = numbered(tmp_path, count)
    other = None if items is None else numbered(tmp_path, items, "i")
    with pytest.raises(UserError, match=f"concept c: .*{told}"):
        load(data, items=other, split=split)


def test_one_question_in_many_words_cannot_be_split_and_says_why(tmp_path: Path) -> None:
    records = [{"prompt": "I am", "positive": f"{n}", "negative": f"-{n}"} for n in range(40)]
    with pytest.raises(UserError, match=r"its 40 items ask only 1 questions"):
        load(write(tmp_path, records))


def test_the_same_item_twice_is_one(tmp_path: Path) -> None:
    lines = of_period_four(24)
    once, twice = write(tmp_path, lines), write(tmp_path, lines + lines, "t.jsonl")
    assert load(once) == load(twice)


@pytest.mark.parametrize("bad", [0, 1, -3, 1.0, 1.5, 0.0, "many"])
def test_what_is_no_share_and_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"a share between 0 and 1|valid"):
        ConceptConfig.model_validate({"name": "c", "data": "d.jsonl", "split": {"dev": bad}})


# Letters


def test_a_split_that_one_letter_fills_is_refused(tmp_path: Path) -> None:
    """And is not, with its letters swapped."""
    path = write(tmp_path, [choice(f"Number {n}?", "A") for n in range(24)])
    with pytest.raises(UserError, match=r"concept c: all 12 .* vector split are \(A\).*swap_lett"):
        check_letters("c", load(path))
    both = load(path, swap_letters=True)
    check_letters("c", both)
    assert all(letters(items)["A"] == letters(items)["B"] for items in both.splits().values())


def test_a_template_does_not_hide_the_letters(tmp_path: Path) -> None:
    path = write(tmp_path, [choice(f"Number {n}?", "A") for n in range(24)])
    with pytest.raises(UserError, match="would measure a letter"):
        check_letters("c", load(path, template={"separator": "\nMy answer is "}))


def test_answers_that_are_no_letters_fill_a_split_as_they_like(tmp_path: Path) -> None:
    check_letters("c", load(numbered(tmp_path, 24)))


def test_a_position_that_predicts_the_answer_is_warned_of(tmp_path: Path) -> None:
    """In three quarters of the items, not in half of them."""
    records = [choice(f"Number {n}?", "AAAB"[n % 4], yes_first=n % 8 > 3) for n in range(80)]
    (first, *_) = warnings = concept_warnings("c", load(write(tmp_path, records)))
    assert len(warnings) == 3
    assert "in the vector split the positive answer is (A) in 30 of 40 items" in first
    assert "swap_letters: true" in first
    balanced = write(tmp_path, records, "b.jsonl")
    assert not concept_warnings("c", load(balanced, swap_letters=True))


def test_always_yes_is_warned_of(tmp_path: Path) -> None:
    records = [choice(f"{n}?", "AB"[n % 2], yes_first=n % 2 == 0) for n in range(24)]
    data = load(write(tmp_path, records))
    check_letters("c", data)
    assert "the positive answer is “Yes” in 12 of 12 items" in concept_warnings("c", data)[0]


def test_all_files_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text("")
    concepts = [
        ConceptConfig.model_validate({"name": "a", "data": str(there), "items": "/no/items.jsonl"}),
        ConceptConfig.model_validate(
            {
                "name": "b",
                "data": {"positive": ["/no/b.txt"], "negative": [str(there), "/no/c.txt"]},
            }
        ),
        ConceptConfig.model_validate({"name": "c", "data": {"dataset": "some/where"}}),
    ]
    check_files(concepts[2:])
    with pytest.raises(UserError, match="at 3 of the paths") as raised:
        check_files(concepts)
    for line in ("a: /no/items.jsonl", "b: /no/b.txt", "b: /no/c.txt"):
        assert line in str(raised.value)
