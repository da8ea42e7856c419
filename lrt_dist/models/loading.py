"""Reading the weights of some blocks of a model, and no others."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers

from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.models.anatomy import Anatomy
from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.partial import partial_class
from lrt_dist.models.sources import causal_lm, open_source, quiet
from lrt_dist.models.study import anatomy_of


def load_blocks(
    config: ModelConfig, owned: range, *, head: bool, device: str = "cpu"
) -> BlockStack:
    """Read the weights of some blocks of a model.

    Args:
        config: which model.
        owned: blocks to hold, `range(a, b)` with step 1.
        head: whether logits will be asked for (final norm and LM head; b must then be L).
        device: a torch device; on `cpu` the dtype is float32 whatever the run says.

    Raises:
        UserError: the model cannot be cut into stages, or its checkpoint lacks a needed weight.
    """
    cls, hf_config = causal_lm(config)
    return load_stack(
        cls,
        hf_config,
        open_source(config),
        owned,
        anatomy_of(cls, hf_config),
        head=head,
        device=device,
        dtype=_compute_dtype(config, device),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def load_stack(
    cls: type[transformers.PreTrainedModel],
    hf_config: Any,
    source: str,
    owned: range,
    anatomy: Anatomy,
    *,
    head: bool,
    device: str,
    dtype: torch.dtype | str,
    **from_hub: Any,
) -> BlockStack:
    """Blocks of a model whose class, configuration and place are known; see `load_blocks`.

    Args:
        dtype: in which to compute, or `auto`.
        from_hub: further arguments of `from_pretrained`.
    """
    tied = bool(getattr(hf_config.get_text_config(), "tie_word_embeddings", False))
    embedding = owned.start == 0 or (head and tied) or anatomy.reads_embeddings
    quiet()
    partial = partial_class(cls, owned, anatomy, embedding=embedding, head=head)

    def read(**renamed: Any) -> tuple[Any, list[str]]:
        model, info = partial.from_pretrained(
            source,
            config=hf_config,
            dtype=dtype,
            device_map=None if device == "cpu" else {"": device},
            output_loading_info=True,
            **from_hub,
            **renamed,
        )
        return model, sorted(info["missing_keys"])

    model, missing = read()
    if missing and model.saved_elsewhere:
        names = {f"^{re.escape(there)}$": here for there, here in model.saved_elsewhere.items()}
        model, missing = read(key_mapping=names)
    if missing:
        raise UserError(
            f"{source}: the checkpoint lacks {len(missing)} weights that blocks {owned.start} … "
            f"{owned.stop - 1} need, {missing[0]} first"
        )
    return BlockStack(model, owned, anatomy)


def _compute_dtype(config: ModelConfig, device: str) -> Any:
    if device == "cpu":
        return torch.float32
    return "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
