"""Items as the target model is run on them, and what addresses their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import torch

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.config import fingerprint_of
from lrt_dist.models.injection import OPERATORS, POSITIONS, Intervention, Steering
from lrt_dist.runtime.contract import Failed, receipts_of
from lrt_dist.sites import Side
from lrt_dist.store.cells import address
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.score_choice import score_identity
from lrt_dist.tasks.scored_items import ScoredItem
from lrt_dist.tasks.scores import Readout
from lrt_dist.tasks.token_trees import TokenTree, trees_of
from lrt_dist.version import __version__
from lrt_dist.workspace.placement import compute_dtype
from lrt_dist.workspace.run import Run

SAME_LOG_P = 0.02
"""Nats: sums of log-probabilities that differ by more are not those of the same text."""


def model_context(run: Run) -> bytes:
    """All that decides what the target model says beside texts, layers and what is steered."""
    return fingerprint_of(_model_context(run)).encode()


def score_context(run: Run) -> bytes:
    """All that decides the target model's scores beside items, layers and what is steered."""
    score = score_identity(run.config.evaluate.score)
    return fingerprint_of({**_model_context(run), "score": score}).encode()


def _model_context(run: Run) -> dict[str, str]:
    config = run.config.evaluate
    return {
        "model": run.facts.target.digest,
        "dtype": compute_dtype(run, Side.TARGET),
        "positions": POSITIONS.identity(config.positions),
        "operator": OPERATORS.identity(config.operator),
        "lrt_dist": __version__,
    }


def readout_address(readout: Readout) -> bytes:
    """Of an item's token sequences, and of what is read from them."""
    sequences = [
        (s.ids, s.prompt, s.special, [(r.position, r.token, r.slot) for r in s.reads])
        for s in readout.sequences
    ]
    return address(json.dumps(sequences).encode())


class PromptSharing:
    """Whether a model can be run on trees of sequences; tried once, on a real item.

    Where attention is not the only way in which tokens see each other (state-space models), or the
    model builds its own attention mask, the sequences of a tree would be wrong together.
    """

    def __init__(self, run: Run, chains: OnDemandChains) -> None:
        self._run, self._chains = run, chains
        self._shared: bool | None = None

    def decide(self, readouts: Iterable[Readout]) -> None:
        """Try it on the first of some items whose sequences share a beginning, unless it is known.

        A model that cannot do it is told, and its sequences are run apart.
        """
        if self._shared is not None:
            return
        branching = (r for r in readouts if any(t.branches for t in self._trees(r, shared=True)))
        readout = next(branching, None)
        if readout is None:
            return
        together, apart = (
            self._sums(self._trees(readout, shared=shared), readout.slots)
            for shared in (True, False)
        )
        if apart is None:
            return  # the work itself will say what is wrong
        difference = math.inf if together is None else float((together - apart).abs().max())
        self._shared = difference <= SAME_LOG_P
        if not self._shared:
            self._run.progress.note(
                "evaluate",
                f"{self._run.facts.target.name} cannot run continuations of one prompt together, "
                "so each is run on its own, which takes longer (log-probabilities would differ by "
                f"{difference:.3g})",
            )

    def item(self, readout: Readout) -> ScoredItem:
        """An item with its trees, which branch if the model can run such."""
        return ScoredItem(self._trees(readout, shared=bool(self._shared)), readout)

    def _sums(self, trees: tuple[TokenTree, ...], slots: int) -> torch.Tensor | None:
        budget = self._run.config.evaluate.batch_tokens
        nothing = Steering.adding(torch.zeros(1, self._run.widths.target))
        still = Intervention({self._run.layers.target[0]: nothing})
        task = ScoreTask("shared prompts", still, trees, slots, budget)
        (outcome,) = self._chains.run([task])
        if isinstance(outcome, Failed):
            return None
        (sums,) = receipts_of(outcome)
        return sums

    def _trees(self, readout: Readout, *, shared: bool) -> tuple[TokenTree, ...]:
        window = self._run.facts.target.window
        return trees_of(readout.sequences, self._run.positions, shared=shared, window=window)
