"""`lrt-dist init` writes a run that works as it is, or says why it cannot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import documentation

from lrt_dist import api
from lrt_dist.runfile import load_run

CommandLine = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_init_writes_can_be_indexed_and_planned(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine, line_end: str
) -> None:
    text = tmp_path / "my text.txt"
    text.write_bytes("\n\n".join(documentation()).replace("\n", line_end).encode())
    folder = tmp_path / "a run"
    arguments = ("--source", str(tiny_source), "--target", str(tiny_target), "--text", str(text))
    code, printed = lrt_dist("init", str(folder), *arguments)
    assert code == 0, printed
    assert f"lrt-dist plan {shlex.quote(str(folder / 'RUN.yaml'))}" in printed
    run = load_run(folder / "RUN.yaml")
    assert run.source.layers == (1, 2)  # of 4
    assert run.target.layers == (1, 2)  # of 3
    assert run.concepts[0].data.file == str(folder / "concepts" / "sentiment.jsonl")
    with api.open_run(folder / "out", load_run(folder / "RUN.yaml", ["fit.folds=2"])) as live:
        assert api.index(live).documents > 10
    assert lrt_dist("plan", str(folder / "RUN.yaml"), "--set", "cluster.address=serial")[0] == 0


def test_json_lines_need_no_separator(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    text = tmp_path / "corpus.jsonl"
    text.write_text("\n".join(json.dumps({"text": t}) for t in documentation()))
    arguments = ("--source", str(tiny_source), "--target", str(tiny_target), "--text", str(text))
    assert lrt_dist("init", str(tmp_path / "run"), *arguments)[0] == 0
    assert load_run(tmp_path / "run" / "RUN.yaml").corpus.separator is None


def test_what_lies_there_is_kept(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    text = tmp_path / "my.txt"
    text.write_text("a text\n")
    (tmp_path / "run" / "concepts").mkdir(parents=True)
    concept = tmp_path / "run" / "concepts" / "sentiment.jsonl"
    concept.write_text("mine")
    arguments = ("--source", str(tiny_source), "--target", str(tiny_target), "--text", str(text))
    assert lrt_dist("init", str(tmp_path / "run"), *arguments)[0] == 0
    assert concept.read_text() == "mine"
    before = (tmp_path / "run" / "RUN.yaml").read_text()
    code, printed = lrt_dist("init", str(tmp_path / "run"), *arguments)
    assert code == 2
    assert "RUN.yaml exists; edit it, or choose another folder" in printed
    assert (tmp_path / "run" / "RUN.yaml").read_text() == before


def test_wrong_input_leaves_nothing(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, lrt_dist: CommandLine
) -> None:
    (tmp_path / "my.pdf").write_text("no text")
    for source, text, message in (
        (str(tiny_source), "none.txt", "no file matches"),
        (str(tiny_source), "my.pdf", "is neither text"),
        (str(tmp_path / "nowhere"), "my.pdf", "no model at"),
    ):
        arguments = ("--source", source, "--target", str(tiny_target))
        code, printed = lrt_dist(
            "init", str(tmp_path / "run"), *arguments, "--text", str(tmp_path / text)
        )
        assert code == 2, printed
        assert message in printed
        assert not (tmp_path / "run").exists()


def test_a_relative_text_stays_relative(
    tmp_path: Path,
    tiny_source: Path,
    tiny_target: Path,
    lrt_dist: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that `lrt-dist submit` takes it along."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a text\n")
    models = ("--source", str(tiny_source), "--target", str(tiny_target))
    code, text = lrt_dist("init", "run", *models, "--text", "texts/*.txt")
    assert code == 0, text
    assert '"../texts/*.txt"' in (tmp_path / "run/RUN.yaml").read_text()
    (pattern,) = load_run("run/RUN.yaml").corpus.paths
    assert [path.name for path in tmp_path.glob("texts/*.txt")] == ["a.txt"]
    assert Path(pattern).parent.resolve() == tmp_path / "texts"
