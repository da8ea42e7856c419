"""What is written token by token, in batches, from kept keys and values, is what one text alone
would be: by a plain forward of the whole text with a plain hook, for every token."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import save_model
from torch import nn

from lrt_dist.config import ModelConfig
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output
from lrt_dist.models.injection import OPERATORS, POSITIONS, Intervention, Steering
from lrt_dist.models.memory_gate import why_not
from lrt_dist.runtime.contract import ChainSpec, Done, Runtime, StageSpec, receipts_of
from lrt_dist.runtime.serial import SerialRuntime
from lrt_dist.tasks.generate import GenerateTask, Prompt, steered_tokens
from lrt_dist.tasks.model_stage import BuildModelStage, ModelStage
from lrt_dist.tasks.sampling import Sampling

TOKENS = 6
TEXTS = ((5, 9, 20, 7, 31), (5, 11), (8, 9, 10, 11, 12, 13, 14), (5, 9, 20, 7, 30))
Written = tuple[tuple[int, ...], ...]


def generation(
    width: int, *layers: int, positions: str = "all", tokens: int = TOKENS
) -> GenerateTask:
    """Every text under three conditions, the first of which is no steering; at layer 1, if no
    layers are given."""
    generator = torch.Generator().manual_seed(0)
    by_layer = {}
    for layer in layers or (1,):
        rows = torch.randn(3, width, generator=generator) * 5
        rows[0] = 0
        by_layer[layer] = Steering.adding(rows)
    rule = POSITIONS.find(positions)
    prompts = tuple(
        Prompt(ids, row, steered_tokens(rule, len(ids), tokens, special=0), f"{row} {number}")
        for row in range(3)
        for number, ids in enumerate(TEXTS)
    )
    return GenerateTask("t", Intervention(by_layer), prompts, tokens, (), Sampling(), True, 2, 48)


def spec(folder: Path, cuts: tuple[int, ...]) -> ChainSpec:
    layers = int(transformers.AutoConfig.from_pretrained(folder).num_hidden_layers)
    edges = (0, *cuts, layers)
    config = ModelConfig(model=str(folder))
    return ChainSpec(
        tuple(
            StageSpec(
                BuildModelStage(config, range(start, stop), stop == layers, "cpu"), cpus=0.5, gpus=0
            )
            for start, stop in itertools.pairwise(edges)
        )
    )


def write(
    folder: Path, task: GenerateTask, cuts: tuple[int, ...] = (), runtime: Runtime | None = None
) -> Written:
    with (runtime or SerialRuntime()).chains(spec(folder, cuts)) as chains:
        (outcome,) = chains.run([task])
    assert isinstance(outcome, Done), outcome
    (written,) = receipts_of(outcome)
    return written


def by_hand(
    folder: Path,
    task: GenerateTask,
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.add,
) -> Written:
    """One text after the other, the whole of it for every token."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    by_block = {find_blocks(model)[i]: s for i, s in task.intervention.by_layer.items()}
    written = []
    for prompt in task.prompts:
        ids = list(prompt.ids)

        def steer(
            block: nn.Module, args: object, out: object, ids: list[int] = ids, p: Prompt = prompt
        ) -> object:
            hidden = block_output(out).clone()
            steered = [i for i in p.steered if i < len(ids)]
            displacement = by_block[block].displacements[p.condition]
            hidden[:, steered] = change(hidden[:, steered], displacement)
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handles = [block.register_forward_hook(steer) for block in by_block]
        for _ in range(task.tokens):
            with torch.inference_mode():
                logits_BV = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            ids.append(int(task.sampling.choose(logits_BV, [prompt.seed], [len(ids)])))
        for handle in handles:
            handle.remove()
        written.append(tuple(ids[len(prompt.ids) :]))
    return tuple(written)


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "from the beginning"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_batches_are_each_text_alone(tiny_source: Path, positions: str, keeps: bool) -> None:
    """Tokens, which rounding does not move where no two logits are as good as equal."""
    task = replace(generation(32, positions=positions), keeps=keeps)
    expected = by_hand(tiny_source, task)
    assert write(tiny_source, task) == expected
    assert len(set(expected)) > len(TEXTS)  # conditions do differ


@pytest.mark.parametrize("layers", [(0,), (3,), (0, 1, 3)])
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "from the beginning"])
def test_stages_write_what_the_whole_model_writes(
    tiny_source: Path, layers: tuple[int, ...], keeps: bool
) -> None:
    task = replace(generation(32, *layers), keeps=keeps, sampling=Sampling(1.5))
    whole = write(tiny_source, task)
    assert whole == by_hand(tiny_source, task)
    for cuts in ((1,), (1, 2, 3)):
        assert write(tiny_source, replace(task, lanes=len(cuts) + 1), cuts) == whole


