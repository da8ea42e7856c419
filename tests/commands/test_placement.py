"""What does not fit is refused before it is started, with the numbers and the way out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrt_dist import api
from lrt_dist.commands.extract import small_units_message
from lrt_dist.commands.plan import plan
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run
from lrt_dist.sites import Side, Sided
from lrt_dist.store.ledger import Ledger
from lrt_dist.workspace import placement
from lrt_dist.workspace.placement import chain, compute_dtype, stage_plans

WriteRun = Callable[..., Path]


@pytest.fixture
def run(write_run: WriteRun, tmp_path: Path) -> Iterator[api.Run]:
    with api.open_run(tmp_path / "out", load_run(write_run(), ["concepts=[]"])) as opened:
        yield opened


def test_a_model_larger_than_the_machine_is_refused(run: api.Run) -> None:
    assert len(stage_plans(run, Side.SOURCE, head=False, batch_tokens=64)) == 1
    run.runtime.node_memory = (float(1 << 16),)
    message = r"in 1 stages needs .* on the largest node, which has 64\.0 KiB"
    with pytest.raises(UserError, match=message):
        stage_plans(run, Side.SOURCE, head=False, batch_tokens=64)


def test_stages_that_were_asked_for_are_checked_too(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_stage_memory", lambda run: 1 << 16)
    run.runtime.node_gpus = (1.0,)
    run.folder.config = load_run(
        run.folder.out.parent / "run.yaml", ["concepts=[]", "cluster.stages=1"]
    )
    with pytest.raises(UserError, match=r"in 1 stages needs .* on a GPU, which has 64\.0 KiB"):
        stage_plans(run, Side.SOURCE, head=False, batch_tokens=64)


def test_a_dtype_that_nothing_computes_in_is_named(run: api.Run) -> None:
    run.runtime.node_gpus = (1.0,)
    quantised = replace(run.facts.source, dtype="float8_e4m3fn")
    run.__dict__["facts"] = Sided(quantised, run.facts.target)
    with pytest.raises(UserError, match=r"is stored as float8_e4m3fn.* set source\.dtype to"):
        compute_dtype(run, Side.SOURCE)


def test_stages_of_one_process_have_a_gpu_each(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were all put on the first one."""
    monkeypatch.setattr(placement, "_stage_memory", lambda run: 1 << 40)
    run.folder.config = load_run(
        run.folder.out.parent / "run.yaml", ["concepts=[]", "cluster.stages=2"]
    )
    run.runtime.node_gpus = (2.0,)
    built = [stage.build for stage in chain(run, Side.SOURCE, head=False, batch_tokens=64).stages]
    assert [getattr(build, "device", None) for build in built] == ["cuda:0", "cuda:1"]
    run.runtime.node_gpus = (1.0,)
    with pytest.raises(UserError, match="has 1 GPUs, and stage 1 needs one more"):
        chain(run, Side.SOURCE, head=False, batch_tokens=64)


def test_compressed_parquet_is_estimated_by_its_text(write_run: WriteRun, tmp_path: Path) -> None:
    lines = (tmp_path / "corpus.jsonl").read_text() if write_run() else ""
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    many = [f"{n} {text} {n}" for n in range(10) for text in texts]
    table = pa.table({"text": many})
    path = tmp_path / "corpus.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < sum(map(len, many)) / 5
    run_file = write_run(corpus={"paths": [str(path)], "max_tokens": 48})
    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        estimated = plan(run)
        assert estimated.rows == pytest.approx(api.index(run).rows, rel=0.1)
        assert estimated.index_hours > 0
        assert plan(run).index_hours == 0, "the corpus is tokenised"


def test_batches_may_be_smaller_on_resume(write_run: WriteRun, tmp_path: Path) -> None:
    """For a run whose batches turn out to be too large."""
    run_file, out = write_run(), tmp_path / "out"
    with api.open_run(out, load_run(run_file, ["concepts=[]"])) as run:
        api.index(run)
        api.extract(run)
        ledger = Ledger(run.folder.ledger_url(Side.SOURCE))
        ledger.drop(0)
    smaller = ["concepts=[]", "extract.batch_tokens=64"]
    with api.open_run(out, load_run(run_file, smaller)) as run:
        api.extract(run)
    budgets = {unit: record.token_budget for unit, record in ledger.committed().items()}
    assert budgets.pop(0) == 64
    assert set(budgets.values()) == {256}
    with (
        pytest.raises(UserError, match=r"extract\.rows_per_unit: 64 -> 32"),
        api.open_run(out, load_run(run_file, ["concepts=[]", "extract.rows_per_unit=32"])),
    ):
        pass


def test_units_that_fill_no_batch_are_told() -> None:
    assert small_units_message(8192, 4096, 8192) is None
    assert small_units_message(4097, 4096, 8192) is None
    message = small_units_message(2000, 4096, 8192)
    assert message is not None
    assert "extract.rows_per_unit: 16384" in message
