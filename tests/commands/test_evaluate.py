"""An evaluation keeps what it computed: killed or added to, it computes what is missing."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
import yaml
from tiny_run import fork, write_tiny_run

from lrt_dist import api
from lrt_dist.config import RunConfig
from lrt_dist.errors import UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.conditions import DRAWN, Arm
from lrt_dist.report.results import Results
from lrt_dist.report.summary import summarise
from lrt_dist.runfile import load_run
from lrt_dist.runtime.serial import SerialChains
from lrt_dist.store.tables import (
    AgreementRow,
    ControlRow,
    GeneratedRow,
    ScoreRow,
    Table,
    VectorRow,
    VerdictRow,
)
from lrt_dist.tasks import model_stage

CONCEPTS = ("owner", "guest")
TABLES = ("scores", "vectors", "generated", "controls", "agreement", "verdicts", "bands")


def concept(folder: Path, name: str, words: tuple[str, str], count: int = 24) -> dict[str, str]:
    items = [
        {
            "prompt": f"Visitor number {n} told the {name} of the house that the evening was",
            "positive": [f" {words[0]}", " very good"],
            "negative": [f" {words[1]}", " very bad"],
        }
        for n in range(count)
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, items)) + "\n")
    return {"name": name, "data": str(path)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path) -> Path:
    """A RUN file with two concepts, and its extraction and fit, in `out` beside it."""
    folder = tmp_path_factory.mktemp("fitted")
    concepts = [
        concept(folder, "owner", ("warm", "cold")),
        concept(folder, "guest", ("long", "short")),
    ]
    run_file = write_tiny_run(folder, tiny_source, tiny_target, concepts=concepts)
    with api.open_run(folder / "out", load_run(run_file)) as run:
        api.index(run)
        api.extract(run)
        api.fit(run)
    return run_file


def copied(fitted: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    shutil.copytree(fitted.parent / "out", out)
    return out


def evaluated(out: Path, config: RunConfig) -> Table[ScoreRow]:
    with api.open_run(out, config) as run:
        return api.evaluate(run)


def files(out: Path, *folders: str) -> dict[str, bytes]:
    found = [p for f in folders for p in (out / f).rglob("*") if p.is_file()]
    found += [out / f"{name}.parquet" for name in TABLES]
    return {str(p.relative_to(out)): p.read_bytes() for p in found if p.is_file()}


@pytest.fixture(scope="module")
def whole(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an evaluation that nothing interrupted."""
    out = copied(fitted, tmp_path_factory.mktemp("whole"))
    evaluated(out, load_run(fitted))
    return out


def test_every_arm_is_there(whole: Path) -> None:
    scores = Table.read(whole / "scores.parquet", ScoreRow)
    test = scores.filter(pc.field("split") == "test")
    steered = {Arm.NONE, Arm.NATIVE, Arm.TRANSFERRED, Arm.FOREIGN, Arm.MISMATCHED, Arm.MEAN}
    assert set(test.column("arm")) == steered
    foreign = test.filter((pc.field("arm") == "foreign") & (pc.field("concept") == "owner"))
    assert set(foreign.column("vector")) == {"guest"}
    assert {row.draw for row in test if row.arm == "mismatched"} == {0, 1, 2}
    results = Results.read(whole)
    for summary in summarise(results):
        assert [each.arm for each in summary.levels] == ["transferred", "mismatched", "none"]
    controls = Table.read(whole / "controls.parquet", ControlRow)
    for name in CONCEPTS:
        drawn = controls.filter(pc.field("concept") == name).column("arm")
        assert {arm: drawn.count(arm) for arm in set(drawn)} == dict.fromkeys(DRAWN, 40)
    compared = Table.read(whole / "agreement.parquet", AgreementRow)
    assert set(compared.column("arm")) == {
        *DRAWN, Arm.NATIVE, Arm.TRANSFERRED, Arm.MISMATCHED, Arm.MEAN,
    }  # fmt: skip
    vectors = Table.read(whole / "vectors.parquet", VectorRow)
    assert [row.chosen for row in vectors].count(True) == 2
    for verdict in Table.read(whole / "verdicts.parquet", VerdictRow):
        chosen = [r for r in vectors if r.concept == verdict.concept and r.chosen]
        assert chosen[0].target_layer == verdict.target_layer
        assert verdict.pairs_searched == 4
        assert verdict.pairs_vary
        assert verdict.documents_vary
        p = (verdict.p_permuted, verdict.p_random_source, verdict.p_covariance, verdict.p_random)
        assert all(1 / 41 <= value <= 1 for value in p)
        assert verdict.p_adjusted >= max(p)


