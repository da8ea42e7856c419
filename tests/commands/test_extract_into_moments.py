"""Hidden states straight into moments: what the way through the stores gives, and no store.

Blocks are of two units, so that there are many. Same shapes, machine and threads (one): equal bits.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import forked, kill_when, write_tiny_run

from lrt_dist import api
from lrt_dist.commands import _blocks_ahead, _rows, _together
from lrt_dist.commands._blocks_ahead import BlocksAhead
from lrt_dist.commands._unit_stream import UnitStream
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UnitError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.plan import tiles
from lrt_dist.plan.pairing import shuffled
from lrt_dist.plan.spreading import spread_tiles
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import ChainSpec, Done, Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.scheduler import RayChains
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.moments import MomentFile
from lrt_dist.store.tables import LayerRow, Table
from lrt_dist.tasks.accumulate import TileSums
from lrt_dist.tasks.blocks import SortedBlock
from lrt_dist.tasks.extract import ExtractWork
from lrt_dist.tasks.moment_stage import BlockTask, BuildMomentStage

NONE = "extract.store=none"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "ROWS_PER_PRODUCT", 43)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path) -> Path:
    """A run that is indexed, in `out`, with its run.yaml beside it."""
    folder = tmp_path_factory.mktemp("indexed")
    run_file = write_tiny_run(folder, tiny_source, tiny_target)
    with api.open_run(folder / "out", load_run(run_file)) as run:
        api.index(run)
    return folder


def extracted(indexed: Path, out: Path, *overrides: str) -> api.RunFolder:
    if not out.exists():
        shutil.copytree(indexed / "out", out)
    with api.open_run(out, load_run(indexed / "run.yaml", overrides)) as run:
        api.extract(run)
        api.fit(run)
    return run.folder


def moments(folder: api.RunFolder) -> dict[str, bytes]:
    """Every byte of every tile, by its name."""
    return {path.name: path.read_bytes() for path in folder.moments.glob("*/*.safetensors")}


def maps(folder: api.RunFolder) -> dict[str, bytes]:
    paths = (folder.out / "maps").rglob("*.safetensors")
    return {str(path.relative_to(folder.out)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("tile_bytes", ["512MiB", pytest.param("1", marks=pytest.mark.slow)])
def test_moments_and_maps_are_those_of_the_stores(
    indexed: Path, tmp_path: Path, tile_bytes: str
) -> None:
    """Of one tile and of four."""
    tiles = f"fit.tile_bytes={tile_bytes}"
    stored = extracted(indexed, tmp_path / "stored", tiles)
    passed = extracted(indexed, tmp_path / "passed", tiles, NONE)
    assert len(moments(stored)) == (4 if tile_bytes == "1" else 1)
    assert moments(passed) == moments(stored)
    assert maps(passed) == maps(stored)
    assert [p.name for p in passed.moments.iterdir()] != []
    assert not (passed.moments / "kept").exists()


@pytest.mark.slow
def test_stores_of_several_leaves_give_the_same_to_rounding(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: 1e-9 of the largest weight. The blocks are the same, mismatched rows too."""
    passed = extracted(indexed, tmp_path / "passed", NONE)
    monkeypatch.setattr(tiles, "LEAF_ROWS", 256)
    monkeypatch.setattr(tiles, "FEWEST_LEAVES", 8)
    stored = extracted(indexed, tmp_path / "stored")
    assert maps(passed) != maps(stored)
    for path in sorted((passed.out / "maps").rglob("*.safetensors")):
        one, other = (AffineMap.load(p) for p in (path, stored.out / path.relative_to(passed.out)))
        atol = 1e-9 * float(one.weight.abs().max())
        torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=atol)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_on_a_cluster_it_is_the_same(
    indexed: Path,
    tmp_path: Path,
    ray_runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    """With the moments of four tiles in one process, or in as many as three nodes would have."""
    tiles_of_one = "fit.tile_bytes=1"
    serial = extracted(indexed, tmp_path / "serial", NONE, tiles_of_one)
    monkeypatch.setattr(
        _together,
        "spread_tiles",
        lambda found, count, nodes, widths: spread_tiles(found, processes, processes, widths),
    )
    spread = extracted(indexed, tmp_path / "ray", NONE, tiles_of_one, "cluster.address=auto")
    assert len(moments(spread)) == 4
    assert moments(spread) == moments(serial)
    assert maps(spread) == maps(serial)


def test_what_is_stored_is_norms_and_the_states_of_a_few_units(
    indexed: Path, tmp_path: Path
) -> None:
    folder = extracted(indexed, tmp_path / "out", NONE)
    index = RowIndex.open(folder.rows)
    for side in Side:
        store = ActivationStore.open(folder.store_url(side))
        assert store.states_of is not None
        assert len(store.states_of) == 3
        for layer in store.layers:
            held = len(list((Path(store.url) / "layers" / str(layer) / "c").glob("*")))
            assert held == 3
            assert (
                len(list((Path(store.url) / "norms" / str(layer) / "c").glob("*"))) == index.units
            )
        records = Ledger(folder.ledger_url(side)).committed()
        assert records.keys() == set(range(index.units))
    with api.open_run(folder.out, load_run(indexed / "run.yaml", [NONE])) as run:
        assert api.verify(run, repair=False) == []
    (path,) = folder.moments.glob("*/*.safetensors")
    parts = {part for n in range(3) for part in MomentFile(path).fold(n).parts}
    assert parts == {f"{index.digest}/{u}/{n}" for u in range(index.units) for n in range(3)}


class _Killed(BaseException):
    """As abrupt as a kill, in this process."""


def test_stopped_anywhere_it_goes_on_and_counts_nothing_twice(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before a block is in, after it is kept and before its units are committed, and
    between two of these; what is computed again is what was not committed, and what the first block
    lends to the last."""
    whole = extracted(indexed, tmp_path / "whole", NONE)
    monkeypatch.setattr(_blocks_ahead, "SOONEST", 0.0)
    monkeypatch.setattr(_blocks_ahead, "KEEPING", 0)
    take_in, commit = TileSums.add, Ledger.commit
    stops = {"add": [3, 11], "commit": [9, 30]}
    counts = {"add": 0, "commit": 0}

    def counted(kind: str) -> None:
        counts[kind] += 1
        if counts[kind] in stops[kind]:
            raise _Killed

    def add(sums: TileSums, block: SortedBlock, rows_per_unit: int) -> None:
        counted("add")
        take_in(sums, block, rows_per_unit)

    def committed(ledger: Ledger, *arguments: Any, **options: Any) -> None:
        counted("commit")
        commit(ledger, *arguments, **options)

    monkeypatch.setattr(TileSums, "add", add)
    monkeypatch.setattr(Ledger, "commit", committed)
    for _ in range(4):
        with pytest.raises(_Killed):
            extracted(indexed, tmp_path / "out", NONE)
        assert not list((tmp_path / "out" / "moments").glob("*/*.safetensors"))
    stopped = extracted(indexed, tmp_path / "out", NONE)
    assert moments(stopped) == moments(whole)
    assert maps(stopped) == maps(whole)


@pytest.mark.parametrize("killed_in", [6, 12])
def test_taken_up_late_the_models_are_a_few_blocks_ahead(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int
) -> None:
    """What is usual is known by then from blocks that were taken in before."""
    monkeypatch.setattr(_blocks_ahead, "SOONEST", 0.0)
    monkeypatch.setattr(_blocks_ahead, "KEEPING", 0)
    monkeypatch.setattr(_rows, "USUAL_ROWS", 64)
    take_in, allow, ended = TileSums.add, UnitStream.allow, BlocksAhead.ended
    added: list[int] = []
    taken: list[int] = []
    allowed: list[tuple[int, int]] = []

    def until_killed(sums: TileSums, block: SortedBlock, rows_per_unit: int) -> None:
        added.append(len(added))
        if len(added) == killed_in:
            raise _Killed
        take_in(sums, block, rows_per_unit)

    def allowing(stream: UnitStream, count: int) -> None:
        allowed.append((len(taken), count))
        allow(stream, count)

    def ending(ahead: BlocksAhead, done: Done[BlockTask]) -> dict[int, Any]:
        taken.append(done.task.number)
        return ended(ahead, done)

    monkeypatch.setattr(TileSums, "add", until_killed)
    with pytest.raises(_Killed):
        extracted(indexed, tmp_path / "out", NONE)
    monkeypatch.setattr(UnitStream, "allow", allowing)
    monkeypatch.setattr(BlocksAhead, "ended", ending)
    extracted(indexed, tmp_path / "out", NONE)
    assert taken[0] == killed_in - 1
    units_of_block, partners = 2, 2
    for blocks, units in allowed:
        assert units <= (blocks + _blocks_ahead.AHEAD) * units_of_block + partners


def _extract_in_small_blocks(out: str, run_file: str) -> None:
    """As `small_blocks` in a process of its own, and moments are kept after each of them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_rows, "ROWS_PER_PRODUCT", 43)
        patched.setattr(_blocks_ahead, "SOONEST", 0.0)
        patched.setattr(_blocks_ahead, "KEEPING", 0)
        with api.open_run(out, load_run(run_file, [NONE])) as run:
            api.extract(run)


@pytest.mark.slow
@pytest.mark.fault(
    "the driver is killed with -9 while nothing is stored",
    "run again: equal",
)
def test_killed_for_good_it_ends_where_it_would_have(indexed: Path, tmp_path: Path) -> None:
    """A real process, really killed, with some blocks in."""
    out = tmp_path / "out"
    shutil.copytree(indexed / "out", out)
    process = forked(_extract_in_small_blocks, str(out), str(indexed / "run.yaml"))
    kill_when(process, lambda: len(list(out.glob("activations/*.ledger/unit-*.json"))) >= 20)
    assert list(out.glob("moments/kept/*.kept"))
    whole = extracted(indexed, tmp_path / "whole", NONE)
    stopped = extracted(indexed, out, NONE)
    assert moments(stopped) == moments(whole)


@pytest.mark.slow
@pytest.mark.fault(
    "a process that holds moments dies while nothing is stored",
    "extraction goes on from the moments that were kept last; nothing is in twice",
)
@pytest.mark.parametrize("kept_every", [0.0, 3600.0])
def test_a_process_that_dies_with_moments_costs_what_was_not_kept(
    indexed: Path,
    tmp_path: Path,
    ray_runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    kept_every: float,
) -> None:
    """At most a block, and all of them; the command goes on by itself."""
    whole = extracted(indexed, tmp_path / "whole", NONE)
    monkeypatch.setattr(_blocks_ahead, "SOONEST", kept_every)
    monkeypatch.setattr(_blocks_ahead, "KEEPING", 0)
    holding: list[RayChains] = []
    plain, ended = RayRuntime.chains, BlocksAhead.ended
    taken: list[int] = []

    @contextmanager
    def chains(runtime: RayRuntime, spec: ChainSpec, *more: Any) -> Iterator[RayChains]:
        with plain(runtime, spec, *more) as live:
            if isinstance(spec.stages[0].build, BuildMomentStage):
                holding.append(live)
            yield live

    def kill_after_five(ahead: BlocksAhead, done: Done[BlockTask]) -> dict[int, Any]:
        taken.append(done.task.number)
        if taken == list(range(6)):
            ((process,),) = holding[0].process_ids()
            os.kill(process, signal.SIGKILL)
        return ended(ahead, done)

    monkeypatch.setattr(RayRuntime, "chains", chains)
    monkeypatch.setattr(BlocksAhead, "ended", kill_after_five)
    stopped = extracted(indexed, tmp_path / "out", NONE, "cluster.address=auto")
    assert moments(stopped) == moments(whole)
    assert len(holding) == 2


def test_a_unit_that_cannot_be_computed_is_left_out(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one model: then the states of the other are in no moments either."""
    finish = ExtractWork.finish

    def bad(work: ExtractWork) -> Any:
        if (work._task.unit, work._task.side) == (7, Side.TARGET):
            raise UnitError("unit 7 is bad")
        return finish(work)

    monkeypatch.setattr(ExtractWork, "finish", bad)
    folder = extracted(indexed, tmp_path / "out", NONE)
    index = RowIndex.open(folder.rows)
    (path,) = folder.moments.glob("*/*.safetensors")
    fold = MomentFile(path).fold(0)
    assert fold.parts == {f"{index.digest}/{u}/0" for u in range(index.units) if u != 7}
    with api.open_run(folder.out, load_run(indexed / "run.yaml", [NONE])) as run:
        reasons = list(api.quarantined_units(run).values())
        assert reasons == [
            "the target model cannot compute it: UnitError: unit 7 is bad",
            "UnitError: unit 7 is bad",
        ]
        api.extract(run)


def test_if_the_first_units_cannot_be_computed_others_say_what_is_usual(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One unit would say it; it fails in the source model, its neighbour in the target model."""
    monkeypatch.setattr(_rows, "USUAL_ROWS", 64)
    finish = ExtractWork.finish
    order = shuffled(range(31), RowIndex.open(indexed / "out" / "rows").digest)
    bad = {(order[0], Side.SOURCE), (order[1], Side.TARGET)}

    def failing(work: ExtractWork) -> Any:
        if (work._task.unit, work._task.side) in bad:
            raise UnitError("bad")
        return finish(work)

    monkeypatch.setattr(ExtractWork, "finish", failing)
    folder = extracted(indexed, tmp_path / "out", NONE)
    (path,) = folder.moments.glob("*/*.safetensors")
    assert len(MomentFile(path).fold(0).parts) == 29
    facts = Table.read(next(folder.moments.glob("*/layers.parquet")), LayerRow)
    norms = ActivationStore.open(folder.store_url(Side.SOURCE)).norms(1, order[2])
    assert next(row for row in facts if row.layer == 1).usual_norm == float(np.median(norms))


@pytest.mark.slow
def test_on_another_machine_it_goes_on_with_other_bits(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other batches have them. Units that are committed are computed again for their states
    alone, and what was written of them stays."""
    monkeypatch.setattr(_blocks_ahead, "SOONEST", 0.0)
    monkeypatch.setattr(_blocks_ahead, "KEEPING", 0)
    take_in = TileSums.add
    added: list[int] = []

    def until_killed(sums: TileSums, block: SortedBlock, rows_per_unit: int) -> None:
        added.append(len(added))
        if len(added) == 6:
            raise _Killed
        take_in(sums, block, rows_per_unit)

    monkeypatch.setattr(TileSums, "add", until_killed)
    with pytest.raises(_Killed):
        extracted(indexed, tmp_path / "out", NONE)
    folder = extracted(indexed, tmp_path / "out", NONE, "extract.batch_tokens=48")
    with api.open_run(folder.out, load_run(indexed / "run.yaml", [NONE])) as run:
        assert api.verify(run, repair=False) == []
    budgets = {r.token_budget for r in Ledger(folder.ledger_url(Side.TARGET)).committed().values()}
    assert budgets == {48, 256}


def test_moments_that_could_not_be_written_are_taken_up_from_where_they_were_kept(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extracted(indexed, tmp_path / "whole", NONE)
    write = MomentFile.write
    failed: list[Path] = []

    def fail_once(path: Path, folds: Any) -> MomentFile:
        if not failed:
            failed.append(path)
            raise OSError("input/output error")
        return write(path, folds)

    monkeypatch.setattr(MomentFile, "write", fail_once)
    assert moments(extracted(indexed, tmp_path / "out", NONE)) == moments(whole)
    assert failed


def test_another_fit_wants_another_extraction(indexed: Path, tmp_path: Path) -> None:
    folder = extracted(indexed, tmp_path / "out", NONE)
    changed = load_run(indexed / "run.yaml", [NONE, "fit.folds=4"])
    with api.open_run(folder.out, changed) as run:
        with pytest.raises(UserError, match=r"folds: 3 .* 4"):
            api.extract(run)
        with pytest.raises(UserError, match="moments that this fit wants were not extracted"):
            api.fit(run)


def test_one_model_on_both_sides_is_run_once(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_source, concepts=[])
    finish = ExtractWork.finish
    computed: list[int] = []

    def counted(work: ExtractWork) -> Any:
        computed.append(work._task.unit)
        return finish(work)

    monkeypatch.setattr(ExtractWork, "finish", counted)
    found = []
    for store in ("zarr", "none"):
        with api.open_run(tmp_path / store, load_run(run_file, [f"extract.store={store}"])) as run:
            api.index(run)
            api.extract(run)
            api.fit(run)
        assert sorted(computed) == list(range(RowIndex.open(run.folder.rows).units))
        computed.clear()
        found.append(moments(run.folder))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_whole_run_ends_with_the_same_scores(indexed: Path, tmp_path: Path) -> None:
    """Evaluation wants norms, and some states of the target model."""
    scores = []
    for store in ("zarr", "none"):
        out = tmp_path / store
        shutil.copytree(indexed / "out", out)
        run_file = load_run(indexed / "run.yaml", [f"extract.store={store}"])
        results = api.run(run_file, out)
        assert results.report.exists()
        rows = results.scores.arrow.to_pylist()
        scores.append([row for row in rows if row["arm"] not in ("covariance", "mean")])
    assert {row["arm"] for row in scores[0]} >= {"none", "native", "transferred", "mismatched"}
    assert scores[0] == scores[1]
