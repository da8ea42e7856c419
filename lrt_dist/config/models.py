"""The models of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    field_validator,
)

from lrt_dist.config.base import LayerChoice, Strict


class ModelConfig(Strict):
    """A causal language model and which of its layers are wanted."""

    model: str = Field(description="Hub name, local folder or `.gguf` file of the model.")
    layers: LayerChoice = Field(
        "all", description="Blocks whose outputs are stored: indices 0 … L-1, or all blocks."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Dtype of the computation on a GPU; `auto` is the dtype of the checkpoint. "
        "A CPU always computes in float32.",
    )
    revision: str | None = Field(
        None,
        description="Revision at the hub: a commit hash, tag or branch. `null` means the default "
        "branch.",
    )
    imports: tuple[str, ...] = Field(
        (),
        description="modules of your own that register the model's class with transformers; they "
        "are imported by the driver and by every worker",
    )
    trust_remote_code: bool = Field(
        False, description="Whether to run Python code that the model's repository ships."
    )

    @field_validator("layers")
    @classmethod
    def _layers_are_a_set(cls, layers: LayerChoice) -> LayerChoice:
        if layers == "all":
            return layers
        if not layers:
            raise ValueError("no layers; name at least one, or write `layers: all`")
        return tuple(sorted(set(layers)))
