"""What is stored belongs to what it was made of: other weights, tokens or versions are noticed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import documentation, save_model

from lrt_dist import api
from lrt_dist.commands.extract import extract_side
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError, UserError
from lrt_dist.models.identity import file_digest, tokenizer_digest, weights_digest
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import Done
from lrt_dist.runtime.log import read_log
from lrt_dist.sites import Side
from lrt_dist.store.ledger import Ledger
from lrt_dist.tasks.extract import ExtractTask, UnitReceipt

WriteRun = Callable[..., Path]


def extracted(run_file: Path, out: Path, *overrides: str) -> api.RunFolder:
    with api.open_run(out, load_run(run_file, ["concepts=[]", *overrides])) as run:
        api.index(run)
        api.extract(run)
    return run.folder


def test_one_byte_far_inside_a_checkpoint_is_another_model(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    path = folder / "model.safetensors"
    path.write_bytes(bytes(3 << 20))
    before = weights_digest(folder, cache)
    with path.open("r+b") as stream:
        stream.seek(2 << 20)
        stream.write(b"x")
    assert weights_digest(folder, cache) != before


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path, cache = tmp_path / "weights.bin", tmp_path / "cache"
    path.write_bytes(b"one")
    assert file_digest(path, cache) == file_digest(path, cache)
    (kept,) = cache.iterdir()
    kept.write_text("what was kept")
    assert file_digest(path, cache) == "what was kept"


def test_another_tokenizer_is_told_apart(tmp_path: Path, tiny_source: Path) -> None:
    folder = shutil.copytree(tiny_source, tmp_path / "model")
    before = tokenizer_digest(folder, tmp_path / "cache")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["merges"] = settings["model"]["merges"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert tokenizer_digest(folder, tmp_path / "cache") != before


def test_activations_of_other_tokens_are_refused(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    model = shutil.copytree(tiny_source, tmp_path / "model")
    run_file = write_run(source={"model": str(model), "layers": [1]})
    extracted(run_file, tmp_path / "out")
    settings = json.loads((model / "tokenizer.json").read_text())
    settings["model"]["merges"] = settings["model"]["merges"][:-1]
    (model / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="made from another corpus or other models"):
        extracted(run_file, tmp_path / "out")


def test_a_corpus_may_be_moved_but_not_changed(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    folder = extracted(run_file, tmp_path / "out")
    before = RowIndex.open(folder.rows)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "corpus.jsonl").rename(tmp_path / "elsewhere/corpus.jsonl")
    again = extracted(run_file, tmp_path / "out", f"corpus.paths=[{moved}]")
    assert RowIndex.open(again.rows) == before
    kept = (tmp_path / "out/run.yaml").read_bytes()
    other = tmp_path / "elsewhere/other.jsonl"
    other.write_text(moved.read_text())
    for command in (api.index, api.extract):
        with (
            pytest.raises(UserError, match=r"belongs to another run:\n  corpus\.paths"),
            api.open_run(tmp_path / "out", load_run(run_file, [f"corpus.paths=[{other}]"])) as run,
        ):
            command(run)
    assert (tmp_path / "out/run.yaml").read_bytes() == kept
    moved.write_text(moved.read_text() + json.dumps({"text": "One more text. " * 30}) + "\n")
    with pytest.raises(UserError, match="made from another corpus"):
        extracted(run_file, tmp_path / "out", f"corpus.paths=[{moved}]")


def test_a_mixture_may_be_moved_but_not_weighed_anew(write_run: WriteRun, tmp_path: Path) -> None:
    documents = [*map(json.dumps, ({"text": text} for text in documentation()))]

    def corpus(folder: Path, weight: float = 1) -> dict[str, Any]:
        parts = []
        for number in (0, 1):
            path = folder / f"part{number}" / "t.jsonl"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text("\n".join(documents[number::2]))
            parts.append({"paths": [str(path)], "weight": weight if number else 1})
        return {"mixture": parts, "max_tokens": 48}

    out = tmp_path / "out"
    before = RowIndex.open(extracted(write_run(corpus=corpus(tmp_path / "a")), out).rows)
    shutil.rmtree(tmp_path / "a")
    moved = extracted(write_run(corpus=corpus(tmp_path / "b")), out)
    assert RowIndex.open(moved.rows) == before
    notes = [event["message"] for event in read_log(moved.log) if event["event"] == "corpus"]
    (note,) = notes
    assert re.search(r"part0/t\.jsonl: \d documents with (4\d|5\d)\.\d% of the characters; ", note)
    assert re.search(r"; it ended with .*part\d/t\.jsonl$", note)
    with pytest.raises(UserError, match=r"belongs to another run:\n  corpus\.mixture: "):
        extracted(write_run(corpus=corpus(tmp_path / "b", weight=2)), out)


@pytest.mark.parametrize("command", [api.fit, api.evaluate])
@pytest.mark.fault(
    "norms are deleted",
    "noticed when they are read",
)
def test_lost_norms_are_noticed(
    write_run: WriteRun, tmp_path: Path, command: Callable[[api.Run], object]
) -> None:
    """A chunk that is gone reads as zeros: two of them moved a median from 299 to 0."""
    run_file = write_run()
    with api.open_run(tmp_path / "out", load_run(run_file)) as run:
        api.index(run)
        api.extract(run)
        if command is api.evaluate:
            api.fit(run)
    chunk = Path(run.folder.store_url(Side.TARGET)) / "norms" / "1" / "c" / "0"
    chunk.unlink()
    with (
        api.open_run(tmp_path / "out", load_run(run_file)) as run,
        pytest.raises(CorruptionError, match="norms/1 of unit 0 has crc32"),
    ):
        command(run)


@pytest.mark.fault(
    "weights, tokens or row index have changed",
    "refused, with what differs",
)
def test_a_row_index_of_other_rows_is_refused(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    folder = extracted(run_file, tmp_path / "out")
    other = extracted(run_file, tmp_path / "other", "sites.seed=1")
    shutil.copytree(other.rows, folder.rows, dirs_exist_ok=True)
    digest = RowIndex.open(other.rows).digests.source
    with (
        api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run,
        pytest.raises(UserError, match=f"is the row index {digest}, but the hidden states of"),
    ):
        api.fit(run)


def test_moments_of_units_with_other_bits_are_made_again(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        api.index(run)
        api.extract(run)
        api.fit(run)
        (before,) = run.folder.moments.iterdir()
        ledger = Ledger(run.folder.ledger_url(Side.SOURCE))
        record = ledger.committed()[0]
        ledger.drop(0)
        ledger.commit(record.model_copy(update={"checksums": record.checksums | {"x": "0"}}), dict)
        api.fit(run)
        assert before not in run.folder.moments.iterdir()


def test_other_versions_are_told(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    folder = extracted(run_file, tmp_path / "out")
    ledger = Ledger(folder.ledger_url(Side.SOURCE))
    for unit, record in ledger.committed().items():
        ledger.drop(unit)
        if unit:
            older = record.model_copy(update={"versions": record.versions | {"torch": "2.0"}})
            ledger.commit(older, dict)
    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        extract_side(run, Side.SOURCE)
    notes = [json.loads(line) for line in folder.log.read_text().splitlines()]
    (told,) = [note["message"] for note in notes if note["event"] == "versions"]
    assert "units were computed with torch 2.0, the others will be with torch" in told


def test_stages_that_saw_different_texts_are_an_error() -> None:
    from lrt_dist.commands._unit_records import record_of

    task = ExtractTask(3, Side.SOURCE, Path("rows"), "store", (1,), (4,), 8, "f")
    receipts = [UnitReceipt(4, {}, {}, "cpu", digest, 0.1) for digest in ("aa", "bb")]
    with pytest.raises(CorruptionError, match="saw different texts as unit 3: 4 rows of tokens aa"):
        record_of(Done(task, receipts), "f", {})


HUB = """
import sys
from pathlib import Path
from lrt_dist import api
from lrt_dist.runfile import load_run
from lrt_dist.models.loading import load_blocks
from lrt_dist.sites import Side

with api.open_run(sys.argv[2], load_run(sys.argv[1])) as run:
    model = run.model(Side.SOURCE)
    print(model.revision)
    Path(sys.argv[3]).write_text("b" * 40)  # the hub moves on
    pinned, unpinned = (
        next(load_blocks(m, range(1), head=False)._model.parameters())
        for m in (model, run.folder.model(Side.SOURCE))
    )
    print(bool((pinned == unpinned).all()))
"""


def test_everyone_loads_the_commit_that_the_driver_saw(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    """In a folder laid out as the hub's cache, offline."""
    import transformers

    home = tmp_path / "hub" / "models--org--tiny"
    for commit, seed in (("a" * 40, 0), ("b" * 40, 1)):
        snapshot = home / "snapshots" / commit
        shutil.copytree(tiny_source, snapshot)
        config = transformers.AutoConfig.from_pretrained(tiny_source)
        save_model(snapshot, config, tokenizer=None, seed=seed)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    run_file = write_run(source={"model": "org/tiny", "layers": [1]})
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(run_file), str(tmp_path / "out"), str(home / "refs" / "main")]
    done = subprocess.run(
        [sys.executable, "-c", HUB, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["a" * 40, "False"]
