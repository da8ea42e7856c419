"""Weights that a token is multiplied by, against products that torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.experts import active_parameters

TOKENS, EXPERTS, CHOSEN = 64, 8, 2
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL = {"moe_intermediate_size": 48, "head_dim": 16}
ONE_GROUP = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
HEADS = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}
LOCAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN}
ROUTED = {"n_routed_experts": EXPERTS, "num_experts_per_tok": CHOSEN}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": LOCAL,
    "qwen3_moe": {"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, **SMALL},
    "gpt_oss": LOCAL | {"head_dim": 16},
    "granitemoe": LOCAL,
    "jetmoe": LOCAL | {"kv_channels": 16, "num_key_value_heads": 2},
    "ernie4_5_moe": {"moe_num_experts": EXPERTS, "moe_k": CHOSEN, **SMALL},
    "glm4_moe": ROUTED | SMALL | ONE_GROUP,
    "deepseek_v3": ROUTED | SMALL | ONE_GROUP | HEADS | {"v_head_dim": 16, "n_shared_experts": 1},
    "llama4_text": LOCAL | {"intermediate_size_mlp": 96, "head_dim": 16},
    "llama": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_multiplied_by_the_active_weights(family: str) -> None:
    config = transformers.AutoConfig.for_model(family, **SHAPE | FAMILIES[family])
    config._attn_implementation = config._experts_implementation = "eager"  # what torch counts
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    alone = torch.arange(TOKENS).unsqueeze(1)  # texts of a token: attention costs next to nothing
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(alone, use_cache=False)
    head = model.get_output_embeddings().weight.numel()
    multiplied = counted.get_total_flops() / 2 / TOKENS - head
    blocks = find_blocks(model)
    active = sum(active_parameters(block, config) for block in blocks)
    assert 0.97 * active <= multiplied <= 1.03 * active  # norms and biases; attention
    everything = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    sparse = family not in ("llama", "llama4_text")
    assert active < 0.8 * everything if sparse else active == everything
