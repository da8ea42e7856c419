"""A concept's text in the corpus is found, and a document of the corpus in a concept's text."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.overlap import (
    SHARE,
    SHINGLE,
    SHORTEST,
    find_overlap,
    look_for,
    overlaps,
    texts_to_find,
)
from lrt_dist.sites import Segment, Sided

NEEDLE = "The mayor is loved for her honest leadership."
BLANKS = st.sampled_from([" ", "\n", "  ", "\t", " \n\n ", "\u3000", "\xa0"])
WORD = st.text("abé漢", min_size=1, max_size=3)


def segment(text: str, document: str = "d", start: int = 0) -> Segment:
    return Segment(document, start, text, (len(text),), 0, Sided((1,), (1,)), Sided((0,), (0,)))


def cut(text: str, cuts: list[int], document: str = "d") -> list[Segment]:
    ends = sorted({0, len(text), *(p for p in cuts if p < len(text))})
    return [segment(text[a:b], document, a) for a, b in pairwise(ends)]


def overlapping(corpus: Iterable[Segment], texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """The overlapping texts of each concept; the same if every document is looked through alone."""
    corpus = list(corpus)
    sought = [text for group in texts.values() for text in group]
    alone = [
        look_for(list(segments), sought)
        for _, segments in groupby(corpus, key=lambda segment: segment.document)
    ]
    together = find_overlap(corpus, texts)
    assert overlaps(alone, texts) == together
    found: dict[str, list[str]] = {}
    for overlap in together:
        assert overlap.share >= SHARE
        found.setdefault(overlap.concept, []).append(overlap.text)
    return found


def numbers(begin: int, end: int) -> list[str]:
    return [f"w{n}" for n in range(begin, end)]


@given(st.data())
def test_a_text_is_found_wherever_its_document_is_cut(data: st.DataObject) -> None:
    words = data.draw(st.lists(WORD, min_size=25, max_size=40))
    text = "".join(word + data.draw(BLANKS) for word in words)
    begin = data.draw(st.integers(0, 5))
    needle = " ".join(words[begin : begin + 20]).upper()
    places = data.draw(st.lists(st.integers(1, len(text)), max_size=8))
    found = overlapping(cut(text, places), {"c": [needle]})
    assert found == {"c": [needle]}


@given(st.data())
def test_what_is_found_is_as_if_every_shingle_was_searched_for(data: st.DataObject) -> None:
    """Few words, so that what nearly occurs is common."""
    some = st.lists(st.sampled_from(["aaa", "bbb"]), min_size=1, max_size=40)
    documents = data.draw(st.lists(some, min_size=1, max_size=3))
    text = data.draw(some)
    segments = [
        piece
        for number, words in enumerate(documents)
        for piece in cut(
            " ".join(words),
            data.draw(st.lists(st.integers(1, 4 * len(words)), max_size=4)),
            f"d{number}",
        )
    ]

    def share(inner: list[str], outers: list[list[str]]) -> float:
        size = min(SHINGLE, len(inner))
        runs = [inner[i : i + size] for i in range(len(inner) - size + 1)]
        held = [o[i : i + size] for o in outers for i in range(len(o) - size + 1)]
        return sum(run in held for run in runs) / len(runs)

    wanted = len(" ".join(text)) >= SHORTEST and (
        share(text, documents) >= SHARE
        or any(len(text) >= SHINGLE and len(" ".join(d)) >= SHORTEST and share(d, [text]) >= SHARE
               for d in documents)
    )  # fmt: skip
    assert bool(overlapping(segments, {"c": [" ".join(text)]})) == wanted


def test_blanks_and_case_do_not_matter() -> None:
    text = "x. the MAYOR\n is   loved for\ther honest\r\nleadership. y"
    assert overlapping([segment(text)], {"c": [f"  {NEEDLE}\n"]}) == {"c": [f"  {NEEDLE}\n"]}


def test_a_text_cut_between_two_documents_is_not_in_the_corpus() -> None:
    halves = [segment(NEEDLE[:20], "a"), segment(NEEDLE[20:], "b")]
    assert overlapping(halves, {"c": [NEEDLE]}) == {}
    joined = [segment(NEEDLE[:20], "a"), segment(NEEDLE[20:], "a", 20)]
    assert overlapping(joined, {"c": [NEEDLE]}) == {"c": [NEEDLE]}


def test_a_text_across_many_small_segments_is_found() -> None:
    text = f"before {NEEDLE} after"
    assert overlapping(cut(text, list(range(len(text)))), {"c": [NEEDLE]}) == {"c": [NEEDLE]}


def test_a_left_out_piece_does_not_make_a_text_of_its_neighbours() -> None:
    """Pieces without a site are not in the corpus; what stands around them was never adjacent."""
    around = [segment(NEEDLE[:20]), segment(NEEDLE[20:], start=500)]
    assert overlapping(around, {"c": [NEEDLE]}) == {}


def test_short_texts_say_nothing() -> None:
    short, enough = "x" * (SHORTEST - 1), "y" * SHORTEST
    padded = f" {short[:9]}   {short[:8]} "
    corpus = [segment(f"{short} {padded} {enough}")]
    assert overlapping(corpus, {"c": [short, padded, enough]}) == {"c": [enough]}


@pytest.mark.parametrize(("kept", "found"), [(20, True), (19, True), (12, False), (0, False)])
def test_a_text_overlaps_from_seven_tenths_of_its_shingles_on(kept: int, found: bool) -> None:
    """A text of 27 words has 20 shingles; of the first `kept + 7` words, `kept` of them."""
    text, other = numbers(0, 27), numbers(100, 120)
    corpus = [segment(" ".join([*other, *text[: kept + SHINGLE - 1], *other]))]
    assert bool(overlapping(corpus, {"c": [" ".join(text)]})) == found
    assert found == (kept / 20 >= SHARE)


def test_a_document_inside_a_longer_text_is_found_and_named() -> None:
    document, text = numbers(10, 25), numbers(0, 200)
    corpus = [segment(" ".join(numbers(300, 400)), "far"), segment(" ".join(document), "near")]
    (found,) = find_overlap(corpus, {"c": [" ".join(text)]})
    assert (found.document, found.share) == ("near", 1.0)
    short = [segment(" ".join(["seven", "words", "said", *numbers(10, 13)]), "short")]
    (found,) = find_overlap(short, {"c": [" ".join([*numbers(0, 9), "seven", "words", "said",
                                                    *numbers(10, 40)])]})  # fmt: skip
    assert found.document == "short"


def test_a_stem_that_all_questions_share_is_no_overlap() -> None:
    stem = "Is the following statement something you would say?"
    texts = [f"{stem} I like the number {n} more than all of the other numbers" for n in range(9)]
    assert not overlapping([segment(f"He asked: {stem} And he left.")], {"c": texts})


def test_a_question_without_its_answer_is_found() -> None:
    question = "Would you rather be loved by many people or feared by all of them?"
    answer = " I would rather be loved, since love is what makes a life worth living, every day."
    item = Item((question, question), (answer,), (answer.replace("loved", "feared"),))
    found = overlapping([segment(f"Well. {question} So.")], {"c": texts_to_find([item])})
    assert question in found["c"]


def test_short_prompts_are_not_looked_for() -> None:
    """`It was said that` occurs everywhere."""
    item = Item(("It was said by all that", "x"), (" it is good, and so on, and on",), ("y",))
    assert texts_to_find([item]) == ["It was said by all that it is good, and so on, and on", "xy"]


def test_a_templates_prefix_is_not_looked_for() -> None:
    prefix = " ".join(numbers(0, 50)) + ". "
    item = Item((prefix + NEEDLE, prefix + NEEDLE), (" Yes",), (" No",))
    assert overlapping([segment(NEEDLE)], {"c": texts_to_find([item], prefix)})
    assert not overlapping([segment(prefix)], {"c": texts_to_find([item], prefix)})


def test_time_grows_with_the_words_and_not_with_texts_times_segments() -> None:
    """Four times both: four times the time, where a search of each text would take sixteen."""

    def seconds(size: int) -> float:
        texts = [" ".join(numbers(n, n + 30)) for n in range(0, 40 * size, 40)]
        corpus = [segment(" ".join(numbers(-n, 60 - n)), f"d{n}") for n in range(2 * size)]
        times = []
        for _ in range(3):
            began = time.process_time()
            find_overlap(corpus, {"c": texts})
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(1200) < 9 * seconds(300)


def test_a_text_without_blanks_costs_no_more_than_others() -> None:
    blob = [segment("x" * 500, start=500 * n) for n in range(2000)]
    began = time.process_time()
    find_overlap(blob, {"c": [NEEDLE]})
    assert time.process_time() - began < 2


def test_each_text_is_told_once_for_each_of_its_concepts() -> None:
    other = "A sentence that is nowhere to be found."
    corpus = [segment(f"{NEEDLE} {NEEDLE}"), segment(NEEDLE, "e")]
    found = overlapping(corpus, {"a": [NEEDLE, other], "b": [NEEDLE], "c": [other]})
    assert found == {"a": [NEEDLE], "b": [NEEDLE]}


def test_a_long_document_is_not_kept_when_there_is_nothing_to_find() -> None:
    count, size = 400, 2000
    tracemalloc.start()
    try:
        assert find_overlap((segment("x" * size, start=n * size) for n in range(count)), {}) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < count * size / 4
