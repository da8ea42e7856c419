"""A run that is sent to a cluster as a job, with the files that belong to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lrt_dist.commands import submit as module
from lrt_dist.commands.submit import submit
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run

CommandLine = Callable[..., tuple[int, str]]
RUN: dict[str, Any] = {
    "name": "sent",
    "source": {"model": "lab/small", "layers": [1]},
    "target": {"model": "/shared/models/large", "layers": [2]},
    "corpus": {"paths": ["text/*.txt", "/shared/corpus/*.txt"]},
    "concepts": [{"name": "mood", "data": "../concepts/mood.jsonl"}],
}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    for name in ("runs/text/a.txt", "runs/text/b.txt", "concepts/mood.jsonl", "concepts/other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    path = tmp_path / "runs/RUN.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What would have been sent: the command and the files."""
    what: dict[str, Any] = {}

    def keep(
        address: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        what.update(
            command=list(command),
            files={str(p.relative_to(folder)): p.read_text() for p in files},
            run=load_run(folder / "RUN.yaml"),
            folder=folder,
        )

    monkeypatch.setattr(module, "submit_job", keep)
    return what


def test_what_the_run_names_by_relative_paths_goes_along(
    run_file: Path, sent: dict[str, Any]
) -> None:
    submit(run_file, "http://head:8265", "s3://bucket/run", ["fit.folds=3"], {})
    assert sent["command"] == ["lrt-dist", "run", "RUN.yaml", "--out", "s3://bucket/run"]
    sent["files"].pop("RUN.yaml")
    assert sent["files"] == {
        "runs/text/a.txt": "runs/text/a.txt",
        "runs/text/b.txt": "runs/text/b.txt",
        "concepts/mood.jsonl": "concepts/mood.jsonl",
    }
    run, folder = sent["run"], sent["folder"]
    assert run.corpus.paths == (f"{folder}/runs/text/*.txt", "/shared/corpus/*.txt")
    assert run.concepts[0].data.file == f"{folder}/concepts/mood.jsonl"
    assert run.target.model == "/shared/models/large"
    assert run.fit.folds == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["corpus.paths=[none.txt]"], r"corpus.paths: no file matches .*none\.txt"),
        (["source.model=./model"], "source.model: ./model cannot go along with a job"),
        (["extract.store_url=stores"], "extract.store_url: stores cannot go along"),
        (["fit.fold=3"], "did you mean 'folds'"),
    ],
)
def test_what_cannot_go_along_is_refused(
    run_file: Path, sent: dict[str, Any], changes: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        submit(run_file, "http://head:8265", "s3://bucket/run", changes, {})
    assert not sent


def test_files_of_classes_and_of_a_mixture_go_along(run_file: Path, sent: dict[str, Any]) -> None:
    parts = "{paths: [text/a.*], weight: 1}, {paths: ['text/*.txt', /shared/b.txt], weight: 2}"
    classes = "{positive: ../concepts/mood.jsonl, negative: [../concepts/other, /shared/c.json]}"
    changes = [f"corpus={{mixture: [{parts}]}}", f"concepts=[{{name: mood, data: {classes}}}]"]
    submit(run_file, "http://head:8265", "s3://bucket/run", changes, {})
    assert {"runs/text/a.txt", "runs/text/b.txt", "concepts/other"} < sent["files"].keys()
    run, folder = sent["run"], sent["folder"]
    assert [part.paths for part in run.corpus.mixture] == [
        (f"{folder}/runs/text/a.*",),
        (f"{folder}/runs/text/*.txt", "/shared/b.txt"),
    ]
    assert run.concepts[0].data.positive == (f"{folder}/concepts/mood.jsonl",)
    assert run.concepts[0].data.negative == (f"{folder}/concepts/other", "/shared/c.json")


def test_names_are_no_patterns(run_file: Path, sent: dict[str, Any]) -> None:
    """But for those of the corpus; a folder's own name may look like one, too."""
    folder = run_file.parent.rename(run_file.parent.with_name("runs [1]"))
    (folder.parent / "concepts/set[1].jsonl").write_text("x")
    changes = ["concepts=[{name: mood, data: '../concepts/set[1].jsonl'}]"]
    submit(folder / "RUN.yaml", "http://head:8265", "s3://bucket/run", changes, {})
    assert "concepts/set[1].jsonl" in sent["files"]
    assert "runs [1]/text/a.txt" in sent["files"]


def test_what_is_too_large_is_refused(run_file: Path, sent: dict[str, Any]) -> None:
    with (run_file.parent / "text/b.txt").open("wb") as stream:
        stream.truncate(200 << 20)
    with pytest.raises(UserError, match=r"200.0 MiB \(.*b\.txt most of all\).*at most 100.0 MiB"):
        submit(run_file, "http://head:8265", "s3://bucket/run", [], {})


def test_a_relative_out_is_refused(run_file: Path, sent: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--out runs/x is relative"):
        submit(run_file, "http://head:8265", "runs/x", [], {})


def test_where_nobody_takes_jobs(run_file: Path, lrt_dist: CommandLine) -> None:
    code, text = lrt_dist(
        "submit", str(run_file), "--out", "/shared/out", "--address", "http://127.0.0.1:9"
    )
    assert code == 2, text
    assert "cannot send a job to http://127.0.0.1:9" in text


def test_a_variable_that_is_not_there(run_file: Path, lrt_dist: CommandLine) -> None:
    assert "NO_SUCH_THING" not in os.environ
    code, text = lrt_dist("submit", str(run_file), "--out", "/out", "--env", "NO_SUCH_THING")
    assert code == 2, text
    assert "this shell has no such variable" in text
