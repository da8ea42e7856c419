"""A chain of partial stages is the whole model: bit for bit where products have the same shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import save_model
from torch import nn

from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.models import hooks
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.loading import load_blocks
from lrt_dist.models.sources import check_layers, describe
from lrt_dist.sites import Side
from lrt_dist.tasks.model_stage import pad
from lrt_dist.tasks.token_trees import ROOT, TokenTree, TreeBatch

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
FAMILIES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama tied": lambda: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "gemma-2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "gemma-3": lambda: transformers.Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gpt-2": lambda: transformers.GPT2Config(
        vocab_size=97,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**SHAPE),
    "qwen-3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=97,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "olmo-2": lambda: transformers.Olmo2Config(**GROUPED),
    "phi-3": lambda: transformers.Phi3Config(**GROUPED),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family") / "model"
    return save_model(folder, FAMILIES[request.param](), tokenizer=None)


def whole_model(folder: Path, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Every block's output and the logits, by plain transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    outputs: list[torch.Tensor] = []
    for block in find_blocks(model):
        block.register_forward_hook(lambda m, a, out: outputs.append(hooks.block_output(out)))
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits
    return outputs, logits


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_two_stages_are_the_whole_model(family: Path, cut: int) -> None:
    """Hidden states: same shapes, equal bits. Logits, of 3 rows here and of 33 there: to rounding,
    1e-5 of the largest one."""
    ids = torch.randint(3, 97, (3, 11), generator=torch.Generator().manual_seed(0))
    expected, logits = whole_model(family, ids)
    config = ModelConfig(model=str(family))
    first = load_blocks(config, range(cut), head=False)
    second = load_blocks(config, range(cut, 4), head=True)
    hidden, captured = first.run(ids, capture=range(cut))
    last, more = second.run(ids, hidden, capture=range(cut, 4))
    for layer, states in (captured | more).items():
        assert torch.equal(states, expected[layer]), f"block {layer}"
    batch, position = torch.tensor([0, 1, 2]), torch.tensor([3, 10, 5])
    torch.testing.assert_close(
        second.logits(last, batch, position),
        logits[batch, position],
        rtol=0,
        atol=1e-5 * float(logits.abs().max()),
    )


def test_a_run_can_go_on_from_any_block(family: Path) -> None:
    """Same shapes: equal bits."""
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(1))
    expected, _ = whole_model(family, ids)
    stack = load_blocks(ModelConfig(model=str(family)), range(4), head=True)
    for start in (1, 2, 3):
        hidden, _ = stack.run(ids, expected[start - 1], start=start)
        assert torch.equal(hidden, expected[3])
    again, _ = stack.run(ids)  # the blocks that were idle are back in their places
    assert torch.equal(again, expected[3])


def test_a_batch_is_its_sequences_one_by_one(family: Path) -> None:
    """To rounding: 1e-4 of each entry, 1e-5 at least."""
    generator = torch.Generator().manual_seed(2)
    sequences = [torch.randint(3, 97, (n,), generator=generator).tolist() for n in (4, 9, 6)]
    stack = load_blocks(ModelConfig(model=str(family)), range(4), head=False)
    batch, _ = stack.run(pad(sequences))
    for row, ids in enumerate(sequences):
        alone, _ = stack.run(torch.tensor([ids]))
        torch.testing.assert_close(batch[row, : len(ids)], alone[0], rtol=1e-4, atol=1e-5)


def test_a_stage_holds_only_its_blocks(family: Path) -> None:
    facts = describe(ModelConfig(model=str(family)))
    stack = load_blocks(ModelConfig(model=str(family)), range(2, 3), head=False)
    held = sum(p.numel() for p in stack._model.parameters())
    small = 5 * 66 * facts.width  # final norm, position tables, projections at the ends
    assert facts.block_parameters[2] <= held <= facts.block_parameters[2] + small
    assert held < facts.block_parameters[2] + facts.embedding_parameters + small


def test_facts_count_what_the_model_has(family: Path) -> None:
    facts = describe(ModelConfig(model=str(family)))
    assert (facts.layers, facts.width, facts.vocabulary) == (4, 32, 97)
    model = transformers.AutoModelForCausalLM.from_pretrained(family)
    assert sum(facts.block_parameters) == sum(p.numel() for p in find_blocks(model).parameters())
    with torch.inference_mode():
        cache = model(torch.tensor([[5, 9, 20]]), use_cache=True).past_key_values
    for layer in cache.layers:
        assert facts.remembered * 3 == layer.keys.numel() + layer.values.numel()


def test_layer_out_of_range_says_how_many_there_are(tiny_source: Path) -> None:
    config = ModelConfig(model=str(tiny_source), layers=(1, 4))
    with pytest.raises(UserError, match=r"source\.layers: 4 is out of range; .* has 4 layers"):
        check_layers(Side.SOURCE, config, describe(config))


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", FAMILIES["llama"](), tokenizer=None)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = ModelConfig(model=str(folder))
    load_blocks(config, range(2), head=False)  # this stage does not need it
    with pytest.raises(UserError, match=r"lacks 1 weights .* model\.layers\.2\.mlp\.up_proj"):
        load_blocks(config, range(2, 4), head=False)


def test_a_quantised_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", FAMILIES["llama"](), tokenizer=None)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"is quantised \(fp8\).* name the checkpoint"):
        describe(ModelConfig(model=str(folder)))


def test_identity_tells_other_weights_apart(tmp_path: Path) -> None:
    one = save_model(tmp_path / "one", FAMILIES["llama"](), tokenizer=None, seed=0)
    same = save_model(tmp_path / "same", FAMILIES["llama"](), tokenizer=None, seed=0)
    other = save_model(tmp_path / "other", FAMILIES["llama"](), tokenizer=None, seed=1)
    known = {p: describe(ModelConfig(model=str(p))).digest for p in (one, same, other)}
    assert known[one] == known[same] != known[other]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/model", "no model at"),
        ("/nowhere/model.gguf", "no GGUF file at"),
    ],
)
def test_models_that_are_not_there(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe(ModelConfig(model=model))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        describe(ModelConfig(model=str(tmp_path)))


def test_branches_are_computed_as_if_each_stood_alone(family: Path) -> None:
    """To rounding: 1e-5. No branch is longer than any family's attention window, which is 4."""
    stack = load_blocks(ModelConfig(model=str(family)), range(4), head=True)
    tree = TokenTree((5, 9, 20, 31, 8, 12), (ROOT, 0, 1, 2, 1, 4), (), ())
    batch = TreeBatch.of([tree])
    assert batch.branches is not None
    together, _ = stack.run(batch.ids_BT, branches=batch.branches)
    for branch in ([0, 1, 2, 3], [0, 1, 4, 5]):
        alone, _ = stack.run(batch.ids_BT[:, branch])
        torch.testing.assert_close(together[:, branch], alone, rtol=1e-5, atol=1e-5)


def test_hooks_unwind_when_the_forward_fails() -> None:
    block = nn.Linear(2, 2)
    with (
        pytest.raises(RuntimeError),
        hooks.capture({0: block}, lambda h: h),
        hooks.change_output(block, lambda _: torch.zeros(1, 2)),
        hooks.stop_after(block),
    ):
        raise RuntimeError("in the middle")
    assert not block._forward_hooks
