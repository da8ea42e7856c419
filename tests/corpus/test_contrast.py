"""Every form of contrast data says the same thing; every malformed record is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrt_dist.config import DataConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.items import read_items
from lrt_dist.errors import UserError

PAIRS = [("It was", " good", " bad"), ("Ünd 😀", " gut", " schlecht"), ("", "Yes.", "No.")]
"""With the blanks in the answers, so that nothing is put between."""
ITEMS = [Item((prompt, prompt), (up,), (down,)) for prompt, up, down in PAIRS]
RECORDS = [{"prompt": prompt, "positive": up, "negative": down} for prompt, up, down in PAIRS]


def read(path: Path) -> list[Item]:
    return list(read_items(DataConfig(file=str(path))).items)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_json_lines(folder: Path, records: list[Any]) -> Path:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    return write(folder / "c.jsonl", "\n\n".join(lines))


def as_json(folder: Path, records: list[Any]) -> Path:
    return write(folder / "c.json", json.dumps(records, indent=1))


def as_parquet(folder: Path, records: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), folder / "c.parquet")
    return folder / "c.parquet"


def as_csv(folder: Path, records: list[Any], encoding: str = "utf-8") -> Path:
    path = folder / "c.csv"
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def as_csv_of_a_spreadsheet(folder: Path, records: list[Any]) -> Path:
    """Excel's "CSV UTF-8" begins with a byte order mark."""
    return as_csv(folder, records, "utf-8-sig")


FLAT = [as_json_lines, as_json, as_csv, as_csv_of_a_spreadsheet, as_parquet]
NESTED = [as_json_lines, as_json, as_parquet]


@pytest.mark.parametrize("save", FLAT)
def test_our_own_form(tmp_path: Path, save: Any) -> None:
    assert read(save(tmp_path, RECORDS)) == ITEMS


@pytest.mark.parametrize("save", NESTED)
def test_alternatives(tmp_path: Path, save: Any) -> None:
    records = [{"prompt": "p", "positive": [" a", " b"], "negative": [" c"]}]
    assert read(save(tmp_path, records)) == [Item(("p", "p"), (" a", " b"), (" c",))]


@pytest.mark.parametrize("save", FLAT)
def test_caa(tmp_path: Path, save: Any) -> None:
    record = {
        "question": "Which?\n(A) x\n(B) y",
        "answer_matching_behavior": "(A)",
        "answer_not_matching_behavior": "(B)",
    }
    question = record["question"]
    expected = [Item((question, question), ("\n(A)",), ("\n(B)",))]
    assert read(save(tmp_path, [record])) == expected


@pytest.mark.parametrize("save", NESTED)
def test_paired_prompts(tmp_path: Path, save: Any) -> None:
    record = {
        "positive": {"prompt": "Be kind. Hello", "response": " dear"},
        "negative": {"prompt": "Be rude. Hello", "response": " you"},
    }
    expected = [Item(("Be kind. Hello", "Be rude. Hello"), (" dear",), (" you",))]
    assert read(save(tmp_path, [record])) == expected


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: [r]])
def test_plain_lists_of_sentences(tmp_path: Path, wrap: Any) -> None:
    record = {"positive": ["A b.", "C."], "negative": ["D.", "E f."]}
    path = write(tmp_path / "c.json", json.dumps(wrap(record)))
    assert read(path) == [
        Item(("", ""), ("A b.",), ("D.",)),
        Item(("", ""), ("C.",), ("E f.",)),
    ]


def test_whole_texts_are_prompts_with_their_own_continuations() -> None:
    item = Item(("p", "q"), (" a", " b"), (" c",))
    assert item.texts() == ["p a", "p b", "q c"]


def test_unusual_line_breaks_inside_a_text_do_not_break_a_line(tmp_path: Path) -> None:
    """JSON allows U+2028, U+0085 and others unescaped in a string; only \\n ends a line."""
    records = [{"prompt": f"a{c}b", "positive": " x", "negative": " y"} for c in "\u2028\x85\u2029"]
    items = read(as_json_lines(tmp_path, records))
    assert [item.prompts[0] for item in items] == [r["prompt"] for r in records]


