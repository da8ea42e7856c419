"""Stores belong to models: another direction, or another model, needs no second extraction."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import store_digests, write_tiny_run

from lrt_dist import api
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import CorruptionError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.runfile import load_run
from lrt_dist.runtime.log import read_log
from lrt_dist.sites import ABSENT, Direction, Side
from lrt_dist.store.activations import ActivationStore
from lrt_dist.tasks.tokenise import read_share

CommandLine = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> tuple[Path, Path]:
    """A RUN file of two models, and the output directory of its run, fitted both ways."""
    folder = tmp_path_factory.mktemp("first")
    run_file = write_tiny_run(
        folder,
        tiny_source,
        tiny_target,
        concepts=[],
        extract={"rows_per_unit": 64, "batch_tokens": 256, "store_dtype": "float32"},
        fit={"folds": 3, "method": "linear", "shrink_norm_above": None, "reverse": True},
    )
    fitted(run_file, folder / "out")
    return run_file, folder / "out"


def fitted(run_file: Path, out: Path, *settings: str) -> api.RunFolder:
    with api.open_run(out, load_run(run_file, settings)) as run:
        api.index(run)
        api.extract(run)
        api.fit(run)
    return run.folder


def joining(first: Path, source: Path, target: Path, *layers: list[int]) -> list[str]:
    """Settings of a run that takes its rows and stores from an earlier one."""
    return [
        f"source={{model: {source}, layers: {layers[0]}}}",
        f"target={{model: {target}, layers: {layers[1]}}}",
        f"sites.rows_of={first}",
        f"extract.store_url={first / 'activations'}",
        "fit.reverse=false",
    ]


def extracted(out: Path) -> list[str]:
    """Which extractions a run did."""
    phases = (e["phase"] for e in read_log(out / "log.jsonl") if e["event"] == "phase_end")
    return [phase for phase in phases if phase.startswith("extract")]


def test_the_way_back_needs_no_extraction(
    first: tuple[Path, Path], tiny_source: Path, tiny_target: Path, tmp_path: Path
) -> None:
    """And its maps are the reverse maps of the way there, to rounding."""
    run_file, out = first
    before = store_digests(out)
    settings = joining(out, tiny_target, tiny_source, [0, 1], [1, 2])
    back = fitted(run_file, tmp_path / "back", *settings)
    assert extracted(out) == ["extract tiny-llama", "extract tiny-gemma"]
    assert extracted(back.out) == []
    assert store_digests(out) == before
    there = api.RunFolder.open(out)
    for pair in ((0, 1), (1, 2)):
        one = AffineMap.load(back.map_path(*pair)).weight
        other = AffineMap.load(there.map_path(*pair, direction=Direction.REVERSE)).weight
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * float(other.abs().max()))


def test_a_third_model_joins_with_its_own_extraction(
    first: tuple[Path, Path], tiny_target: Path, tiny_third: Path, tmp_path: Path
) -> None:
    """Its maps are least squares on the rows that it has."""
    run_file, out = first
    before = store_digests(out)
    joined = fitted(
        run_file, tmp_path / "joined", *joining(out, tiny_target, tiny_third, [1], [0, 1])
    )
    assert extracted(joined.out) == ["extract tiny-gpt2"]
    after = store_digests(out)
    assert after.items() > before.items()
    assert all("tiny-gpt2" in name for name in after.keys() - before.keys())

    index = RowIndex.open(joined.rows)
    present = index.present_rows()
    assert 50 < present.sum() < len(present) - 50, "else this test shows nothing"
    x, y = (
        torch.cat([store.states(1, unit) for unit in range(store.units)]).double().numpy()
        for store in (ActivationStore.open(joined.store_url(side)) for side in Side)
    )
    assert not y[~present].any()
    assert y[present].any(axis=1).all()
    affine = AffineMap.load(joined.map_path(1, 1))
    expected = np.linalg.lstsq(x[present], y[present], rcond=None)[0]
    np.testing.assert_allclose(affine.weight, expected, rtol=0, atol=1e-9 * abs(expected).max())
    assert affine.metrics["n"] == present.sum()
    positions = [s.positions.target for s in index.all_segments()]
    flat = [position for of_segment in positions for position in of_segment]
    assert [position != ABSENT for position in flat] == present.tolist()


def test_one_model_on_both_sides_is_extracted_once(
    first: tuple[Path, Path], tiny_source: Path, tmp_path: Path
) -> None:
    """With the layers of both sides; its maps between equal layers are the identity."""
    run_file, _ = first
    model = f"model: {tiny_source}"
    folder = fitted(
        run_file,
        tmp_path / "same",
        f"source={{{model}, layers: [0, 1]}}",
        f"target={{{model}, layers: [1, 3]}}",
    )
    assert extracted(folder.out) == ["extract tiny-llama"]
    assert list(ActivationStore.open(folder.store_url(Side.TARGET)).layers) == [0, 1, 3]
    weight = AffineMap.load(folder.map_path(1, 1)).weight
    torch.testing.assert_close(weight, torch.eye(len(weight)).to(weight), rtol=0, atol=1e-6)


def test_rows_of_another_corpus_are_refused(
    first: tuple[Path, Path], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """Before anything is computed, with what differs."""
    run_file, out = first
    lines = (run_file.parent / "corpus.jsonl").read_text().splitlines(keepends=True)
    shutil.copy(run_file, tmp_path / "run.yaml")
    (tmp_path / "other.jsonl").write_text("".join(lines[:-1]))
    for setting, told in (
        (f"corpus.paths=[{tmp_path / 'other.jsonl'}]", "corpus:"),
        ("sites.min_context=3", "sites.min_context: 2 -> 3"),
        ("extract.rows_per_unit=32", "extract.rows_per_unit: 64 -> 32"),
    ):
        arguments = ["index", str(run_file), "--out", str(tmp_path / "out")]
        code, text = lrt_dist(*arguments, "--set", f"sites.rows_of={out}", "--set", setting)
        assert code == 2, text
        assert "sites.rows_of: the rows of" in text
        assert told in text
    missing = f"sites.rows_of={tmp_path / 'nowhere'}"
    code, text = lrt_dist("index", str(run_file), "--out", str(tmp_path / "o"), "--set", missing)
    assert code == 2, text


def test_rows_of_another_run_are_seen_share_by_share(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And texts of concepts are looked for in as many."""
    run_file, earlier = first
    settings = (f"sites.rows_of={earlier}",)
    found = []
    for segments in (2048, 4):
        monkeypatch.setattr("lrt_dist.commands._shares.SEGMENTS_OF_SHARE", segments)
        with api.open_run(tmp_path / str(segments), load_run(run_file, settings)) as run:
            index = api.index(run)
        found.append([(s.document, s.start, s.ids, s.positions) for s in index.all_segments()])
    assert found[0] == found[1]
    assert index.digest == RowIndex.open(earlier / "rows").digest


def test_a_share_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000000-0.arrow"
    path.write_bytes(b"")
    with pytest.raises(CorruptionError, match=r"000000-0\.arrow cannot be read .*delete it"):
        read_share(path)
