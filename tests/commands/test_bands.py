"""Several target layers steered at once."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import transformers
from tiny_run import write_tiny_run

import lrt_dist
from lrt_dist import api
from lrt_dist.commands.evaluation.cost import plan_evaluation
from lrt_dist.errors import UserError
from lrt_dist.maps.vectors import SteeringVector
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.bands import band_lines
from lrt_dist.runfile import load_run
from lrt_dist.store.tables import BandRow, Table

SETTINGS = ["evaluate.bands=[[1, 0]]", "evaluate.strengths=[-0.5, -0.1, 0.1, 0.5]"]


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path
) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    items = [
        {
            "prompt": f"Number {n} of the visitors said that the whole evening was",
            "positive": " good",
            "negative": " bad",
        }
        for n in range(12)
    ]
    (folder / "mood.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    run_file = write_tiny_run(folder, tiny_source, tiny_target)
    out = folder / "out"
    with api.open_run(out, load_run(run_file, SETTINGS)) as run:
        for step in (api.index, api.extract, api.fit, api.evaluate):
            step(run)
        plan = plan_evaluation(run)
        assert plan is not None
        # What is steered at single layers alone, and the bands: 4 strengths on development items; 3
        # arms at 4 strengths and 2 controls × 2 draws × 2 signs on test items.
        data = run.concepts["mood"]
        passes = plan.passes
    with api.open_run(folder / "without", load_run(run_file, SETTINGS[1:])) as run:
        without = plan_evaluation(run)
        assert without is not None
        assert passes - without.passes == 4 * len(data.dev) + (12 + 8) * len(data.test)
    return out


def propensity(model: transformers.PreTrainedModel, ids: tuple[list[int], list[int]]) -> float:
    """Log-odds of two texts that begin alike; what they begin with cancels."""
    log_p = []
    for text in ids:
        with torch.inference_mode():
            logits = model(torch.tensor([text])).logits[0].log_softmax(-1)
        log_p.append(sum(float(logits[i, token]) for i, token in enumerate(text[1:])))
    return log_p[0] - log_p[1]


@pytest.mark.parametrize("arm", [Arm.NATIVE, Arm.TRANSFERRED])
def test_an_effect_is_that_of_all_layers_steered_by_hand(evaluated: Path, arm: Arm) -> None:
    """By the library's own contexts around the plain model; to 1e-3, in float32."""
    config = load_run(evaluated / "run.yaml")
    model = transformers.AutoModelForCausalLM.from_pretrained(config.target.model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.target.model)
    with api.open_run(evaluated, config) as run:
        items = run.concepts["mood"].test
    rows = [row for row in Table.read(evaluated / "bands.parquet", BandRow) if row.arm == arm]
    assert sorted(row.strength for row in rows) == [0.1, 0.5]
    for row in rows:
        assert row.target_layers == (0, 1)
        changes = []
        for item in items:
            texts = tuple(
                tokenizer(item.prompts[0] + end)["input_ids"]
                for end in (item.positive[0], item.negative[0])
            )
            scores = []
            for sign in (1, -1):
                with ExitStack() as stack:
                    for source, target in zip(row.source_layers, row.target_layers, strict=True):
                        name = f"mood-target-{target}"
                        if arm is Arm.TRANSFERRED:
                            name = f"mood-transferred-{source}-{target}"
                        vector = SteeringVector.load(evaluated / f"vectors/{name}.safetensors")
                        stack.enter_context(lrt_dist.steer(model, vector, sign * row.strength))
                    scores.append(propensity(model, texts))
            changes.append((scores[0] - scores[1]) / 2)
        assert row.effect == pytest.approx(sum(changes) / len(changes), abs=1e-3)


def test_controls_are_steered_at_the_chosen_strength(evaluated: Path) -> None:
    rows = list(Table.read(evaluated / "bands.parquet", BandRow))
    (chosen,) = {row.strength for row in rows if row.chosen}
    for arm in (Arm.PERMUTED, Arm.RANDOM):
        drawn = [row for row in rows if row.arm == arm]
        assert [row.draw for row in drawn] == [0, 1]
        assert {row.strength for row in drawn} == {chosen}
        assert len({row.effect for row in drawn}) == 2
    (line,) = band_lines(rows)
    assert line.layers.endswith("→ 1")
    assert [control.draws for control in line.controls] == [2, 2]
    assert all(1 / 3 <= control.p <= 1 for control in line.controls)
    with api.open_run(evaluated, load_run(evaluated / "run.yaml")) as run:
        assert "Several layers at once" in api.report(run).read_text()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("evaluate.bands=[[0, 0]]", "a band has two different layers or more"),
        ("evaluate.bands=[[0, 3]]", "no map goes to layer 3 of .0, 3.; maps go to layers .0, 1."),
    ],
)
def test_bands_that_cannot_be_are_refused(
    evaluated: Path, tmp_path: Path, setting: str, told: str
) -> None:
    def check() -> None:
        config = load_run(evaluated.parent / "run.yaml", [setting])
        with api.open_run(tmp_path / "out", config) as run:
            run.check()

    with pytest.raises(UserError, match=told):
        check()
