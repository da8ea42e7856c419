"""The same texts come out of every kind of file; what cannot be read is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrt_dist.config import CorpusConfig
from lrt_dist.corpus.readers import Document, corpus_files, read_documents
from lrt_dist.errors import UserError
from lrt_dist.runfile import resolve_run

TEXTS = ["one\nline", "zwei 😀", "漢字\n", "four"]


def read(*paths: Path | str, **options: Any) -> list[Document]:
    return list(read_documents(CorpusConfig(paths=tuple(map(str, paths)), **options)))


def refusal(*paths: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*paths, **options)
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_text(folder: Path) -> Path:
    return write(folder / "t.txt", "----".join(TEXTS))


def as_json_lines(folder: Path) -> Path:
    return write(folder / "t.jsonl", "\n".join(json.dumps({"text": t}) for t in TEXTS))


def as_raw_json_lines(folder: Path) -> Path:
    lines = [json.dumps({"n": 1, "text": t}, ensure_ascii=False) for t in TEXTS]
    return write(folder / "t.jsonl", "\r\n\r\n".join(lines) + "\r\n")


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"n": range(len(TEXTS)), "text": TEXTS}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("write_as", [as_text, as_json_lines, as_raw_json_lines, as_parquet])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, write_as: Any) -> None:
    documents = read(write_as(tmp_path), separator="----")
    assert [d.text for d in documents] == TEXTS
    assert len({d.id for d in documents}) == len(TEXTS)
    assert [d.text for d in read(tmp_path / "t.*", separator="----", max_documents=2)] == TEXTS[:2]


@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst"])
def test_without_a_separator_a_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    text = "a\r\n\r\n  b\n"
    path = write(tmp_path / f"t{suffix}", text)
    assert read(path) == [Document(path.name, text)]


def test_blank_pieces_are_no_documents_and_ids_are_places_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "|a| \n|b|")
    assert read(path, separator="|") == [
        Document(f"{path.name}#1", "a"),
        Document(f"{path.name}#3", "b"),
    ]


def test_an_id_does_not_depend_on_what_else_is_read(tmp_path: Path) -> None:
    """Folds are hashes of ids, so adding text must not move the text that is there."""
    first = write(tmp_path / "b.jsonl", '{"text": "x"}\n{"text": "y"}\n')
    alone = read(first)
    write(tmp_path / "a.txt", "new")
    assert read(tmp_path / "*")[1:] == alone


def test_globs_are_sorted_recursive_and_read_no_file_twice(tmp_path: Path) -> None:
    names = ["b.txt", "a.txt", "deep/er/c.txt", "deep/a.md"]
    for name in names:
        write(tmp_path / name, name)
    (tmp_path / "folder.txt").mkdir()
    found = [d.text for d in read(tmp_path / "*.txt", tmp_path / "**" / "*", tmp_path / "a.txt")]
    assert found[:2] == ["a.txt", "b.txt"]
    assert sorted(found) == sorted(names)


def test_a_pattern_without_a_match_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "a")
    pattern = str(tmp_path / "*.jsonl")
    assert refusal(tmp_path / "a.txt", pattern) == f"corpus.paths: no file matches {pattern}"
    assert "no file matches" in refusal(tmp_path)  # a folder is not a file


def test_an_unknown_suffix_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"\xff")
    path = write(tmp_path / "b.pdf", "text")
    config = CorpusConfig(paths=(str(tmp_path / "*"),))
    with pytest.raises(UserError, match=rf"{path} is neither text .*\.jsonl nor \.parquet"):
        corpus_files(config)


@pytest.mark.parametrize("name", ["t.txt", "t.md", "t.jsonl"])
def test_undecodable_text_names_file_line_and_byte(tmp_path: Path, name: str) -> None:
    line = '{"text": "é"}\n'.encode()
    path = write(tmp_path / name, line + line + b'{"text": "caf\xe9"}\n' + line)
    message = refusal(path)
    assert message.startswith(f"{path}, line 3: byte 0xe9 is not UTF-8")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('{"text": "a"', "not JSON"),
        ("plain words", "not JSON"),
        ('{"body": "a", "id": 1}', "no text in field 'text' (it has: body, id)"),
        ('{"text": null}', "no text in field 'text'"),
        ('{"text": 4}', "no text in field 'text'"),
        ('["a"]', "no text in field 'text' (it has: list)"),
        ('{"text": "half \\ud83d of a character"}', ""),
    ],
)
def test_a_bad_json_line_names_file_and_line(tmp_path: Path, bad: str, told: str) -> None:
    path = write(tmp_path / "t.jsonl", f'{{"text": "a"}}\n\n{bad}\n')
    message = refusal(path)
    assert message.startswith(f"{path}, line 3: ")
    assert told in message


def test_ids_do_not_depend_on_where_the_corpus_lies(tmp_path: Path) -> None:
    """They decide the folds: a corpus that was moved has the same ones."""
    found = []
    for place in ("here", "far/away"):
        for name in ("a/x.txt", "b/x.txt"):
            (tmp_path / place / name).parent.mkdir(parents=True)
            write(tmp_path / place / name, name)
        found.append(read(tmp_path / place / "*" / "*.txt"))
    assert found[0] == found[1] == [Document("a/x.txt", "a/x.txt"), Document("b/x.txt", "b/x.txt")]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"body": "x", "text": "no"}')
    pq.write_table(pa.table({"text": ["no"], "body": ["y"]}), tmp_path / "b.parquet")
    assert [d.text for d in read(tmp_path / "*", text_field="body")] == ["x", "y"]


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), path)
    assert refusal(path) == (f"{path}: no column 'text' (it has: body, n); set corpus.text_field")


def test_missing_values_of_a_parquet_file_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"]}), path, row_group_size=1)
    assert read(path) == [Document(f"{path.name}#0", "a"), Document(f"{path.name}#2", "c")]


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", b"PAR1 or not")
    assert str(path) in refusal(path)


def test_an_empty_separator_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.txt", "abc")
    values = {
        "source": {"model": "a/b"},
        "target": {"model": "c/d"},
        "corpus": {"paths": ["t.txt"], "separator": ""},
    }
    with pytest.raises(UserError, match="separator"):
        list(read_documents(resolve_run(values, base=tmp_path).corpus))


@pytest.mark.parametrize("content", ["", " \n\t \n"])
@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_an_empty_corpus_is_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / name, content)
    assert refusal(path) == f"the corpus is empty: no document with any text in {path}"


def test_a_corpus_of_blank_documents_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"text": ""}\n{"text": "\\n "}\n')
    assert "the corpus is empty" in refusal(path)


def test_blank_documents_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "| |a||b|c")
    texts = [d.text for d in read(path, separator="|", max_documents=2)]
    assert texts == ["a", "b"]


def test_reading_is_lazy(tmp_path: Path) -> None:
    """A limit must not read terabytes first."""
    path = write(tmp_path / "t.jsonl", '{"text": "a"}\nnot JSON\n')
    assert [d.text for d in read(path, max_documents=1)] == ["a"]


def test_a_dataset_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"lrt-dist\[datasets\]"):
        list(read_documents(CorpusConfig(dataset="org/name:train")))


def test_a_dataset_is_streamed(tmp_path: Path) -> None:
    """With a split, and with a configuration, of a dataset that lies here."""
    pytest.importorskip("datasets")
    pq.write_table(pa.table({"text": ["a", " ", "b"]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"body": ["c"]}), tmp_path / "other.parquet")
    for dataset in (str(tmp_path), f"{tmp_path}:train"):
        documents = list(read_documents(CorpusConfig(dataset=dataset)))
        assert documents == [Document(f"{dataset}#0", "a"), Document(f"{dataset}#2", "b")]
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- {config_name: one, data_files: train.parquet}\n"
        "- {config_name: two, data_files: [{split: test, path: other.parquet}]}\n---\n"
    )
    dataset = f"{tmp_path}:two:test"
    config = CorpusConfig(dataset=dataset, text_field="body")
    assert [d.text for d in read_documents(config)] == ["c"]
    with pytest.raises(UserError, match=rf"dataset {dataset}, row 0: .*it has: body"):
        list(read_documents(CorpusConfig(dataset=dataset)))
    for wrong, told in (
        (f"{tmp_path}:train", "cannot be loaded: Config name is missing"),
        (f"{tmp_path}:two:train", "cannot be loaded: "),
        (f"{tmp_path}:a:b:c", "write NAME, NAME:SPLIT or NAME:CONFIG:SPLIT"),
        (str(tmp_path / "none"), "cannot be loaded: "),
    ):
        with pytest.raises(UserError, match=told):
            list(read_documents(CorpusConfig(dataset=wrong)))
