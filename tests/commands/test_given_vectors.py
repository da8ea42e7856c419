"""Vectors that a user brings into a run, in place of vectors made from contrast data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import write_tiny_run

from lrt_dist import api
from lrt_dist.commands.transfer import export
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.runfile import load_run
from lrt_dist.sites import Side

CommandLine = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path) -> Path:
    """A RUN file, and its evaluated run in `out` beside it."""
    run_file = write_tiny_run(
        tmp_path_factory.mktemp("made"),
        tiny_source,
        tiny_target,
        target={"model": str(tiny_target), "layers": [1]},
    )
    api.run(run_file, run_file.parent / "out")
    return run_file


def scores(results: Results) -> dict[tuple[object, ...], float]:
    """Of the claim's two vectors on test items."""
    return {
        (row.arm, row.item, row.strength, row.source_layer, row.target_layer): row.value
        for row in results.scores
        if row.split == "test" and row.arm in (Arm.NATIVE, Arm.TRANSFERRED)
    }


def given(made: Path, **files: Path) -> list[str]:
    """Settings of the same run with vectors from files."""
    data = made.parent / "mood.jsonl"
    vector = ", ".join(f"{side}: {file}" for side, file in files.items())
    return [f"concepts=[{{name: mood, data: {data}, vector: {{{vector}}}}}]"]


def test_a_vector_that_is_brought_steers_as_the_one_it_is(made: Path, tmp_path: Path) -> None:
    """A run's own vectors, exported for repeng and for torch and brought back. To rounding: files
    hold float32."""
    out = made.parent / "out"
    folder = api.RunFolder.open(out)
    expected = scores(Results.read(out))
    files = {"source": tmp_path / "source.gguf", "target": tmp_path / "target.pt"}
    for side in Side:
        layers = (1, 2) if side is Side.SOURCE else (1,)
        export([folder.native_vector("mood", side, layer) for layer in layers], files[side])
    with api.open_run(out, load_run(made, given(made, **files))) as run:
        api.evaluate(run)
    results = Results.read(out)
    found = scores(results)
    assert found.keys() == expected.keys()
    assert [found[key] for key in found] == pytest.approx(
        [expected[key] for key in found], abs=1e-4
    )
    (verdict,) = results.verdicts
    assert not verdict.pairs_vary, "nobody knows which pairs are behind a file"

    torch.save({1: torch.ones(24)}, files["target"])  # the same name, another vector
    with api.open_run(out, load_run(made, given(made, **files))) as run:
        api.evaluate(run)
    assert scores(Results.read(out)) != found


def test_what_cannot_be_the_vector_is_refused(
    made: Path, tmp_path: Path, lrt_dist: CommandLine
) -> None:
    torch.save({1: torch.ones(32)}, tmp_path / "one.pt")
    torch.save({1: torch.ones(32), 2: torch.ones(31)}, tmp_path / "narrow.pt")
    torch.save({1: torch.ones(32), 2: torch.zeros(32)}, tmp_path / "zero.pt")
    native = api.RunFolder.open(made.parent / "out").native_vector("mood", Side.SOURCE, 1)
    model = Path(__file__).parents[2] / "tests" / "conftest.py"
    for file, told in (
        (tmp_path / "one.pt", "has vectors of layers 1; none of 2"),
        (tmp_path / "narrow.pt", "layer 2 with 31 dimensions; wanted is one of layer 2"),
        (tmp_path / "zero.pt", "is zero at layer 2"),
        (native, "holds a vector of layer 1 with 32 dimensions; wanted is one of layer 2"),
        (tmp_path / "none.gguf", "no vector file at"),
        (model, "is no vector file: its name must end in"),
    ):
        arguments = ["index", str(made), "--out", str(tmp_path / "out")]
        for setting in given(made, source=file):
            arguments += ["--set", setting]
        code, text = lrt_dist(*arguments)
        assert code == 2, text
        assert "concept mood, vector.source:" in text
        assert told in text, text
    assert not (tmp_path / "out" / "rows").exists()
