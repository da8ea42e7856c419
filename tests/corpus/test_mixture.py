"""A mixture has its shares of the characters; a conversation is one text for both models."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lrt_dist.config import CorpusConfig
from lrt_dist.corpus.readers import Document, corpus_digest, read_documents, text_bytes
from lrt_dist.errors import UserError

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def lines(path: Path, lengths: list[int], letter: str) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps({"text": letter * n}) + "\n" for n in lengths))
    return str(path)


def mixture(*parts: tuple[str, float], **options: Any) -> CorpusConfig:
    listed = [{"paths": [path], "weight": weight} for path, weight in parts]
    return CorpusConfig.model_validate({"mixture": listed, **options})


@quick
@given(
    lengths=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=40), min_size=2, max_size=3),
    weights=st.tuples(*[st.floats(0.05, 1)] * 3),
)
def test_no_part_is_further_off_its_share_than_a_document(
    tmp_path: Path, lengths: list[list[int]], weights: tuple[float, ...]
) -> None:
    """At every moment, in characters; and the mixture ends where a part ends, not before."""
    parts = [
        (lines(tmp_path / f"{number}.jsonl", of_part, "abc"[number]), weights[number])
        for number, of_part in enumerate(lengths)
    ]
    config = mixture(*parts)
    characters = [0] * len(parts)
    documents = list(read_documents(config))
    for document in documents:
        characters[document.part] += len(document.text)
        total = sum(characters)
        for count, share, of_part in zip(characters, config.shares, lengths, strict=True):
            # A part gets its next document only while it is not ahead of its share.
            assert count <= share * total + max(of_part)
    used = [sum(d.part == number for d in documents) for number in range(len(parts))]
    assert any(n == len(of_part) for n, of_part in zip(used, lengths, strict=True))


def test_every_part_is_read_in_its_own_order_and_ids_are_of_the_part(tmp_path: Path) -> None:
    """Two parts may have files of one name."""
    one = lines(tmp_path / "a" / "t.jsonl", [4, 3, 2], "a")
    other = lines(tmp_path / "b" / "t.jsonl", [1] * 30, "b")
    documents = list(read_documents(mixture((one, 3), (other, 1))))
    assert len({d.id for d in documents}) == len(documents)
    assert [d.text for d in documents if d.part == 0] == ["aaaa", "aaa", "aa"]
    assert documents[:2] == [Document("0/t.jsonl#1", "aaaa", 0), Document("1/t.jsonl#1", "b", 1)]


def test_a_mixture_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    one, other = (lines(tmp_path / f"{c}.jsonl", [1, 1], c) for c in "ab")
    with Path(one).open("a") as stream:
        stream.write("not JSON\n")
    config = mixture((one, 1), (other, 1), max_documents=4)
    assert [d.text for d in read_documents(config)] == ["a", "b", "a", "b"]


def test_what_cannot_be_read_names_the_key_of_a_part(tmp_path: Path) -> None:
    one, other = (lines(tmp_path / f"{c}.jsonl", [1], c) for c in "ab")
    with pytest.raises(UserError, match=r"corpus\.mixture\[\]\.paths: no file matches .*none"):
        list(read_documents(mixture((one, 1), (str(tmp_path / "none"), 1))))
    Path(other).write_text(json.dumps({"body": "b"}))
    with pytest.raises(UserError, match=r"it has: body\); set corpus\.mixture\[\]\.text_field"):
        list(read_documents(mixture((one, 1), (other, 1))))


def test_an_empty_part_is_refused_by_name(tmp_path: Path) -> None:
    one, other = lines(tmp_path / "a.jsonl", [1, 1], "a"), lines(tmp_path / "b.jsonl", [], "b")
    with pytest.raises(UserError, match=r"no document with any text in .*b\.jsonl"):
        list(read_documents(mixture((one, 1), (other, 1))))


def test_the_digest_is_of_what_the_parts_hold_not_of_where(tmp_path: Path) -> None:
    names = ("a/t.jsonl", "b/t.jsonl")
    one, other = (lines(tmp_path / name, [3, 3], name[0]) for name in names)
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"), dirs_exist_ok=True)
    here = mixture((one, 1), (other, 2))
    there = mixture(
        *((str(moved / name), weight) for name, weight in zip(names, (1, 2), strict=True))
    )
    assert corpus_digest(here) == corpus_digest(there)
    assert here.without_paths() == there.without_paths()
    assert list(read_documents(here)) == list(read_documents(there))
    assert corpus_digest(mixture((other, 1), (one, 2))) != corpus_digest(here)
    assert mixture((one, 2), (other, 2)).without_paths() != here.without_paths()
    lines(moved / names[1], [3, 4], "b")
    assert corpus_digest(there) != corpus_digest(here)


def test_the_size_of_a_mixture_is_that_of_what_is_read(tmp_path: Path) -> None:
    """Up to the end of the part that is over first."""
    one = lines(tmp_path / "a.jsonl", [1000] * 40, "a")
    other = lines(tmp_path / "b.jsonl", [1000] * 5, "b")
    config = mixture((one, 1), (other, 1))
    read = sum(len(d.text) for d in read_documents(config))
    assert text_bytes(config) == pytest.approx(read, rel=0.15)
    assert text_bytes(CorpusConfig(paths=(one,))) == Path(one).stat().st_size


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "needs one of `paths`, `dataset` and `mixture`"),
        ({"paths": ["a"], "dataset": "b"}, "needs one of"),
        ({"paths": ["a"], "mixture": [{"paths": ["b"], "weight": 1}] * 2}, "needs one of"),
        ({"mixture": [{"paths": ["b"], "weight": 1}]}, "two parts or more"),
        ({"mixture": [{"weight": 1}] * 2}, "needs either `paths` or `dataset`"),
        ({"mixture": [{"paths": ["b"], "weight": 0}] * 2}, "greater than 0"),
        ({"mixture": [{"paths": ["b"]}] * 2}, "Field required"),
        (
            {"mixture": [{"paths": ["b"], "weight": 1}] * 2, "text_field": "body"},
            "with a mixture, `text_field` belongs to each of its parts",
        ),
        ({"paths": ["a"], "turn": "{role}"}, "a turn needs {content}"),
    ],
)
def test_a_corpus_says_one_thing(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CorpusConfig.model_validate(values)
    assert told in str(caught.value)


TURNS = [("user", "Hi {role} {content}!"), ("assistant", "Hello."), ("user", "Bye.\n")]
CONVERSATION = [{"role": role, "content": content} for role, content in TURNS]


@pytest.mark.parametrize("field", ["messages", "conversation"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_conversation_is_written_turn_by_turn(tmp_path: Path, field: str, suffix: str) -> None:
    """As lmsys-chat-1m has it, in a column `conversation`, and as others, in `messages`."""
    records = [{field: CONVERSATION, "model": "x"}, {field: CONVERSATION[:1], "model": "y"}]
    path = tmp_path / f"c.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    config = CorpusConfig(paths=(str(path),), text_field=field)
    first, second = (d.text for d in read_documents(config))
    assert first == "user: Hi {role} {content}!\n\nassistant: Hello.\n\nuser: Bye."
    assert second == "user: Hi {role} {content}!"
    tagged = config.model_copy(update={"turn": "<{role}>{content}</{role}>"})
    said = "".join(f"<{role}>{content}</{role}>" for role, content in TURNS)
    assert next(read_documents(tagged)).text == said
    assert text_bytes(config) > 0


@pytest.mark.parametrize(
    "turns", [[{"role": "user"}], [{"role": "user", "content": None}], ["Hi"], [[]]]
)
def test_a_turn_that_says_nothing_is_named(tmp_path: Path, turns: list[Any]) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"text": [*CONVERSATION, *turns]}))
    with pytest.raises(UserError, match=r"c\.jsonl, line 1: turn 4 is no \{role, content\}"):
        list(read_documents(CorpusConfig(paths=(str(path),))))


def test_text_and_conversations_mix(tmp_path: Path) -> None:
    web = lines(tmp_path / "web.jsonl", [40] * 50, "w")
    chat = tmp_path / "chat.jsonl"
    chat.write_text("".join(json.dumps({"messages": CONVERSATION}) + "\n" for _ in range(30)))
    config = CorpusConfig.model_validate(
        {
            "mixture": [
                {"paths": [str(chat)], "text_field": "messages", "weight": 0.33},
                {"paths": [web], "weight": 0.67},
            ]
        }
    )
    characters = {
        part: sum(len(d.text) for d in documents)
        for part, documents in itertools.groupby(
            sorted(read_documents(config), key=lambda d: d.part), key=lambda d: d.part
        )
    }
    assert characters[0] / sum(characters.values()) == pytest.approx(0.33, abs=0.02)
    assert str(config) == f"33% {chat} + 67% {web}"
