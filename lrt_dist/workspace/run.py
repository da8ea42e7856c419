"""A run in progress: its folder, what its models are, and which layers and pairs it wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Console

from lrt_dist.clusterfile import DescribedMachines
from lrt_dist.config import ModelConfig, RunConfig
from lrt_dist.corpus.confounds import check_letters
from lrt_dist.corpus.splits import ConceptData, check_files, load_concept
from lrt_dist.errors import UserError
from lrt_dist.files import place
from lrt_dist.linear.methods import FIT_METHODS, Method
from lrt_dist.maps.vectors import check_vector_method
from lrt_dist.models.gate import check_stages
from lrt_dist.models.injection import OPERATORS, POSITIONS, Operator, Positions
from lrt_dist.models.sources import ModelFacts, check_layers, describe
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.report.figures import FIGURES
from lrt_dist.runtime.contract import Machines, Runtime
from lrt_dist.runtime.progress import Progress
from lrt_dist.runtime.serial import SerialRuntime
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.ledger import Ledger
from lrt_dist.tasks.score_choice import make_score, make_text_score
from lrt_dist.tasks.scores import ForcedScore, GeneratedScore, Score
from lrt_dist.workspace.folder import RunFolder, exclusive


@dataclass
class Run:
    """What every command works on; made by `open_run`."""

    folder: RunFolder
    progress: Progress
    described: DescribedMachines | None = None
    """Machines that a plan is made for; None: those that there are."""

    @property
    def config(self) -> RunConfig:
        """The run as it was asked for."""
        return self.folder.config

    @cached_property
    def facts(self) -> Sided[ModelFacts]:
        """What each model is."""
        return Sided.of(lambda side: describe(self.folder.model(side)))

    def model(self, side: Side) -> ModelConfig:
        """The model of a side; one of a hub at the commit that its revision meant at first, for
        everyone who loads it."""
        model = self.folder.model(side)
        commit = self.facts[side].commit
        return model.model_copy(update={"revision": commit}) if commit else model

    @cached_property
    def layers(self) -> Sided[tuple[int, ...]]:
        """Wanted layers of each model."""
        return Sided.of(lambda side: check_layers(side, self.folder.model(side), self.facts[side]))

    @property
    def lead(self) -> Sided[Side]:
        """Of each side the one whose model is run: the same for both if it is one model."""
        leading = {self.folder.store_url(side): side for side in reversed(Side)}
        return Sided.of(lambda side: leading[self.folder.store_url(side)])

    def stored_layers(self, side: Side) -> tuple[int, ...]:
        """Layers whose hidden states the store of a side's model has: the wanted ones, of both
        sides where both are one model, and whatever another run that keeps its stores there wanted
        beside."""
        url = self.folder.store_url(side)
        wanted = {
            layer for one in Side if self.folder.store_url(one) == url for layer in self.layers[one]
        }
        held = set(Ledger(self.folder.ledger_url(side)).identity().get("layers", ()))
        return tuple(sorted(held if wanted <= held else wanted))

    @cached_property
    def pairs(self) -> list[LayerPair]:
        """Wanted pairs of layers.

        Raises:
            UserError: a pair names a layer that is not extracted.
        """
        if self.config.fit.pairs == "all":
            return [LayerPair(s, t) for s in self.layers.source for t in self.layers.target]
        pairs = [LayerPair(s, t) for s, t in self.config.fit.pairs]
        for pair in pairs:
            if pair.source not in self.layers.source or pair.target not in self.layers.target:
                raise UserError(
                    f"fit.pairs: {pair} is not among source.layers {list(self.layers.source)} × "
                    f"target.layers {list(self.layers.target)}"
                )
        return sorted(set(pairs))

    @cached_property
    def joint(self) -> tuple[tuple[int, ...], ...]:
        """Groups of source layers for joint maps.

        Raises:
            UserError: a group names a layer that is not extracted.
        """
        for group in self.config.fit.joint:
            absent = [layer for layer in group if layer not in self.layers.source]
            if absent:
                raise UserError(
                    f"fit.joint: layer {absent[0]} of {list(group)} is not among source.layers "
                    f"{list(self.layers.source)}"
                )
            wanted = set(self.pairs)
            if not any(all(LayerPair(s, t) in wanted for s in group) for t in self.layers.target):
                raise UserError(
                    f"fit.joint: no target layer is in fit.pairs with every layer of {list(group)}"
                )
        return self.config.fit.joint

    @cached_property
    def bands(self) -> tuple[tuple[int, ...], ...]:
        """Groups of target layers that are steered at once.

        Raises:
            UserError: a group names a layer to which no map goes.
        """
        targets = sorted({pair.target for pair in self.pairs})
        for band in self.config.evaluate.bands:
            absent = [layer for layer in band if layer not in targets]
            if absent:
                raise UserError(
                    f"evaluate.bands: no map goes to layer {absent[0]} of {list(band)}; maps go to "
                    f"layers {targets} (target.layers, fit.pairs)"
                )
        return self.config.evaluate.bands

    @property
    def widths(self) -> Sided[int]:
        """Dimensions of the hidden states of each model."""
        return Sided.of(lambda side: self.facts[side].width)

    @cached_property
    def concepts(self) -> dict[str, ConceptData]:
        """Every concept's items, split.

        Raises:
            UserError: see `check_files`, `load_concept` and `check_letters`.
        """
        check_files(self.config.concepts)
        concepts = {concept.name: load_concept(concept) for concept in self.config.concepts}
        for name, data in concepts.items():
            check_letters(name, data)
        return concepts

    @property
    def method(self) -> Method:
        """The fit method."""
        return FIT_METHODS.find(self.config.fit.method)

    @property
    def positions(self) -> Positions:
        """Which positions are steered."""
        return POSITIONS.find(self.config.evaluate.positions)

    @property
    def operator(self) -> Operator:
        """What is done to hidden states."""
        return OPERATORS.find(self.config.evaluate.operator)

    @cached_property
    def score(self) -> Score:
        """What evaluation measures."""
        return make_score(self.config.evaluate.score, self.folder.replies)

    @cached_property
    def text_scores(self) -> dict[str, GeneratedScore]:
        """By which texts that the target model writes are judged."""
        return {
            score.title: make_text_score(score, self.folder.replies)
            for score in self.config.evaluate.generate.scores
        }

    @property
    def predictable(self) -> bool:
        """Whether gradients predict effects: on texts that are given, of an operator that
        displaces."""
        return isinstance(self.score, ForcedScore) and self.operator.displaces

    def check(self) -> None:
        """Find what is wrong with the input before anything is started.

        Raises:
            UserError: see `check_names`, `layers`, `pairs`, `joint`, `bands`, `concepts`,
                `check_stages` and `check_scores`.
        """
        check_names(self.config)
        _ = self.layers, self.pairs, self.joint, self.bands, self.concepts
        for side in Side:
            check_stages(self.model(side))
        self.check_scores()

    def check_scores(self) -> None:
        """Whether everything can be scored.

        Raises:
            UserError: a score lacks something, such as a key; or an item has nothing to continue,
                or to compare.
        """
        for score in (self.score, *self.text_scores.values()):
            if isinstance(score, GeneratedScore):
                score.prepare()
        if isinstance(self.score, GeneratedScore):
            self._check_prompts()
        if isinstance(self.score, ForcedScore):
            self._check_answers()

    def _check_prompts(self) -> None:
        """A model can only go on from a prompt, and must write something."""
        title = self.config.evaluate.score.title
        if not self.config.evaluate.generate.tokens:
            raise UserError(
                f"evaluate.score {title} is one of written texts, but evaluate.generate.tokens is "
                "0; set it, e.g. to 32"
            )
        tokenizer = SiteTokenizer.load(self.model(Side.TARGET))
        for name, data in self.concepts.items():
            for item in (*data.dev, *data.test):
                if not tokenizer.encode(item.prompts[0]).ids:
                    raise UserError(
                        f"concept {name}: an item has no prompt ({item.positive[0]!r}), so "
                        f"evaluate.score {title} has nothing to continue"
                    )

    def _check_answers(self) -> None:
        """A forced score compares answers."""
        title = self.config.evaluate.score.title
        for name, data in self.concepts.items():
            for item in (*data.dev, *data.test):
                if not item.has_answers:
                    raise UserError(
                        f"concept {name}: an item has no answers ({item.prompts[0][:80]!r}), so "
                        f"evaluate.score {title} has nothing to compare; give the concept `items` "
                        "with answers, or choose a score of generated text"
                    )

    @property
    def machines(self) -> Machines:
        """What the work is placed on."""
        return self.described or self.runtime

    @property
    def in_this_process(self) -> bool:
        """Whether all work is done, or would be done, in this process, without Ray."""
        return self.config.cluster.address == "serial" and self.described is None

    @cached_property
    def runtime(self) -> Runtime:
        """Where the work runs; Ray is only imported if it is asked for."""
        address = self.config.cluster.address
        if address == "serial":
            return SerialRuntime(gpus=torch.cuda.device_count())
        from lrt_dist.runtime.pool import RayRuntime

        return RayRuntime(address, note=partial(self.progress.note, "cluster"))


@contextmanager
def open_run(out: str | Path, config: RunConfig) -> Iterator[Run]:
    """Claim an output directory for a run and keep others out of it meanwhile.

    Raises:
        UserError: the run names something that does not exist; or the directory belongs to
            another run, or another process works in it.
    """
    out = place(out).resolve()
    check_names(config)
    told = Console(stderr=True)
    with exclusive(out, told.print) as check:
        folder = RunFolder.claim(out, config)
        with Progress(folder.log, check=check) as progress:
            yield Run(folder, progress)


def check_names(config: RunConfig) -> None:
    """Whether all that a run names exists; asked before a directory is made.

    Raises:
        UserError: see `Registry.find`, `make_score` and `check_vector_method`.
    """
    FIT_METHODS.find(config.fit.method)
    POSITIONS.find(config.evaluate.positions)
    OPERATORS.find(config.evaluate.operator)
    nowhere = Path()  # nothing is judged here
    make_score(config.evaluate.score, nowhere)
    for score in config.evaluate.generate.scores:
        make_text_score(score, nowhere)
    for concept in config.concepts:
        check_vector_method(concept.vector.method, concept.vector.parameters)
    for figure in config.report.figures:
        FIGURES.find(figure)
