"""A run is one strict value: what it cannot mean is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from lrt_dist.config import (
    ConceptConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    RunConfig,
    differing_keys,
    fingerprint_of,
)
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run, resolve_run

CONCEPT = {"name": "mood", "data": "mood.jsonl"}


def minimal(**sections: Any) -> dict[str, Any]:
    return {
        "source": {"model": "hub/small"},
        "target": {"model": "hub/large"},
        "corpus": {"paths": ["text/*.txt"]},
        "concepts": [CONCEPT],
    } | sections


def write(folder: Path, values: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def every_key() -> list[tuple[str, str]]:
    """(section, key) of all keys there are; the section of top-level keys is empty."""
    keys = [("", name) for name in RunConfig.model_fields]
    for section, field in RunConfig.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += [(section, name) for name in kind.model_fields]
    return keys


@pytest.mark.parametrize(("section", "key"), every_key())
def test_a_misspelt_key_names_the_one_that_was_meant(section: str, key: str) -> None:
    middle = len(key) // 2
    wrong = key[:middle] + key[middle] + key[middle:]
    values = minimal()
    if not section:
        values[wrong], path = 1, wrong
    elif section == "concepts":
        values["concepts"], path = [CONCEPT, {**CONCEPT, "name": "b", wrong: 1}], f"1.{wrong}"
    else:
        values[section], path = {**values.get(section, {}), wrong: 1}, f"{section}.{wrong}"
    with pytest.raises(UserError) as caught:
        resolve_run(values, base=Path())
    line = next(line for line in str(caught.value).splitlines() if "unknown key" in line)
    assert f"{path}: " in line
    assert f"did you mean {key!r}?" in line


def test_all_mistakes_are_told_at_once_with_the_file() -> None:
    values = minimal(fit={"folds": 1, "pears": "all"}, target={})
    with pytest.raises(UserError) as caught:
        resolve_run(values, base=Path(), origin="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml is not a valid run")
    assert "fit.folds" in message
    assert "got 1" in message
    assert "fit.pears" in message
    assert "target.model: missing" in message


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("fit.folds=7", "fit", "folds", 7),
        ("source.layers=[3, 1, 3]", "source", "layers", (1, 3)),
        ("fit.shrink_norm_above=null", "fit", "shrink_norm_above", None),
        ("evaluate.strengths=[-1, 1]", "evaluate", "strengths", (-1.0, 1.0)),
        ("corpus.separator='='", "corpus", "separator", "="),
        (" sites.seed =4", "sites", "seed", 4),
    ],
)
def test_set_replaces_one_value(
    tmp_path: Path, override: str, section: str, key: str, value: Any
) -> None:
    path = write(tmp_path, minimal())
    plain, changed = load_run(path), load_run(path, [override])
    assert getattr(getattr(changed, section), key) == value
    lines = differing_keys(plain.dump(), changed.dump())
    assert [line.partition(":")[0] for line in lines] == [f"{section}.{key}"]


def test_the_last_set_wins_and_the_file_loses(tmp_path: Path) -> None:
    path = write(tmp_path, minimal(fit={"folds": 3}))
    assert load_run(path, ["fit.folds=4", "fit.folds=6"]).fit.folds == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.folds", "has no '='"),
        ("name.x=1", "name is not a section"),
        ("concepts.0.name=x", "concepts.0 is not a section"),
        ("fit.folds=[", "is not a YAML value"),
        ("fit.fold=3", "did you mean 'folds'?"),
        ("fit.folds=many", "fit.folds"),
        ("fti.folds=3", "did you mean 'fit'?"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_run(write(tmp_path, minimal(name="n")), [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        *((name, 3) for name in RunConfig.model_fields),
        *((name, [[]]) for name in RunConfig.model_fields),
        ("source", {"model": 5}),
        ("corpus", {"paths": "text/*.txt"}),
        ("corpus", {"paths": [4]}),
        ("extract", {"store_url": 9}),
        ("concepts", [{"name": "a", "data": 1}]),
        ("concepts", [{"name": "a", "data": ["a.json"]}]),
        ("concepts", [{"name": "a", "data": {"positive": "a.json"}}]),
        ("concepts", [{"name": "a", "data": {"file": "a", "positive": "b", "negative": "c"}}]),
        ("concepts", [{"name": "a", "data": {"file": "a"}, "items": {}}]),
    ],
)
def test_a_value_of_the_wrong_shape_is_an_error_that_names_its_place(
    section: str, value: Any
) -> None:
    with pytest.raises(UserError, match=section):
        resolve_run(minimal(**{section: value}), base=Path())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "holds a list where keys were expected"),
        (b"", "is empty; `lrt-dist init DIR --source"),
        (b"just words", "holds a single value ('just words')"),
        (b"a: [1\n", "is not YAML"),
        (b"name: \xff\xfe\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_run(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_run(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_on_is_a_key_and_no_is_a_name(tmp_path: Path) -> None:
    """YAML 1.1 reads both as truth values."""
    path = tmp_path / "run.yaml"
    path.write_text(
        """
        source: {model: a}
        target: {model: b}
        corpus: {paths: [c.txt]}
        fit: {on: own, keep_moments: no}
        concepts: [{name: no, data: d.jsonl}]
        """
    )
    run = load_run(path, ["fit.reverse=yes"])
    assert (run.fit.on, run.fit.keep_moments, run.fit.reverse) == ("own", False, True)
    assert run.concepts[0].name == "no"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone\.yaml"):
        load_run(tmp_path / "gone.yaml")


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    values = minimal(
        source={"model": "models/mine"},
        target={"model": "org/name"},
        corpus={"paths": ["text/*.txt", "/data/**/*.md"]},
        concepts=[{"name": "mood", "data": "c/mood.csv", "items": "c/items.csv"}],
        extract={"store_url": "s3://bucket/run"},
    )
    run = load_run(write(tmp_path, values), ["name=elsewhere"])
    assert run.source.model == str(tmp_path / "models" / "mine")
    assert run.target.model == "org/name"
    assert run.corpus.paths == (str(tmp_path / "text/*.txt"), "/data/**/*.md")
    assert run.concepts[0].data.file == str(tmp_path / "c/mood.csv")
    assert run.concepts[0].items == DataConfig(file=str(tmp_path / "c/items.csv"))
    assert run.extract.store_url == "s3://bucket/run"


@pytest.mark.parametrize("model", ["weights.gguf", "./folder", "~/folder"])
def test_what_can_only_be_a_path_becomes_absolute_even_where_nothing_is(
    tmp_path: Path, model: str
) -> None:
    run = load_run(write(tmp_path, minimal(source={"model": model})))
    assert Path(run.source.model).is_absolute()


@given(st.lists(st.sampled_from([0.05, 0.1, 0.5, 2.0]), min_size=1))
def test_strengths_with_both_signs_become_a_sorted_set(positive: list[float]) -> None:
    given_ = (*positive, *(-s for s in positive))
    assert EvaluateConfig(strengths=given_).strengths == tuple(sorted(set(given_)))


@pytest.mark.parametrize(
    "strengths", [[], [0.1], [-0.1], [-0.1, 0.0, 0.1], [-0.1, 0.1, 0.2], [-0.0], [-0.1, 0.11]]
)
def test_strengths_of_one_sign_or_zero_are_refused(strengths: list[float]) -> None:
    with pytest.raises(UserError, match="both signs"):
        resolve_run(minimal(evaluate={"strengths": strengths}), base=Path())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_number_is_infinite(bad: float) -> None:
    with pytest.raises(ValidationError):
        EvaluateConfig(strengths=(-bad, bad))


def test_layers_are_a_sorted_set() -> None:
    assert ModelConfig(model="m", layers=(5, 0, 5, 2)).layers == (0, 2, 5)
    assert ModelConfig(model="m").layers == "all"
    for bad in ((), (-1,), "some"):
        with pytest.raises(ValidationError):
            ModelConfig(model="m", layers=bad)


def test_concepts_have_unique_names_that_can_be_file_names() -> None:
    with pytest.raises(UserError, match="two concepts are called 'mood'"):
        resolve_run(minimal(concepts=[CONCEPT, CONCEPT]), base=Path())
    for bad in ("", "../up", "a b", ".hidden"):
        with pytest.raises(ValidationError):
            ConceptConfig(name=bad, data=DataConfig(file="d.csv"))


def test_a_vector_is_a_methods_name_or_a_section_with_its_parameters() -> None:
    section = {"method": "logistic", "penalty": 0.1}
    concepts: list[dict[str, Any]] = [CONCEPT, {**CONCEPT, "name": "b", "vector": "pca"}]
    concepts.append({**CONCEPT, "name": "c", "vector": section})
    run = resolve_run(minimal(concepts=concepts), base=Path())
    assert [c.vector.method for c in run.concepts] == ["mean_difference", "pca", "logistic"]
    assert [c.vector.parameters for c in run.concepts] == [{}, {}, {"penalty": 0.1}]
    again = resolve_run(run.dump(), base=Path())
    assert again == run
    other = resolve_run(
        minimal(concepts=[*concepts[:2], {**concepts[2], "vector": section | {"penalty": 1}}]),
        base=Path(),
    )
    assert other != run
    with pytest.raises(UserError, match=r"concepts\.0\.vector"):
        resolve_run(minimal(concepts=[{**CONCEPT, "vector": 3}]), base=Path())


def test_a_run_is_frozen_and_survives_its_own_dump() -> None:
    run = resolve_run(minimal(fit={"pairs": [[0, 1], [2, 3]]}), base=Path())
    with pytest.raises(ValidationError):
        run.name = "other"  # type: ignore[misc]
    again = resolve_run(json.loads(json.dumps(run.dump())), base=Path("/elsewhere"))
    assert again == run
    assert hash(again) == hash(run)


JSON = st.recursive(
    st.none() | st.integers(-2, 2) | st.text("ab.", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner),
    max_leaves=6,
)
IDENTITY = st.dictionaries(st.text("ab", min_size=1, max_size=2), JSON, max_size=3)


@given(IDENTITY, IDENTITY)
def test_fingerprints_are_equal_exactly_where_the_identities_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (fingerprint_of(one) == fingerprint_of(other)) == (one == other)


@given(IDENTITY)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(identity: dict[str, Any]) -> None:
    mirrored = dict(reversed(identity.items()))
    assert fingerprint_of(mirrored) == fingerprint_of(identity)
    assert len(fingerprint_of(identity)) == 16


@given(IDENTITY, IDENTITY)
def test_a_refused_resume_can_always_name_a_differing_key(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert bool(differing_keys(one, other)) == (fingerprint_of(one) != fingerprint_of(other))


def test_differing_keys_are_leaves_with_both_values() -> None:
    old = {"fit": {"folds": 5, "method": "affine"}, "name": "a", "gone": 1}
    new = {"fit": {"folds": 10, "method": "affine"}, "name": "a", "layers": [1]}
    assert differing_keys(old, new) == [
        "fit.folds: 5 -> 10",
        "gone: 1 -> absent",
        "layers: absent -> [1]",
    ]


def test_where_a_run_computes_is_no_part_of_what_it_computes() -> None:
    """Sections are apart, so that a fingerprint can leave `cluster` out."""
    here = resolve_run(minimal(cluster={"address": "serial"}), base=Path()).dump()
    elsewhere = resolve_run(minimal(cluster={"replicas": 8}), base=Path()).dump()
    assert {line.split(".")[0] for line in differing_keys(here, elsewhere)} == {"cluster"}


def test_moments_that_nothing_else_stands_behind_must_stay() -> None:
    with pytest.raises(UserError, match="leave keep_moments true"):
        resolve_run(minimal(extract={"store": "none"}, fit={"keep_moments": False}), base=Path())