def test_an_effect_is_what_the_scores_say(whole: Path) -> None:
    scores = Table.read(whole / "scores.parquet", ScoreRow)
    for verdict in Table.read(whole / "verdicts.parquet", VerdictRow):
        mean = {}
        for arm in ("native", "transferred"):
            for sign in (-1, 1):
                rows = scores.filter(
                    (pc.field("concept") == verdict.concept)
                    & (pc.field("split") == "test")
                    & (pc.field("arm") == arm)
                    & (pc.field("strength") == sign * verdict.strength)
                    & (pc.field("target_layer") == verdict.target_layer)
                )
                values = rows.column("value")
                assert len(values) == verdict.items
                mean[arm, sign] = sum(values) / len(values)
        native = (mean["native", 1] - mean["native", -1]) / 2
        transferred = (mean["transferred", 1] - mean["transferred", -1]) / 2
        assert verdict.native == pytest.approx(native)
        assert verdict.transferred == pytest.approx(transferred)
        assert verdict.retention == pytest.approx(transferred / native)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    fitted: Path, whole: Path, tmp_path: Path
) -> None:
    """Same shapes, machine and threads: equal bits, of tables and of everything kept."""
    out = copied(fitted, tmp_path)
    kept = ("activations", "cells", "vectors")
    killed = 0
    while not (out / "scores.parquet").exists():
        before = len(files(out, *kept))
        process = fork("evaluate", str(fitted), "--out", str(out))
        deadline = time.monotonic() + 120
        while process.is_alive() and len(files(out, *kept)) <= before + 1:
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.002)
        if killed < 4 and process.is_alive():
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            killed += 1
        process.join()
    assert killed >= 3
    written = {n: c for n, c in files(out, *kept).items() if not Path(n).name.startswith(".")}
    assert written == files(whole, *kept)


