"""How often an evaluation says that something transfers where nothing can: simulated null runs.

Each simulated run is a finished run in which vectors without meaning stand in the place of the
source model's: random vectors, vectors of contrast pairs with permuted labels, or random directions
where the maps end. All else is real: target model, maps, native vectors, items, controls, choice,
p-values, intervals and words. Effects are predicted by gradients, as those of the controls are.
`calibration` is the share of runs in which any concept is said to transfer, in full, in part or
weakly: at most 5 % should.

The run is the demo's: `make demo` first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.harness import Result, versions
from lrt_dist.commands._moments import fitted_units
from lrt_dist.commands._rows import median_norms
from lrt_dist.commands.evaluation.carriers import corpus_maps
from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.gradients import GradientFiles, item_gradients
from lrt_dist.commands.evaluation.screening import Screen, sample_rows, screen
from lrt_dist.commands.evaluation.vectors import contrast_states
from lrt_dist.errors import UserError
from lrt_dist.intervals import mean_interval, ratio_interval
from lrt_dist.maps.affine import AffineMap
from lrt_dist.maps.controls import generator, permuted_vectors, random_directions
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import DRAWN, Arm
from lrt_dist.runfile import read_run
from lrt_dist.significance import empirical_p, holm
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.states import ContrastStates
from lrt_dist.tasks.control_directions import TargetDraws, transferred_vectors
from lrt_dist.tasks.screen import mean_gradients, predicted
from lrt_dist.verdicts import LEVEL, Evidence, Word, word
from lrt_dist.workspace.run import Run, open_run

OUT = Path("demo-run")
POSITIVE = (Word.TRANSFERS, Word.PARTLY, Word.WEAKLY)
KINDS = ("random source vectors", "permuted labels", "random target directions")


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """The larger of the two rates, and the words of all runs."""
    if not (OUT / "verdicts.parquet").is_file():
        raise UserError(f"no evaluation in {OUT}: run `make demo` first")
    runs = []
    with open_run(OUT, read_run(OUT)) as run:
        null = NullRuns(run)
        for kind in KINDS:
            words = null.words(kind, 20 if quick else 200)
            wrong = sum(any(w in POSITIVE for w in of_run) for of_run in words)
            counts = Counter(str(w) for of_run in words for w in of_run)
            runs.append(
                {
                    "of": kind,
                    "runs": len(words),
                    "concepts": len(words[0]),
                    "ratio": wrong / len(words),
                    "words": dict(sorted(counts.items())),
                    "setting": f"{len(run.pairs)} pairs; {versions('torch')}",
                }
            )
    for found in runs:
        Console().print(
            f"{found['of']}: {found['ratio']:.1%} of {found['runs']} runs", found["words"]
        )
    worst = max(float(str(found["ratio"])) for found in runs)
    return [Result("calibration", worst, LEVEL, False, runs)]


class NullRuns:
    """Simulated runs on what a real one left behind."""

    def __init__(self, run: Run) -> None:
        self._run = run
        records = fitted_units(run.folder)
        self._norms = median_norms(run, Side.TARGET, records)
        tokenizers = Sided.of(lambda side: SiteTokenizer.load(run.folder.model(side)))
        with OnDemandChains(run, Side.SOURCE, head=False, batch_tokens=1) as chains:
            self._states = contrast_states(run, Side.SOURCE, chains, tokenizers.source)
        with OnDemandChains(run, Side.TARGET, head=True, batch_tokens=1) as chains:
            gradients = item_gradients(run, chains, tokenizers.target)
        assert isinstance(gradients, GradientFiles), "the score has gradients"
        self._gradients = gradients
        self._means = run.folder.gradients(f"means-{gradients.address}")
        rows = sample_rows(run, records)
        self._screens = screen(run, corpus_maps(run), self._states, gradients, self._norms, rows)

    def words(self, kind: str, count: int) -> list[list[Word]]:
        """What each of some runs says of each concept."""
        found = {name: self._evidence(kind, name, count) for name in self._screens}
        words = []
        for number in range(count):
            of_run = [evidence[number] for evidence in found.values()]
            adjusted = holm([evidence.p for evidence in of_run])
            words.append(
                [
                    word(Evidence(e.native, e.retention, p, e.share_of_best))
                    for e, p in zip(of_run, adjusted, strict=True)
                ]
            )
        return words

    def _evidence(self, kind: str, name: str, count: int) -> list[Evidence]:
        """Of each run; p-values are those of this concept alone."""
        found = self._screens[name]
        best = torch.full((count,), -torch.inf, dtype=torch.float64)
        chosen: list[LayerPair] = [next(iter(found.pairs))] * count
        directions: dict[LayerPair, torch.Tensor] = {}
        for pair in found.pairs:
            directions[pair] = self._claims(kind, found, pair, count)
            gradients = mean_gradients(self._means, name, pair.target)
            dev, _ = predicted(directions[pair], gradients, self._norms[pair.target])
            score = dev.clamp(max=found.concept.effects[pair.target].dev)
            for number in (score > best).nonzero()[:, 0].tolist():
                chosen[number] = pair
            best = torch.maximum(best, score)
        return [
            self._of_one(found, pair, directions[pair][number])
            for number, pair in enumerate(chosen)
        ]

    def _of_one(self, found: Screen, pair: LayerPair, direction: torch.Tensor) -> Evidence:
        name, norm = found.concept.name, self._norms[pair.target]
        items = self._gradients.of(name, "test", pair.target).double()
        native = SteeringVector.load(found.concept.native[pair.target]).values.double()
        mine = direction.double()
        of_native = norm * items @ (native / native.norm())
        of_mine = norm * items @ (mine / mine.norm())
        questions = [item.question for item in self._run.concepts[name].test]
        effect = float(of_mine.mean())
        p = max(empirical_p(effect, found.draws[arm].effect) for arm in DRAWN)
        best = found.concept.effects[found.best_native].test
        return Evidence(
            mean_interval(of_native, questions),
            ratio_interval(of_mine, of_native, questions),
            p,
            float(of_native.mean()) / best,
        )

    def _claims(self, kind: str, found: Screen, pair: LayerPair, count: int) -> torch.Tensor:
        """Mapped vectors without meaning, of other seeds than controls, float32 `[count, d]`."""
        name, folder = found.concept.name, self._run.folder
        seed = self._run.config.evaluate.seed + 1
        if kind == "random target directions":
            sources = [p.source for p in found.pairs if p.target == pair.target]
            paths = {s: folder.transferred_vector(name, LayerPair(s, pair.target)) for s in sources}
            vectors = transferred_vectors(paths)
            none = torch.zeros(1, self._run.widths.target)
            drawn = TargetDraws(Arm.RANDOM, pair.target, vectors, none, seed)
            return torch.stack([drawn[draw][pair.source] for draw in range(count)])
        weight = AffineMap.load(folder.maps_of(pair)[0]).weight.float()
        if kind == "random source vectors":
            random = generator(seed, "null", name, pair.source)
            return random_directions(self._run.widths.source, count, random) @ weight
        (concept,) = (c for c in self._run.config.concepts if c.name == name)
        states = ContrastStates.load(self._states[name], [pair.source]).of(pair.source)
        method, parameters = concept.vector.method, concept.vector.parameters
        random = generator(seed, "null", name)
        return permuted_vectors(method, parameters, *states, count, random) @ weight
