"""The fit of a grid: the same however it is cut, spread, killed and taken up again.

Spread over workers, or killed and taken up again: same shapes, machine and threads (one), so equal
bits. Cut into other tiles, a product has another shape: equal to rounding.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import documentation
from tiny_run import forked, kill_when, write_tiny_run

from lrt_dist import api
from lrt_dist.commands import _by_leaves, _rows
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import LrtError, UserError
from lrt_dist.linear.moments import merge_all
from lrt_dist.maps.affine import AffineMap
from lrt_dist.plan import tiles
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import Runtime
from lrt_dist.runtime.pool import RayRuntime
from lrt_dist.sites import Direction, Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.moments import MomentFile
from lrt_dist.store.tables import FitRow, LayerRow, SolvedRow, Table
from lrt_dist.tasks import accumulate as accumulation
from lrt_dist.tasks import solve as solving
from lrt_dist.tasks.accumulate import AccumulateTask, accumulate, merge
from lrt_dist.tasks.blocks import SortedBlock, read_blocks, variable
from lrt_dist.tasks.solve import MapEnd, SolveTask

PLAIN = ("concepts=[]", "fit.shrink_norm_above=null", "extract.store_dtype=float32")
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
def many_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four units a leaf: with the corpus of these tests, a tree of eight leaves."""
    monkeypatch.setattr(tiles, "LEAF_ROWS", 256)
    monkeypatch.setattr(tiles, "FEWEST_LEAVES", 8)


def fitted(extracted: Path, out: Path, *overrides: str) -> api.RunFolder:
    if not out.exists():
        shutil.copytree(extracted / "out", out)
    with api.open_run(out, load_run(extracted / "run.yaml", (*PLAIN, *overrides))) as run:
        api.fit(run)
    return run.folder


def units_of(task: AccumulateTask) -> tuple[int, ...]:
    return tuple(unit for block in task.leaf.blocks for unit in block.units)


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
    monkeypatch.setattr(RayRuntime, "_window", lambda runtime, needs: workers)
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
    assert len(paths) == 4 + 4 * 3  # of every pair the map, and one for each mismatched draw
    for path in paths:
        first, second = (AffineMap.load(p) for p in (path, many.out / path.relative_to(one.out)))
        for a, b in ((first.weight, second.weight), (first.bias, second.bias)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(a.abs().max()))
        assert first.ridge == pytest.approx(second.ridge, rel=1e-9)


def test_a_pair_is_the_same_whatever_other_layers_are_asked_for(
    tmp_path: Path, tiny_source: Path, tiny_target: Path
) -> None:
    """Its own states decide what is scaled down. To rounding: 1e-9; 0 is what is seen."""
    few = {"source": ([2], tiny_source), "target": ([1], tiny_target)}
    many = {"source": ([0, 1, 2], tiny_source), "target": ([0, 1], tiny_target)}
    folders = []
    for name, sides in (("few", few), ("many", many)):
        (tmp_path / name).mkdir()
        run_file = write_tiny_run(
            tmp_path / name, tiny_source, tiny_target,
            **{side: {"model": str(model), "layers": ls} for side, (ls, model) in sides.items()},
        )  # fmt: skip
        settings = ("concepts=[]", "fit.shrink_norm_above=1.2")
        with api.open_run(tmp_path / name / "out", load_run(run_file, settings)) as run:
            api.index(run)
            api.extract(run)
            api.fit(run)
        folders.append(run.folder)
    rows = [
        next(
            row
            for row in Table.read(folder.fits[Direction.FORWARD], FitRow)
            if (row.source_layer, row.target_layer) == (2, 1)
        )
        for folder in folders
    ]
    assert rows[0].n == RowIndex.open(folders[0].rows).rows
    assert 0 < rows[0].rows_shrunk_target < rows[0].n / 2
    first, second = (
        {
            name: value
            for name, value in dataclasses.asdict(row).items()
            if isinstance(value, int | float) and name != "seconds"
        }
        for row in rows
    )
    assert first == pytest.approx(second, rel=1e-9, abs=1e-12, nan_ok=True)
    for draw in (None, 0, 1, 2):
        maps = [AffineMap.load(folder.map_path(2, 1, mismatched=draw)) for folder in folders]
        weights = [affine.weight for affine in maps]
        scale = float(weights[0].abs().max())
        torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-9 * scale)


