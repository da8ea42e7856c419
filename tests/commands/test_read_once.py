"""The fit of many tiles: hidden states are read once, and moments are those of a tile alone.

A grid of nine pairs, a pair a tile, in blocks of two units. Same shapes, machine and threads (one):
equal bits.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import forked, kill_when, write_tiny_run

from lrt_dist import api
from lrt_dist.commands import _blocks_ahead, _moments, _read_once, _rows
from lrt_dist.commands._blocks_ahead import BlocksAhead
from lrt_dist.commands._moment_processes import Cores, Shares
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError, IncompleteError
from lrt_dist.plan.spreading import spread_tiles
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import ChainSpec, Done, Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.runtime.scheduler import RayChains
from lrt_dist.sites import Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.accumulate import TileSums
from lrt_dist.tasks.blocks import SortedBlock
from lrt_dist.tasks.moment_stage import BlockTask, BuildMomentStage, MomentStage
from lrt_dist.tasks.read import ReadStage
from lrt_dist.workspace.run import Run

A_PAIR_A_TILE = "fit.tile_bytes=1"
CLUSTER = "cluster.address=auto"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _in_small_blocks(monkeypatch)


def _in_small_blocks(patched: pytest.MonkeyPatch) -> None:
    """Of two units; the norms of one say what is usual."""
    patched.setattr(_rows, "ROWS_PER_PRODUCT", 43)
    patched.setattr(_rows, "USUAL_ROWS", 64)


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> Path:
    """A run that is extracted and not fitted, with its run.yaml beside it."""
    folder = tmp_path_factory.mktemp("extracted")
    run_file = write_tiny_run(
        folder,
        tiny_source,
        tiny_target,
        source={"model": str(tiny_source), "layers": [0, 1, 2]},
        target={"model": str(tiny_target), "layers": [0, 1, 2]},
        concepts=[],
    )
    with api.open_run(folder / "out", load_run(run_file)) as run:
        api.index(run)
        api.extract(run)
    return folder


def fitted(extracted: Path, out: Path, *overrides: str) -> api.RunFolder:
    if not out.exists():
        shutil.copytree(extracted / "out", out)
    settings = (A_PAIR_A_TILE, *overrides)
    with api.open_run(out, load_run(extracted / "run.yaml", settings)) as run:
        api.fit(run)
    return run.folder


def made(folder: api.RunFolder) -> dict[str, bytes]:
    """Every byte of moments and maps, by name."""
    files = [*folder.moments.glob("*/*"), *(folder.out / "maps").rglob("*.safetensors")]
    return {str(p.relative_to(folder.out)): p.read_bytes() for p in files if p.is_file()}


@pytest.fixture(scope="module")
def whole(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a task makes of each tile, which reads what it wants by itself."""
    with pytest.MonkeyPatch.context() as patched:
        _in_small_blocks(patched)
        patched.setattr(_moments, "MANY_TILES", 100)  # it is cut into leaves as many tiles are
        folder = fitted(extracted, tmp_path_factory.mktemp("whole") / "out")
    assert len(list(folder.moments.glob("*/*.safetensors"))) == 9
    return made(folder)


def test_every_hidden_state_is_read_once(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the fit of nine tiles, each of which wants a layer of both models."""
    plain = ActivationStore.stored_states
    read: Counter[tuple[str, int, int]] = Counter()

    def counted(store: ActivationStore, layer: int, unit: int, checksum: str | None) -> Any:
        read[store.url, layer, unit] += 1
        return plain(store, layer, unit, checksum)

    monkeypatch.setattr(ActivationStore, "stored_states", counted)
    assert made(fitted(extracted, tmp_path / "out")) == whole
    assert set(read.values()) == {1}
    assert len(read) == 6 * 31


@pytest.mark.parametrize("processes", [1, 2, pytest.param(5, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_same_bits(
    extracted: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    ray_runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    """Each holds as many tiles; a share of a core is enough for a thread."""
    monkeypatch.setattr(
        _read_once,
        "spread_tiles",
        lambda found, count, nodes, widths: spread_tiles(found, processes, 1, widths),
    )
    monkeypatch.setattr(_read_once, "Cores", lambda states, moments: Cores(states, 0.3))
    assert made(fitted(extracted, tmp_path / "out", CLUSTER)) == whole


def test_without_room_for_all_tiles_some_come_after(
    extracted: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room for four: three waves of three, which is said."""
    held: list[int] = []
    plain = BuildMomentStage.__call__

    def room_for_four(run: Run, bringing: Any, shares: Shares) -> bool:
        return sum(map(len, shares.processes)) <= 4

    def counted(build: BuildMomentStage) -> Any:
        held.append(len(build.tiles))
        return plain(build)

    monkeypatch.setattr(_read_once, "fits", room_for_four)
    monkeypatch.setattr(BuildMomentStage, "__call__", counted)
    folder = fitted(extracted, tmp_path / "out")
    assert made(folder) == whole
    assert held == [3, 3, 3]
    assert "3 of 9 tiles have room at once; the others come after" in folder.log.read_text()


def test_without_room_beside_readers_each_tile_is_read_for_itself(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read_once, "fits", lambda *_: False)
    folder = fitted(extracted, tmp_path / "out")
    assert made(folder) == whole
    assert "so each tile is read for itself" in folder.log.read_text()


def test_nobody_waits_for_cores_that_others_keep(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], ray_runtime: Runtime
) -> None:
    """Half a core is gone: tasks of a core each find room, one at a time."""
    import ray

    class Other:
        def is_there(self) -> bool:
            return True

    remote: Any = ray.remote(num_cpus=0.5)(Other)
    other = remote.remote()
    try:
        assert ray.get(other.is_there.remote())
        settings = (CLUSTER, "cluster.placement_timeout=2")
        folder = fitted(extracted, tmp_path / "out", *settings)
    finally:
        ray.kill(other)
    assert made(folder) == whole
    assert "so each tile is read for itself" in folder.log.read_text()


