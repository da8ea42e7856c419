"""Mismatched rows of a corpus: never of one document, and no map from one half to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_moments import moments_of

from lrt_dist.linear.fit import PairFit, SourceFit, mismatched, wanted_moments
from lrt_dist.linear.moments import Moments, merge_all
from lrt_dist.plan import tiles
from lrt_dist.plan.pairing import partner_units, shuffled
from lrt_dist.plan.tiles import Tile, plan_blocks, plan_leaves, units_of_leaf
from lrt_dist.sites import LayerPair, Side, Sided
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.moments import MomentFile
from lrt_dist.tasks import blocks
from lrt_dist.tasks.accumulate import AccumulateTask, accumulate
from lrt_dist.tasks.blocks import Block, Leaf, RowFacts, read_blocks

FOLDS, DRAWS, WIDTH, ROWS = 4, 3, 6, 1920
USUAL = 1.25
"""Norm of a usual row, about."""
X, Y = "source/0", "target/0"


@dataclass(frozen=True)
class Corpus:
    """Two halves whose states have different means, along one direction in each model."""

    x: torch.Tensor
    y: torch.Tensor
    documents: np.ndarray
    folder: Path
    rows_per_unit: int
    shrink_above: float | None = None

    @property
    def folds(self) -> np.ndarray:
        return self.documents % FOLDS

    def leaves(self, leaf_rows: int = 640, block_rows: int = 160) -> list[Leaf]:
        """The stores, written, and all leaves over them."""
        urls = Sided.of(lambda side: str(self.folder / f"{side}.zarr"))
        units = -(-ROWS // self.rows_per_unit)
        checksums: dict[int, Sided[dict[str, str]]] = {u: Sided({}, {}) for u in range(units)}
        for side, states in zip(Side, (self.x, self.y), strict=True):
            store = ActivationStore.create(
                urls[side], layers={0: WIDTH}, rows=ROWS, rows_per_unit=self.rows_per_unit,
                logical_dtype="float32", compress="none", fingerprint="f",
            )  # fmt: skip
            for unit in range(units):
                written = store.write(unit, 0, states[store.unit_rows(unit)])
                checksums[unit][side].update(written.checksums)
        np.save(self.folder / blocks.FOLDS, self.folds.astype(np.int16))
        np.save(self.folder / blocks.GROUPS, self.documents.astype(np.int64))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tiles, "LEAF_ROWS", leaf_rows)
            size = units_of_leaf(units, self.rows_per_unit, 1, 0)
            every = plan_blocks(shuffled(range(units), "d"), self.rows_per_unit, block_rows)
            planned = plan_leaves(every, units, size)
        of_unit = np.array_split(
            self.documents, range(self.rows_per_unit, ROWS, self.rows_per_unit)
        )
        partners = partner_units(every, {u: set(d.tolist()) for u, d in enumerate(of_unit)})
        pairs = dict(zip(every, partners, strict=True))
        return [
            Leaf(
                blocks=tuple(Block(block, pairs[block]) for block in leaf),
                facts=RowFacts(
                    folder=self.folder,
                    rows_per_unit=self.rows_per_unit,
                    index_digest="d",
                    own_share=1 / len(every),
                    shrink_above=self.shrink_above,
                    usual_norms=Sided({0: USUAL}, {0: USUAL}),
                ),
                stores=urls,
                checksums=checksums,
            )
            for leaf in planned
        ]

    def fold_moments(self) -> list[Moments]:
        tile = Tile((LayerPair(0, 0),), Sided((0,), (0,)), draws=DRAWS)
        files = [
            MomentFile(accumulate(AccumulateTask(tile, leaf, FOLDS, self.folder / f"{n}.moments")))
            for n, leaf in enumerate(self.leaves())
        ]
        return [merge_all(file.fold(number) for file in files) for number in range(FOLDS)]


@pytest.fixture
def halves(tmp_path: Path) -> Callable[..., Corpus]:
    def make(rows_per_unit: int = 64, document: int = 20) -> Corpus:
        rng = np.random.default_rng(0)
        domain = np.where(np.arange(ROWS) < ROWS // 2, 1.0, -1.0)[:, None]
        x = 0.3 * rng.normal(size=(ROWS, WIDTH)) + domain * np.eye(WIDTH)[0]
        y = 0.3 * rng.normal(size=(ROWS, WIDTH)) + domain * np.eye(WIDTH)[1]
        documents = np.arange(ROWS) // document
        states = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        return Corpus(states[0], states[1], documents, tmp_path, rows_per_unit)

    return make


def fit(folds: list[Moments]) -> PairFit:
    return SourceFit(folds, X).fit(folds, Y, [(X, mismatched(Y, draw)) for draw in range(DRAWS)])


def cosines(result: PairFit) -> list[float]:
    """Of the mapped direction between the halves with the true one, for every draw."""
    mapped = [control.weight[0] for control in result.mismatched]
    return [float(m[1] / m.norm()) * min(1.0, float(m.norm())) for m in mapped]


def test_half_a_corpus_away_lies_an_opposite_map(halves: Callable[..., Corpus]) -> None:
    """What the control must not be: the domain is mapped to the other one."""
    corpus = halves()
    folds = []
    for number in range(FOLDS):
        rows = np.flatnonzero(corpus.folds == number)
        variables = {X: corpus.x[rows], Y: corpus.y[rows]}
        variables[mismatched(Y)] = corpus.y[(rows + ROWS // 2) % ROWS]
        folds.append(moments_of(variables, wanted_moments([(X, Y)]), f"{number}"))
    opposite = SourceFit(folds, X).fit(folds, Y)
    assert opposite.metrics.r2_mismatched < -1
    assert cosines(opposite)[0] < -0.9


@pytest.mark.parametrize("rows_per_unit", [16, 32, 960, ROWS])
def test_a_corpus_of_two_halves_has_a_control_that_knows_nothing(
    halves: Callable[..., Corpus], rows_per_unit: int
) -> None:
    """Many units of many leaves, ten or five of them in a block; two; and one unit alone."""
    result = fit(halves(rows_per_unit).fold_moments())
    assert result.metrics.r2 > 0.6
    assert abs(result.metrics.r2_mismatched) < 0.15
    assert -0.2 < result.metrics.r2_mismatched_low < result.metrics.r2_mismatched_high < 0.2
    assert all(abs(cosine) < 0.15 for cosine in cosines(result))


@pytest.mark.parametrize(
    ("rows_per_unit", "document"), [(64, 20), (16, 100), (64, 700), (640, 960)]
)
def test_pairs_are_of_other_documents_and_rows_stay_with_their_states(
    halves: Callable[..., Corpus], rows_per_unit: int, document: int
) -> None:
    """Also where documents are longer than a unit, and than a block."""
    corpus = halves(rows_per_unit, document)
    seen: list[int] = []
    for leaf in corpus.leaves():
        for block in read_blocks(leaf, Sided((0,), (0,)), DRAWS):
            own = block.rows[Y]
            seen += own.tolist()
            assert (block.folds == corpus.folds[own]).all()
            assert (np.diff(block.folds) >= 0).all()
            assert torch.equal(block.variables[X].gathered(), corpus.x[own])
            assert torch.equal(block.variables[Y].gathered(), corpus.y[own])
            for draw in range(DRAWS):
                name = mismatched(Y, draw)
                other = block.rows[name]
                assert (corpus.documents[other] != corpus.documents[own]).all()
                assert torch.equal(block.variables[name].gathered(), corpus.y[other])
            assert not (block.rows[mismatched(Y, 0)] == block.rows[mismatched(Y, 1)]).all()
    assert sorted(seen) == list(range(ROWS))


def test_massive_rows_are_scaled_down_wherever_they_are_read(
    halves: Callable[..., Corpus],
) -> None:
    """As own rows and as mismatched ones, at their own layer alone."""
    corpus = halves()
    corpus.y[[3, 700]] *= 1000
    corpus = replace(corpus, shrink_above=4.0)
    lengths = torch.linalg.vector_norm(corpus.y, dim=1).double()
    assert (lengths > 4 * USUAL).nonzero().flatten().tolist() == [3, 700]
    factors = torch.where(lengths > 4 * USUAL, USUAL / lengths, 1.0)
    for leaf in corpus.leaves():
        for block in read_blocks(leaf, Sided((0,), (0,)), 1):
            for name in (Y, mismatched(Y)):
                rows = block.rows[name]
                expected = corpus.y[rows].double() * factors[rows].unsqueeze(1)
                assert torch.equal(block.variables[name].gathered(), expected.float())
            assert torch.equal(block.variables[X].gathered(), corpus.x[block.rows[X]])
