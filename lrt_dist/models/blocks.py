"""Running some blocks of a causal LM: from any block, to any block, with or without a head.

Shape suffixes: B sequences of a batch, T tokens, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from lrt_dist.models import hooks
from lrt_dist.models.anatomy import Anatomy, find_blocks
from lrt_dist.models.key_values import KeyValues
from lrt_dist.models.machine import machine_kind
from lrt_dist.models.partial import Absent, PassThrough


@dataclass(frozen=True)
class Branches:
    """Which tokens of a batch see which, where sequences branch.

    Attributes:
        depth_BT: int64 `[B, T]`, for each token the number of tokens before it on its branch.
        sees_BTT: bool `[B, T, T]`, whether token i (second axis) attends to token j (third).
    """

    depth_BT: torch.Tensor
    sees_BTT: torch.Tensor

    def repeat(self, copies: int) -> Branches:
        """Of the batch so many times over."""
        return Branches(self.depth_BT.repeat(copies, 1), self.sees_BTT.repeat(copies, 1, 1))


class BlockStack:
    """Blocks `[owned.start, owned.stop)` of a causal LM, ready to run.

    Attributes:
        owned: the blocks this stack holds.
        layers: number L of blocks of the whole model.
        device: where it computes.
        dtype: in what it computes.
        machine: kind of CPU or GPU, and threads: bits are promised for equal ones alone.
        vocabulary: number of tokens V.
    """

    def __init__(self, model: transformers.PreTrainedModel, owned: range, anatomy: Anatomy) -> None:
        """Of a model in which the blocks `owned` are real; see `models.loading.load_blocks`."""
        self._anatomy = anatomy
        self._model = model.eval().requires_grad_(False)
        self._blocks = find_blocks(model)
        self.owned = owned
        self.layers = len(self._blocks)
        # Some families keep small tensors in float32 whatever they compute in.
        largest = max(model.parameters(), key=torch.Tensor.numel)
        self.device, self.dtype = largest.device, largest.dtype
        self.machine = machine_kind(self.device)
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self._embedding_width = int(model.get_input_embeddings().embedding_dim)

    def run(
        self,
        token_ids_BT: torch.Tensor,
        hidden_BTD: torch.Tensor | None = None,
        *,
        start: int | None = None,
        stop: int | None = None,
        branches: Branches | None = None,
        memory: KeyValues | None = None,
        change: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] | None = None,
        capture: Sequence[int] = (),
        select: Callable[[torch.Tensor], torch.Tensor] = lambda hidden: hidden,
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Run blocks `[start, stop)` (default: all owned ones).

        Args:
            token_ids_BT: int64 `[B, T]`, right-padded; read only where `start` is 0, or
                where later blocks read the embeddings.
            hidden_BTD: `[B, T, D]`, the output of block `start - 1`; None where `start` is 0.
            branches: who sees whom where sequences branch; None where each token sees all that
                stand before it.
            memory: of the tokens that went through these blocks before, to which these are added;
                see `remember`. Then tokens are padded on the left.
            change: what becomes of the output `[B, T, D]` of some layers.
            capture: layers whose output is wanted.
            select: what to keep of a captured `[B, T, D]`, e.g. the site rows.

        Returns:
            The output `[B, T, D]` of block `stop - 1`, and `{layer: select(output)}`.
        """
        start = self.owned.start if start is None else start
        stop = self.owned.stop if stop is None else stop
        sight = self._sight(branches) if branches else {}
        if memory is not None:
            sight |= memory.arguments(token_ids_BT.shape[1], self.device)
        with torch.inference_mode(), ExitStack() as stack:
            for layer, new in (change or {}).items():
                stack.enter_context(hooks.change_hidden(self._blocks[layer], new))
            done = self._run(token_ids_BT, hidden_BTD, start, stop, sight, capture, select)
            if memory is not None:
                memory.count(token_ids_BT.shape[1], range(start, stop))
            return done

    def remember(self, padding: Sequence[int]) -> KeyValues:
        """An empty memory for a batch of sequences.

        Args:
            padding: of each sequence the number of tokens on its left that are none.
        """
        return KeyValues(self._model.config, padding)

    def run_differentiably(
        self,
        token_ids_BT: torch.Tensor,
        hidden_BTD: torch.Tensor | None,
        *,
        branches: Branches | None = None,
        layers: Sequence[int],
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Run all owned blocks so that autograd can go back through them.

        Args:
            hidden_BTD: as for `run`; with `requires_grad` to go back to it.
            layers: owned layers whose outputs are wanted. Where nothing before the lowest of them
                has a gradient, its output is a leaf, and no graph is kept of the blocks before it.

        Returns:
            The output `[B, T, D]` of the last owned block, and `{layer: output}`, all in the graph.
        """
        needs_leaf = bool(layers) and not (hidden_BTD is not None and hidden_BTD.requires_grad)
        with torch.enable_grad(), ExitStack() as stack:
            if needs_leaf:
                stack.enter_context(
                    hooks.change_output(
                        self._blocks[min(layers)],
                        lambda out: hooks.block_output(out).detach().requires_grad_(),
                    )
                )
            return self._run(
                token_ids_BT,
                hidden_BTD,
                self.owned.start,
                self.owned.stop,
                self._sight(branches) if branches else {},
                layers,
                lambda hidden: hidden,
            )

    def logits(
        self, hidden_BTD: torch.Tensor, batch: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[n, V]` at the n positions (batch[i], position[i]).

        `hidden_BTD` is the output of the last block; the final norm, the head and whatever the
        model does after it (soft-capping, scaling) are applied to these positions only. Part of
        the autograd graph where `hidden_BTD` is.
        """
        head = self._model.get_output_embeddings()
        if self.owned.stop != self.layers or isinstance(head, Absent):
            raise ValueError("this stack was loaded without a head")
        # As n sequences of one token: they must not count as n positions of one.
        rows_n1D = hidden_BTD.to(self.device)[
            batch.to(self.device), position.to(self.device)
        ].unsqueeze(1)
        with (
            torch.inference_mode(not rows_n1D.requires_grad),
            self._only(range(0)),
            hooks.change_output(self._blocks[self.layers - 1], lambda _: rows_n1D),
        ):
            ids = torch.zeros(rows_n1D.shape[:2], dtype=torch.int64)
            output = self._forward(ids, embed=False)
        logits: torch.Tensor = output.logits[:, 0]
        return logits

    def _run(
        self,
        token_ids_BT: torch.Tensor,
        hidden_BTD: torch.Tensor | None,
        start: int,
        stop: int,
        sight: Mapping[str, Any],
        capture: Sequence[int],
        select: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        wanted = range(start, stop)
        if not wanted or start < self.owned.start or stop > self.owned.stop:
            raise ValueError(f"blocks {start} … {stop - 1} are not within {self.owned}")
        if (hidden_BTD is None) != (start == 0):
            raise ValueError(f"block {start} needs {'tokens' if start == 0 else 'a hidden state'}")
        with ExitStack() as stack:
            stack.enter_context(self._only(wanted))
            if hidden_BTD is not None:
                received = hidden_BTD.to(self.device)
                stack.enter_context(
                    hooks.change_output(self._blocks[start - 1], lambda _: received)
                )
            captured = stack.enter_context(
                hooks.capture({layer: self._blocks[layer] for layer in capture}, select)
            )
            stack.enter_context(hooks.stop_after(self._blocks[stop - 1]))
            try:
                self._forward(token_ids_BT, embed=start == 0, **sight)
            except hooks.StopForward as done:
                return done.hidden_BTD, captured
        raise AssertionError(f"the forward pass went past block {stop - 1}")

    def _sight(self, branches: Branches) -> dict[str, Any]:
        """Who sees whom, as a model's `forward` is given it."""
        sees = branches.sees_BTT.to(self.device).unsqueeze(1)
        mask = torch.zeros(sees.shape, device=self.device, dtype=self.dtype)
        return {
            "attention_mask": mask.masked_fill_(~sees, torch.finfo(self.dtype).min),
            "position_ids": branches.depth_BT.to(self.device),
        }

    def _forward(self, token_ids_BT: torch.Tensor, *, embed: bool, **sight: Any) -> Any:
        known = {"use_cache": False, **sight}
        if embed or self._anatomy.reads_embeddings:
            return self._model(input_ids=token_ids_BT.to(self.device), **known)
        blank = torch.zeros(
            *token_ids_BT.shape, self._embedding_width, device=self.device, dtype=self.dtype
        )
        return self._model(inputs_embeds=blank, **known)

    @contextmanager
    def _only(self, wanted: range) -> Iterator[None]:
        """Let every owned block outside `wanted` pass its input on for a while."""
        idle = {i: self._blocks[i] for i in self.owned if i not in wanted}
        try:
            for index, block in idle.items():
                self._blocks[index] = PassThrough(block, self._anatomy)
            yield
        finally:
            for index, block in idle.items():
                self._blocks[index] = block
