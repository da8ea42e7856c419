"""Many models: an extraction for each, a run for each pair, one page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import store_digests, write_tiny_run

from lrt_dist.atlasfile import load_atlas
from lrt_dist.commands.atlas import atlas
from lrt_dist.errors import UserError
from lrt_dist.plan.conditions import Arm
from lrt_dist.report.results import Results
from lrt_dist.runtime.log import read_log
from lrt_dist.significance import holm
from lrt_dist.store.tables import AtlasRow, Table, VerdictRow

CommandLine = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_source: Path,
    tiny_target: Path,
    tiny_third: Path,
) -> Callable[..., Path]:
    """Writes an ATLAS.yaml of some of three tiny models."""
    folder = tmp_path_factory.mktemp("atlas")
    values = yaml.safe_load(write_tiny_run(folder, tiny_source, tiny_target).read_text())
    models = {
        "llama": {**values.pop("source"), "layers": [2]},
        "gemma": {**values.pop("target"), "layers": [1]},
        "gpt": {"model": str(tiny_third), "layers": [1]},
    }
    del values["name"]

    def write(*names: str, **keys: Any) -> Path:
        path = folder / "ATLAS.yaml"
        chosen = {"models": {name: models[name] for name in names}, **values, **keys}
        path.write_text(yaml.safe_dump(chosen, sort_keys=False))
        return path

    return write


def extractions(out: Path) -> list[str]:
    """Which were done, over all runs."""
    return sorted(
        event["phase"].removeprefix("extract ")
        for log in out.glob("runs/*/log.jsonl")
        for event in read_log(log)
        if event["event"] == "phase_end" and event["phase"].startswith("extract")
    )


@pytest.mark.slow
def test_a_model_that_joins_costs_its_own_extraction(
    written: Callable[..., Path], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    out = tmp_path / "out"
    there = ["llama", "gemma"]
    path = written("llama", "gemma", pairs=[there])
    code, text = lrt_dist("atlas", str(path), "--out", str(out))
    assert code == 0, text
    assert f"atlas: {out}/atlas.html" in text
    assert extractions(out) == ["tiny-gemma", "tiny-llama"]
    before = store_digests(out)

    # In front of the others: the rows stay those of the first run.
    pairs = [["gpt", "llama"], there, ["gpt", "gemma"]]
    path = written("gpt", "llama", "gemma", pairs=pairs)
    found = atlas(load_atlas(path), out)
    assert extractions(out) == ["tiny-gemma", "tiny-gpt2", "tiny-llama"]
    after = store_digests(out)
    assert after.items() > before.items()
    assert all("tiny-gpt2" in name for name in after.keys() - before.keys())

    assert list(Table.read(out / "atlas.parquet", AtlasRow)) == list(found)
    assert sorted([row.source, row.target] for row in found) == sorted(pairs)
    own = [next(iter(Results.read(out / row.run).verdicts)) for row in found]
    columns = [
        {name: getattr(row, name) for name in VerdictRow.__dataclass_fields__} for row in found
    ]
    assert [VerdictRow(**values) for values in columns] == [
        replace(verdict, p_adjusted=p)
        for verdict, p in zip(own, holm([verdict.p_adjusted for verdict in own]), strict=True)
    ]
    assert len(list(out.glob("activations/*.states/mood-*"))) == 3, "one for each model"
    assert len(list(out.glob("activations/tiny-gemma-*.gradients/means-*"))) == 1
    by_way_of = {
        row.run: {
            score.vector for score in Results.read(out / row.run).scores if score.arm == Arm.DETOUR
        }
        for row in found
    }
    assert by_way_of == {
        "runs/gpt-to-gemma": {"tiny-llama"},
        "runs/gpt-to-llama": set(),
        "runs/llama-to-gemma": set(),
    }
    page = (out / "atlas.html").read_text()
    links = re.findall(r'href="(runs/[^"]*)"', page)
    assert len(links) == 3
    assert all((out / link).is_file() for link in links)

    again = {p: p.read_bytes() for p in out.glob("runs/*/*.parquet")}
    assert list(atlas(load_atlas(path), out)) == list(found)
    assert extractions(out) == ["tiny-gemma", "tiny-gpt2", "tiny-llama"]
    assert {p: p.read_bytes() for p in out.glob("runs/*/*.parquet")} == again

    with pytest.raises(UserError, match=r"the rows of .* from llama to gemma, which the file no"):
        atlas(load_atlas(written("gpt", "gemma")), out)


def test_all_pairs_are_all_ordered_pairs(written: Callable[..., Path]) -> None:
    runs = load_atlas(written("llama", "gemma", "gpt"), ["fit.folds=2"]).runs
    names = ("llama", "gemma", "gpt")
    assert list(runs) == [(s, t) for s in names for t in names if s != t]
    for (source, target), config in runs.items():
        assert source in config.source.model
        assert target in config.target.model
        assert config.fit.folds == 2


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"models": {}}, "`models` needs two models or more"),
        ({"models": {"a/b": {}, "c": {}}}, "the model name 'a/b' is part of a folder's name"),
        ({"pairs": [["llama", "gema"]]}, r"\(llama, gemma\); got \['llama', 'gema'\]"),
        ({"pairs": []}, "`pairs` is `all`, or a list"),
        ({"source": {"model": "x"}}, "in place of `source`"),
        ({"sites": {"sed": 1}}, "from llama to gemma, is not a valid run:\n.*did you mean 'seed'"),
    ],
    ids=str,
)
def test_a_wrong_file_is_told(
    written: Callable[..., Path], keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        load_atlas(written("llama", "gemma", **keys))


def test_a_wrong_run_is_told_before_any_is_computed(
    written: Callable[..., Path], tmp_path: Path, lrt_dist: CommandLine
) -> None:
    """Here the second pair's: its layer does not exist."""
    path = written("llama", "gemma", "gpt", pairs=[["llama", "gemma"], ["llama", "gpt"]])
    arguments = ["atlas", str(path), "--out", str(tmp_path / "out")]
    code, text = lrt_dist(*arguments, "--set", "models.gpt.layers=[7]")
    assert code == 2, text
    assert "layer" in text
    assert not extractions(tmp_path / "out")