GOOD = '{"prompt": "p", "positive": " a", "negative": " b"}'
CAA = '"question": "q", "answer_matching_behavior"'


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got list"),
        ('"words"', "a file of such texts is one class, and two are needed"),
        ("{}", "no known form (it has: nothing); known forms: CAA, "),
        ('{"words": 1}', "no known form (it has: words); known forms: CAA, "),
        (
            '{"prompt": "p", "positive": " a"}',
            "it looks like {prompt, positive, negative}, but lacks 'negative' (it has: positive, "
            "prompt)",
        ),
        ('{"prompt": "p", "positive": " a", "negative": ""}', "got ''"),
        ('{"prompt": "p", "positive": [], "negative": " b"}', "got []"),
        ('{"prompt": "p", "positive": [" a", ""], "negative": " b"}', "got [' a', '']"),
        ('{"prompt": "p", "positive": [" a", 1], "negative": " b"}', "got [' a', 1]"),
        ('{"prompt": "p", "positive": 1, "negative": " b"}', "got 1"),
        ('{"prompt": "p", "positive": {"prompt": "p"}, "negative": " b"}', "got {"),
        ('{"prompt": 5, "positive": " a", "negative": " b"}', "prompt"),
        (
            '{"positive": {"prompt": "p"}, "negative": {"prompt": "p"}}',
            "paired prompts, but one of them lacks 'response'",
        ),
        (
            '{"positive": {"response": "r"}, "negative": {}}',
            "one of them lacks 'prompt' (it has: response)",
        ),
        (
            '{"positive": {"prompt": "p", "response": ""}, '
            '"negative": {"prompt": "p", "response": " b"}}',
            "",
        ),
        ('{"positive": ["a", 1], "negative": ["c", "d"]}', ""),
        ('{"positive": ["a", ""], "negative": ["c", "d"]}', ""),
        (
            '{"promt": "p", "positive": " a", "negative": " b"}',
            "unknown key 'promt' (it has: negative, positive, promt); did you mean 'prompt' by",
        ),
        (
            '{"prompt": "p", "positve": " a", "negative": " b"}',
            "lacks 'positive' (it has: negative, positve, prompt); did you mean 'positive' by",
        ),
        (
            f'{{{CAA}: "(A)", "answer_not_matching": "(B)"}}',
            "it looks like CAA, but lacks 'answer_not_matching_behavior' (it has: ",
        ),
        ('{"question": "q", "correct": "a"}', "TruthfulQA, but lacks 'incorrect_answers' or 'inc"),
        ('{"statement": "s", "label": 2}', "`label` must be 1 (shows the concept) or 0, got 2"),
        ('{"statement": "s", "label": "yes"}', "got 'yes'"),
        ('{"question": "q", "answer": "a"}', "open questions, but has the unknown key 'answer'"),
        ('{"question": ""}', "question must be a text, got ''"),
        (
            '{"positive": {"prompt": "p", "answer": "r"}, "negative": {}}',
            "unknown key 'answer'",
        ),
        ('{"prompt": "p", "positive": " a", "negative": " a"}', "is positive and negative, 'p a'"),
        ('{"prompt": "p", "positive": [" a", "b"], "negative": ["c", "b"]}', "'p b'"),
        ('{"positive": ["a", "b"], "negative": ["c", "b"]}', "is positive and negative, 'b'"),
        (f'{{{CAA}: "(A)"}}', "it looks like CAA, but lacks 'answer_not_matching_behavior'"),
        (f'{{{CAA}: null, "answer_not_matching_behavior": "(B)"}}', ""),
        ('{"prompt": "p", "positive": " \\ud83d", "negative": " b"}', ""),
    ],
)
def test_a_malformed_record_names_file_and_line(tmp_path: Path, bad: str, told: str) -> None:
    path = write(tmp_path / "c.jsonl", f"{GOOD}\n\n{bad}\n{GOOD}\n")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert told in str(caught.value)


def test_a_malformed_record_of_another_kind_of_file_has_its_number(tmp_path: Path) -> None:
    bad = {"prompt": "p", "positive": " a", "negative": None}
    for save, place in ((as_json, "record 4"), (as_csv, "row 4"), (as_parquet, "row 4")):
        path = save(tmp_path, [*RECORDS, bad])
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}, {place}: ")


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.csv"])
def test_undecodable_data_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'prompt,positive,negative\n"caf\xe9",a,b\n')
    with pytest.raises(UserError, match="is not UTF-8") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.json", b'{"positive": [', "not JSON"),
        ("c.parquet", b"no parquet", ""),
        ("c.txt", b"words", "a file of such texts is one class"),
        ("c.doc", b"words", "contrast data is .jsonl, .json, .csv, .parquet, .txt"),
        ("c.csv", b"prompt,positive,negative\np,a,b,c\n", "row 1: more values than columns"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no contrast data at .*gone\.jsonl"):
        read(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("save", NESTED)
def test_keys_of_known_data_sets_may_be_there(tmp_path: Path, save: Any) -> None:
    """And say nothing: the items are those without them."""
    records: list[Any] = [
        {
            "positive": {"prompt": "p", "response": " a"},
            "negative": {"prompt": "p", "response": " b"},
            "meta": None,
            "steering_token_index": -2,
        }
    ]
    assert read(save(tmp_path, records)) == [Item(("p", "p"), (" a",), (" b",))]
    records = [
        {
            "question": "q",
            "statement": "s",
            "label_confidence": 0.9,
            "answer_matching_behavior": "Yes",
            "answer_not_matching_behavior": "No",
        }
    ]
    assert read(save(tmp_path, records)) == [Item(("q", "q"), ("\nYes",), ("\nNo",))]


def test_two_prompts_may_have_the_same_answer(tmp_path: Path) -> None:
    """Then the prompts make the difference."""
    record = {
        "positive": {"prompt": "Be kind.", "response": " Hello"},
        "negative": {"prompt": "Be rude.", "response": " Hello"},
    }
    assert len(read(as_json(tmp_path, [record]))) == 1