def test_scaled_down_states_have_the_median_norm(extracted: Path, tmp_path: Path) -> None:
    """No row is missing, and what is fitted are the scaled states."""
    setting = "fit.shrink_norm_above=1.05"
    folder = fitted(extracted, tmp_path / "out", setting, "fit.method=linear")
    scaled: list[np.ndarray] = []
    shrunk: list[int] = []
    for side, layer in ((Side.SOURCE, 2), (Side.TARGET, 1)):
        rows = states(folder, side, layer)
        norms = np.linalg.norm(rows.astype(np.float32), axis=1)
        massive = norms > 1.05 * np.median(norms)
        assert 0 < massive.sum() < len(rows) / 2
        shrunk.append(int(massive.sum()))
        rows[massive] *= (np.median(norms) / norms[massive])[:, None]
        scaled.append(rows)
    expected = np.linalg.lstsq(scaled[0], scaled[1], rcond=None)[0]
    weight = AffineMap.load(folder.map_path(2, 1)).weight
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-5 * abs(expected).max())
    layers = next(folder.moments.glob("*/layers.parquet"))
    facts = {(row.side, row.layer): row for row in Table.read(layers, LayerRow)}
    assert facts["source", 2].shrunk == shrunk[0]
    assert facts["source", 2].usual_norm == facts["source", 2].median_norm
    assert 0 < facts["source", 2].shrunk_share < 1


def test_near_duplicates_and_their_originals_are_in_one_fold(
    tmp_path: Path, tiny_source: Path, tiny_target: Path
) -> None:
    texts = documentation()
    corpus = [*texts, *(f"{text} And a few more words." for text in texts[:6])]
    lines = [json.dumps({"text": text}) for text in corpus]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    with api.open_run(tmp_path / "out", load_run(run_file, PLAIN)) as run:
        index = api.index(run)
        api.extract(run)
        api.fit(run)
    assert len(set(index.groups().values())) == len(texts)
    (path,) = run.folder.moments.glob("*/folds.npy")
    folds = np.load(path)
    fold_of = {s.document: folds[s.first_row] for s in index.all_segments()}
    for number in range(1, 7):
        assert fold_of[f"corpus.jsonl#{number}"] == fold_of[f"corpus.jsonl#{number + 12}"]
    log = (run.folder.out / "log.jsonl").read_text()
    assert "12 of them are near duplicates, in 6 groups that share a fold" in log
    settings = ["fit.folds=13", "concepts=[]"]
    with (
        api.open_run(tmp_path / "other", load_run(run_file, settings)) as run,
        pytest.raises(UserError, match=r"18 documents fill only .* they are 12 groups"),
    ):
        api.index(run)


def test_one_document_has_no_mismatched_rows(
    tmp_path: Path, tiny_source: Path, tiny_target: Path, halves: tuple[Path, Path]
) -> None:
    """Only a run that adds to others may be as small; it is told before it extracts."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": documentation()[0]}) + "\n")
    run_file = write_tiny_run(tmp_path, tiny_source, tiny_target)
    settings = (*PLAIN, "fit.folds=2", f"fit.moments_of=[{halves[0] / 'out'}]")
    with (
        api.open_run(tmp_path / "out", load_run(run_file, settings)) as run,
        pytest.raises(UserError, match=r"all rows of .*rows are of one document"),
    ):
        api.index(run)


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
            counted.append(units_of(task))
        return accumulate(task)

    stops = [1, 3, 6]
    monkeypatch.setattr(_by_leaves, "accumulate", accumulate_until_killed)
    for _ in range(3):
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
    assert made(fitted(extracted, tmp_path / "out")) == whole
    units = RowIndex.open(tmp_path / "out" / "rows").units
    assert sorted(unit for leaf in counted for unit in leaf) == list(range(units))


def test_a_leaf_of_many_blocks_is_taken_up_where_it_was_kept(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its fifth block, and again in its ninth. Same shapes, machine and threads: equal
    bits; and to rounding those of a tree of many leaves: 1e-9 of the largest weight."""
    monkeypatch.setattr(accumulation, "ROWS_PER_PRODUCT", 1)  # a unit a block
    monkeypatch.setattr(_rows, "ROWS_PER_PRODUCT", 1)
    many = fitted(extracted, tmp_path / "many")
    monkeypatch.setattr(tiles, "LEAF_ROWS", 128)
    monkeypatch.setattr(tiles, "MOST_LEAVES", 2)
    monkeypatch.setattr(tiles, "FEWEST_LEAVES", 2)
    monkeypatch.setattr(accumulation, "KEPT_EVERY", 0.0)
    few = fitted(extracted, tmp_path / "few")
    whole = made(few)
    read: list[int] = []

    def until_killed(*arguments: Any) -> Iterator[SortedBlock]:
        for block in read_blocks(*arguments):
            if len(read) in stops:
                stops.remove(len(read))
                raise _Killed
            read.append(block.units[0])
            yield block

    stops = [4, 8]
    monkeypatch.setattr(accumulation, "read_blocks", until_killed)
    for _ in range(2):
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
        assert len(list((tmp_path / "out").glob("moments/*/*/*.kept"))) == 1
    assert made(fitted(extracted, tmp_path / "out")) == whole
    assert sorted(read) == sorted(set(read))  # nothing was read again
    for path in sorted((few.out / "maps").rglob("*.safetensors")):
        first, second = (AffineMap.load(p) for p in (path, many.out / path.relative_to(few.out)))
        atol = 1e-9 * float(first.weight.abs().max())
        torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=atol)


