"""The row index is made in shares; however many and wherever it was stopped, it is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import documentation
from tiny_run import fork, kill_when

from lrt_dist import api
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import Runtime
from lrt_dist.runtime.log import read_log
from lrt_dist.tasks.tokenise import DocumentsTask, tokenise_documents

CommandLine = Callable[..., tuple[int, str]]
SMALL = 1000
"""Characters of a share here: a document or two."""


def indexed(run_file: Path, out: Path, *settings: str) -> dict[str, bytes]:
    """Every file of the row index that `lrt-dist index` makes."""
    with api.open_run(out, load_run(run_file, settings)) as run:
        api.index(run)
    assert not run.folder.shares.exists()
    return {path.name: path.read_bytes() for path in run.folder.rows.iterdir()}


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrt_dist.commands._shares.CHARACTERS_OF_SHARE", SMALL)


@pytest.fixture
def made_whole(write_run: Callable[..., Path], tmp_path: Path) -> dict[str, bytes]:
    return indexed(write_run(), tmp_path / "whole")


def test_shares_change_nothing(
    made_whole: dict[str, bytes], write_run: Callable[..., Path], tmp_path: Path, small_shares: None
) -> None:
    assert indexed(write_run(), tmp_path / "shares") == made_whole
    log = read_log(tmp_path / "shares" / "log.jsonl")
    told = [e for e in log if e["event"] == "progress" and e["phase"] == "tokenise"]
    assert len(told) > 4


def test_ray_makes_the_same(
    made_whole: dict[str, bytes],
    ray_runtime: Runtime,
    write_run: Callable[..., Path],
    tmp_path: Path,
    small_shares: None,
) -> None:
    run_file = write_run(cluster={"address": "auto"})
    assert indexed(run_file, tmp_path / "ray") == made_whole


def test_what_was_tokenised_before_an_interruption_is_not_tokenised_again(
    made_whole: dict[str, bytes],
    write_run: Callable[..., Path],
    tmp_path: Path,
    small_shares: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_file, out = write_run(), tmp_path / "stopped"
    done: list[Path] = []

    def stopped(task: DocumentsTask) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        tokenise_documents(task)
        done.append(task.path)

    monkeypatch.setattr("lrt_dist.commands.index.tokenise_documents", stopped)
    with pytest.raises(KeyboardInterrupt):
        indexed(run_file, out)
    assert not RowIndex.is_at(out / "rows")

    def counted(task: DocumentsTask) -> None:
        assert task.path not in done
        tokenise_documents(task)

    monkeypatch.setattr("lrt_dist.commands.index.tokenise_documents", counted)
    assert indexed(run_file, out) == made_whole


def test_shares_of_other_documents_are_not_taken(
    write_run: Callable[..., Path],
    tmp_path: Path,
    small_shares: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A document may change between two attempts where the corpus's signature does not look."""
    run_file, out = write_run(), tmp_path / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lrt_dist.commands.index.write_index", stop)
        patch.setattr("lrt_dist.commands.index.corpus_digest", lambda corpus: "same")
        with pytest.raises(KeyboardInterrupt):
            indexed(run_file, out)
    corpus = run_file.parent / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    lines[2] = json.dumps({"text": json.loads(lines[2])["text"].swapcase()})
    corpus.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("lrt_dist.commands.index.corpus_digest", lambda corpus: "same")
    made = indexed(run_file, out)
    assert made == indexed(run_file, tmp_path / "anew")


def test_what_a_kill_left_beside_a_finished_index_is_swept_away(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """It was killed with another corpus, which was taken back."""
    run_file, out = write_run(), tmp_path / "out"
    made = indexed(run_file, out)
    (out / "rows" / ".units.arrow.123.partial").write_bytes(b"half")
    assert indexed(run_file, out) == made


def test_a_corpus_without_a_site_is_refused(write_run: Callable[..., Path], tmp_path: Path) -> None:
    run_file = write_run()
    (run_file.parent / "corpus.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match="share no site"):
        indexed(run_file, tmp_path / "out")


@pytest.mark.slow
def test_killed_while_it_tokenises_it_goes_on(
    write_run: Callable[..., Path], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    run_file = write_run()
    texts = documentation()
    many = [{"text": f"{n} {texts[n % len(texts)]}"} for n in range(4000)]
    (run_file.parent / "corpus.jsonl").write_text("\n".join(map(json.dumps, many)) + "\n")
    out = tmp_path / "killed"
    process = fork("index", str(run_file), "--out", str(out))
    kill_when(process, lambda: len(list((out / "rows.unfinished").glob("*.arrow"))) >= 2, 300)
    code, text = lrt_dist("index", str(run_file), "--out", str(out))
    assert code == 0, text
    killed = {path.name: path.read_bytes() for path in (out / "rows").iterdir()}
    assert killed == indexed(run_file, tmp_path / "whole")
    log = [e for e in read_log(out / "log.jsonl") if e.get("phase") == "tokenise"]
    told = [e for e in log if e["event"] == "progress"]
    assert any(e["done"] and not e["per_second"] for e in told)  # there before this attempt
