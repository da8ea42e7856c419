"""Every door of docs/extending.md is open from outside the package: one of each, in whole runs.

What is added lies in a module of the user's own, `tests/outside/my_lab.py`, and is named in the
RUN.yaml.
"""

from __future__ import annotations

import importlib
import json
import linecache
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
import transformers
import yaml
from local_s3 import s3_bucket
from my_lab import ToyConfig
from tiny_models import byte_level_tokenizer, save_model

import lrt_dist
from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import make_vector
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output
from lrt_dist.models.loading import load_blocks
from lrt_dist.runtime.contract import Runtime
from lrt_dist.store.tables import ScoreRow, Table

WriteRun = Callable[..., Path]
SIDES = {"positive": "good", "negative": "bad"}


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_level_tokenizer()
    config = ToyConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "toy", config, tokenizer, seed=2)


def run_with(run_file: Path, out: Path, *overrides: str) -> lrt_dist.Results:
    return lrt_dist.run(lrt_dist.load_run(run_file, overrides), out)


def with_vector(run_file: Path, **vector: object) -> Path:
    """The same run, whose concept has its vector made in this way."""
    content = yaml.safe_load(run_file.read_text())
    content["concepts"][0]["vector"] = vector
    run_file.write_text(yaml.safe_dump(content))
    return run_file