def test_a_merge_that_was_killed_before_it_tidied_up_counts_nothing_twice(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same shapes, machine and threads: equal bits."""
    whole = made(fitted(extracted, tmp_path / "whole"))

    def merge_and_die(left: Path, right: Path, *, leaves: int) -> Path:
        copies = {path: path.read_bytes() for path in (left, right)}
        merge(left, right, leaves=leaves)
        for path, content in copies.items():
            path.write_bytes(content)
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(_by_leaves, "merge", merge_and_die)
        with pytest.raises(_Killed):
            fitted(extracted, tmp_path / "out")
    assert made(fitted(extracted, tmp_path / "out")) == whole


def _fit_in_tiles(out: str) -> None:
    """As `many_leaves` in a process of its own, a pair a tile."""
    tiles.LEAF_ROWS, tiles.FEWEST_LEAVES = 256, 8
    config = load_run(Path(out) / "run.yaml", ["fit.tile_bytes=1"])
    with api.open_run(Path(out), config) as run:
        api.fit(run)


@pytest.mark.slow
def test_killed_for_good_it_ends_where_it_would_have(extracted: Path, tmp_path: Path) -> None:
    """A real process, really killed while it accumulates. Same shapes, machine and threads: equal
    bits."""
    out = tmp_path / "out"
    shutil.copytree(extracted / "out", out)
    process = forked(_fit_in_tiles, str(out))
    kill_when(process, lambda: bool(list(out.glob("moments/*/*/1-*.safetensors"))))
    assert not (out / "fits.parquet").exists()
    whole = made(fitted(extracted, tmp_path / "whole", "fit.tile_bytes=1"))
    assert made(fitted(extracted, out, "fit.tile_bytes=1")) == whole


@pytest.mark.parametrize("before", [3, 4, 5])
def test_stopped_between_two_maps_it_solves_only_the_others(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Before the last of four maps, the first of two learning curves, or the second."""
    saved: list[tuple[int, int]] = []
    stopped: list[bool] = []
    plain = solving._save

    def save(task: SolveTask, end: MapEnd, row: SolvedRow) -> None:
        if len(saved) == before and not stopped:
            stopped.append(True)
            raise _Killed
        plain(task, end, row)
        saved.append((task.layers[0], end.layer))

    monkeypatch.setattr(solving, "_save", save)
    with pytest.raises(_Killed):
        fitted(extracted, tmp_path / "out")
    assert not (tmp_path / "out" / "fits.parquet").exists()
    fitted(extracted, tmp_path / "out")
    assert (tmp_path / "out" / "fits.parquet").exists()
    assert saved[:4] == [(1, 0), (1, 1), (2, 0), (2, 1)], "each map once"
    assert [source for source, _ in saved[4:]] == [1, 2], "a learning curve for each layer"


def test_a_layer_with_many_ends_is_solved_by_all_cores(
    extracted: Path, tmp_path: Path, ray_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two tasks, which decompose the same moments each. Same shapes, machine and threads: equal
    bits, and one learning curve."""
    layer = "fit.pairs=[[1,0],[1,1]]"
    serial = fitted(extracted, tmp_path / "serial", layer)
    tasks: list[object] = []
    plain = RayRuntime.map

    def map_counted(runtime: RayRuntime, function: Any, arguments: Any, *needs: Any) -> Any:
        arguments = list(arguments)
        tasks.extend(arguments if function is solving.solve else [])
        return plain(runtime, function, arguments, *needs)

    monkeypatch.setattr(RayRuntime, "map", map_counted)
    parallel = fitted(extracted, tmp_path / "ray", layer, "cluster.address=auto")
    assert len(tasks) == 2
    assert made(serial) == made(parallel)
    curves = [
        Table.read(folder.fits[Direction.FORWARD], FitRow).arrow["learning"].to_pylist()
        for folder in (serial, parallel)
    ]
    assert curves[0] == curves[1]
    assert sorted(len(curve) > 1 for curve in curves[0]) == [False, True]


def test_two_folds_have_no_learning_curve(extracted: Path, tmp_path: Path) -> None:
    folder = fitted(extracted, tmp_path / "out", "fit.folds=2")
    rows = Table.read(folder.fits[Direction.FORWARD], FitRow)
    assert [len(row.learning) for row in rows] == [1] * 4


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
        patched.setattr("lrt_dist.commands._by_leaves.accumulate", refuse)
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
    plain = ActivationStore.stored_states

    def spoilt(store: ActivationStore, layer: int, unit: int, checksum: str | None) -> Any:
        states = plain(store, layer, unit, checksum).copy()
        if unit == 3 and layer == 2:
            states[5, 1] = float("nan")
        return states

    monkeypatch.setattr(ActivationStore, "stored_states", spoilt)
    with pytest.raises(LrtError, match=r"source/2 is not finite in row 197 \(unit 3\)"):
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
