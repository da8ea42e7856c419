"""Gradients of items' scores with respect to the hidden states of every layer, in one pass back.

To first order a displacement δ of layer l changes an item's score by g_l · δ, where g_l is the sum
of the score's gradient over the steered positions: attribution patching (Nanda, "Attribution
Patching", neelnanda.io, 2023; Kramár et al., "AtP*", arXiv 2403.00745). So one pass forward and
back says what any vector at any layer does to the item, as far as the score is linear.

Through a chain the carry goes forward as hidden states and back as gradients.

Shape suffixes: B trees of a batch, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lrt_dist.models.blocks import BlockStack
from lrt_dist.plan.units import cut_batches
from lrt_dist.tasks.reading import Reads
from lrt_dist.tasks.scored_items import JoinedItems, ScoredItem
from lrt_dist.tasks.token_trees import TreeBatch


@dataclass(frozen=True)
class Gradients:
    """What one stage knows of some items.

    Attributes:
        scores: float64 `[items]`, of the unsteered model, from the last stage; None of the others.
        by_layer: float32 `[items, d]` of each wanted layer that the stage holds.
    """

    scores: torch.Tensor | None
    by_layer: dict[int, torch.Tensor]


@dataclass(frozen=True)
class GradientTask:
    """Scores of some items, and their gradients at some layers.

    Attributes:
        key: names the task.
        layers: which layers' outputs.
        items: what is scored.
        token_budget: tokens of a batch; an item is never divided.
    """

    key: str
    layers: tuple[int, ...]
    items: tuple[ScoredItem, ...]
    token_budget: int

    turns_back = True

    @property
    def receipt_type(self) -> type[Gradients]:
        """Of every stage."""
        return Gradients

    @property
    def batches(self) -> int:
        """Number of steps."""
        return len(self.cut())

    def cut(self) -> list[list[int]]:
        """The batches, as indices of items; those with branching trees apart."""
        sizes = [len(item.trees) * max(len(tree.ids) for tree in item.trees) for item in self.items]
        batches = []
        for branching in (False, True):
            alike = [
                i
                for i, item in enumerate(self.items)
                if any(tree.branches for tree in item.trees) is branching
            ]
            for chosen in cut_batches([sizes[i] for i in alike], self.token_budget):
                batches.append([alike[i] for i in chosen])
        return batches

    def smaller(self) -> GradientTask | None:
        """Half the budget, down to one item a batch."""
        if self.batches == len(self.items):
            return None
        return replace(self, token_budget=self.token_budget // 2)

    def start(self, stack: BlockStack) -> GradientWork:
        """The task in one stage."""
        return GradientWork(self, stack)


@dataclass(frozen=True)
class _Pass:
    """A stage's part of a forward pass, to which its gradient will come back."""

    steered_BT: torch.Tensor
    received: torch.Tensor | None
    outputs: dict[int, torch.Tensor]
    sent: torch.Tensor


class GradientWork:
    """See `tasks.model_stage.Work`. The carry is `[B, T, D]` both ways."""

    def __init__(self, task: GradientTask, stack: BlockStack) -> None:
        self._task, self._stack = task, stack
        self._batches = task.cut()
        self._last = stack.owned.stop == stack.layers
        self._layers = [layer for layer in task.layers if layer in stack.owned]
        # Nothing before the lowest wanted layer needs a gradient.
        self._receives_gradient = min(task.layers) < stack.owned.stop
        self._sends_gradient = min(task.layers) < stack.owned.start
        self._passes: dict[int, _Pass] = {}
        items = len(task.items)
        self._scores = torch.zeros(items, dtype=torch.float64)
        self._by_layer: dict[int, torch.Tensor] = {}

    def step(self, batch: int, carry: Any) -> Any:
        if batch in self._passes:
            return self._backward(batch, carry)
        items = JoinedItems.of(self._task.items[i] for i in self._batches[batch])
        self._passes[batch] = self._forward(TreeBatch.of(items.trees), carry)
        sent = self._passes[batch].sent
        if not self._last:
            return sent.detach()
        total = self._score(batch, items, sent)
        (gradient,) = torch.autograd.grad(total, [sent])
        return self._backward(batch, gradient)

    def finish(self) -> Gradients:
        return Gradients(self._scores if self._last else None, self._by_layer)

    def _forward(self, trees: TreeBatch, carry: torch.Tensor | None) -> _Pass:
        received = carry
        if carry is not None:
            received = carry.to(self._stack.device)
            received.requires_grad_(self._sends_gradient)
        sent, outputs = self._stack.run_differentiably(
            trees.ids_BT, received, branches=trees.branches, layers=self._layers
        )
        return _Pass(trees.steered_BT, received, outputs, sent)

    def _score(self, batch: int, items: JoinedItems, hidden: torch.Tensor) -> torch.Tensor:
        """Sum of the items' scores, each of which depends on its own trees alone."""
        reads = Reads.of(items.trees)
        log_p = reads.log_p(self._stack, hidden, 1).to(torch.float64)
        scores = items.scores(reads.sums(log_p, items.slots))[0]
        self._scores[self._batches[batch]] = scores.detach()
        return scores.sum()

    def _backward(self, batch: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Keep the gradients of this stage's layers, and return what the stage before needs."""
        done = self._passes.pop(batch)
        if not self._receives_gradient:
            return None
        assert gradient is not None, "the stage behind sent nothing"
        wanted = [done.outputs[layer] for layer in self._layers]
        if self._sends_gradient:
            assert done.received is not None, "the first stage has none before it"
            wanted.append(done.received)
        gradients = torch.autograd.grad(done.sent, wanted, gradient.to(done.sent))
        for layer, gradient_BTD in zip(self._layers, gradients, strict=False):
            self._keep(batch, layer, gradient_BTD, done.steered_BT)
        return gradients[-1] if self._sends_gradient else None

    def _keep(
        self, batch: int, layer: int, gradient_BTD: torch.Tensor, steered_BT: torch.Tensor
    ) -> None:
        """Add up each item's gradient over its trees and their steered tokens."""
        if layer not in self._by_layer:
            self._by_layer[layer] = torch.zeros(len(self._task.items), gradient_BTD.shape[2])
        masked = gradient_BTD.to(torch.float32) * steered_BT.to(gradient_BTD.device).unsqueeze(-1)
        owner = [i for i in self._batches[batch] for _ in self._task.items[i].trees]
        self._by_layer[layer].index_add_(0, torch.tensor(owner), masked.sum(1).cpu())
