"""Partial models: the real transformers class, in which only some blocks exist.

A stage owns blocks `[a, b)`. Every other block is replaced by a parameterless pass-through before
the weights are read, so `from_pretrained` reads only what the stage needs, with all of
transformers' own handling, and the model's own `forward` still builds masks, rotary tables and
per-layer attention types.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Set
from typing import Any

import transformers
from torch import nn

from lrt_dist.models.anatomy import Anatomy, find_blocks


class PassThrough(nn.Module):
    """Stands in a block's place and returns its input, in the form in which the block would.

    What a model's `forward` reads of the block beside, it finds here too.
    """

    def __init__(self, block: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        # Not as a submodule: then its parameters would be this model's.
        self.__dict__["_block"] = block
        self._anatomy = anatomy

    def __getattr__(self, name: str) -> Any:
        """Of the block, unless it is there."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever comes first is the hidden state."""
        hidden_BTD = args[0] if args else kwargs["hidden_states"]
        return self._anatomy.returned(self.__dict__["_block"], hidden_BTD)


class Absent(nn.Module):
    """Stands for an embedding or a head that this stage does not hold."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.weight = self.bias = None  # some models tie a bias by hand


def partial_class(
    cls: type[transformers.PreTrainedModel],
    owned: range,
    anatomy: Anatomy,
    *,
    embedding: bool,
    head: bool,
) -> type[transformers.PreTrainedModel]:
    """A subclass of `cls` that drops the blocks it does not own, before weights are read.

    Its instances have `saved_elsewhere`: weights that lie in a checkpoint under another name than
    here, `{name there: name here}`.

    Args:
        embedding: whether it keeps the token embedding.
        head: whether it keeps the LM head.
    """

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        cls.__init__(self, config, *args, **kwargs)
        blocks = find_blocks(self)
        for index in range(len(blocks)):
            if index not in owned:
                blocks[index] = PassThrough(blocks[index].to("meta"), anatomy)
        if not embedding:
            width = int(self.get_input_embeddings().embedding_dim)
            self.set_input_embeddings(Absent(width))
        if not head:
            self.set_output_embeddings(Absent(0))
        held = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        self.all_tied_weights_keys, self.saved_elsewhere = _ties(self.all_tied_weights_keys, held)
        # The rest of the checkpoint belongs to other stages; what is *missing* is still an error.
        self._keys_to_ignore_on_load_unexpected.add(r".*")

    def fill(namespace: dict[str, Any]) -> None:
        # transformers finds the modelling file through these two.
        namespace.update(
            __init__=__init__, __module__=cls.__module__, __qualname__=cls.__qualname__
        )

    return types.new_class(cls.__name__, (cls,), exec_body=fill)


def _ties(ties: Mapping[str, str], held: Set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Ties among the weights that are held, and `{name in the checkpoint: name here}` of weights
    that are saved under the name of one that is not held, as blocks that share a part have them."""
    kept: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for target, source in ties.items():
        if target not in held:
            continue
        if source in held:
            kept[target] = source
        elif source in elsewhere:
            kept[target] = elsewhere[source]
        else:
            elsewhere[source] = target
    return kept, elsewhere
