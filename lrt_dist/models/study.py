"""A miniature of a model, run whole and from each of its blocks on: are they the same?

Shape suffixes: B sequences, T tokens, D width of the residual stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn

from lrt_dist.models import hooks
from lrt_dist.models.anatomy import Anatomy, UnsupportedModelError, find_blocks
from lrt_dist.models.blocks import BlockStack
from lrt_dist.models.miniature import VOCABULARY, miniature

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""Largest difference of equal sums that are made in another order, as a share of the largest
entry, by dtype. Bits are not asked for: they may depend on where in memory a weight lies."""
TEXTS_APART = 1e-4
"""The same for a text in a batch and alone, which are products of other shapes."""


def same(values: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are of one dtype, and equal to rounding."""
    allowed = ROUNDING.get(values.dtype, ROUNDING[torch.float32])
    return values.dtype is expected.dtype and difference(values, expected) <= allowed


def difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, as a share of the largest entry."""
    apart = (values.double() - expected.double()).abs().max()
    return float(apart / expected.double().abs().max().clamp_min(1e-30))


@dataclass(frozen=True)
class Whole:
    """A miniature, and what it does when it runs as its authors meant.

    Attributes:
        model: the miniature.
        ids_BT: what it was run on.
        outputs_BTD: of each block.
        logits_BTV: at the end.
        tuples: see `Anatomy`.
    """

    model: transformers.PreTrainedModel
    ids_BT: torch.Tensor
    outputs_BTD: list[torch.Tensor]
    logits_BTV: torch.Tensor
    tuples: dict[str, int]


def anatomy_of(cls: type[transformers.PreTrainedModel], hf_config: Any) -> Anatomy:
    """How a model's blocks hand on hidden states.

    Args:
        cls: the model's class.
        hf_config: its configuration.

    Raises:
        UnsupportedModelError: the class does something that stages cannot do; says what.
    """
    return _anatomy_of(Family(cls, hf_config))


@lru_cache(maxsize=1)  # the gate asks for it once more
def whole_miniature(family: Family) -> Whole:
    """Make a miniature, and run it.

    Raises:
        UnsupportedModelError: it cannot be made or run, or its blocks are no chain.
    """
    cls, hf_config = family.cls, family.hf_config
    name = cls.__name__
    with torch.random.fork_rng(devices=[]), _in_silence():
        torch.manual_seed(0)
        try:
            model = cls(miniature(hf_config)).eval().requires_grad_(False)
            _enlarge_weights(model)
            ids_BT = torch.randint(VOCABULARY // 2, (3, 11))
            whole = run_whole(model, ids_BT)
            if not all(bool(out.isfinite().all()) for out in whole.outputs_BTD):
                torch.manual_seed(0)
                whole = run_whole(cls(miniature(hf_config)).eval().requires_grad_(False), ids_BT)
        except UnsupportedModelError:
            raise
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            raise UnsupportedModelError(name, "cannot be tried as a small model", detail) from error
    return whole


@lru_cache(maxsize=32)
def _anatomy_of(family: Family) -> Anatomy:
    whole = whole_miniature(family)
    _check_causal(whole)
    differences = []
    for reads_embeddings in (False, True):
        anatomy = Anatomy(whole.tuples, reads_embeddings)
        different = _first_difference(whole, anatomy)
        if different is None:
            return anatomy
        differences.append(different)
    raise UnsupportedModelError(
        family.cls.__name__,
        "has blocks that read more than the hidden state before them",
        differences[-1],
    )


class Family:
    """A class and a configuration, which can be compared."""

    def __init__(self, cls: type[transformers.PreTrainedModel], hf_config: Any) -> None:
        self.cls, self.hf_config = cls, hf_config
        self._text = hf_config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and (self.cls, self._text) == (other.cls, other._text)


def run_whole(model: transformers.PreTrainedModel, ids_BT: torch.Tensor) -> Whole:
    """Run a model as its authors meant, and see what its blocks return.

    Raises:
        UnsupportedModelError: they are no chain, in which each hands one hidden state on.
    """
    name = type(model).__name__
    blocks = find_blocks(model)
    order: list[int] = []
    returned: list[Any] = []
    with ExitStack() as stack, torch.inference_mode():
        for index, block in enumerate(blocks):

            def keep(module: nn.Module, args: Any, output: Any, index: int = index) -> None:
                order.append(index)
                returned.append(output)

            stack.callback(block.register_forward_hook(keep).remove)
        logits = model(input_ids=ids_BT, use_cache=False).logits
    if order != list(range(len(blocks))):
        raise UnsupportedModelError(
            name,
            "does not run its blocks once each, from first to last",
            f"of {len(blocks)} blocks it runs {order[:12]}",
        )
    tuples, outputs = {}, []
    for block, output in zip(blocks, returned, strict=True):
        hidden = hooks.block_output(output)
        shape = getattr(hidden, "shape", ())
        if len(shape) != 3 or shape[:2] != ids_BT.shape:
            raise UnsupportedModelError(
                name,
                "has blocks that do not return one hidden state for each token",
                f"{tuple(shape)} for {tuple(ids_BT.shape)} tokens",
            )
        outputs.append(hidden.clone())
        tuples[type(block).__name__] = len(output) if isinstance(output, tuple | list) else 0
    return Whole(model, ids_BT, outputs, logits, tuples)


def _check_causal(whole: Whole) -> None:
    """A text alone must be what it is at the left of a longer one, and in a batch."""
    name, half = type(whole.model).__name__, whole.ids_BT.shape[1] // 2
    alone = run_whole(whole.model, whole.ids_BT[:1, :half])
    for index, (long, short) in enumerate(zip(whole.outputs_BTD, alone.outputs_BTD, strict=True)):
        if not difference(long[:1, :half], short) <= TEXTS_APART:
            raise UnsupportedModelError(
                name,
                "is not causal as it is configured",
                f"at block {index} a text differs from the same text with more behind it by "
                f"{difference(long[:1, :half], short):.1%}",
            )


def _first_difference(whole: Whole, anatomy: Anatomy) -> str | None:
    """Where going on from a block's output is not what the whole model does."""
    count = len(whole.outputs_BTD)
    stack = BlockStack(whole.model, range(count), anatomy)
    for start in range(count):
        received = whole.outputs_BTD[start - 1] if start else None
        try:
            _, outputs = stack.run(whole.ids_BT, received, start=start, capture=range(start, count))
        except Exception as error:  # noqa: BLE001 (whatever a model's own code raises)
            return f"run from block {start} on, it fails ({type(error).__name__}: {error})"
        for layer in range(start, count):
            expected = whole.outputs_BTD[layer]
            if not same(outputs[layer], expected):
                return (
                    f"run from block {start} on, block {layer} differs by "
                    f"{difference(outputs[layer], expected):.1%}"
                )
    batch = torch.arange(len(whole.ids_BT))
    position = torch.full_like(batch, whole.ids_BT.shape[1] - 1)
    try:
        logits = stack.logits(whole.outputs_BTD[-1], batch, position)
    except Exception as error:  # noqa: BLE001 (whatever a model's own code raises)
        return f"its head alone fails ({type(error).__name__}: {error})"
    expected = whole.logits_BTV[batch, position]
    if not same(logits, expected):
        return f"its logits alone differ by {difference(logits, expected):.1%}"
    return None


def _enlarge_weights(model: nn.Module) -> None:
    """As models are initialised, blocks hardly change what they are given."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)


@contextmanager
def _in_silence() -> Iterator[None]:
    """Configurations warn of sizes that a miniature has on purpose."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(50)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
