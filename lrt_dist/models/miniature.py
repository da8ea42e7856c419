"""Tiny configurations with the structure of a given one: to try a model's class in milliseconds.

Widths, counts of experts, vocabulary and windows shrink; what decides how a model is built stays:
kinds of layers, grouped heads, ties, scalings, switches. The shrunk sizes fit each other, since
every size of one kind becomes the same number whatever it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 64
HEAD = 16
HEADS = WIDTH // HEAD
VOCABULARY = 128

_SIZES = {
    "hidden_size d_model n_embd dim_model embedding_dim emb_dim word_embed_proj_dim lru_width "
    "embedding_size input_embedding_size output_embedding_size hidden_dim "
    "decoder_hidden_size": WIDTH,
    "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
    "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "linear_num_heads swa_num_attention_heads linear_num_key_heads linear_num_value_heads "
    "index_n_heads": HEADS,
    "head_dim kv_channels linear_head_dim swa_head_dim linear_key_head_dim linear_value_head_dim "
    "attention_head_size dim_head d_head index_head_dim mamba_head_dim mamba_d_head "
    "mamba_headdim qk_nope_head_dim qk_rope_head_dim v_head_dim global_head_dim swa_v_head_dim "
    "q_lora_rank kv_lora_rank o_lora_rank state_size mamba_d_state ssm_state_size hc_lowrank "
    "laurel_rank adapter_rank hidden_size_per_layer_input gated_norm_rank": HEAD,
    "qk_head_dim attention_head_dim": 2 * HEAD,
    "intermediate_size ffn_dim n_inner ffn_hidden_size dff dim_ff d_inner decoder_ffn_dim "
    "encoder_ffn_dim moe_intermediate_size shared_expert_intermediate_size intermediate_size_mlp "
    "expert_ffn_hidden_size shared_experts_intermediate_size dense_intermediate_size "
    "moe_shared_expert_intermediate_size feed_forward_size shared_intermediate_size": 6 * HEAD,
    "mamba_d_ssm": 2 * WIDTH,
    "vocab_size unpadded_vocab_size vocab_size_per_layer_input decoder_vocab_size": VOCABULARY,
    "num_experts n_routed_experts num_local_experts moe_num_experts zero_expert_num "
    "time_step_rank mamba_dt_rank": 4,
    "num_experts_per_tok num_experts_per_token moe_k moe_topk top_k_experts moe_top_k "
    "num_kv_shared_layers": 2,
    "n_group topk_group num_expert_group n_shared_experts num_shared_experts "
    "moe_num_shared_experts n_groups mamba_n_groups mamba_ngroups": 1,
    # Windows must be shorter than the texts that are tried, or they would not be tried.
    "rotary_dim sliding_window attention_chunk_size sliding_window_size window_size "
    "local_attention attention_window_size": 8,
}
_SIZE_OF = {name: size for names, size in _SIZES.items() for name in names.split()}

_LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
    "num_blocks",
    "num_encoder_layers",
    "num_decoder_layers",
)
_LAYER_KINDS = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "attention_layers",
    "no_rope_layers",
    "block_types",
    "attn_layers",
    "indexer_types",
)
_KEY_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "num_query_groups",
    "swa_num_key_value_heads",
    "num_global_key_value_heads",
)
_MULTIPLES_OF_WIDTH = ("attention_hidden_size",)
_HEADS_OF_EXPANSION = (
    ("expand", "head_dim", "num_heads"),
    ("mamba_expand", "mamba_d_head", "mamba_n_heads"),
    ("mamba_expand", "mamba_headdim", "n_mamba_heads"),
    ("expand", "mamba_head_dim", "mamba_num_heads"),
)
_LEAST_LAYERS = 4
_SMALL_LAYERS = 16


def miniature(config: Any) -> Any:
    """A configuration of the same class for a model of some ten thousand weights a layer.

    Args:
        config: a transformers configuration; stays as it is. One of a small model is taken as it
            is.

    Raises:
        Exception: of whatever kind the configuration's class raises, if the sizes do not fit it.
    """
    data = config.to_dict()
    text = config.get_text_config()
    if text.hidden_size > WIDTH or text.num_hidden_layers > _SMALL_LAYERS:
        data = _shrunk(data)
    return type(config).from_dict(data)


def _shrunk(data: Mapping[str, Any]) -> dict[str, Any]:
    layers = _first(data, _LAYER_COUNTS)
    kept = _layers_kept(data, layers) if layers else _LEAST_LAYERS
    heads = _first(data, [name for name, size in _SIZE_OF.items() if size == HEADS])
    small: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, list) and len(value) == layers:
            small[name] = [_size(name, each, kept, heads) for each in value[:kept]]
        elif isinstance(value, list) and name.endswith("layer_ids"):
            small[name] = [layer for layer in value if layer < kept]
        elif name in ("rope_parameters", "rope_scaling"):
            small[name] = _rotary(value)
        elif name == "per_layer_config" and isinstance(value, dict):
            small[name] = {k: _shrunk(v) for k, v in value.items() if int(k) < kept}
        elif isinstance(value, dict):
            small[name] = _shrunk(value)
        else:
            small[name] = _size(name, value, kept, heads)
    for name in _MULTIPLES_OF_WIDTH:
        if isinstance(data.get(name), int):
            small[name] = data[name] * WIDTH // data["hidden_size"]
    for expansion, head, count in _HEADS_OF_EXPANSION:
        if all(isinstance(small.get(name), int | float) for name in (expansion, head, count)):
            small[count] = int(small[expansion] * WIDTH) // small[head]
    if small.get("mamba_d_ssm"):
        small["mamba_n_heads"] = small["mamba_d_ssm"] // small["mamba_d_head"]
    return small


def _first(data: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((data[name] for name in names if isinstance(data.get(name), int)), None)


def _layers_kept(data: Mapping[str, Any], layers: int) -> int:
    """So many first layers that each kind of layer is there twice, if it ever is."""
    kept = _LEAST_LAYERS
    for name in _LAYER_KINDS:
        kinds = data.get(name)
        if isinstance(kinds, list) and len(kinds) == layers:
            for kind in {str(k): k for k in kinds}.values():
                places = [i for i, k in enumerate(kinds) if k == kind]
                kept = max(kept, places[:2][-1] + 1)
    ids = data.get("hybrid_layer_ids")
    if isinstance(ids, list) and ids:
        kept = max(kept, *(i + 1 for i in ids[:2]))
    return min(kept, layers)


def _size(name: str, value: Any, layers: int, heads: int | None) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name in _LAYER_COUNTS:
        return min(value, layers)
    if name.endswith("_token_id"):
        return value % 8 if value >= 0 else value
    if name in _KEY_HEADS:
        return HEADS if value == heads else min(value, 2)
    return min(value, _SIZE_OF.get(name, value))


def _rotary(value: Any) -> Any:
    """Lists with a number for each pair of a head's dimensions, cut to the new number of pairs."""
    if not isinstance(value, dict):
        return value
    small: dict[str, Any] = {}
    for name, inner in value.items():
        if name == "mrope_section" and isinstance(inner, list):
            parts = [part * (HEAD // 2) // sum(inner) for part in inner]
            small[name] = [*parts[:-1], HEAD // 2 - sum(parts[:-1])]
        elif name in ("short_factor", "long_factor") and isinstance(inner, list):
            small[name] = inner[: HEAD // 2]
        else:
            small[name] = _rotary(inner)
    return small
