"""The maps that carry vectors to the target model, and what they were fitted on (`fit.on`).

Maps on contrast texts are kept by content: the states they were fitted on are part of their name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lrt_dist.errors import UserError
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.plan.cost import solve_bytes
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.cells import address
from lrt_dist.tasks.fit_states import FitStatesTask, fit_states
from lrt_dist.workspace.placement import task_needs
from lrt_dist.workspace.run import Run

Texts = tuple[str, ...]
"""Concepts on whose contrast texts a map was fitted."""


class Carriers:
    """Of every concept and pair of layers the map, and those of mismatched rows.

    Attributes:
        on_corpus: whether they are those of the corpus, which all concepts share.
    """

    def __init__(
        self, run: Run, states: Sided[dict[str, Path]], norms: Sided[dict[int, float]]
    ) -> None:
        """Nothing is fitted yet.

        Args:
            states: files of each model's contrast states, by concept.
            norms: median norm of each layer's hidden states.
        """
        self._run, self._states, self._norms = run, states, norms
        self.on_corpus = run.config.fit.on == "corpus"

    def of(self, concept: str, pair: LayerPair) -> tuple[Path, ...]:
        """The files behind what is claimed of a concept: its map first."""
        if self.on_corpus:
            return self._run.folder.maps_of(pair)
        return self._paths(self._texts(concept), pair)

    def on(self, concept: str, pair: LayerPair) -> Path:
        """The map that was fitted on the texts of one concept alone."""
        return self._paths((concept,), pair)[0]

    def fit_claimed(self) -> None:
        """Fit the maps of all concepts at all pairs of layers that are not there."""
        if not self.on_corpus:
            names, pairs = list(self._run.concepts), self._run.pairs
            self._fit("maps", [(self._texts(name), pair) for name in names for pair in pairs])

    def fit_each(self, pairs: Iterable[LayerPair]) -> None:
        """Fit a map on the texts of each single concept, at some pairs."""
        if not self.on_corpus:
            names, chosen = list(self._run.concepts), sorted(set(pairs))
            self._fit("maps (matrix)", [((name,), pair) for name in names for pair in chosen])

    def _texts(self, concept: str) -> Texts:
        return map_texts(self._run, concept)

    def _fit(self, name: str, wanted: list[tuple[Texts, LayerPair]]) -> None:
        missing = [(texts, p) for texts, p in wanted if not self._paths(texts, p)[0].exists()]
        tasks = [self._task(texts, pair) for texts, pair in missing]
        config, widths = self._run.config.fit, self._run.widths
        memory = solve_bytes(widths.source, widths.target, config.folds, config.mismatched_draws)
        needs = task_needs(self._run, max(widths), memory)
        with self._run.progress.phase(name, len(wanted), "maps") as phase:
            phase.resume(len(wanted) - len(missing))
            for _ in self._run.runtime.map(fit_states, tasks, needs):
                phase.advance()

    def _task(self, texts: Texts, pair: LayerPair) -> FitStatesTask:
        run, config = self._run, self._run.config.fit
        return FitStatesTask(
            pair=pair,
            states=Sided.of(lambda side: tuple(self._states[side][name] for name in texts)),
            groups=tuple(group for name in texts for group in _groups(run, name)),
            models=Sided.of(lambda side: run.folder.model(side).model),
            norms=Sided(self._norms.source[pair.source], self._norms.target[pair.target]),
            folds=config.folds,
            method=config.method,
            draws=config.mismatched_draws,
            paths=self._paths(texts, pair),
        )

    def _paths(self, texts: Texts, pair: LayerPair) -> tuple[Path, ...]:
        config = self._run.config.fit
        made_from = {
            "states": [[self._states[side][name].name for name in texts] for side in Side],
            "method": FIT_METHODS.identity(config.method),
            "folds": config.folds,
            "norms": [self._norms.source[pair.source], self._norms.target[pair.target]],
        }
        which = address(json.dumps(made_from, sort_keys=True).encode()).hex()
        return self._run.folder.concept_maps(which, pair)


def corpus_maps(run: Run) -> Carriers:
    """The maps of a run that were fitted on the corpus."""
    return Carriers(run, Sided({}, {}), Sided({}, {}))


def map_texts(run: Run, concept: str) -> Texts:
    """The concepts on whose texts the map of one is fitted, by `fit.on`."""
    if run.config.fit.on == "own":
        return (concept,)
    return tuple(name for name in run.concepts if name != concept)


def check_map_texts(run: Run) -> None:
    """Whether there are texts enough; asked before anything is started.

    Raises:
        UserError: fewer groups of contrast pairs than folds, or no other concept.
    """
    on, folds = run.config.fit.on, run.config.fit.folds
    if on == "corpus":
        return
    if on == "others" and len(run.concepts) == 1:
        raise UserError(
            "fit.on: others needs two concepts or more: a map is fitted on the texts of the other "
            "ones"
        )
    for name in run.concepts:  # each alone, too: see `Carriers.fit_each`
        groups = len(set(_groups(run, name)))
        if groups < folds:
            raise UserError(
                f"fit.on: {on}: concept {name} has {groups} different contrast pairs in its split "
                f"`vector`, too few for {folds} folds; give it more items, raise split.vector, or "
                "lower fit.folds"
            )


def _groups(run: Run, concept: str) -> list[str]:
    """Of each contrast pair: pairs of one question stay in one fold."""
    items = run.concepts[concept].vector
    return [f"{concept}/{item.question or item.texts()}" for item in items]
