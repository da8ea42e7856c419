"""A whole run: serial is Ray, a second run is at once, and every number has its file."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_run import write_tiny_run

import lrt_dist
from lrt_dist import api
from lrt_dist.commands._moments import fitted_units
from lrt_dist.commands._rows import median_norms
from lrt_dist.commands.extract import extract_side
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.summary import summarise
from lrt_dist.runfile import load_run
from lrt_dist.runtime.contract import Runtime
from lrt_dist.sites import Direction, LayerPair, Side, Sided
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger
from lrt_dist.store.tables import ScoreRow, Table

WriteRun = Callable[..., Path]


def run_all(run_file: Path, out: Path, *overrides: str) -> api.RunFolder:
    with api.open_run(out, load_run(run_file, overrides)) as run:
        api.index(run)
        api.extract(run)
        api.fit(run)
        api.evaluate(run)
        api.report(run)
    return run.folder


def bytes_of(folder: api.RunFolder) -> dict[str, bytes]:
    """Every byte of both stores, by name."""
    files: dict[str, bytes] = {}
    for side in Side:
        root = Path(folder.store_url(side))
        files |= {
            f"{side}/{p.relative_to(root)}": p.read_bytes() for p in root.rglob("*") if p.is_file()
        }
    return files


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> tuple[Path, api.RunFolder]:
    """A RUN file and its run, which no test writes to; see `copied`."""
    run_file = write_tiny_run(tmp_path_factory.mktemp("whole"), tiny_source, tiny_target)
    return run_file, run_all(run_file, run_file.parent / "out")


@pytest.fixture
def copied(whole: tuple[Path, api.RunFolder], tmp_path: Path) -> tuple[Path, api.RunFolder]:
    """The RUN file of `whole`, and a copy of its run."""
    run_file, folder = whole
    return run_file, api.RunFolder.open(shutil.copytree(folder.out, tmp_path / "out"))


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> api.RunFolder:
    """A run in float32 with a linear fit of all rows, which no test writes to."""
    run_file = write_tiny_run(tmp_path_factory.mktemp("exact"), tiny_source, tiny_target)
    return run_all(
        run_file, run_file.parent / "out", "concepts=[]", "fit.method=linear",
        "fit.shrink_norm_above=null", "extract.store_dtype=float32",
    )  # fmt: skip


def test_a_run_leaves_what_the_design_says(whole: tuple[Path, api.RunFolder]) -> None:
    _, folder = whole
    for pattern in (
        "run.yaml",
        "*.parquet",
        "report.html",
        "log.jsonl",
        "moments/*/*.safetensors",
        "maps/?-?.safetensors",
        "maps/mismatched/?-?-[012].safetensors",
        "vectors/mood-source-?.safetensors",
        "vectors/mood-target-?.safetensors",
        "vectors/mood-transferred-?-?.safetensors",
    ):
        assert list(folder.out.glob(pattern)), pattern
    assert pq.read_table(folder.fits[Direction.FORWARD]).num_rows == 4
    for line in (folder.out / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_stored_rows_are_the_states_of_plain_transformers(exact: api.RunFolder) -> None:
    """To rounding: 1e-4. Here a segment goes through alone, there in a batch."""
    index = RowIndex.open(exact.rows)
    for side in Side:
        model = transformers.AutoModelForCausalLM.from_pretrained(exact.model(side).model).eval()
        layers = exact.model(side).layers
        assert layers != "all"
        taken: dict[int, torch.Tensor] = {}
        for layer in layers:

            def keep(
                m: Any, a: Any, out: Any, layer: int = layer, taken: dict[int, Any] = taken
            ) -> None:
                taken[layer] = block_output(out)

            find_blocks(model)[layer].register_forward_hook(keep)
        store = ActivationStore.open(exact.store_url(side))
        for unit in (0, index.units - 1):
            stored = {layer: store.states(layer, unit) for layer in layers}
            first = index.unit_rows(unit).start
            for segment in index.unit(unit):
                with torch.inference_mode():
                    model(torch.tensor([segment.ids[side]]), use_cache=False)
                begin = segment.first_row - first
                rows = slice(begin, begin + len(segment.char_ends))
                for layer in layers:
                    expected = taken[layer][0, list(segment.positions[side])]
                    torch.testing.assert_close(stored[layer][rows], expected, rtol=1e-4, atol=1e-4)


def test_a_streamed_fit_is_least_squares_on_all_rows(exact: api.RunFolder) -> None:
    """To rounding: 1e-9 of the largest weight."""
    source, target = (ActivationStore.open(exact.store_url(side)) for side in Side)
    x = torch.cat([source.states(2, unit) for unit in range(source.units)]).double().numpy()
    y = torch.cat([target.states(1, unit) for unit in range(target.units)]).double().numpy()
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    affine = AffineMap.load(exact.map_path(2, 1))
    np.testing.assert_allclose(affine.weight, expected, rtol=0, atol=1e-9 * abs(expected).max())
    assert affine.metrics["n"] == len(x)
    assert not AffineMap.load(exact.map_path(2, 1, mismatched=2)).metrics


@pytest.fixture(scope="module")
def on_ray(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_source: Path,
    tiny_target: Path,
    ray_runtime: Runtime,
) -> tuple[Path, api.RunFolder]:
    """A RUN file, and its run on Ray with two stages; an actor has one core, so one thread."""
    run_file = write_tiny_run(
        tmp_path_factory.mktemp("ray"),
        tiny_source,
        tiny_target,
        extract={"rows_per_unit": 64, "batch_tokens": 256, "store_dtype": "float32"},
    )
    cluster = ("cluster.address=auto", "cluster.stages=2", "cluster.replicas=1")
    return run_file, run_all(run_file, run_file.parent / "out", *cluster)


@pytest.fixture
def all_cores() -> Iterator[None]:
    """As many threads for torch as there are cores, two at least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, os.cpu_count() or 2))
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("all_cores")
def test_ray_is_serial(on_ray: tuple[Path, api.RunFolder], tmp_path: Path) -> None:
    """To rounding: a serial run has all cores, an actor has one, and with other threads a sum may
    be made in another order. So states are equal to 1e-4 and scores to 1e-3. What is chosen by
    scores is not compared: two that are near may change places.
    """
    run_file, parallel = on_ray
    both = run_all(run_file, tmp_path / "serial"), parallel
    for side in Side:
        one, other = (Ledger(f.ledger_url(side)).committed() for f in both)
        assert one.keys() == other.keys()
        assert all(record.conflict(other[unit]) is None for unit, record in one.items())
        stores = [ActivationStore.open(f.store_url(side)) for f in both]
        for unit in one:
            for layer in stores[0].layers:
                states = [store.states(layer, unit) for store in stores]
                torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)
    dev = [Table.read(f.scores, ScoreRow).filter(pc.field("split") == "dev") for f in both]
    first, second = (table.arrow.drop_columns(["value"]) for table in dev)
    assert first == second
    np.testing.assert_allclose(dev[0].column("value"), dev[1].column("value"), rtol=1e-3, atol=1e-3)