def test_what_is_written_lacks_a_component_that_is_removed(tiny_source: Path) -> None:
    """An operator does to every token what its own hidden state wants."""
    task = generation(32)
    plain = task.intervention.by_layer[1]
    away = replace(plain, operator=OPERATORS.find("ablate"), strengths=-torch.ones(3, 1))
    task = replace(task, intervention=Intervention({1: away}))

    def without(hidden: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        along = (hidden @ direction).unsqueeze(-1) / direction.square().sum().clamp_min(1e-30)
        return hidden - along * direction

    assert write(tiny_source, task, (2,)) == by_hand(tiny_source, task, without)
    assert write(tiny_source, task) != write(tiny_source, generation(32))


def test_a_sliding_window_slides(tiny_target: Path) -> None:
    """Its window holds 16 tokens; the last texts have 27."""
    task = generation(24, tokens=20)
    assert write(tiny_target, task, (1, 2)) == by_hand(tiny_target, task)


FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97},
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 97, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97},
    "falcon_h1": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97,
                  "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 97, "state_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_memory(family: str, tmp_path: Path) -> None:
    """Learned positions, biases by distance, states beside attention, and states alone, which are
    run from the beginning; the gate knows which."""
    sizes = FAMILIES[family]
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(family, **sizes, **tokens)
    folder = save_model(tmp_path / family, config, tokenizer=None)
    keeps = why_not(ModelConfig(model=str(folder))) is None
    assert keeps == (family != "mamba")
    task = replace(generation(32, 0), keeps=keeps)
    assert write(folder, task, (1,)) == by_hand(folder, task)


def test_what_is_drawn_does_not_depend_on_the_batches(tiny_source: Path) -> None:
    task = replace(generation(32), sampling=Sampling(2.0, 0.9))
    drawn = write(tiny_source, task)
    small = task
    while (smaller := small.smaller()) is not None:
        small = smaller
    assert (small.batches, small.lanes) == (len(task.prompts) * TOKENS, 2)
    assert write(tiny_source, small) == drawn
    backwards = replace(task, prompts=task.prompts[::-1])
    assert write(tiny_source, backwards) == drawn[::-1]
    others = tuple(replace(p, seed=f"other {p.seed}") for p in task.prompts)
    assert write(tiny_source, replace(task, prompts=others)) != drawn


def test_a_text_ends_where_the_model_ends_it(tiny_source: Path) -> None:
    task = generation(32)
    endless = write(tiny_source, task)
    stop = endless[0][2]
    cut = tuple(ids[: ids.index(stop)] if stop in ids else ids for ids in endless)
    assert write(tiny_source, replace(task, stops=(stop,)), (2,)) == cut
    every = tuple(range(3000))
    assert write(tiny_source, replace(task, stops=every), (2,)) == ((),) * len(task.prompts)


@pytest.mark.slow
def test_on_ray_it_is_the_same(ray_runtime: Runtime, tiny_source: Path) -> None:
    task = replace(generation(32), sampling=Sampling(1.0))
    assert write(tiny_source, task, (2,), ray_runtime) == write(tiny_source, task, (2,))


def test_a_failed_task_can_be_opened_again(tiny_source: Path) -> None:
    task = generation(32)
    stage = ModelStage(ModelConfig(model=str(tiny_source)), range(4), head=True, device="cpu")
    stage.open(task)
    stage.step(task.key, 0, None)  # and then something breaks elsewhere
    stage.forget(task.key)
    stage.open(task)
    ends: list[torch.Tensor] = []
    for turn in range(task.batches):
        earlier = task.goes_on_from(turn)
        ends.append(stage.step(task.key, turn, None if earlier is None else ends[earlier]))
    assert stage.finish(task.key) == write(tiny_source, task)


@pytest.mark.parametrize(
    ("positions", "steered"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("all_but_special", (1, 2, 3, 4)),
        ("from_prompt_end", (2, 3, 4)),
        ("last", (2,)),
        ("answer", (3, 4)),
    ],
)
def test_later_tokens_are_steered_as_the_last_of_their_text(
    positions: str, steered: tuple[int, ...]
) -> None:
    assert steered_tokens(POSITIONS.find(positions), 3, 2, special=1) == steered


LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.0, -3.0])


def shares(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    seeds = [f"seed {n}" for n in range(count)]
    tokens = sampling.choose(LOGITS.expand(count, -1), seeds, [7] * count)
    return tokens.bincount(minlength=len(LOGITS)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    """To four standard deviations of a share, which 4,000 draws hold below 0.032."""
    expected = (LOGITS / temperature).softmax(-1)
    assert (shares(Sampling(temperature)) - expected).abs().max() < 0.032


def test_a_nucleus_holds_the_likeliest_tokens_that_reach_its_share() -> None:
    p = LOGITS.softmax(-1)  # 0.60, 0.03, 0.13, 0.22, 0.004
    expected = torch.where(torch.tensor([True, False, False, True, False]), p, 0)
    drawn = shares(Sampling(1.0, 0.8))
    assert drawn[expected == 0].sum() == 0
    assert (drawn - expected / expected.sum()).abs().max() < 0.032


def test_no_temperature_is_the_likeliest_token() -> None:
    assert shares(Sampling())[0] == 1
    assert shares(Sampling(1.0, 1e-9))[0] == 1
