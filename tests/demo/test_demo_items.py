"""The demo's items differ in their concept, not in form, and none says what another says."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import combinations
from statistics import mean
from typing import TypedDict

import pytest

from lrt_dist.demo import run as demo

LEAST = 72
"""48 to report and 24 to choose by."""


class Item(TypedDict):
    prompt: str
    positive: list[str]
    negative: list[str]


def lines(name: str) -> list[dict[str, str]]:
    text = (files("lrt_dist") / "demo" / "concepts" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(params=demo.CONCEPTS)
def concept(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def items(concept: str) -> list[Item]:
    return lines(f"{concept}.items.jsonl")  # type: ignore[return-value]


def alike(a: str, b: str) -> float:
    """Words that two texts share, of all their words."""
    first, second = (set(re.findall(r"[a-z']+", text.lower())) for text in (a, b))
    return len(first & second) / len(first | second)


def test_there_are_enough_items_of_one_form(items: list[Item]) -> None:
    assert len(items) >= LEAST
    for item in items:
        assert 4 <= len(item["prompt"].split()) <= 14
        assert item["prompt"] == item["prompt"].strip()
        alternatives = item["positive"] + item["negative"]
        assert len(item["positive"]) == len(item["negative"]) == 3
        assert len(set(alternatives)) == 6
        assert all(re.fullmatch(r" \S+( \S+){0,3}", text) for text in alternatives)


def test_no_two_items_are_nearly_the_same_nor_an_item_and_a_pair(
    concept: str, items: list[Item]
) -> None:
    prompts = [item["prompt"] for item in items]
    assert [(a, b) for a, b in combinations(prompts, 2) if alike(a, b) > 0.45] == []
    pairs = [
        pair["prompt"] + pair[side]
        for pair in lines(f"{concept}.pairs.jsonl")
        for side in ("positive", "negative")
    ]
    wholes = [item["prompt"] + text for item in items for text in item["positive"]]
    wholes += [item["prompt"] + text for item in items for text in item["negative"]]
    assert [(a, b) for a in prompts + wholes for b in pairs if alike(a, b) > 0.6] == []


def test_the_answer_cannot_be_told_from_its_form(items: list[Item]) -> None:
    """Lengths in letters and in words are balanced, over all texts and within items."""
    letters = [
        (mean(map(len, item["positive"])), mean(map(len, item["negative"]))) for item in items
    ]
    words = [
        (mean(t.count(" ") for t in item["positive"]), mean(t.count(" ") for t in item["negative"]))
        for item in items
    ]
    for lengths, most in ((letters, 1.0), (words, 0.25)):
        assert abs(mean(p - n for p, n in lengths)) < most
    longer, shorter = sum(p > n for p, n in letters), sum(p < n for p, n in letters)
    assert 0.35 <= longer / (longer + shorter) <= 0.65


def test_no_word_stands_on_both_sides(items: list[Item]) -> None:
    sides = [{text for item in items for text in item[side]} for side in ("positive", "negative")]
    assert not sides[0] & sides[1]
