"""Every form of contrast data says the same thing; every malformed record is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrt_dist.config import ConceptConfig
from lrt_dist.corpus.contrast import Item, load_concept, read_items
from lrt_dist.errors import UserError

PAIRS = [("It was", " good", " bad"), ("Ünd 😀", " gut", " schlecht"), ("", "Yes.", "No.")]
ITEMS = [Item((prompt, prompt), (up,), (down,)) for prompt, up, down in PAIRS]
RECORDS = [{"prompt": prompt, "positive": up, "negative": down} for prompt, up, down in PAIRS]


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
    assert read_items(save(tmp_path, RECORDS)) == ITEMS


@pytest.mark.parametrize("save", NESTED)
def test_alternatives(tmp_path: Path, save: Any) -> None:
    records = [{"prompt": "p", "positive": [" a", " b"], "negative": [" c"]}]
    assert read_items(save(tmp_path, records)) == [Item(("p", "p"), (" a", " b"), (" c",))]


@pytest.mark.parametrize("save", FLAT)
def test_caa(tmp_path: Path, save: Any) -> None:
    record = {
        "question": "Which?\n(A) x\n(B) y",
        "answer_matching_behavior": "(A)",
        "answer_not_matching_behavior": "(B)",
    }
    question = record["question"]
    expected = [Item((question, question), ("\n(A)",), ("\n(B)",))]
    assert read_items(save(tmp_path, [record])) == expected


@pytest.mark.parametrize("save", NESTED)
def test_paired_prompts(tmp_path: Path, save: Any) -> None:
    record = {
        "positive": {"prompt": "Be kind. Hello", "response": " dear"},
        "negative": {"prompt": "Be rude. Hello", "response": " you"},
    }
    expected = [Item(("Be kind. Hello", "Be rude. Hello"), (" dear",), (" you",))]
    assert read_items(save(tmp_path, [record])) == expected


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: [r]])
def test_plain_lists_of_sentences(tmp_path: Path, wrap: Any) -> None:
    record = {"positive": ["A b.", "C."], "negative": ["D.", "E f."]}
    path = write(tmp_path / "c.json", json.dumps(wrap(record)))
    assert read_items(path) == [
        Item(("", ""), ("A b.",), ("D.",)),
        Item(("", ""), ("C.",), ("E f.",)),
    ]


def test_whole_texts_are_prompts_with_their_own_continuations() -> None:
    item = Item(("p", "q"), (" a", " b"), (" c",))
    assert item.texts() == ["p a", "p b", "q c"]


def test_unusual_line_breaks_inside_a_text_do_not_break_a_line(tmp_path: Path) -> None:
    """JSON allows U+2028, U+0085 and others unescaped in a string; only \\n ends a line."""
    records = [{"prompt": f"a{c}b", "positive": " x", "negative": " y"} for c in "\u2028\x85\u2029"]
    items = read_items(as_json_lines(tmp_path, records))
    assert [item.prompts[0] for item in items] == [r["prompt"] for r in records]


GOOD = '{"prompt": "p", "positive": " a", "negative": " b"}'
CAA = '"question": "q", "answer_matching_behavior"'


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got list"),
        ('"words"', "expected an object, got str"),
        ("{}", "must each be a text or a list of texts, got None"),
        ('{"prompt": "p", "positive": " a"}', "got None"),
        ('{"prompt": "p", "positive": " a", "negative": ""}', "got ''"),
        ('{"prompt": "p", "positive": [], "negative": " b"}', "got []"),
        ('{"prompt": "p", "positive": [" a", ""], "negative": " b"}', "got [' a', '']"),
        ('{"prompt": "p", "positive": [" a", 1], "negative": " b"}', "got [' a', 1]"),
        ('{"prompt": "p", "positive": 1, "negative": " b"}', "got 1"),
        ('{"prompt": "p", "positive": {"prompt": "p"}, "negative": " b"}', "got {"),
        ('{"prompt": 5, "positive": " a", "negative": " b"}', "prompt"),
        ('{"positive": {"prompt": "p"}, "negative": {"prompt": "p"}}', "no 'response'"),
        ('{"positive": {"response": "r"}, "negative": {}}', "no 'prompt' (it has: response)"),
        (
            '{"positive": {"prompt": "p", "response": ""}, '
            '"negative": {"prompt": "p", "response": " b"}}',
            "",
        ),
        ('{"positive": ["a", "b"], "negative": ["c"]}', "2 positive and 1 negative sentences"),
        ('{"positive": ["a", 1], "negative": ["c", "d"]}', ""),
        ('{"positive": ["a", ""], "negative": ["c", "d"]}', ""),
        (f'{{{CAA}: "(A)"}}', ""),
        (f'{{{CAA}: null, "answer_not_matching_behavior": "(B)"}}', ""),
        ('{"prompt": "p", "positive": " \\ud83d", "negative": " b"}', ""),
    ],
)
def test_a_malformed_record_names_file_and_line(tmp_path: Path, bad: str, told: str) -> None:
    path = write(tmp_path / "c.jsonl", f"{GOOD}\n\n{bad}\n{GOOD}\n")
    with pytest.raises(UserError) as caught:
        read_items(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert told in str(caught.value)


def test_a_malformed_record_of_another_kind_of_file_has_its_number(tmp_path: Path) -> None:
    bad = {"prompt": "p", "positive": " a", "negative": None}
    for save, place in ((as_json, "record 4"), (as_csv, "row 4"), (as_parquet, "row 4")):
        path = save(tmp_path, [*RECORDS, bad])
        with pytest.raises(UserError) as caught:
            read_items(path)
        assert str(caught.value).startswith(f"{path}, {place}: ")


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.csv"])
def test_undecodable_data_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'prompt,positive,negative\n"caf\xe9",a,b\n')
    with pytest.raises(UserError, match="is not UTF-8") as caught:
        read_items(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.json", b'{"positive": [', "not JSON"),
        ("c.parquet", b"no parquet", ""),
        ("c.txt", b"words", "contrast data is .jsonl, .json, .csv or .parquet"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read_items(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no contrast data at .*gone\.jsonl"):
        read_items(tmp_path / "gone.jsonl")


def numbered(folder: Path, name: str, count: int, mark: str = "n") -> str:
    """`count` items, told apart by their prompts."""
    records = [{"prompt": f"{mark}{n}", "positive": " a", "negative": " b"} for n in range(count)]
    return str(write(folder / name, "\n".join(map(json.dumps, records))))


quick = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@quick
@given(count=st.integers(8, 40), max_items=st.none() | st.integers(4, 30))
def test_one_file_is_split_into_three_that_share_no_item(
    tmp_path: Path, count: int, max_items: int | None
) -> None:
    config = ConceptConfig(name="c", data=numbered(tmp_path, "d.jsonl", count))
    split = load_concept(config, max_items)
    prompts = [[i.prompts[0] for i in part] for part in (split.vector, split.dev, split.test)]
    together = [p for part in prompts for p in part]
    assert len(set(together)) == len(together)
    assert set(together) <= {f"n{n}" for n in range(count)}
    assert len(prompts[0]) == (count + 1) // 2
    evaluated = count // 2 if max_items is None else min(max_items, count // 2)
    assert len(prompts[1]) + len(prompts[2]) == evaluated
    assert len(prompts[1]) - len(prompts[2]) in (0, 1)


@quick
@given(count=st.integers(2, 9), items=st.integers(4, 20), max_items=st.none() | st.integers(4, 9))
def test_with_items_all_data_make_the_vector(
    tmp_path: Path, count: int, items: int, max_items: int | None
) -> None:
    data, other = numbered(tmp_path, "d.jsonl", count), numbered(tmp_path, "i.jsonl", items, "i")
    split = load_concept(ConceptConfig(name="c", data=data, items=other), max_items)
    assert list(split.vector) == read_items(Path(data))
    evaluated = read_items(Path(other))[:max_items]
    assert sorted(i.prompts[0] for i in split.dev + split.test) == sorted(
        i.prompts[0] for i in evaluated
    )
    assert not set(split.dev) & set(split.test)


@pytest.mark.parametrize(
    ("count", "items", "max_items", "told"),
    [
        (2, None, None, "1 items in the vector split"),
        (6, None, None, "1 items in the test split"),
        (1, 8, None, "1 items in the vector split"),
        (8, 2, None, "1 items in the dev split"),
        (8, 3, None, "1 items in the test split"),
        (20, None, 3, "or raise evaluate.max_items"),
    ],
)
def test_fewer_than_two_items_in_a_split_are_refused(
    tmp_path: Path, count: int, items: int | None, max_items: int | None, told: str
) -> None:
    data = numbered(tmp_path, "d.jsonl", count)
    other = None if items is None else numbered(tmp_path, "i.jsonl", items, "i")
    with pytest.raises(UserError, match="concept mood") as caught:
        load_concept(ConceptConfig(name="mood", data=data, items=other), max_items)
    assert told in str(caught.value)


def test_an_item_that_made_the_vector_is_not_tested_on(tmp_path: Path) -> None:
    """The same items twice, in one file or in two: refused or left out, but never evaluated."""
    lines = Path(numbered(tmp_path, "d.jsonl", 12)).read_text().splitlines()
    twice = str(
        write(tmp_path / "twice.jsonl", "\n".join(x for line in lines for x in (line, line)))
    )
    data = str(tmp_path / "d.jsonl")
    for config in (
        ConceptConfig(name="c", data=twice),
        ConceptConfig(name="c", data=data, items=data),
    ):
        try:
            split = load_concept(config, None)
        except UserError:
            continue
        assert not set(split.vector) & set(split.dev + split.test)
        assert not set(split.dev) & set(split.test)
