"""A whole run: serial is Ray, again is at once, and every number has its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lrt_dist import verbs
from lrt_dist.config import load_run
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.linear.affine import AffineMap
from lrt_dist.models.blocks import find_blocks
from lrt_dist.models.hooks import block_output
from lrt_dist.pipelines.extract import extract_side
from lrt_dist.pipelines.moments import fitted_units, median_norms
from lrt_dist.runtime.tasks import Runtime
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.ledger import Ledger

WriteRun = Callable[..., Path]


def run_all(run_file: Path, out: Path, *overrides: str) -> verbs.RunFolder:
    with verbs.open_run(out, load_run(run_file, overrides)) as run:
        verbs.index(run)
        verbs.extract(run)
        verbs.fit(run)
        verbs.evaluate(run)
        verbs.report(run)
    return run.folder


def bytes_of(folder: verbs.RunFolder) -> dict[str, bytes]:
    """Every byte of both stores, by name."""
    files = {}
    for side in (0, 1):
        root = Path(folder.store_url(side))
        files |= {
            f"{side}/{p.relative_to(root)}": p.read_bytes() for p in root.rglob("*") if p.is_file()
        }
    return files


def test_a_run_leaves_what_the_design_says(write_run: WriteRun, tmp_path: Path) -> None:
    folder = run_all(write_run(), tmp_path / "out")
    for pattern in (
        "run.yaml",
        "*.parquet",
        "report.html",
        "log.jsonl",
        "moments/*/*.safetensors",
        "maps/?-?.safetensors",
        "maps/shuffled/?-?.safetensors",
        "vectors/mood-source-?.safetensors",
    ):
        assert list(folder.out.glob(pattern)), pattern
    assert pq.read_table(folder.fits).num_rows == 4
    for line in (folder.out / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_stored_rows_are_the_states_of_plain_transformers(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    folder = run_all(run_file, tmp_path / "out", "extract.store_dtype=float32", "concepts=[]")
    index = RowIndex.open(folder.rows)
    for side in (0, 1):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder.model(side).model).eval()
        layers = folder.model(side).layers
        assert layers != "all"
        taken: dict[int, torch.Tensor] = {}
        for layer in layers:

            def keep(
                m: Any, a: Any, out: Any, layer: int = layer, taken: dict[int, Any] = taken
            ) -> None:
                taken[layer] = block_output(out)

            find_blocks(model)[layer].register_forward_hook(keep)
        store = ActivationStore.open(folder.store_url(side))
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


def test_a_streamed_fit_is_least_squares_on_all_rows(write_run: WriteRun, tmp_path: Path) -> None:
    folder = run_all(
        write_run(), tmp_path / "out", "concepts=[]", "fit.method=linear",
        "fit.exclude_norm_above=null", "extract.store_dtype=float32",
    )  # fmt: skip
    source, target = (ActivationStore.open(folder.store_url(side)) for side in (0, 1))
    x = torch.cat([source.states(2, unit) for unit in range(source.units)]).double().numpy()
    y = torch.cat([target.states(1, unit) for unit in range(target.units)]).double().numpy()
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    affine = AffineMap.load(folder.map_path(2, 1))
    np.testing.assert_allclose(affine.weight, expected, rtol=1e-5)
    assert affine.report["n"] == len(x)
    assert not AffineMap.load(folder.map_path(2, 1, shuffled=True)).report


def test_ray_is_serial(write_run: WriteRun, tmp_path: Path, ray_runtime: Runtime) -> None:
    run_file = write_run()
    serial = run_all(run_file, tmp_path / "serial")
    parallel = run_all(
        run_file, tmp_path / "ray",
        "cluster.address=auto", "cluster.stages=2", "cluster.replicas=1",
    )  # fmt: skip
    assert bytes_of(serial) == bytes_of(parallel)
    for side in (0, 1):
        one, other = (Ledger(f.ledger_url(side)).committed() for f in (serial, parallel))
        assert {u: r.content() for u, r in one.items()} == {
            u: r.content() for u, r in other.items()
        }
    for name in ("scores", "vectors", "samples"):
        one, other = (pq.read_table(getattr(f, name)) for f in (serial, parallel))
        assert one.drop_columns(_floats(one)) == other.drop_columns(_floats(other))
        for column in _floats(one):
            np.testing.assert_allclose(
                one[column].to_numpy(), other[column].to_numpy(), rtol=1e-4, atol=1e-5
            )


def test_a_second_run_computes_nothing(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = write_run()
    run_all(run_file, tmp_path / "out")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("lrt_dist.models.blocks.BlockStack.load", refuse)
    monkeypatch.setattr("lrt_dist.pipelines.fit.solve", refuse)
    monkeypatch.setattr("lrt_dist.pipelines.moments.accumulate", refuse)
    monkeypatch.setattr("lrt_dist.pipelines.index.write_index", refuse)
    run_all(run_file, tmp_path / "out")


def test_what_is_cheap_may_change_and_what_is_costly_may_not(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    folder = run_all(run_file, tmp_path / "out", "concepts=[]")
    before = bytes_of(folder)
    run_all(run_file, tmp_path / "out", "concepts=[]", "fit.method=orthogonal")
    assert set(pq.read_table(folder.fits)["method"].to_pylist()) == {"orthogonal"}
    assert bytes_of(folder) == before
    with pytest.raises(UserError, match=r"sites\.seed: 0 -> 7"):
        run_all(run_file, tmp_path / "out", "sites.seed=7")
    assert bytes_of(folder) == before


def test_a_store_with_missing_units_says_how_many(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    folder = run_all(run_file, tmp_path / "out", "concepts=[]")
    units = RowIndex.open(folder.rows).units
    Ledger(folder.ledger_url(1)).drop(0)
    Ledger(folder.ledger_url(1)).drop(2)
    (folder.out / "fits.parquet").unlink()
    with (
        verbs.open_run(tmp_path / "out", load_run(run_file)) as run,
        pytest.raises(IncompleteError, match=rf"2 of {units} units are missing"),
    ):
        verbs.fit(run)


def test_units_that_are_set_aside_are_left_out_and_told(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    with verbs.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        index = verbs.index(run)
        verbs.extract(run)
        ledger = Ledger(run.folder.ledger_url(1))
        before = median_norms(run, 1, list(range(index.units)))
        ledger.drop(1)
        ledger.quarantine(1, "not finite")
        for chunk in Path(run.folder.store_url(1)).glob("norms/*/c/1"):
            chunk.unlink()  # a unit that was never written
        after = median_norms(run, 1, fitted_units(run.folder))
        assert after[0] == pytest.approx(before[0], rel=0.02)
        verbs.fit(run)
        page = verbs.report(run).read_text()
    (kept,) = set(pq.read_table(run.folder.fits)["n"].to_pylist())
    left_out = pq.read_table(run.folder.fits)["rows_left_out"].to_pylist()[0]
    assert kept + left_out == index.rows - index.rows_per_unit
    assert "was set aside" in page
    assert "not finite" in page


def test_states_that_are_not_finite_are_quarantined(
    write_run: WriteRun, tmp_path: Path, tiny_source: Path
) -> None:
    """A token whose embedding is broken spoils the units it occurs in, and no others."""
    with verbs.open_run(tmp_path / "probe", load_run(write_run(), ["concepts=[]"])) as run:
        index = verbs.index(run)
    used = [{i for s in index.unit(u) for i in s.ids[0]} for u in range(index.units)]
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
    with verbs.open_run(tmp_path / "out", load_run(run_file, ["concepts=[]"])) as run:
        verbs.index(run)
        extract_side(run, 0)
    ledger = Ledger(run.folder.ledger_url(0))
    assert list(ledger.quarantined()) == [bad]
    assert "not finite" in ledger.quarantined()[bad]
    assert set(ledger.committed()) == set(range(index.units)) - {bad}


def test_an_interrupted_refit_leaves_nothing_that_looks_current(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file, out = write_run(), tmp_path / "out"
    folder = run_all(run_file, out)
    before = AffineMap.load(folder.map_path(1, 0)).weight
    with monkeypatch.context() as patched:
        patched.setattr("lrt_dist.pipelines.fit.save_table", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_all(run_file, out, "fit.method=linear")
    assert not torch.equal(AffineMap.load(folder.map_path(1, 0)).weight, before)
    run_all(run_file, out)
    assert torch.equal(AffineMap.load(folder.map_path(1, 0)).weight, before)


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


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
    assert pq.read_table(folder.samples).num_rows == 5


def test_two_drivers_do_not_share_a_directory(write_run: WriteRun, tmp_path: Path) -> None:
    config = load_run(write_run())
    with (
        verbs.open_run(tmp_path / "out", config),
        pytest.raises(UserError, match=r"process \d+ on \S+ is working in"),
        verbs.open_run(tmp_path / "out", config),
    ):
        pass


def test_a_directory_that_is_something_else_is_left_alone(
    write_run: WriteRun, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with (
        pytest.raises(UserError, match="is no run's directory"),
        verbs.open_run(tmp_path / "thesis", load_run(write_run())),
    ):
        pass


def test_concept_texts_in_the_corpus_are_refused_unless_allowed(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = write_run()
    corpus = tmp_path / "corpus.jsonl"
    mood = "Well. Number 0 of the visitors said that the whole evening was good. So."
    corpus.write_text(corpus.read_text() + json.dumps({"text": mood * 3}) + "\n")
    with pytest.raises(UserError, match=r"concept mood: 1 of its texts occur in the corpus"):
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


def test_same_model_on_both_sides_is_found_again(write_run: WriteRun, tmp_path: Path) -> None:
    """The positive control of the whole system: a model mapped to itself."""
    run_file = write_run()
    source = load_run(run_file).source.model
    folder = run_all(
        run_file, tmp_path / "out", f"target.model={source}", "target.layers=[1,2]",
        "extract.store_dtype=float32", "fit.pairs=[[1,1],[2,2],[1,2]]",
    )  # fmt: skip
    fits = {
        (line["source_layer"], line["target_layer"]): line
        for line in pq.read_table(folder.fits).to_pylist()
    }
    assert fits[1, 1]["r2"] > 0.999
    assert fits[2, 2]["r2"] > 0.999
    assert fits[1, 1]["r2_shuffled"] < 0.05
    vectors = pq.read_table(folder.vectors).to_pylist()
    same = [v for v in vectors if v["source_layer"] == v["target_layer"]]
    assert all(v["cosine"] > 0.999 for v in same)
    assert all(abs(v["cosine_shuffled"]) < 0.9 for v in same)


def _floats(table: Any) -> list[str]:
    return [field.name for field in table.schema if str(field.type) in ("double", "float")]