def test_ray_with_as_many_threads_gives_the_bits_of_a_serial_run(
    on_ray: tuple[Path, api.RunFolder], tmp_path: Path
) -> None:
    """Same shapes, machine and threads: equal bits, however the model is cut into stages."""
    run_file, parallel = on_ray
    serial = run_all(run_file, tmp_path / "serial")
    assert bytes_of(serial) == bytes_of(parallel)
    for name in ("scores", "vectors", "generated"):
        assert pq.read_table(getattr(serial, name)) == pq.read_table(getattr(parallel, name))


def test_a_second_run_computes_nothing(
    copied: tuple[Path, api.RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file, folder = copied

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a finished step was computed again")

    monkeypatch.setattr("lrt_dist.tasks.model_stage.load_blocks", refuse)
    monkeypatch.setattr("lrt_dist.commands.fit.solve", refuse)
    monkeypatch.setattr("lrt_dist.commands._by_leaves.accumulate", refuse)
    monkeypatch.setattr("lrt_dist.commands.index.write_index", refuse)
    run_all(run_file, folder.out)


def test_what_is_cheap_may_change_and_what_is_costly_may_not(
    copied: tuple[Path, api.RunFolder],
) -> None:
    """The stores keep their bytes, since nothing writes to them again."""
    run_file, folder = copied
    before = bytes_of(folder)
    run_all(run_file, folder.out, "concepts=[]", "fit.method=orthogonal")
    assert set(pq.read_table(folder.fits[Direction.FORWARD])["method"].to_pylist()) == {
        "orthogonal"
    }
    assert bytes_of(folder) == before
    with pytest.raises(UserError, match=r"sites\.seed: 0 -> 7"):
        run_all(run_file, folder.out, "sites.seed=7")
    assert bytes_of(folder) == before


def test_a_store_with_missing_units_says_how_many(copied: tuple[Path, api.RunFolder]) -> None:
    run_file, folder = copied
    units = RowIndex.open(folder.rows).units
    Ledger(folder.ledger_url(Side.TARGET)).drop(0)
    Ledger(folder.ledger_url(Side.TARGET)).drop(2)
    (folder.out / "fits.parquet").unlink()
    with (
        api.open_run(folder.out, load_run(run_file)) as run,
        pytest.raises(IncompleteError, match=rf"2 of {units} units are missing"),
    ):
        api.fit(run)


def test_quarantined_units_are_left_out_and_told(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        index = api.index(run)
        api.extract(run)
        ledger = Ledger(run.folder.ledger_url(Side.TARGET))
        before = median_norms(run, Side.TARGET, fitted_units(run.folder))
        ledger.drop(1)
        ledger.quarantine(1, "not finite")
        for chunk in Path(run.folder.store_url(Side.TARGET)).glob("norms/*/c/1"):
            chunk.unlink()  # a unit that was never written
        after = median_norms(run, Side.TARGET, fitted_units(run.folder))
        assert after[0] == pytest.approx(before[0], rel=0.02)
        api.fit(run)
        page = api.report(run).read_text()
    (kept,) = set(pq.read_table(run.folder.fits[Direction.FORWARD])["n"].to_pylist())
    assert kept == index.rows - index.rows_per_unit
    assert "was quarantined" in page
    assert "not finite" in page


def test_states_that_are_not_finite_are_quarantined(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    """A token whose embedding is broken spoils the units it occurs in, and no others."""
    with api.open_run(tmp_path / "probe", load_run(write_run(), ["concepts=[]"])) as run:
        index = api.index(run)
    used = [{i for s in index.unit(u) for i in s.ids.source} for u in range(index.units)]
    rare = next(
        token for token in sorted(set().union(*used)) if sum(token in ids for ids in used) == 1
    )
    (bad,) = [unit for unit, ids in enumerate(used) if rare in ids]
    broken = tmp_path / "broken"
    shutil.copytree(tiny_source, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][rare] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})

    run_file = write_run(source={"model": str(broken), "layers": [1, 2]})
    with api.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        api.index(run)
        extract_side(run, Side.SOURCE)
    ledger = Ledger(run.folder.ledger_url(Side.SOURCE))
    assert list(ledger.quarantined()) == [bad]
    assert "not finite" in ledger.quarantined()[bad]
    assert set(ledger.committed()) == set(range(index.units)) - {bad}


def test_an_interrupted_refit_leaves_nothing_that_looks_current(
    copied: tuple[Path, api.RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same shapes, machine and threads: equal bits, where the first fit is done once more."""
    run_file, folder = copied
    before = AffineMap.load(folder.map_path(1, 0)).weight
    save = Table.save

    def interrupt(table: Table[Any], path: Path, fingerprint: str) -> None:
        if path == folder.fits[Direction.FORWARD]:
            raise KeyboardInterrupt
        save(table, path, fingerprint)

    with monkeypatch.context() as patched:
        patched.setattr(Table, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_all(run_file, folder.out, "fit.method=linear")
    assert not folder.fits[Direction.FORWARD].exists()
    assert not torch.equal(AffineMap.load(folder.map_path(1, 0)).weight, before)
    run_all(run_file, folder.out)
    assert torch.equal(AffineMap.load(folder.map_path(1, 0)).weight, before)


def test_sentences_without_prompts_can_be_evaluated(write_run: WriteRun, tmp_path: Path) -> None:
    """And by a target whose tokenizer adds nothing by itself."""
    run_file = write_run()
    source = load_run(run_file).source.model
    lists = {
        side: [f"{number} of them said it was {word}" for number in range(12)]
        for side, word in (("positive", "good"), ("negative", "bad"))
    }
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    folder = run_all(
        run_file, tmp_path / "out", f"target.model={source}", "target.layers=[1]",
        f"concepts=[{{name: lists, data: {tmp_path / 'lists.json'}}}]",
    )  # fmt: skip
    assert pq.read_table(folder.generated).num_rows == 7


def test_two_drivers_do_not_share_a_directory(write_run: WriteRun, tmp_path: Path) -> None:
    config = load_run(write_run())
    with (
        api.open_run(tmp_path / "out", config),
        pytest.raises(UserError, match=r"process \d+ on \S+ is working in"),
        api.open_run(tmp_path / "out", config),
    ):
        pass


def test_a_directory_that_is_something_else_is_left_alone(
    write_run: WriteRun, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with (
        pytest.raises(UserError, match="is no run's directory"),
        api.open_run(tmp_path / "thesis", load_run(write_run())),
    ):
        pass


def test_concept_texts_in_the_corpus_are_refused_unless_allowed(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    corpus = tmp_path / "corpus.jsonl"
    mood = "Well. Number 0 of the visitors said that the whole evening was good. So."
    corpus.write_text(corpus.read_text() + json.dumps({"text": mood * 3}) + "\n")
    with pytest.raises(UserError, match=r"concept mood: \d+ of its texts occur in the corpus"):
        run_all(run_file, tmp_path / "out")
    whole = corpus.read_text()
    corpus.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # taken out, as it says
    run_all(run_file, tmp_path / "out", "concepts=[]")
    corpus.write_text(whole)
    folder = run_all(run_file, tmp_path / "allowed", "fit.allow_fit_on_concepts=true")
    assert set(pq.read_table(folder.vectors)["overlap"].to_pylist()) == {True}


def test_too_few_documents_for_the_folds(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 documents fill only \d of 5 folds"):
        run_all(write_run(), tmp_path / "out", "fit.folds=5", "corpus.max_documents=3")


def test_a_model_is_mapped_to_itself(write_run: WriteRun, tmp_path: Path) -> None:
    """The positive control of the whole system: a model mapped to itself."""
    run_file = write_run()
    source = load_run(run_file).source.model
    folder = run_all(
        run_file, tmp_path / "out", f"target.model={source}", "target.layers=[1,2]",
        "extract.store_dtype=float32", "fit.pairs=[[1,1],[2,2],[1,2]]",
    )  # fmt: skip
    fits = {
        (line["source_layer"], line["target_layer"]): line
        for line in pq.read_table(folder.fits[Direction.FORWARD]).to_pylist()
    }
    assert fits[1, 1]["r2"] > 0.999
    assert fits[2, 2]["r2"] > 0.999
    assert fits[1, 1]["r2_mismatched"] < 0.05
    vectors = pq.read_table(folder.vectors).to_pylist()
    same = [v for v in vectors if v["source_layer"] == v["target_layer"]]
    assert all(v["cosine"] > 0.999 for v in same)
    assert all(abs(v["cosine_mismatched"]) < 0.9 for v in same)


def test_run_is_every_step_and_gives_the_tables(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And called again, it reads them."""
    run_file = write_run(fit={"folds": 3, "reverse": True, "joint": [[1, 2]]})
    results = lrt_dist.run(run_file, out=tmp_path / "out")
    assert results.config.name == "tiny"
    assert {(fit.source_layer, fit.target_layer) for fit in results.fits} == {
        (s, t) for s in (1, 2) for t in (0, 1)
    }
    assert {(fit.source_layer, fit.target_layer) for fit in results.reverse} == {
        (t, s) for s in (1, 2) for t in (0, 1)
    }
    assert [fit.source_layers for fit in results.joint] == [(1, 2), (1, 2)]
    assert {row.split for row in results.scores} == {"dev", "test", "neutral"}
    assert {row.arm for row in results.scores} == set(Arm) - {
        Arm.FOREIGN,
        Arm.CONCEPT_MAP,
        Arm.DETOUR,
        Arm.IDENTITY,
    }
    assert len(results.vectors) == 4
    assert sum(row.chosen for row in results.vectors) == 1
    assert len(results.generated) == 7
    assert results.report.is_file()
    monkeypatch.setattr("lrt_dist.tasks.model_stage.load_blocks", None)
    again = lrt_dist.run(load_run(run_file), out=tmp_path / "out")
    assert again.scores.arrow == results.scores.arrow


def test_vectors_are_kept_and_a_kept_map_transfers_them(
    whole: tuple[Path, api.RunFolder],
) -> None:
    """To rounding: 1e-12. A vector from a file need not lie in memory as the one it was made of."""
    _, folder = whole
    stores = Sided.of(lambda side: ActivationStore.open(folder.store_url(side)))
    vectors = folder.out / "vectors"
    for pair in (LayerPair(s, t) for s in (1, 2) for t in (0, 1)):
        native = SteeringVector.load(vectors / f"mood-source-{pair.source}.safetensors")
        kept = SteeringVector.load(
            vectors / f"mood-transferred-{pair.source}-{pair.target}.safetensors"
        )
        for side, layer, vector in (
            (Side.SOURCE, pair.source, native),
            (Side.TARGET, pair.target, kept),
        ):
            store = stores[side]
            rows = [store.norms(layer, unit) for unit in range(store.units)]
            assert vector.norm == pytest.approx(float(np.median(np.concatenate(rows))))
            assert (vector.model, vector.layer) == (folder.model(side).model, layer)
        affine = AffineMap.load(folder.map_path(pair.source, pair.target))
        transferred = affine.transfer(native)
        torch.testing.assert_close(transferred.values, kept.values, rtol=1e-12, atol=1e-12)
        assert (transferred.method, transferred.pairs) == (kept.method, kept.pairs)
        assert kept.norm is not None
        assert float(kept.displacement(0.5).norm()) == pytest.approx(0.5 * kept.norm)


def test_steering_the_last_position_has_no_price(write_run: WriteRun, tmp_path: Path) -> None:
    """Neutral text has no prompt, so nothing of it would be steered."""
    run_file = write_run()
    results = lrt_dist.run(load_run(run_file, ["evaluate.positions=last"]), tmp_path / "out")
    assert {row.split for row in results.scores} == {"dev", "test"}
    page = results.report.read_text("utf-8")
    assert "price of steering is not defined for evaluate.positions: last" in page
    (concept,) = summarise(results)
    assert math.isnan(concept.cost_native)
    assert concept.verdict.native != 0


def test_evaluate_asks_for_a_fit(write_run: WriteRun, tmp_path: Path) -> None:
    """It never fits by itself: with other settings of the fit, too, it says what to do."""
    run_file = write_run()
    with api.open_run(tmp_path / "out", load_run(run_file)) as run:
        api.index(run)
        api.extract(run)
        with pytest.raises(IncompleteError, match="run `lrt-dist fit` first"):
            api.evaluate(run)
        assert not (run.folder.out / "maps").exists()
        assert len(api.fit(run)) == 4
    with (
        api.open_run(tmp_path / "out", load_run(run_file, ["fit.method=linear"])) as run,
        pytest.raises(IncompleteError, match="run `lrt-dist fit` first"),
    ):
        api.evaluate(run)
