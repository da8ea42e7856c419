"""Near duplicates share a group, other documents do not, and the cost grows with the text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_dist.corpus import duplicates
from lrt_dist.corpus.duplicates import NearDuplicates, signature


def text(seed: int, words: int = 300) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(2000)}" for _ in range(words)]


def groups_of(share: float, **texts: list[str]) -> dict[str, str]:
    near = NearDuplicates(share)
    for name, words in texts.items():
        near.add(name, signature(" ".join(words)))
    return near.groups()


def test_a_copy_with_a_few_other_words_is_a_near_duplicate() -> None:
    changed = text(0)
    for place in (20, 150, 280):
        changed[place] = "other"
    found = groups_of(0.7, b=changed, a=text(0), c=text(1))
    assert found == {"a": "a", "b": "a"}


def test_case_and_blanks_do_not_matter() -> None:
    near = NearDuplicates(1.0)
    near.add("x", signature("One two\nthree  four five six"))
    near.add("y", signature("one two three four FIVE six"))
    assert near.groups() == {"x": "x", "y": "x"}


@pytest.mark.parametrize(("shared", "together"), [(220, True), (150, False)])
def test_the_share_of_common_runs_decides(shared: int, together: bool) -> None:
    """300 words each, `shared` of them in common: 216 of 376 runs are 0.57, 146 of 446 are 0.33."""
    other = text(0)[:shared] + text(1)[shared:]
    assert bool(groups_of(0.45, a=text(0), b=other)) == together


def test_a_group_holds_near_duplicates_of_near_duplicates() -> None:
    """Each is a copy of the one before with a tenth rewritten; the ends have a third in common."""
    chain, words = {}, text(0)
    for number in range(5):
        words = words.copy()
        words[number * 45 : number * 45 + 30] = text(number + 1, 30)
        chain[f"d{number}"] = words
    assert set(groups_of(0.7, **chain).values()) == {"d0"}
    assert not groups_of(0.7, first=chain["d0"], last=chain["d4"])


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(8)))
def test_the_order_of_documents_does_not_matter(order: list[int]) -> None:
    texts = {f"d{number}": [*text(number // 2), f"end{number}"] for number in range(8)}
    shuffled = {f"d{number}": texts[f"d{number}"] for number in order}
    assert groups_of(0.7, **shuffled) == {f"d{n}": f"d{n // 2 * 2}" for n in range(8)}


def test_a_thousand_copies_are_compared_a_thousand_times_not_a_million(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 100)
    near = NearDuplicates(0.7)
    for number in range(1000):
        near.add(f"{number:04}", signature("the same five words and one more"))
    assert [len(list(near._pairs(band))) for band in range(duplicates.BANDS)] == (
        [999] * duplicates.BANDS
    )
    assert set(near.groups().values()) == {"0000"}


def test_no_document_and_short_documents_are_ordinary() -> None:
    assert NearDuplicates(0.5).groups() == {}
    assert groups_of(0.5, a=["one"], b=["two"], c=["one"]) == {"a": "a", "c": "a"}