@pytest.mark.slow
def test_leaves_of_fewer_tiles_are_not_left_over(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """Four pairs, killed among their leaves; then nine."""
    out = tmp_path / "out"
    shutil.copytree(extracted / "out", out)
    for folder in {Path(name).parent for name in whole if name.startswith("moments")}:
        for name in {Path(n).stem for n in whole if n.startswith(str(folder))}:
            (out / folder / name).mkdir(parents=True)
            (out / folder / name / "1-0-of-4.safetensors").write_bytes(b"a node")
    assert made(fitted(extracted, out)) == whole
    assert not [path for path in out.glob("moments/*/*") if path.is_dir()]


class _Killed(BaseException):
    """As abrupt as a kill, in this process."""


def _keep_always(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(_blocks_ahead, "SOONEST", 0.0)
    patched.setattr(_blocks_ahead, "KEEPING", 0)


def test_stopped_anywhere_it_goes_on_from_what_was_kept(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a block, and while moments are written. No block is taken in twice
    by any tile but the one that was not kept."""
    _keep_always(monkeypatch)
    add, write = TileSums.add, TileSums.write
    stops = {"add": [21, 100], "write": [4]}
    counts = {"add": 0, "write": 0}

    def counted(kind: str) -> None:
        counts[kind] += 1
        if counts[kind] in stops[kind]:
            raise _Killed

    def adding(sums: TileSums, block: SortedBlock, rows_per_unit: int) -> None:
        counted("add")
        add(sums, block, rows_per_unit)

    def writing(sums: TileSums, path: Path) -> None:
        counted("write")
        write(sums, path)

    monkeypatch.setattr(TileSums, "add", adding)
    monkeypatch.setattr(TileSums, "write", writing)
    for _ in range(3):
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
    folder = fitted(extracted, tmp_path / "out")
    assert made(folder) == whole
    assert not list(folder.moments.glob("*/*.kept"))
    of_third_block, of_eleventh = 21 - 2 * 9, 100 - 21 - 8 * 9  # which were not kept
    of_last = 9 - 3  # tiles that were not written then
    assert counts["add"] == 9 * 16 + of_third_block + of_eleventh + of_last
    assert counts["write"] == 9 + 1


def test_lost_when_all_is_written_nothing_is_missing(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last receipt is lost, and no more."""
    finish = MomentStage.finish
    lost: list[str] = []

    def losing(stage: MomentStage, key: str) -> Any:
        if key == "moments" and not lost:
            lost.append(key)
            raise RuntimeError("the process is gone")
        return finish(stage, key)

    monkeypatch.setattr(MomentStage, "finish", losing)
    assert made(fitted(extracted, tmp_path / "out")) == whole
    assert lost


def test_with_moments_lost_again_and_again_each_tile_is_read_for_itself(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept is taken up by the tasks."""
    _keep_always(monkeypatch)
    add = TileSums.add
    added: list[int] = []

    def until_the_fifth_block(sums: TileSums, block: SortedBlock, rows_per_unit: int) -> None:
        added.append(len(added))
        if 4 * 9 <= len(added) < 4 * 9 + 3:
            raise RuntimeError("too little memory")
        add(sums, block, rows_per_unit)

    monkeypatch.setattr(TileSums, "add", until_the_fifth_block)
    folder = fitted(extracted, tmp_path / "out")
    assert made(folder) == whole
    assert "so each tile is read for itself" in folder.log.read_text()
    assert len(added) < 9 * 16 + 3 * 9


def _fit_and_keep_always(out: str, run_file: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        _in_small_blocks(patched)
        _keep_always(patched)
        with api.open_run(out, load_run(run_file, [A_PAIR_A_TILE])) as run:
            api.fit(run)


@pytest.mark.slow
@pytest.mark.fault(
    "the driver is killed with -9 while stored states go into moments",
    "run again: equal",
)
def test_killed_for_good_it_ends_where_it_would_have(
    extracted: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A real process, really killed."""
    out = tmp_path / "out"
    shutil.copytree(extracted / "out", out)
    process = forked(_fit_and_keep_always, str(out), str(extracted / "run.yaml"))
    kill_when(process, lambda: bool(list(out.glob("moments/*/*.kept"))))
    assert not list(out.glob("moments/*/*.safetensors"))
    assert made(fitted(extracted, out)) == whole


@pytest.mark.slow
@pytest.mark.fault(
    "a process is killed that reads hidden states, or holds moments",
    "the fit goes on from the moments that were kept last: equal",
)
@pytest.mark.parametrize("victim", ["moments", "states"])
def test_a_process_that_dies_costs_what_was_not_kept(
    extracted: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    ray_runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
) -> None:
    """The command goes on by itself."""
    _keep_always(monkeypatch)
    live: list[RayChains] = []
    plain, ended = RayRuntime.chains, BlocksAhead.ended
    taken: list[int] = []

    @contextmanager
    def chains(runtime: RayRuntime, spec: ChainSpec, *more: Any) -> Iterator[RayChains]:
        with plain(runtime, spec, *more) as started:
            holds = isinstance(spec.stages[0].build, BuildMomentStage)
            if holds == (victim == "moments"):
                live.append(started)
            yield started

    def kill_after_five(ahead: BlocksAhead, done: Done[BlockTask]) -> dict[int, Any]:
        taken.append(done.task.number)
        if taken == list(range(6)):
            os.kill(live[0].process_ids()[0][0], signal.SIGKILL)
        return ended(ahead, done)

    monkeypatch.setattr(RayRuntime, "chains", chains)
    monkeypatch.setattr(BlocksAhead, "ended", kill_after_five)
    assert made(fitted(extracted, tmp_path / "out", CLUSTER)) == whole
    assert len(taken) < 16 + 6


def test_a_chunk_that_is_not_what_was_committed_is_named(extracted: Path, tmp_path: Path) -> None:
    """With the way out."""
    out = tmp_path / "out"
    shutil.copytree(extracted / "out", out)
    with api.open_run(out, load_run(extracted / "run.yaml", [A_PAIR_A_TILE])) as run:
        store = Path(run.folder.store_url(Side.TARGET))
    chunk = store / "layers" / "1" / "c" / "3" / "0"
    chunk.write_bytes(bytes(np.frombuffer(chunk.read_bytes(), dtype=np.uint8) ^ 1))
    with pytest.raises(CorruptionError, match=r"layers/1 of unit 3 .* verify --repair"):
        fitted(extracted, out)


def test_a_chunk_that_cannot_be_read_is_for_later(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried three times; a fit that ends then can be taken up."""
    plain = ActivationStore.stored_states
    tried: list[int] = []

    def failing(store: ActivationStore, layer: int, unit: int, checksum: str | None) -> Any:
        if (layer, unit) == (1, 3) and "source" not in store.url:
            tried.append(unit)
            raise OSError("no route to host")
        return plain(store, layer, unit, checksum)

    monkeypatch.setattr(ActivationStore, "stored_states", failing)
    with pytest.raises(IncompleteError, match=r"unit 3 was .* cannot be had now .*no route"):
        fitted(extracted, tmp_path / "out")
    assert len(tried) >= 3


def test_one_model_on_both_sides_is_read_once(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {
        side: {"model": str(tiny_source), "layers": layers}
        for side, layers in (("source", [0, 1, 2]), ("target", [1, 2, 3]))
    }
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_source, concepts=[], **sides)
    plain = ReadStage.step
    read: list[str] = []

    def counted(stage: ReadStage, key: str, batch: int, carry: Any) -> None:
        read.append(key)
        plain(stage, key, batch, carry)

    monkeypatch.setattr(ReadStage, "step", counted)
    found = []
    for store in ("zarr", "none"):
        settings = [A_PAIR_A_TILE, f"extract.store={store}"]
        with api.open_run(tmp_path / store, load_run(run_file, settings)) as run:
            api.index(run)
            api.extract(run)
            api.fit(run)
        found.append({p.name: p.read_bytes() for p in run.folder.moments.glob("*/*.safetensors")})
    assert sorted(read) == sorted(f"unit {n}" for n in range(RowIndex.open(run.folder.rows).units))
    assert len(found[0]) == 9
    assert found[0] == found[1]
