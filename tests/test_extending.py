"""Every door of docs/extending.md is open from outside the package: one of each, in one run.

What is added here is added as a user would: in a module of their own, by name in the RUN.yaml, or
by registering a model class with transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
import transformers
import yaml
from local_s3 import s3_bucket
from tiny_models import byte_level_tokenizer, save_model

import lrt_dist
from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import make_vector
from lrt_dist.models.blocks import BlockStack, find_blocks
from lrt_dist.models.hooks import block_output

WriteRun = Callable[..., Path]

MODULE = '''
import torch
from matplotlib.figure import Figure
from lrt_dist.linear.methods import Method
from lrt_dist.models.injection import Positions
from lrt_dist.tasks.scores import GeneratedScore


# (a) a vector method, with a parameter from the RUN.yaml
def trimmed_mean(positive, negative, *, trim):
    differences = (positive - negative).sort(0).values
    return differences[trim : len(differences) - trim].mean(0)


# (b) a fit method: regression on the leading principal components alone
def principal_components(w, B, penalty):
    kept = (torch.arange(len(w)) >= len(w) - 5).to(w)  # eigenvalues are ascending
    return B * (kept / w).unsqueeze(1)

PCR = Method(principal_components)


# (c) a choice of positions: the first half of the prompt
def first_half(tokens, prompt):
    return range(max(1, prompt // 2))

FIRST_HALF = Positions(first_half, needs_prompt=True)


# (f) a figure
def rows_and_r2(results):
    """Held-out R² of every map of this run."""
    figure = Figure(figsize=(5, 2))
    figure.subplots().bar(range(len(results.fits)), results.fits.column("r2"))
    return figure


# (g) a score of generated text
def vowels(item, continuation):
    return float(sum(continuation.count(vowel) for vowel in "aeiou"))

VOWELS = GeneratedScore(vowels, "change of vowels", tokens=2)
'''


# (d) a model family that transformers does not have, under names of its own
class ToyConfig(transformers.LlamaConfig):  # type: ignore[misc] # transformers is not typed
    model_type = "toy_lm"


class ToyForCausalLM(transformers.LlamaForCausalLM):  # type: ignore[misc]
    config_class = ToyConfig


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_lab.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("my_lab", None)


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.AutoConfig.register("toy_lm", ToyConfig)
    transformers.AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM)
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


def test_a_vector_method_with_a_parameter(
    write_run: WriteRun, tmp_path: Path, module: None
) -> None:
    run_file = write_run()
    content = yaml.safe_load(run_file.read_text())
    content["concepts"][0]["vector"] = {"method": "my_lab:trimmed_mean", "trim": 1}
    run_file.write_text(yaml.safe_dump(content))
    run_with(run_file, tmp_path / "out")
    vector = lrt_dist.SteeringVector.load(tmp_path / "out/vectors/mood-source-1.safetensors")
    assert vector.method == "my_lab:trimmed_mean"
    positive, negative = torch.randn(2, 7, 3).double()
    by_hand = (positive - negative).sort(0).values[2:5].mean(0)
    torch.testing.assert_close(
        make_vector("my_lab:trimmed_mean", positive, negative, {"trim": 2}), by_hand
    )


def test_a_fit_method(write_run: WriteRun, tmp_path: Path, module: None) -> None:
    results = run_with(write_run(), tmp_path / "out", "concepts=[]", "fit.method=my_lab:PCR")
    assert set(results.fits.column("method")) == {"my_lab:PCR"}
    affine = lrt_dist.AffineMap.load(tmp_path / "out/maps/1-0.safetensors")
    assert int(torch.linalg.matrix_rank(affine.weight)) == 5


def test_positions_and_a_score_of_generated_text(
    write_run: WriteRun, tmp_path: Path, module: None
) -> None:
    results = run_with(
        write_run(),
        tmp_path / "out",
        "evaluate.positions=my_lab:FIRST_HALF",
        "evaluate.score=my_lab:VOWELS",
    )
    assert set(results.scores.column("metric")) == {"my_lab:VOWELS"}
    values = results.scores.column("value")
    assert all(value == int(value) >= 0 for value in values)
    test = results.scores.filter(pc.field("split") == "test")
    assert {"none", "native", "transferred", "mismatched", "random"} == set(test.column("arm"))
    assert "change of vowels" in results.report.read_text()


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
    hidden, _ = BlockStack.load(config, range(2), head=False).run(ids)
    last, _ = BlockStack.load(config, range(2, 3), head=False).run(ids, hidden)
    assert torch.equal(last, outputs[2])
    run_file = write_run(source={"model": str(toy_model), "layers": [1]})
    assert len(run_with(run_file, tmp_path / "out", "concepts=[]").fits) == 2


def test_stores_in_an_object_store(write_run: WriteRun, tmp_path: Path) -> None:
    with s3_bucket("extending") as bucket:
        results = run_with(
            write_run(), tmp_path / "out", "concepts=[]", f"extract.store_url={bucket}/run"
        )
    assert len(results.fits) == 4
    assert not (tmp_path / "out/activations").exists()


def test_a_figure_in_the_report(write_run: WriteRun, tmp_path: Path, module: None) -> None:
    results = run_with(
        write_run(), tmp_path / "out", "concepts=[]", "report.figures=['my_lab:rows_and_r2']"
    )
    page = results.report.read_text()
    assert "Held-out R² of every map of this run." in page
    assert page.count("<svg") == 1


@pytest.mark.parametrize(
    "override",
    [
        "fit.method=afine",
        "evaluate.positions=lest",
        "evaluate.score=propensty",
        "report.figures=[nowhere:figure]",
        "concepts=[{name: a, data: mood.jsonl, vector: mean_diference}]",
    ],
)
def test_a_name_that_does_not_exist_is_said_before_a_folder_is_made(
    write_run: WriteRun, tmp_path: Path, override: str
) -> None:
    with pytest.raises(UserError, match=r"did you mean '\w+'\?|cannot be imported"):
        run_with(write_run(), tmp_path / "out", override)
    assert not (tmp_path / "out").exists()
