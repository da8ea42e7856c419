"""Which weights of a block a token goes through: of a mixture of experts, those that it is sent to.

Experts lie in a module of that name, a module each or all in one tensor, or in tensors whose first
dimension is their number.
"""

from __future__ import annotations

from typing import Any

from torch import nn

NUMBERS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
"""What configurations call the number of experts of a block."""
CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_k",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
)
"""And that of those that a token is sent to."""
SENT_TO_ALL = ("Llama4TextExperts",)
"""Modules that multiply every token by every expert, and all but a few results by zero."""


def active_parameters(block: nn.Module, config: Any) -> int:
    """Parameters of a block that a token is multiplied by.

    Args:
        config: of the model's text.
    """
    experts, chosen = _first(config, NUMBERS), _first(config, CHOSEN)
    if not experts or not chosen:
        return sum(parameter.numel() for parameter in block.parameters())
    everywhere = [
        name for name, module in block.named_modules() if type(module).__name__ in SENT_TO_ALL
    ]
    active = 0
    for name, parameter in block.named_parameters():
        routed = "experts" in name.split(".") or (
            parameter.ndim == 3 and parameter.shape[0] == experts
        )
        if routed and not any(name.startswith(f"{module}.") for module in everywhere):
            active += parameter.numel() * min(chosen, experts) // experts
        else:
            active += parameter.numel()
    return active


def _first(config: Any, names: tuple[str, ...]) -> int:
    """The first of some settings that is there; 0 for none."""
    found = (getattr(config, name, None) for name in names)
    return next((int(value) for value in found if isinstance(value, int) and value), 0)
