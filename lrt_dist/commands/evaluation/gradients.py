"""Gradients of every concept's items at every target layer: made once, read layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.scored_items import PromptSharing, readout_address, score_context
from lrt_dist.errors import LrtError
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.runtime.contract import Failed, receipts_of
from lrt_dist.store.cells import address
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.gradient import GradientTask
from lrt_dist.tasks.scores import ForcedScore, Readout
from lrt_dist.tasks.screen import MEAN_GRADIENTS
from lrt_dist.tensorfiles import open_tensors, save_tensors
from lrt_dist.workspace.run import Run

ITEMS_PER_TASK = 16
"""Items whose gradients are made, and kept, together."""

TOKENS_SHARE = 4
"""A pass that goes back holds so many times as much of each token as one that does not."""

_KIND = "gradients"


@dataclass(frozen=True)
class GradientFiles:
    """Gradients of the items of every concept, on disk.

    Attributes:
        parts: `{(concept, split): files}`, in the order of the items.
    """

    parts: dict[tuple[str, str], list[Path]]

    def of(self, concept: str, split: str, layer: int) -> torch.Tensor:
        """Gradients of a concept's items at one layer, float32 `[items, d]`."""
        tensors = []
        for path in self.parts[concept, split]:
            with open_tensors(path, _KIND) as (file, _):
                tensors.append(file.get_tensor(str(layer)))
        return torch.cat(tensors)

    def save_means(self, path: Path, layers: Sequence[int]) -> None:
        """Write the means over items, see `tasks.screen.mean_gradients`."""
        means = {
            f"{concept}/{layer}/{split}": self.of(concept, split, layer).double().mean(0).float()
            for concept, split in self.parts
            for layer in layers
        }
        save_tensors(path, means, {"kind": MEAN_GRADIENTS})

    @property
    def address(self) -> str:
        """Of all of them."""
        names = [(*key, *(path.name for path in paths)) for key, paths in self.parts.items()]
        return address(json.dumps(names).encode()).hex()


def item_gradients(
    run: Run, chains: OnDemandChains, tokenizer: SiteTokenizer
) -> GradientFiles | None:
    """Gradients of all development and test items at all target layers; what is there is kept.

    None where they would not predict effects.

    Raises:
        LrtError: some items could not be run.
    """
    score, layers = run.score, run.layers.target
    if not run.predictable:
        return None
    assert isinstance(score, ForcedScore)
    context = score_context(run) + json.dumps(layers).encode()
    sharing = PromptSharing(run, chains)
    parts: dict[tuple[str, str], list[Path]] = {}
    missing: dict[str, tuple[Path, list[Readout]]] = {}
    for concept, data in run.concepts.items():
        for split, items in (("dev", data.dev), ("test", data.test)):
            as_read = rendered(items, data.template, tokenizer)
            readouts = [score.read([item], tokenizer) for item in as_read]
            parts[concept, split] = []
            for first in range(0, len(readouts), ITEMS_PER_TASK):
                chosen = readouts[first : first + ITEMS_PER_TASK]
                key = address(context, *(readout_address(r) for r in chosen)).hex()
                path = run.folder.gradients(key)
                parts[concept, split].append(path)
                if not path.exists():
                    missing[key] = path, chosen
    budget = max(1, run.config.evaluate.batch_tokens // TOKENS_SHARE)
    sharing.decide(readout for _, readouts in missing.values() for readout in readouts)
    tasks = (
        GradientTask(key, layers, tuple(map(sharing.item, readouts)), budget)
        for key, (_, readouts) in missing.items()
    )
    count = sum(len(data.dev) + len(data.test) for data in run.concepts.values())
    with run.progress.phase("gradients", count, "items") as phase:
        phase.resume(count - sum(len(readouts) for _, readouts in missing.values()))
        for outcome in chains.run(tasks):
            if isinstance(outcome, Failed):
                raise LrtError(f"gradients of {outcome.task.key}: {outcome.reason}")
            receipts = receipts_of(outcome)
            by_layer = {str(layer): g for r in receipts for layer, g in r.by_layer.items()}
            save_tensors(missing[outcome.task.key][0], by_layer, {"kind": _KIND})
            phase.advance(len(outcome.task.items))
    return GradientFiles(parts)
