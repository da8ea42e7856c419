"""The fit of a grid: the same however it is cut, spread, killed and taken up again.

Spread over workers, or killed and taken up again: same shapes, machine and threads (one), so equal
bits. Cut into other tiles, a product has another shape: equal to rounding.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import documentation
from tiny_run import write_tiny_run

from lrt_dist import api
from lrt_dist.commands import _moments
from lrt_dist.config import load_run
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.linear.moments import merge_all
from lrt_dist.maps.affine import AffineMap
from lrt_dist.plan import tiles
from lrt_dist.runtime.contract import Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.sites import Direction, Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.moments import MomentFile
from lrt_dist.tasks.accumulate import AccumulateTask, accumulate, merge, variable
from lrt_dist.tasks.solve import SolveTask, solve

PLAIN = ("concepts=[]", "fit.exclude_norm_above=null", "extract.store_dtype=float32")
"""Every row counts, as it was computed."""


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> Path:
    """A run that is extracted and not fitted, with its run.yaml beside it."""
    folder = tmp_path_factory.mktemp("extracted")
    run_file = write_tiny_run(folder, tiny_source, tiny_target)
    with api.open_run(folder / "out", load_run(run_file, PLAIN)) as run:
        api.index(run)
        api.extract(run)
    return folder


@pytest.fixture(autouse=True)
def many_leaves(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Four units a leaf: with the corpus of these tests, a tree of eight leaves. And one thread,
    as a worker has: what a BLAS makes of several is its own affair."""
    monkeypatch.setattr(tiles, "LEAF_ROWS", 256)


def fitted(extracted: Path, out: Path, *overrides: str) -> api.RunFolder:
    if not out.exists():
        shutil.copytree(extracted / "out", out)
    with api.open_run(out, load_run(extracted / "run.yaml", (*PLAIN, *overrides))) as run:
        api.fit(run)
    return run.folder


def made(folder: api.RunFolder) -> dict[str, bytes]:
    """Every byte of moments and maps, by name."""
    files = [*folder.moments.glob("*/*"), *(folder.out / "maps").rglob("*.safetensors")]
    return {str(p.relative_to(folder.out)): p.read_bytes() for p in files if p.is_file()}


