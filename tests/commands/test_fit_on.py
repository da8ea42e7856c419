"""Maps fitted on contrast texts, as L-Cross fits them: on a concept's own, and on the others'."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_run import write_tiny_run

from lrt_dist import api
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.report.summary import word_of
from lrt_dist.runfile import load_run
from lrt_dist.sites import LayerPair, Side
from lrt_dist.store.states import ContrastStates
from lrt_dist.store.tables import ScoreRow
from lrt_dist.verdicts import Word

CommandLine = Callable[..., tuple[int, str]]
CONCEPTS = {
    "mood": (" good", " bad", "Number {} of the visitors said that the whole evening was"),
    "size": (" large", " small", "The house at number {} of that street has always been"),
    "age": (" new", " old", "Object {} in the collection of the museum looks"),
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path) -> Path:
    """The RUN file of three concepts; its run beside it is fitted, not evaluated."""
    folder = tmp_path_factory.mktemp("on")
    for name, (positive, negative, prompt) in CONCEPTS.items():
        lines = [
            {"prompt": prompt.format(n), "positive": positive, "negative": negative}
            for n in range(16)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_file = write_tiny_run(
        folder,
        tiny_source,
        tiny_target,
        concepts=[{"name": name, "data": f"{name}.jsonl"} for name in CONCEPTS],
        fit={"folds": 2, "method": "linear", "shrink_norm_above": None},
        source={"model": str(tiny_source), "layers": [2]},
        target={"model": str(tiny_target), "layers": [1]},
    )
    with api.open_run(folder / "out", load_run(run_file)) as run:
        api.index(run)
        api.extract(run)
        api.fit(run)
    return run_file


PAIR = LayerPair(2, 1)


def evaluated(run_file: Path, *settings: str) -> Results:
    out = run_file.parent / "out"
    with api.open_run(out, load_run(run_file, settings)) as run:
        api.evaluate(run)
        api.report(run)
    return Results.read(out)


def transferred(results: Results, concept: str) -> torch.Tensor:
    folder = api.RunFolder.open(results.out)
    return SteeringVector.load(folder.transferred_vector(concept, PAIR)).values.double()


def native(results: Results, side: Side, concept: str) -> torch.Tensor:
    folder = api.RunFolder.open(results.out)
    layer = PAIR.source if side is Side.SOURCE else PAIR.target
    return SteeringVector.load(folder.native_vector(concept, side, layer)).values.double()


def states(results: Results, model: str, concept: str, layer: int) -> np.ndarray:
    """Rows behind a concept's vector, by the way that the store format describes."""
    (path,) = results.out.glob(f"activations/{model}-*.states/{concept}-*.safetensors")
    return torch.cat(ContrastStates.load(path, [layer]).of(layer)).double().numpy()


def test_on_its_own_texts_the_native_vector_comes_out_by_algebra(fitted: Path) -> None:
    """L-Cross's first result: 8 pairs, so 16 rows, of 32 dimensions; the models are random and
    unlike. And the verdict says that it proves nothing, wherever there is an effect to keep."""
    results = evaluated(fitted, "fit.on=own")
    for concept in CONCEPTS:
        expected = native(results, Side.TARGET, concept)
        torch.testing.assert_close(transferred(results, concept), expected, rtol=1e-4, atol=1e-5)
    nothing = (Word.OVERLAP, Word.NO_EFFECT, Word.NATIVE_REVERSES)
    assert all(row.overlap and word_of(row) in nothing for row in results.verdicts)
    page = (results.out / "report.html").read_text()
    assert "the map was fitted on its own texts (8 contrast pairs" in page


def test_on_the_others_texts_it_is_least_squares_on_their_states(fitted: Path) -> None:
    """To rounding, 1e-6 of the largest: states are kept in float32."""
    results = evaluated(fitted, "fit.on=others")
    for concept in CONCEPTS:
        others = [name for name in CONCEPTS if name != concept]
        x = np.concatenate([states(results, "tiny-llama", name, PAIR.source) for name in others])
        y = np.concatenate([states(results, "tiny-gemma", name, PAIR.target) for name in others])
        assert len(x) == 32
        expected = native(results, Side.SOURCE, concept).numpy() @ np.linalg.lstsq(x, y)[0]
        found = transferred(results, concept).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * abs(expected).max())
        cosine = np.corrcoef(found, native(results, Side.TARGET, concept))[0, 1]
        assert cosine < 0.99, "another concept's texts do not give it by algebra"
    assert not any(row.overlap for row in results.verdicts)

    # The matrix: every vector under the map of each single concept.
    rows = [row for row in results.scores if row.arm == Arm.CONCEPT_MAP]
    assert {(row.concept, row.vector) for row in rows} == {
        (a, b) for a in CONCEPTS for b in CONCEPTS
    }
    page = (results.out / "report.html").read_text()
    assert "Whose texts was the map fitted on?" in page
    assert "map of size on items of mood" in page

    # Kept by content: other strengths need no other maps.
    maps = {p: p.stat().st_mtime_ns for p in results.out.glob("maps/on-concepts/**/*.safetensors")}
    assert len(maps) == 2 * len(CONCEPTS) * (1 + 3)
    evaluated(fitted, "fit.on=others", "evaluate.strengths=[-0.25, 0.25]")
    assert {p: p.stat().st_mtime_ns for p in maps} == maps


def test_with_two_concepts_the_others_map_is_that_of_the_other(fitted: Path) -> None:
    """So both arms have the same scores, bit for bit."""
    values = yaml.safe_load(fitted.read_text())
    two = fitted.with_name("two.yaml")
    two.write_text(yaml.safe_dump(values | {"concepts": values["concepts"][:2]}))
    results = evaluated(two, "fit.on=others")
    for concept, other in (("mood", "size"), ("size", "mood")):
        scores = [row for row in results.scores if row.concept == concept and row.split == "test"]

        def cells(arm: Arm, vector: str, rows: list[ScoreRow] = scores) -> dict[object, float]:
            return {
                (row.item, row.strength): row.value
                for row in rows
                if row.arm == arm and row.vector == vector
            }

        under = cells(Arm.CONCEPT_MAP, other)
        assert under
        assert under == {
            key: value for key, value in cells(Arm.TRANSFERRED, concept).items() if key in under
        }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["fit.on=others", "concepts=[{name: mood, data: mood.jsonl}]"], "needs two concepts"),
        (
            ["fit.on=own", "fit.folds=9"],
            "8 different contrast pairs in its split `vector`",
        ),
        (["fit.on=texts"], "fit.on: Input should be 'corpus', 'own' or 'others'"),
    ],
    ids=str,
)
def test_texts_that_cannot_make_a_map_are_refused(
    fitted: Path, settings: list[str], told: str, lrt_dist: CommandLine, tmp_path: Path
) -> None:
    arguments = [a for setting in settings for a in ("--set", setting)]
    code, text = lrt_dist("index", str(fitted), "--out", str(tmp_path / "out"), *arguments)
    assert code == 2, text
    assert told in text
    assert not (tmp_path / "out" / "rows").exists()
