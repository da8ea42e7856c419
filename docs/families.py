"""Try every causal language model that transformers registers, and write the table of models.md.

`python -m docs.families` takes a minute or two. Each type is tried as its configuration class
makes it; where that is no model that anyone could run, `CHANGES` says what real ones have.
"""

from __future__ import annotations

import tempfile
from typing import Any

import transformers

from docs.generate import DOCS, replace_part
from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.models.anatomy import UnsupportedModelError
from lrt_dist.models.gate import check_stages
from lrt_dist.models.memory_gate import why_not
from lrt_dist.models.sources import causal_lm
from lrt_dist.models.study import anatomy_of

PAGE = DOCS / "models.md"
PART = "families"

CAUSAL = {"is_decoder": True}
CHANGES: dict[str, dict[str, Any]] = {
    "bert": CAUSAL,
    "bert-generation": CAUSAL,
    "big_bird": CAUSAL,
    "camembert": CAUSAL,
    "data2vec-text": CAUSAL,
    "deepseek_v2": {
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
    },
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "electra": CAUSAL,
    "ernie": CAUSAL,
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "megatron-bert": CAUSAL,
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "rembert": CAUSAL,
    "roberta": CAUSAL,
    "roberta-prelayernorm": CAUSAL,
    "roc_bert": CAUSAL,
    "roformer": CAUSAL,
    "xlm-roberta": CAUSAL,
    "xlm-roberta-xl": CAUSAL,
    "xmod": CAUSAL | {"default_language": "en_XX"},
}


def model_types() -> list[str]:
    """All types of causal language models that transformers itself registers."""
    mapping = transformers.AutoModelForCausalLM._model_mapping
    own = [config for config in mapping if config.__module__.startswith("transformers.")]
    return sorted({config.model_type for config in own})


def support(model_type: str) -> tuple[str, str, str]:
    """Name of the class; `yes`, `yes, …` or why not; and of those that pass, whether they go on
    from kept keys and values when they write."""
    mapping = transformers.AutoModelForCausalLM._model_mapping
    (config_class, *_) = [c for c in mapping if c.model_type == model_type]
    name = mapping[config_class].__name__
    try:
        hf_config = config_class(**CHANGES.get(model_type, {}))
    except Exception:  # noqa: BLE001 (whatever a configuration's own code raises)
        return name, "its configuration class has no valid default", ""
    with tempfile.TemporaryDirectory() as folder:
        hf_config.save_pretrained(folder)
        config = ModelConfig(model=folder)
        try:
            check_stages(config)
            anatomy = anatomy_of(*causal_lm(config))
        except UnsupportedModelError as error:
            return name, error.reason, ""
        except UserError as error:
            return name, str(error).replace(folder, "it"), ""
        keeps = "no" if why_not(config) else "yes"
    passes = "yes, with the embeddings in every stage" if anatomy.reads_embeddings else "yes"
    return name, passes, keeps


def row(model_type: str) -> str:
    """A line of the table."""
    name, answer, keeps = support(model_type)
    return f"| `{model_type}` | `{name}` | {answer} | {keeps} |"


def main() -> None:
    """Write the table."""
    rows = [row(model_type) for model_type in model_types()]
    supported = sum("| yes" in line for line in rows)
    keep = sum(line.endswith("| yes |") for line in rows)
    table = "\n".join(
        [
            f"Of {len(rows)} types that transformers {transformers.__version__} registers, "
            f"{supported} pass, {keep} of them with kept keys and values.",
            "",
            "| type | class | supported | keeps keys and values |",
            "|---|---|---|---|",
            *rows,
        ]
    )
    PAGE.write_text(
        replace_part(PAGE.read_text(encoding="utf-8"), PART, f"\n{table}\n"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