def test_a_vector_method_with_a_parameter(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = with_vector(write_run(), method="my_lab:trimmed_mean", trim=1)
    run_with(run_file, tmp_path / "out")
    vector = lrt_dist.SteeringVector.load(tmp_path / "out/vectors/mood-source-1.safetensors")
    assert vector.method == "my_lab:trimmed_mean"
    positive, negative = torch.randn(2, 7, 3).double()
    by_hand = (positive - negative).sort(0).values[2:5].mean(0)
    torch.testing.assert_close(
        make_vector("my_lab:trimmed_mean", positive, negative, {"trim": 2}), by_hand
    )


def test_a_parameter_that_the_method_does_not_take_is_said_first(
    write_run: WriteRun, tmp_path: Path
) -> None:
    run_file = with_vector(write_run(), method="logistic", penalti=3)
    with pytest.raises(UserError, match="'logistic': got an unexpected keyword argument 'penalti'"):
        run_with(run_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fit_method(write_run: WriteRun, tmp_path: Path) -> None:
    run_file, out = write_run(), tmp_path / "out"
    results = run_with(run_file, out, "concepts=[]", "fit.method=my_lab:PCR")
    assert set(results.fits.column("method")) == {"my_lab:PCR"}
    assert set(results.fits.column("map_rank")) == {5}
    affine = lrt_dist.AffineMap.load(out / "maps/1-0.safetensors")
    assert int(torch.linalg.matrix_rank(affine.weight)) == 5


def test_the_penalty_of_ones_own_method_is_cross_validated_by_that_method(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """`scaled_ridge` at λ is ridge at 100 λ: to rounding (1e-9), the same maps at λ / 100."""
    run_file, out = write_run(), tmp_path / "out"
    ours = {row.target_layer: row for row in run_with(run_file, out, "concepts=[]").fits}
    theirs = run_with(run_file, out, "concepts=[]", "fit.method=my_lab:SCALED_RIDGE").fits
    for row in theirs:
        if row.source_layer == 2:
            assert row.ridge_relative * 100 == pytest.approx(ours[row.target_layer].ridge_relative)
            assert row.r2 == pytest.approx(ours[row.target_layer].r2, abs=1e-9)


def test_positions_an_operator_and_a_score_of_generated_text(
    write_run: WriteRun, tmp_path: Path
) -> None:
    results = run_with(
        write_run(),
        tmp_path / "out",
        "evaluate.positions=my_lab:FIRST_HALF",
        "evaluate.operator=my_lab:AT_LEAST",
        "evaluate.score=my_lab:VOWELS",
        "evaluate.generate.scores=[{method: 'my_lab:letters', which: eiou}, 'my_lab:VOWELS']",
    )
    for row in results.generated:
        few, all_vowels = row.values
        assert all_vowels - few == row.text.count("a")
    assert set(results.scores.column("metric")) == {"my_lab:VOWELS"}
    assert set(results.scores.column("split")) == {"dev", "test"}  # neutral text has no prompt
    values = results.scores.column("value")
    assert all(value == int(value) >= 0 for value in values)
    test = results.scores.filter(pc.field("split") == "test")
    fixed = {"none", "native", "transferred", "mismatched", "mean"}
    assert set(test.column("arm")) == fixed
    assert set(results.controls.column("steered")) == {True}
    assert set(results.controls.column("draw")) == {0, 1}
    assert "change of vowels" in results.report.read_text()


def test_positions_decide_what_is_steered(write_run: WriteRun, tmp_path: Path) -> None:
    run_file, out = write_run(), tmp_path / "out"
    pair = "fit.pairs=[[1, 1]]"  # else each might choose another layer
    steered_everywhere = _values(run_with(run_file, out, pair).scores)
    positions = "evaluate.positions=my_lab:FIRST_HALF"
    steered_first_half = _values(run_with(run_file, out, pair, positions).scores)
    unsteered = [key for key in steered_first_half if key[0] == "none"]
    assert unsteered
    assert all(steered_first_half[key] == steered_everywhere[key] for key in unsteered)
    native = [key for key in steered_first_half if key[0] == "native"]
    assert all(steered_first_half[key] != steered_everywhere[key] for key in native)


def _values(scores: Table[ScoreRow]) -> dict[tuple[str, int, int, float], float]:
    return {
        (row.arm, row.target_layer, row.item, row.strength): row.value
        for row in scores
        if row.split == "test" and row.arm in ("none", "native")
    }


def test_a_position_outside_a_sequence_is_named(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"beyond chose \[\d+\] in a sequence of \d+ tokens"):
        run_with(write_run(), tmp_path / "out", "evaluate.positions=my_lab:BEYOND")


def test_items_of_which_nothing_would_be_steered_are_refused(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """An answer of one token is never run: it is what the prompt predicts."""
    items = [{"prompt": f"{n} (", "positive": "a", "negative": "b"} for n in range(12)]
    data = tmp_path / "letters.jsonl"
    data.write_text("\n".join(map(json.dumps, items)))
    concept = f"concepts=[{{name: letters, data: {data}, template: {{separator: ''}}}}]"
    with pytest.raises(UserError, match=r"letters: evaluate\.positions answer steers no token of"):
        run_with(write_run(), tmp_path / "out", "evaluate.positions=answer", concept)
    assert not (tmp_path / "out" / "activations").exists()


def test_a_generated_score_needs_prompts(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run()
    source = lrt_dist.load_run(run_file).source.model  # its tokenizer adds nothing by itself
    sentences = {side: [f"{n} {word} days" for n in range(12)] for side, word in SIDES.items()}
    (tmp_path / "lists.json").write_text(json.dumps(sentences))
    concept = f"concepts=[{{name: lists, data: {tmp_path / 'lists.json'}}}]"
    overrides = (f"target.model={source}", "target.layers=[1]", "evaluate.score=my_lab:VOWELS")
    with pytest.raises(UserError, match=r"concept lists: an item has no prompt \('1 good days'\)"):
        run_with(run_file, tmp_path / "out", *overrides, concept)
    assert not (tmp_path / "out" / "activations").exists()


def test_a_model_family_under_its_own_name(
    write_run: WriteRun, tmp_path: Path, toy_model: Path
) -> None:
    """Two stages of it are the whole model. Same shapes and machine: equal bits."""
    config = ModelConfig(model=str(toy_model))
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = transformers.AutoModelForCausalLM.from_pretrained(toy_model).eval()
    outputs: list[torch.Tensor] = []
    for block in find_blocks(whole):
        block.register_forward_hook(lambda m, a, output: outputs.append(block_output(output)))
    with torch.inference_mode():
        whole(ids, use_cache=False)
    hidden, _ = load_blocks(config, range(2), head=False).run(ids)
    last, _ = load_blocks(config, range(2, 3), head=False).run(ids, hidden)
    assert torch.equal(last, outputs[2])
    run_file = write_run(source={"model": str(toy_model), "layers": [1]})
    assert len(run_with(run_file, tmp_path / "out", "concepts=[]").fits) == 2


@pytest.mark.slow
def test_all_of_it_on_ray_in_two_stages(
    write_run: WriteRun, tmp_path: Path, toy_model: Path, ray_runtime: Runtime
) -> None:
    """Workers find the module, and the model that it registers, by themselves."""
    source = {"model": str(toy_model), "layers": [1], "imports": ["my_lab"]}
    results = run_with(
        with_vector(write_run(source=source), method="my_lab:trimmed_mean", trim=1),
        tmp_path / "out",
        "cluster.address=auto",
        "cluster.stages=2",
        "cluster.replicas=1",
        "fit.method=my_lab:PCR",
        "evaluate.positions=my_lab:FIRST_HALF",
        "evaluate.score=my_lab:VOWELS",
        "report.figures=['my_lab:rows_and_r2']",
    )
    assert len(results.fits) == 2
    assert len(results.scores) > 0


def test_stores_in_an_object_store(write_run: WriteRun, tmp_path: Path) -> None:
    with s3_bucket("extending") as bucket:
        results = run_with(
            write_run(), tmp_path / "out", "concepts=[]", f"extract.store_url={bucket}/run"
        )
    assert len(results.fits) == 4
    assert not (tmp_path / "out/activations").exists()


def test_a_figure_in_the_report(write_run: WriteRun, tmp_path: Path) -> None:
    results = run_with(
        write_run(), tmp_path / "out", "concepts=[]", "report.figures=['my_lab:rows_and_r2']"
    )
    page = results.report.read_text()
    assert "Held-out R² of every map of this run." in page
    assert page.count("<svg") == 1


def test_a_change_of_ones_own_code_is_a_change_of_the_run(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file, out = write_run(), tmp_path / "out"
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    code = (
        "from lrt_dist.linear.methods import Method\n"
        "def solve(w, B, penalty): return {} * B / (w + 1.0).unsqueeze(1)\n"
        "METHOD = Method(solve)\n"
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    r2 = []
    for factor in (1, 0):  # a script is run, changed, and run again by a new process
        (folder / "changing.py").write_text(code.format(factor))
        monkeypatch.delitem(sys.modules, "changing", raising=False)
        importlib.invalidate_caches()
        linecache.clearcache()
        results = run_with(run_file, out, "concepts=[]", "fit.method=changing:METHOD")
        r2.append(results.fits.column("r2")[0])
    assert r2[0] != r2[1]
    assert r2[1] <= 0


@pytest.mark.parametrize(
    "override",
    [
        "fit.method=afine",
        "fit.method=os:path",
        "evaluate.positions=lest",
        "evaluate.score=propensty",
        "evaluate.operator=abalte",
        "report.figures=[nowhere:figure]",
        "concepts=[{name: a, data: mood.jsonl, vector: mean_diference}]",
    ],
)
def test_a_name_that_does_not_exist_is_said_before_a_folder_is_made(
    write_run: WriteRun, tmp_path: Path, override: str, lrt_dist: Callable[..., tuple[int, str]]
) -> None:
    run_file, out = str(write_run()), tmp_path / "out"
    for command in ("run", "plan"):
        code, text = lrt_dist(command, run_file, "--out", str(out), "--set", override)
        assert code == 2, text
        assert "did you mean" in text or "cannot be imported" in text or "was expected" in text
    assert not out.exists()