def test_what_several_requests_want_is_computed_once(
    fitted: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neutral text without steering is the same for every concept; here all tasks are drawn before
    the first one ends, as many replicas do."""
    one_by_one = SerialChains.run

    def all_at_once(chains: SerialChains, tasks: Iterable[Any]) -> Iterator[Any]:
        drawn = list(tasks)
        assert len(drawn) == len({task.key for task in drawn})
        return one_by_one(chains, drawn)

    monkeypatch.setattr(SerialChains, "run", all_at_once)
    out = copied(fitted, tmp_path)
    evaluated(out, load_run(fitted))
    assert files(out, "cells") == files(whole, "cells")


def test_what_is_there_needs_no_model(
    fitted: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for name in TABLES:
        (out / f"{name}.parquet").unlink()

    def load(*arguments: object, **named: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(model_stage, "load_blocks", load)
    evaluated(out, load_run(fitted))
    assert files(out) == files(whole)


def test_what_is_added_costs_what_is_new(fitted: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = files(out, "cells", "activations")
    run_file = yaml_with_concept(fitted, tmp_path)
    scores = evaluated(out, load_run(run_file))
    after = files(out, "cells", "activations")
    kept = [name for name in before if not name.endswith(".parquet") or name.startswith("cells")]
    assert all(after[name] == before[name] for name in kept)
    assert set(scores.column("concept")) == {"owner", "guest", "dog"}
    added = {name for name in after if name not in before}
    # New are the third concept's own files, and its vector on the items of the other two.
    assert sum(".states/" in name for name in added) == 2
    assert sum(".gradients/" in name for name in added) == 2 + 1  # dev, test and means
    old = Table.read(whole / "scores.parquet", ScoreRow)
    rows = {row for row in scores if row.vector != "dog" and row.concept != "dog"}
    assert set(old) <= rows


def yaml_with_concept(fitted: Path, folder: Path) -> Path:
    values = yaml.safe_load(fitted.read_text())
    values["concepts"].append(concept(folder, "dog", ("fast", "slow")))
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_without_concepts_nothing_is_deleted(fitted: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    config = load_run(fitted, ["concepts=[]"])
    assert len(evaluated(out, config)) == 0
    assert files(out, "cells") == files(whole, "cells")


def test_where_predictions_fail_controls_are_steered(fitted: Path, tmp_path: Path) -> None:
    """Steps as large as the states themselves are beyond any gradient."""
    out = copied(fitted, tmp_path)
    config = load_run(fitted, ["evaluate.strengths=[-20, 20]"])
    evaluated(out, config)
    verdicts = list(Table.read(out / "verdicts.parquet", VerdictRow))
    assert not any(verdict.screened for verdict in verdicts)
    assert min(verdict.agreement for verdict in verdicts) < 0.9
    controls = list(Table.read(out / "controls.parquet", ControlRow))
    assert all(row.steered for row in controls)
    assert {(row.arm, row.draw) for row in controls} == {(a, n) for a in DRAWN for n in range(2)}
    assert "predicted and measured effects correlate by less than 0.9" in (
        out / "log.jsonl"
    ).read_text(encoding="utf-8")


def test_strengths_may_be_lengths(fitted: Path, whole: Path, tmp_path: Path) -> None:
    """Predictions at strength 1 differ by the norm, to rounding; what is steered is what was
    predicted, to a tenth for so small a step."""
    usual = [row for row in Table.read(whole / "vectors.parquet", VectorRow) if row.chosen]
    length = usual[0].length / 20
    assert usual[0].length / usual[0].strength != pytest.approx(1.0, rel=0.1), (
        "its layer's median norm"
    )
    out = copied(fitted, tmp_path)
    settings = ["evaluate.scale=unit", f"evaluate.strengths=[{-length!r}, {length!r}]"]
    evaluated(out, load_run(fitted, settings))
    there = list(Table.read(out / "vectors.parquet", VectorRow))
    assert {row.length for row in there} == {length}
    for row in Table.read(whole / "vectors.parquet", VectorRow):
        (same,) = (
            r
            for r in there
            if (r.concept, r.source_layer, r.target_layer)
            == (row.concept, row.source_layer, row.target_layer)
        )
        norm = row.length / row.strength
        assert same.native_dev * norm == pytest.approx(row.native_dev, rel=1e-5)
        assert same.transferred_dev * norm == pytest.approx(row.transferred_dev, rel=1e-5)
    for compared in Table.read(out / "agreement.parquet", AgreementRow):
        if compared.arm == Arm.NATIVE:
            assert compared.measured == pytest.approx(compared.predicted, rel=0.1)


def test_raw_vectors_are_added_as_they_are(fitted: Path, tmp_path: Path) -> None:
    """What is steered is what was predicted, to a tenth, at the lengths of the saved vectors; here
    mapped with the bias."""
    out = copied(fitted, tmp_path)
    settings = ["evaluate.scale=raw", "evaluate.strengths=[-0.05, 0.05]", "evaluate.map_bias=true"]
    evaluated(out, load_run(fitted, settings))
    for row in Table.read(out / "vectors.parquet", VectorRow):
        name = f"{row.concept}-transferred-{row.source_layer}-{row.target_layer}"
        for path, length in (
            (name, row.length),
            (f"{row.concept}-target-{row.target_layer}", row.native_length),
        ):
            saved = SteeringVector.load(out / f"vectors/{path}.safetensors").values
            assert length == pytest.approx(0.05 * float(saved.norm()), rel=1e-5)
        affine = AffineMap.load(out / f"maps/{row.source_layer}-{row.target_layer}.safetensors")
        vectors = (f"{row.concept}-source-{row.source_layer}", name)
        original, mapped = (
            SteeringVector.load(out / f"vectors/{path}.safetensors").values for path in vectors
        )
        torch.testing.assert_close(mapped, affine.map_points(original))
    for compared in Table.read(out / "agreement.parquet", AgreementRow):
        if compared.arm in (Arm.NATIVE, Arm.TRANSFERRED):
            assert compared.measured == pytest.approx(compared.predicted, rel=0.1)


def test_equalised_vectors_have_the_mean_length_of_all_concepts(
    fitted: Path, tmp_path: Path
) -> None:
    out = copied(fitted, tmp_path)
    strengths = "evaluate.strengths=[-0.05, 0.05]"
    evaluated(out, load_run(fitted, ["evaluate.scale=equalised", strengths]))
    for row in Table.read(out / "vectors.parquet", VectorRow):
        paths = [out / f"vectors/{c}-target-{row.target_layer}.safetensors" for c in CONCEPTS]
        norms = [float(SteeringVector.load(path).values.norm()) for path in paths]
        assert row.length == row.native_length == pytest.approx(0.05 * sum(norms) / 2, rel=1e-5)


def test_under_ablation_everything_is_steered(fitted: Path, whole: Path, tmp_path: Path) -> None:
    """Nothing is predicted, and a strength is no length; unsteered scores are what they were."""
    out = copied(fitted, tmp_path)
    config = load_run(fitted, ["evaluate.operator=ablate", "evaluate.strengths=[-1, 1]"])
    scores = evaluated(out, config)
    assert not list(out.glob("gradients/*"))
    assert all(row.steered for row in Table.read(out / "controls.parquet", ControlRow))
    assert not any(row.screened for row in Table.read(out / "verdicts.parquet", VerdictRow))
    vectors = Table.read(out / "vectors.parquet", VectorRow)
    assert all(row.length != row.length for row in vectors)

    def unsteered(table: Table[ScoreRow]) -> dict[tuple[str, str, int], float]:
        rows = (row for row in table if row.arm == "none" and row.split == "test")
        return {(row.concept, row.metric, row.item): row.value for row in rows}

    assert unsteered(scores) == unsteered(Table.read(whole / "scores.parquet", ScoreRow))


def test_many_layers_make_no_long_names(fitted: Path, whole: Path) -> None:
    names = [path.name for path in whole.rglob("*")]
    assert max(len(name.encode()) for name in names) < 100


def test_texts_are_kept(whole: Path) -> None:
    texts = Table.read(whole / "generated.parquet", GeneratedRow)
    assert {row.concept for row in texts} == {"owner", "guest"}


def test_a_zero_vector_is_refused(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that finds no difference; equal texts are refused before."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "outside")
    out = copied(fitted, tmp_path)
    values = yaml.safe_load(fitted.read_text())
    values["concepts"][0]["vector"] = "my_lab:nothing"
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(values))
    config = load_run(run_file)
    with pytest.raises(UserError, match="owner: its vector at layer 1 of the source model is zero"):
        evaluated(out, config)