def states(folder: api.RunFolder, side: Side, layer: int) -> np.ndarray:
    store = ActivationStore.open(folder.store_url(side))
    return torch.cat([store.states(layer, unit) for unit in range(store.units)]).double().numpy()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_same_bits(
    extracted: Path,
    tmp_path: Path,
    ray_runtime: Runtime,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many tasks at a time. Same shapes, machine and threads: equal bits."""
    serial = fitted(extracted, tmp_path / "serial")
    monkeypatch.setattr(RayRuntime, "_window", workers)
    parallel = fitted(extracted, tmp_path / "ray", "cluster.address=auto")
    assert len(list(serial.moments.glob("*/*.safetensors"))) == 1
    assert made(serial) == made(parallel)


def test_the_cut_into_tiles_changes_rounding_alone(extracted: Path, tmp_path: Path) -> None:
    """To rounding: 1e-9 of the largest weight. A tile of four pairs is one wide product, a tile of
    one pair a narrow one."""
    one = fitted(extracted, tmp_path / "one")
    many = fitted(extracted, tmp_path / "many", "fit.tile_bytes=1")
    assert len(list(many.moments.glob("*/*.safetensors"))) == 4
    paths = sorted((one.out / "maps").rglob("*.safetensors"))
    assert len(paths) == 8
    for path in paths:
        first, second = (AffineMap.load(p) for p in (path, many.out / path.relative_to(one.out)))
        for a, b in ((first.weight, second.weight), (first.bias, second.bias)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(a.abs().max()))
        assert first.ridge == pytest.approx(second.ridge, rel=1e-9)


def test_every_unit_is_counted_once_and_moments_are_those_of_all_rows(
    extracted: Path, tmp_path: Path
) -> None:
    folder = fitted(extracted, tmp_path / "out")
    (path,) = folder.moments.glob("*/*.safetensors")
    file = MomentFile(path)
    index = RowIndex.open(folder.rows)
    folds = [file.fold(number) for number in range(file.folds)]
    assert sum(fold.n for fold in folds) == index.rows
    for number, fold in enumerate(folds):
        assert fold.parts == {f"{index.digest}/{u}/{number}" for u in range(index.units)}
    whole = merge_all(folds)
    x, y = states(folder, Side.SOURCE, 2), states(folder, Side.TARGET, 1)
    x, y = x - x.mean(0), y - y.mean(0)
    pair = (variable(Side.SOURCE, 2), variable(Side.TARGET, 1))
    np.testing.assert_allclose(whole.second[pair], x.T @ y, rtol=1e-9, atol=1e-9)


class _Killed(BaseException):
    """As abrupt as a kill, in this process."""


def test_stopped_anywhere_it_goes_on_and_recounts_nothing(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same shapes, machine and threads: equal bits."""
    whole = made(fitted(extracted, tmp_path / "whole"))
    counted: list[tuple[int, ...]] = []

    def accumulate_until_killed(task: AccumulateTask) -> Path:
        if not task.path.exists():
            if len(counted) in stops:
                stops.remove(len(counted))
                raise _Killed
            counted.append(task.units)
        return accumulate(task)

    stops = [1, 3, 6]
    monkeypatch.setattr(_moments, "accumulate", accumulate_until_killed)
    for _ in range(3):
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
    assert made(fitted(extracted, tmp_path / "out")) == whole
    units = RowIndex.open(tmp_path / "out" / "rows.parquet").units
    assert sorted(unit for leaf in counted for unit in leaf) == list(range(units))


def test_a_merge_that_was_killed_before_it_tidied_up_counts_nothing_twice(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same shapes, machine and threads: equal bits."""
    whole = made(fitted(extracted, tmp_path / "whole"))

    def merge_and_die(left: Path, right: Path) -> Path:
        copies = {path: path.read_bytes() for path in (left, right)}
        merge(left, right)
        for path, content in copies.items():
            path.write_bytes(content)
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(_moments, "merge", merge_and_die)
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
    assert made(fitted(extracted, tmp_path / "out")) == whole


def test_killed_for_good_it_ends_where_it_would_have(extracted: Path, tmp_path: Path) -> None:
    """A real process, really killed while it accumulates. Same shapes, machine and threads: equal
    bits."""
    out = tmp_path / "out"
    shutil.copytree(extracted / "out", out)
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1);"
        "from lrt_dist import api; from lrt_dist.config import load_run;"
        "from lrt_dist.plan import tiles; tiles.LEAF_ROWS = 256; out = Path(sys.argv[1]);"
        "run = api.open_run(out, load_run(out / 'run.yaml', ['fit.tile_bytes=1']));"
        "api.fit(run.__enter__())"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], start_new_session=True)
    deadline = time.monotonic() + 100
    while not list(out.glob("moments/*/*/1-*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "fits.parquet").exists()
    whole = made(fitted(extracted, tmp_path / "whole", "fit.tile_bytes=1"))
    assert made(fitted(extracted, out, "fit.tile_bytes=1")) == whole


def test_stopped_between_two_layers_it_solves_only_the_others(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not `from lrt_dist.commands import fit`, which reads as the command.
    command = import_module("lrt_dist.commands.fit")
    solved: list[tuple[int, ...]] = []

    def one_layer(task: SolveTask) -> Path:
        if not task.table.exists():
            if len(solved) == 1 and not stopped:
                stopped.append(True)
                raise _Killed
            solved.append(task.layers)
        return solve(task)

    stopped: list[bool] = []
    monkeypatch.setattr(command, "solve", one_layer)
    with pytest.raises(_Killed):
        fitted(extracted, tmp_path / "out")
    assert not (tmp_path / "out" / "fits.parquet").exists()
    fitted(extracted, tmp_path / "out")
    assert solved == [(1,), (2,)]


def test_reverse_maps_are_least_squares_the_other_way(extracted: Path, tmp_path: Path) -> None:
    """To rounding: 1e-9 of the largest weight."""
    folder = fitted(extracted, tmp_path / "out", "fit.reverse=true", "fit.method=linear")
    x, y = states(folder, Side.SOURCE, 2), states(folder, Side.TARGET, 1)
    expected = np.linalg.lstsq(y, x, rcond=None)[0]
    reverse = AffineMap.load(folder.map_path(1, 2, direction=Direction.REVERSE))
    np.testing.assert_allclose(reverse.weight, expected, rtol=0, atol=1e-9 * abs(expected).max())
    assert (reverse.source, reverse.target) == (
        (folder.model(Side.TARGET).model, 1),
        (folder.model(Side.SOURCE).model, 2),
    )
    table = pq.read_table(folder.fits[Direction.REVERSE])
    assert table.num_rows == 4
    assert set(table["d_source"].to_pylist()) == {24}
    assert max(table["r2_mismatched"].to_pylist()) < 0.01


def test_joint_maps_are_least_squares_on_layers_side_by_side(
    extracted: Path, tmp_path: Path
) -> None:
    """To rounding: 1e-9 of the largest weight."""
    folder = fitted(extracted, tmp_path / "out", "fit.joint=[[1, 2]]", "fit.method=linear")
    x = np.hstack([states(folder, Side.SOURCE, layer) for layer in (1, 2)])
    expected = np.linalg.lstsq(x, states(folder, Side.TARGET, 1), rcond=None)[0]
    joint = AffineMap.load(folder.map_path((1, 2), 1, direction=Direction.JOINT))
    np.testing.assert_allclose(joint.weight, expected, rtol=0, atol=1e-9 * abs(expected).max())
    assert joint.source == (folder.model(Side.SOURCE).model, (1, 2))
    assert pq.read_table(folder.fits[Direction.JOINT])["source_layers"].to_pylist() == [
        [1, 2],
        [1, 2],
    ]
    assert pq.read_table(folder.fits[Direction.FORWARD]).num_rows == 4
    with pytest.raises(UserError, match=r"layer 3 of \[1, 3\] is not among"):
        fitted(extracted, tmp_path / "out", "fit.joint=[[1, 3]]")


def test_moments_serve_another_method_and_can_be_thrown_away(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fitted(extracted, out)

    def refuse(*args: object) -> None:
        raise AssertionError("counted again")

    with monkeypatch.context() as patched:
        patched.setattr("lrt_dist.commands._moments.accumulate", refuse)
        folder = fitted(extracted, out, "fit.method=orthogonal")
        assert set(pq.read_table(folder.fits[Direction.FORWARD])["method"].to_pylist()) == {
            "orthogonal"
        }
        folder = fitted(extracted, out, "fit.method=low_rank", "fit.keep_moments=false")
    assert not folder.moments.exists()
    assert (
        fitted(extracted, out, "fit.method=low_rank").fits[Direction.FORWARD].exists()
    )  # nothing to do


def test_a_fold_without_documents_says_so(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fold \d+ of 40 got no document \(12 documents"):
        fitted(extracted, tmp_path / "out", "fit.folds=40")


def test_a_task_that_no_node_has_room_for_is_refused(
    extracted: Path, tmp_path: Path, ray_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrt_dist.plan.cost.PROCESS_BYTES", 2**60)
    with pytest.raises(UserError, match=r"largest node offers 2 cores .* lower fit\.tile_bytes"):
        fitted(extracted, tmp_path / "out", "cluster.address=auto")


def test_a_state_that_is_not_finite_is_named(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plain = ActivationStore.states

    def spoilt(store: ActivationStore, layer: int, unit: int, checksum: str | None) -> torch.Tensor:
        states = plain(store, layer, unit, checksum).clone()
        if unit == 3 and layer == 2:
            states[5, 1] = float("nan")
        return states

    monkeypatch.setattr(ActivationStore, "states", spoilt)
    with pytest.raises(LrtError, match=r"source/2 is not finite in row 197 \(units 0 … 3\)"):
        fitted(extracted, out)


@pytest.fixture(scope="module")
def halves(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> tuple[Path, Path]:
    """Two runs of the same models on different documents, extracted; the first is fitted too."""
    folders = []
    texts = documentation()
    for name, half in (("a", texts[::2]), ("b", texts[1::2])):
        folder = tmp_path_factory.mktemp(name)
        lines = [json.dumps({"name": f"{name}{i}", "text": text}) for i, text in enumerate(half)]
        (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
        run_file = write_tiny_run(folder, tiny_source, tiny_target)
        with api.open_run(folder / "out", load_run(run_file, (*PLAIN, "fit.folds=2"))) as run:
            api.index(run)
            api.extract(run)
            if name == "a":
                api.fit(run)
        folders.append(folder)
    return folders[0], folders[1]


def test_adding_text_later_costs_only_that_text(
    halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: 1e-9 of the largest weight."""
    first, second = halves
    settings = (*PLAIN, "fit.folds=2", "fit.method=linear", f"fit.moments_of=[{first / 'out'}]")
    with api.open_run(second / "out", load_run(second / "run.yaml", settings)) as run:
        api.fit(run)
    folders = [api.RunFolder.open(half / "out") for half in halves]
    x, y = (np.vstack([states(f, side, 1) for f in folders]) for side in Side)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    both = AffineMap.load(run.folder.map_path(1, 1)).weight
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-9 * abs(expected).max())
    (n,) = set(pq.read_table(run.folder.fits[Direction.FORWARD])["n"].to_pylist())
    assert n == sum(RowIndex.open(f.rows).rows for f in folders)


def test_runs_that_cannot_be_added_say_why(halves: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (half / "out" for half in halves)
    run_file = halves[1] / "run.yaml"

    def refused(match: str, *settings: str) -> None:
        with (
            api.open_run(second, load_run(run_file, (*PLAIN, "fit.folds=2", *settings))) as run,
            pytest.raises(UserError, match=match),
        ):
            api.fit(run)

    refused("6 documents of .* would count twice", f"fit.moments_of=[{first}, {first}]")
    refused(r"fit\.folds: 3 -> 2", f"fit.moments_of=[{first}]", "fit.folds=3")
    refused("holds no run", f"fit.moments_of=[{tmp_path}]")
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    shutil.rmtree(copy / "moments")
    refused("has no moments of .* with fit.keep_moments", f"fit.moments_of=[{copy}]")
