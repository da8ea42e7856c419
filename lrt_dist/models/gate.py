"""Before a model is run in stages: would its stages be the whole model?

A miniature of the model's own class is saved, loaded block by block, and compared with itself.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache

import torch

from lrt_dist.config import ModelConfig
from lrt_dist.models.anatomy import Anatomy, UnsupportedModelError
from lrt_dist.models.loading import load_stack
from lrt_dist.models.sources import causal_lm, quiet
from lrt_dist.models.study import (
    Family,
    Whole,
    anatomy_of,
    difference,
    run_whole,
    same,
    whole_miniature,
)

DTYPES = (torch.float32, torch.bfloat16)
"""What stages compute in; float16 rounds where bfloat16 does."""


def check_stages(config: ModelConfig) -> None:
    """Whether stages of this model are the whole model, in float32 and in bfloat16.

    No weight of the model is read. Takes about a second.

    Raises:
        UnsupportedModelError: they are not; says where.
    """
    _check(Family(*causal_lm(config)))


@lru_cache(maxsize=32)
def _check(family: Family) -> None:
    cls, hf_config = family.cls, family.hf_config
    anatomy, whole = anatomy_of(cls, hf_config), whole_miniature(family)
    quiet()
    with tempfile.TemporaryDirectory(prefix="lrt-dist-") as folder:
        whole.model.save_pretrained(folder)
        for dtype in DTYPES:
            loaded = cls.from_pretrained(folder, config=whole.model.config, dtype=dtype).eval()
            try:
                _compare(run_whole(loaded, whole.ids_BT), anatomy, folder, dtype)
            except UnsupportedModelError:
                raise
            except Exception as error:  # whatever a model's own code raises
                detail = f"{type(error).__name__}: {error}"
                raise UnsupportedModelError(
                    cls.__name__, "has blocks that cannot be loaded or run alone", detail
                ) from error


def _compare(whole: Whole, anatomy: Anatomy, folder: str, dtype: torch.dtype) -> None:
    """Each block a stage of its own."""
    name, count = type(whole.model).__name__, len(whole.outputs_BTD)
    hidden = None
    for layer in range(count):
        stack = load_stack(
            type(whole.model),
            whole.model.config,
            folder,
            range(layer, layer + 1),
            anatomy,
            head=layer == count - 1,
            device="cpu",
            dtype=dtype,
        )
        hidden, _ = stack.run(whole.ids_BT, hidden)
        if not same(hidden, whole.outputs_BTD[layer]):
            raise UnsupportedModelError(
                name,
                "has blocks that compute something else when they stand alone",
                f"in {dtype} block {layer} differs by "
                f"{difference(hidden, whole.outputs_BTD[layer]):.1%}",
            )
    assert hidden is not None, "a model without blocks"
    batch = torch.arange(len(whole.ids_BT))
    position = torch.full_like(batch, whole.ids_BT.shape[1] - 1)
    logits, expected = stack.logits(hidden, batch, position), whole.logits_BTV[batch, position]
    if not same(logits, expected):
        raise UnsupportedModelError(
            name,
            "gives other logits from its last hidden state",
            f"in {dtype} they differ by {difference(logits, expected):.1%}",
        )
